"""The certificate: its two intervals on known answers, its verdict, and the command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from gradiometer import BadArgument, Diverged, diagnose
from gradiometer.cli.measure.certificate import certificate as verb
from gradiometer.convergence.certificate import Certificate, certify
from gradiometer.convergence.certificate.certificate import PointKind
from gradiometer.convergence.certificate.certifying import gradient_squared, squared_norm
from gradiometer.convergence.certificate.lowest_curvature import (
    lanczos_deficit,
    of_all_examples,
    of_samples,
    products_for,
)
from gradiometer.drift import Curvature
from gradiometer.drift.lanczos import VectorProduct, eigenvalues
from gradiometer.measurement import Batch, Draw, Estimate, Objective, Sampling, supervised
from gradiometer.measurement.gradient_graph import flat
from gradiometer.problems import Examples, load
from gradiometer.run import Configuration, Run
from gradiometer.run.artifacts import load_artifacts
from gradiometer.train import train
from gradiometer.verdict.words.say import say
from gradiometer_lab.closed_forms import Quadratic

FRESH = Sampling(Draw.FRESH)


@pytest.mark.parametrize("exact", [True, False])
def test_a_gradient_that_is_not_finite_has_diverged(exact: bool) -> None:
    problem = load("digits")
    objective = Objective(problem.model(), problem.loss)
    with torch.no_grad():
        objective.model.head.weight[0, 0] = math.inf
    with pytest.raises(Diverged, match="is not finite"):
        gradient_squared(objective, problem.train, exact=exact)


@pytest.mark.parametrize("signal", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("directions", [1, 20])
def test_the_interval_of_the_squared_norm_covers_at_its_level(
    signal: float, directions: int
) -> None:
    """Nominal 95 %, 400 times: 93 % is two standard errors below."""
    random = np.random.default_rng(0)
    gradient = np.r_[signal, np.zeros(directions - 1)]
    held = 0
    for _ in range(400):
        rows = gradient + random.standard_normal((16, directions))
        found = squared_norm(rows @ rows.T, 4, FRESH)
        held += found.low <= signal**2 <= found.high
    assert held / 400 >= 0.93


def test_without_replacement_the_squared_norm_is_unbiased_and_exact_for_all_examples() -> None:
    random = np.random.default_rng(0)
    examples = random.standard_normal((48, 30)) + 0.05
    truth = float(np.square(examples.mean(axis=0)).sum())
    values = []
    for _ in range(800):
        rows = examples[random.permutation(48)[:40]].reshape(10, 4, 30).mean(axis=1)
        values.append(squared_norm(rows @ rows.T, 4, Sampling(Draw.RESHUFFLED, 48)).value)
    error = np.std(values) / math.sqrt(800)
    assert abs(np.mean(values) - truth) < 3 * error
    # tr Σ/N, what independent draws' formula lacks
    lacking = np.square(examples - examples.mean(axis=0)).sum() / 47 / 48
    assert lacking > 10 * error
    rows = examples.reshape(12, 4, 30).mean(axis=1)
    whole = squared_norm(rows @ rows.T, 4, Sampling(Draw.RESHUFFLED, 48))
    assert whole.low == pytest.approx(truth) and whole.high == pytest.approx(truth)


@pytest.mark.parametrize(
    ("gram", "batch_size", "message"),
    [
        (np.eye(7), 4, "`gram` must be of at least 8 batches to measure their spread, got 7"),
    ],
)
def test_inner_products_that_cannot_be_used_are_refused(
    gram: np.ndarray, batch_size: int, message: str
) -> None:
    with pytest.raises(BadArgument, match=message):
        squared_norm(gram, batch_size, Sampling(Draw.RESHUFFLED, 48))


def test_a_gradient_that_is_not_finite_means_divergence() -> None:
    with pytest.raises(Diverged, match="A gradient of the training loss is not finite"):
        squared_norm(np.full((8, 8), np.nan), 4, FRESH)


@pytest.mark.parametrize("spectrum", ["even", "one below", "crowded below"])
def test_the_part_of_the_spectrum_that_lanczos_misses_is_bounded_over_random_starts(
    spectrum: str,
) -> None:
    """Twenty products of a matrix of 300 dimensions, 30 starts: the bound may fail in one of ten,
    and is far from it."""
    values = {
        "even": torch.linspace(-1, 1, 300),
        "one below": torch.cat([torch.tensor([-1.0]), torch.linspace(-0.9, 1, 299)]),
        "crowded below": torch.cos(torch.linspace(0, math.pi, 300)),
    }[spectrum].double()
    share = lanczos_deficit(300, 20, 0.1)
    missed = []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        operator = VectorProduct(lambda vectors: vectors * values, values)
        found = eigenvalues(
            operator, largest=1, smallest=1, tolerance=1e-12, most_products=20, generator=generator
        )
        missed.append(float(found.smallest[0].value + 1) / 2)
    assert np.mean(np.array(missed) > share) <= 0.1
    assert spectrum == "one below" or max(missed) > share / 50, (
        "a bound nothing comes near to would be of no use"
    )


def test_as_many_products_as_the_resolution_asks_for_reach_it() -> None:
    for dimension, resolution in ((1_000, 0.01), (10**7, 0.001)):
        products = products_for(dimension, resolution, 0.01)
        assert (
            lanczos_deficit(dimension, products, 0.01)
            <= resolution
            < lanczos_deficit(dimension, products - 1, 0.01)
        )
    assert products_for(5, 0.001, 0.01) == 5 and lanczos_deficit(5, 5, 0.01) == 0


class Tilted(nn.Module):
    """½ Φᵀ H Φ + xᵀΦ for every example x: H may curve down."""

    def __init__(self, curvatures: list[float], at: list[float]) -> None:
        super().__init__()
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)
        self.position = nn.Parameter(torch.tensor(at, dtype=torch.float64))

    def forward(self, examples: Tensor) -> Tensor:
        return (self.curvatures * self.position**2).sum() / 2 + examples @ self.position


def output(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch)


def tilts(count: int = 4096) -> Examples:
    """Slopes whose mean over all examples is zero."""
    drawn = torch.randn(
        count // 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return Examples(torch.cat([drawn, -drawn]))


def certified(curvatures: list[float], at: list[float], **settings: object) -> Certificate:
    objective = Objective(Tilted(curvatures, at), output)
    start = Estimate.exact(100.0)
    return certify(objective, tilts(), start, **settings)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("curvatures", "at", "verdict"),
    [
        ([2.0, 1.0, 0.5], [0.0, 0.0, 0.0], PointKind.MINIMUM),
        ([2.0, 1.0, 0.0], [0.0, 0.0, 3.0], PointKind.MINIMUM),
        ([2.0, 1.0, -0.1], [0.0, 0.0, 0.0], PointKind.SADDLE),
        ([2.0, 1.0, -0.1], [2.0, 0.0, 0.0], PointKind.NOT_STATIONARY),
    ],
)
def test_the_verdict_separates_a_minimum_a_saddle_and_a_slope(
    curvatures: list[float], at: list[float], verdict: PointKind, exact: bool
) -> None:
    found = certified(curvatures, at, exact=exact, batches=64, batch_size=60, tolerance=0.02)
    assert found.verdict is verdict
    assert found.lowest.low - 1e-12 <= min(curvatures) <= found.lowest.high + 1e-12
    truth = sum((h * x) ** 2 for h, x in zip(curvatures, at, strict=True))
    assert found.gradient_squared.low - 1e-12 <= truth <= found.gradient_squared.high + 1e-12


def test_an_unclear_gradient_comes_with_the_number_of_batches_that_would_decide() -> None:
    found = certified([2.0, 1.0, 0.5], [0.0, 0.0, 0.0], batches=8, batch_size=4, seed=1)
    assert found.verdict is PointKind.CANNOT_TELL
    assert "--batches" in say(found.finding()).advice
    assert found.finding().state.value == "cannot tell"


def test_weight_decay_is_part_of_what_is_trained() -> None:
    plain = certified([2.0, 1.0, -0.1], [0.5, 0.0, 0.0], exact=True)
    decayed = certified([2.0, 1.0, -0.1], [0.5, 0.0, 0.0], exact=True, weight_decay=0.3)
    assert plain.gradient_squared.value == pytest.approx(
        1.0
    ) and plain.lowest.value == pytest.approx(-0.1)
    assert decayed.gradient_squared.value == pytest.approx(1.15**2)
    assert decayed.lowest.value == pytest.approx(0.2) and decayed.largest.value == pytest.approx(
        2.3
    )


def test_the_interval_from_samples_contains_the_curvature_of_all_examples() -> None:
    problem = load("digits", model="mlp")
    torch.manual_seed(0)
    objective = Objective(problem.model(), problem.loss)
    order = torch.randperm(len(problem.train))
    batches = [problem.train.batch(part) for part in order.split(128)]
    whole = of_all_examples(Curvature(objective, batches), resolution=0.02)
    some = of_samples(
        objective, [batches[2 * place : 2 * place + 2] for place in range(4)], resolution=0.02
    )
    assert some.lowest.low <= whole.lowest.low and whole.lowest.high <= some.lowest.high
    assert whole.lowest.high - whole.lowest.low < 0.06 * whole.largest.value
    assert some.largest.low <= whole.largest.value


def test_a_certificate_leaves_the_model_as_it_was() -> None:
    model = Tilted([2.0, 1.0, 0.5], [1.0, 0.0, 0.0])
    before, state = model.position.detach().clone(), torch.get_rng_state()
    certify(
        Objective(model, output),
        tilts(256),
        Estimate.exact(1.0),
        batches=8,
        batch_size=4,
        examples=64,
    )
    assert torch.equal(model.position, before) and model.position.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_draws_or_couples_has_no_exact_pass_and_is_measured_on_independent_batches() -> (
    None
):
    data = Examples((torch.randn(64, 8), torch.randint(5, (64,))))
    loss = supervised(nn.CrossEntropyLoss(reduction="none"))
    dropout = Objective(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 5)), loss)
    norm = Objective(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)), loss)
    for objective, why in ((dropout, "draws random numbers"), (norm, "batch statistics")):
        with pytest.raises(BadArgument, match=f"`exact` needs .*{why}"):
            gradient_squared(objective, data, exact=True, batch_size=8)
        found, examples = gradient_squared(objective, data, batches=12, batch_size=8)
        assert found.low < found.value < found.high and examples == 96
        objective.model.eval()
        assert gradient_squared(objective, data, exact=True, batch_size=8)[0].method == "exact"


def test_batch_gradients_of_a_large_model_are_averaged_to_save_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gradiometer.convergence.certificate.certifying.KEPT_NUMBERS", 24)
    objective = Objective(Tilted([2.0, 1.0, 0.5], [1.0, 0.0, 0.0]), output)
    found, examples = gradient_squared(objective, tilts(), batches=40, batch_size=8)
    assert found.samples == 8 and examples == 320 and "of 40" in found.method
    assert found.low <= 4.0 <= found.high


def test_augmented_data_have_no_exact_pass() -> None:
    class Augmented:
        def __len__(self) -> int:
            return 64

        def batch(self, index: Tensor) -> Tensor:
            return torch.randn(len(index), 3, dtype=torch.float64)

    objective = Objective(Tilted([2.0, 1.0, 0.5], [1.0, 0.0, 0.0]), output)
    with pytest.raises(BadArgument, match="augmentation"):
        gradient_squared(objective, Augmented(), exact=True)
    found, _ = gradient_squared(objective, Augmented())
    assert found.method != "exact" and found.low <= 4.0 <= found.high


def test_a_quadratics_certificate_has_the_numbers_it_has_in_closed_form() -> None:
    curvatures = np.geomspace(0.05, 4, 20)
    problem = Quadratic(curvatures, np.eye(20)).problem(examples=500)
    known = Quadratic(curvatures, np.eye(20)).on(problem.train)
    torch.manual_seed(0)
    objective = Objective(problem.model(), problem.loss)
    position = flat(objective.parameters).detach().numpy()
    found = certify(objective, problem.train, Estimate.exact(1.0), batch_size=10)
    assert found.gradient_squared.value == pytest.approx(
        float(np.square(known.gradient(position)).sum())
    )
    assert found.lowest.value == pytest.approx(0.05) and found.largest.value == pytest.approx(4)


COARSE = ("--tolerance", "0.05")
"""Needs fewer products."""


@pytest.mark.nightly
def test_the_interval_of_the_gradient_covers_along_a_real_run() -> None:
    """Fashion-MNIST (the digits where it is not there), at the start, in the middle and at the end
    of 3,000 steps."""
    try:
        problem = load("fashion-mnist")
    except BadArgument:
        problem = load("digits")
    torch.manual_seed(0)
    model = problem.model()
    objective, data, step = Objective(model, problem.loss), problem.train, 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for place in (0, 300, 3000):
        while step < place:
            optimizer.zero_grad()
            problem.loss(model, data.batch(torch.randint(len(data), (32,)))).mean().backward()
            optimizer.step()
            step += 1
        truth = gradient_squared(objective, data, exact=True)[0].value
        found = [gradient_squared(objective, data, batches=32, seed=seed)[0] for seed in range(80)]
        assert np.mean([truth <= each.high for each in found]) >= 0.9
        assert np.mean([each.low <= truth <= each.high for each in found]) >= 0.9
        assert np.median([math.sqrt(each.high / truth) for each in found]) < 2.5


def run_verb(*arguments: str) -> Result:
    return CliRunner().invoke(verb, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    configuration = Configuration(
        problem="digits", model="mlp", epochs=1, learning_rate=0.2, budget=0.0
    )
    return train(load("digits", model="mlp"), configuration, tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_the_command_certifies_the_last_checkpoint_and_saves_the_certificate(trained: Run) -> None:
    printed = json.loads(
        run_verb(str(trained.path), "--batches", "16", "--examples", "64", "--json", *COARSE).output
    )
    assert printed["verdict"] == "not stationary" and printed["gradients"] == 512
    relative = printed["estimates"]["relative_gradient_norm"]
    assert 0.05 < relative["low"] < relative["value"] < relative["high"]
    (kept,) = load_artifacts(trained, Certificate)
    assert kept.step == trained.steps and kept.relative.value == pytest.approx(relative["value"])
    exact = json.loads(
        run_verb(
            str(trained.path), "--batches", "all", "--examples", "64", "--json", *COARSE
        ).output
    )
    assert (
        relative["low"] <= exact["estimates"]["relative_gradient_norm"]["value"] <= relative["high"]
    )
    assert exact["gradients"] == exact["of"] == 1437
    assert "is of what it was" not in Path(exact["page"]).read_text()
    assert "certificate" in [finding.gauge for finding in diagnose(trained).findings]
    assert "of what it was at the start" in Path(exact["page"]).read_text()


def test_the_command_prints_the_verdict_and_its_numbers(trained: Run) -> None:
    words = " ".join(
        run_verb(str(trained.path), "--batches", "16", "--examples", "64", *COARSE).output.split()
    )
    assert (
        "not stationary, at 95%" in words
        and "‖g‖ / start" in words
        and "512 of 1,437 examples" in words
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--level", "nan"), "`level` must lie between 0 and 1, got nan"),
        (("--tolerance", "0"), "`tolerance` must lie between 0 and 1, got 0.0"),
        (("--batches", "some"), "`--batches` must be a whole number, or all, got 'some'"),
        (("--batches", "7"), "`batches` must be at least 8, got 7"),
        (("--examples", "3"), "`examples` must be at least 16, or all 1,437, got 3"),
    ],
)
def test_bad_options_raise_and_are_named(
    trained: Run, flags: tuple[str, str], message: str
) -> None:
    with pytest.raises(BadArgument, match=message):
        run_verb(str(trained.path), *flags)


def test_a_torn_certificate_file_is_ignored(trained: Run) -> None:
    folder = trained.path / "certificates"
    folder.mkdir(exist_ok=True)
    (folder / "step_000001.json").write_text('{"step": 1, "mo')
    assert all(certificate.step != 1 for certificate in load_artifacts(trained, Certificate))
