"""The preconditioned noise: P is what divides the optimizer's update, its moments are unbiased, and
it says when not."""

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import BadArgument, Run, watch
from gradiometer.estimation import PreconditionedNoise
from gradiometer.measurement import (
    Draw,
    Objective,
    Reading,
    Sampling,
    Series,
    TrainingStep,
    supervised,
)
from gradiometer.measurement.preconditioner import preconditioner_of
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train
from rank_adaptive import STEPS, two_ranks_by_hand
from several_ranks import run_all

SUPPORT = Path(__file__).parents[1] / "support"

FRESH = Sampling(Draw.FRESH)
LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
Make = Callable[..., torch.optim.Optimizer]

# P
# -------------------------------------------------------------------------------------------------------------------

WITHOUT_MOMENTUM: dict[str, tuple[Make, dict[str, Any]]] = {
    "Adam": (torch.optim.Adam, {"betas": (0.0, 0.9)}),
    "foreach": (torch.optim.Adam, {"betas": (0.0, 0.9), "foreach": True}),
    "fused": (torch.optim.Adam, {"betas": (0.0, 0.9), "fused": True}),
    "amsgrad": (torch.optim.Adam, {"betas": (0.0, 0.5), "amsgrad": True}),
    "maximize": (torch.optim.Adam, {"betas": (0.0, 0.9), "maximize": True}),
    "tensor rate": (torch.optim.Adam, {"betas": (0.0, 0.9), "lr": torch.tensor(1e-3)}),
    "AdamW": (torch.optim.AdamW, {"betas": (0.0, 0.95), "weight_decay": 0.0}),
    "NAdam": (torch.optim.NAdam, {"betas": (0.0, 0.9)}),
    "RAdam": (torch.optim.RAdam, {"betas": (0.0, 0.99)}),
    "Adamax": (torch.optim.Adamax, {"betas": (0.0, 0.9)}),
    "RMSprop": (torch.optim.RMSprop, {"alpha": 0.9}),
    "centered": (torch.optim.RMSprop, {"alpha": 0.9, "centered": True}),
    "Adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
}
"""The update is then −η P ĝ times a number, with P of the state after it."""


@pytest.mark.parametrize(("kind", "settings"), WITHOUT_MOMENTUM.values(), ids=WITHOUT_MOMENTUM)
def test_it_is_the_factor_of_the_gradient_in_the_update(
    kind: Make, settings: dict[str, Any]
) -> None:
    """By group, with different ε and rates; the gradients differ too little for the clip."""
    torch.manual_seed(0)
    first, second = (
        nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in ((40, 5), (30,))
    )
    settings = {"lr": 1e-3, "eps": 0.02} | settings
    other = {"eps": 0.3} if isinstance(settings["lr"], Tensor) else {"eps": 0.3, "lr": 4e-4}
    optimizer = kind([{"params": [first]}, {"params": [second], **other}], **settings)
    for step in range(12):
        for parameter in (first, second):
            parameter.grad = (
                torch.randn_like(parameter).sign()
                * (1 + torch.rand_like(parameter))
                / (1 + step / 5)
            )
        before = [parameter.detach().clone() for parameter in (first, second)]
        optimizer.step()
    known = preconditioner_of(optimizer, [first, second])
    assert known is not None
    ratios = torch.cat(
        [
            ((now.detach() - then) / (p * now.grad)).flatten()
            for now, then, p in zip((first, second), before, known, strict=True)
        ]
    )
    assert ratios.max() - ratios.min() == pytest.approx(0, abs=1e-6 * ratios.abs().max().item())


def test_it_is_clipped_at_three_times_its_median_over_what_was_touched() -> None:
    table = nn.Parameter(torch.zeros(10, 3))
    optimizer = torch.optim.Adam([table], betas=(0.9, 0.5))
    for step in range(30):
        table.grad = torch.zeros(10, 3)
        table.grad[:4] = 1.0 + torch.rand(4, 3)
        # touched once: v decays by 2 a step; the other four rows never
        table.grad[4:6] = float(step == 0)
        optimizer.step()
    v = optimizer.state[table]["exp_avg_sq"].double() / (1 - 0.5**30)
    exact = 1 / (v.sqrt() + 1e-8)
    median = np.median(exact[v > 0])
    (known,) = preconditioner_of(optimizer, [table])
    assert exact[4].max() > 100 * median
    assert torch.allclose(known.double(), exact.clamp(max=3 * median), rtol=1e-5)
    assert torch.allclose(known[4:].double(), torch.tensor(3 * median), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "decay", "seen"),
    [
        (torch.optim.Adam, 1e-6, 100),
        (torch.optim.AdamW, 1e-2, 100),
        (torch.optim.Adam, 1e-6, 0),  # then the decay is all that there is
    ],
)
def test_rows_with_no_gradient_but_their_decay_do_not_clip_it(
    kind: Make, decay: float, seen: int
) -> None:
    """While most rows of a table were not seen, the clip was the P of their L2 decay: a row that
    was seen for the first time had a P 200,000 times too large."""
    torch.manual_seed(0)
    table = nn.Parameter(0.05 * torch.randn(1000, 4))
    optimizer = kind([table], weight_decay=decay)
    for _ in range(5):
        table.grad = torch.zeros(1000, 4)
        table.grad[:seen] = 0.01 * torch.randn(seen, 4)
        optimizer.step()
    (known,) = preconditioner_of(optimizer, [table])
    v = optimizer.state[table]["exp_avg_sq"] / (1 - 0.999**5)
    counted = (v[:seen] if seen else v).sqrt() + 1e-8
    assert known.max().item() == pytest.approx(3 / counted.median().item(), rel=0.05)


def test_a_large_one_is_clipped_by_a_sample() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((700, 256), (3,), (100, 64))]
    optimizer = torch.optim.Adagrad(weights)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    known = torch.cat([p.flatten() for p in preconditioner_of(optimizer, weights)])
    exact = torch.cat(
        [1 / (optimizer.state[weight]["sum"].sqrt() + 1e-10).flatten() for weight in weights]
    )
    assert known.max() == pytest.approx(3 * exact.median().item(), rel=0.02)
    inside = exact < known.max()
    assert torch.allclose(known[inside], exact[inside])


def test_parameters_without_state_count_for_nothing() -> None:
    used, unused, foreign = (nn.Parameter(torch.ones(3)) for _ in range(3))
    adam, rms = torch.optim.Adam([used, unused]), torch.optim.RMSprop([nn.Parameter(torch.ones(2))])
    parameters = [used, unused, foreign]
    assert preconditioner_of([adam, rms], parameters) is None
    assert not adam.state
    used.grad = torch.ones(3)
    adam.step()
    assert [p.tolist() for p in preconditioner_of([adam, rms], parameters)[1:]] == [[0.0] * 3] * 2
    adam.param_groups[0]["lr"] = 0.0  # at the start of a warm-up
    assert preconditioner_of(adam, [used])[0].tolist() == pytest.approx([1.0] * 3)


def test_radam_has_none_before_it_adapts() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.RAdam([weight])
    known = []
    for _ in range(8):
        known.append(preconditioner_of(optimizer, [weight]) is not None)
        weight.grad = torch.ones(3)
        optimizer.step()
    assert known == [False] * 5 + [True] * 3  # the sixth update is the first with ρ above 5


def test_of_other_optimizers_none_is_known() -> None:
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(
        BadArgument, match="`optimizer` is a SGD, whose preconditioner is not known"
    ):
        preconditioner_of([torch.optim.Adam([weight]), torch.optim.SGD([weight])], [weight])


# Its moments
# ---------------------------------------------------------------------------------------------------------

DIRECTIONS = 12
MEAN = torch.linspace(-0.5, 1.0, DIRECTIONS, dtype=torch.float64)
DEVIATION = torch.linspace(0.3, 3.0, DIRECTIONS, dtype=torch.float64)
P = torch.logspace(1, -1, DIRECTIONS, dtype=torch.float64)
NOISE, SIGNAL = float((P * DEVIATION**2).sum()), float((P * MEAN**2).sum())
"""tr PΣ and gᵀPg."""


class Linear(nn.Module):
    """Its output is x·Φ, so that the gradient of an example is the example, wherever Φ is; in two
    layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 1, bias=False, dtype=torch.float64)
        self.second = nn.Linear(DIRECTIONS - 5, 1, bias=False, dtype=torch.float64)

    def forward(self, examples: Tensor) -> Tensor:
        return (self.first(examples[:, :5]) + self.second(examples[:, 5:]))[:, 0]


def known_steps(count: int, size: int, seed: int = 0) -> Iterator[TrainingStep]:
    """Steps with Gaussian gradients of known mean and covariance under a known P."""
    generator = torch.Generator().manual_seed(seed)
    objective = Objective(Linear(), lambda model, batch: model(batch))
    known = [P[None, :5], P[None, 5:]]
    for index in range(count):
        batch = MEAN + DEVIATION * torch.randn(
            size, DIRECTIONS, dtype=torch.float64, generator=generator
        )
        yield TrainingStep(
            objective,
            batch,
            index=index,
            learning_rate=1e-3,
            sampling=FRESH,
            preconditioner=known,
            seed=seed,
        )


def series_of(gauge: PreconditionedNoise, count: int, size: int, seed: int = 0) -> Series:
    readings = [
        Reading(gauge.name, step.index, size, 1e-3, gauge.measure(step))
        for step in known_steps(count, size, seed)
    ]
    return Series.of(readings, FRESH, ("first", "second"))


@pytest.mark.parametrize(("size", "parts"), [(6, 2), (5, 2), (5, None), (6, 3)])
def test_its_moments_are_unbiased(size: int, parts: int | None) -> None:
    """z of both, in total and of the first layer: below 4."""
    series = series_of(PreconditionedNoise(parts), 100, size)
    truths = {
        "variance": (NOISE, float((P * DEVIATION**2)[:5].sum())),
        "norm_squared": (SIGNAL, float((P * MEAN**2)[:5].sum())),
    }
    for name, (whole, layer) in truths.items():
        seen = series.moments[name]
        for values, truth in ((seen.sum(1), whole), (seen[:, 0], layer)):
            assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / math.sqrt(len(values)), (
                name
            )


@pytest.mark.nightly
def test_its_interval_covers() -> None:
    """At 90 %, of 200 windows of 30 readings: within three standard errors of a binomial, 0.9 ±
    0.064."""
    gauge, truth = PreconditionedNoise(), NOISE / SIGNAL
    series = series_of(gauge, 200 * 30, 8)
    found = [
        gauge.estimate(series[30 * window : 30 * (window + 1)])["preconditioned_noise_scale"]
        for window in range(200)
    ]
    assert np.mean([one.low < truth < one.high for one in found]) == pytest.approx(0.9, abs=0.064)


def test_halves_give_the_formulas_of_inner_products() -> None:
    """aᵀPb and ((aᵀPa + bᵀPb)/2 − aᵀPb)·B/2."""
    step = next(known_steps(1, 6))
    order = torch.randperm(6, generator=step.generator("deal"))
    a, b = (step.batch[half].mean(0) for half in order.tensor_split(2))
    moments = PreconditionedNoise().measure(step)
    assert sum(moments["norm_squared"]) == pytest.approx(float(a @ (P * b)), rel=1e-10)
    assert sum(moments["variance"]) == pytest.approx(
        float(((a - b) ** 2 * P).sum() / 2 * 3), rel=1e-10
    )


def test_without_replacement_it_means_the_gradient_of_the_training_set() -> None:
    moments = {"variance": [8.0], "norm_squared": [0.1]}
    readings = [Reading("preconditioned_noise", step, 4, 0.1, moments) for step in range(20)]
    series = Series.of(readings, Sampling(Draw.RESHUFFLED, 40))
    scales = [
        PreconditionedNoise(gradient_of=whose).estimate(series)["preconditioned_noise_scale"].value
        for whose in ("train", "population")
    ]
    assert scales == pytest.approx([8 * (1 - 1 / 40) / (0.1 + 8 / 40), 80.0])


def test_a_step_without_it_says_what_to_pass() -> None:
    step = TrainingStep(
        Objective(nn.Linear(2, 2), LOSS),
        (torch.randn(4, 2), torch.zeros(4).long()),
        index=0,
        learning_rate=0.1,
        sampling=FRESH,
    )
    with pytest.raises(
        BadArgument, match="`preconditioner` is missing, and this gauge needs it: pass"
    ):
        PreconditionedNoise().measure(step)


# In a loop
# -----------------------------------------------------------------------------------------------------------


def examples(count: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        inputs = torch.randn(size, 6, dtype=torch.float64, generator=generator)
        yield inputs, torch.randint(4, (size,), generator=generator)


def adaptive_loop(
    out: Path,
    steps: int = 15,
    accumulation: int = 1,
    watched: bool = True,
    kind: Make = torch.optim.AdamW,
    **asked: Any,
) -> tuple[nn.Module, list[tuple[float, float]], Run | None]:
    """A loop with gradients of its own: its model, tr PΣ and gᵀPg of every step by hand if it
    accumulates two, its run."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    parameters, objective = list(model.parameters()), Objective(model, LOSS)
    optimizer = kind(parameters, lr=0.01)
    w = (
        watch(
            model,
            optimizer,
            loss=LOSS,
            out=out,
            accumulation=accumulation,
            **({"every": 1, "parts": 2} | asked),
        )
        if watched
        else None
    )
    if w:
        w.__enter__()
    batches, by_hand = examples(steps * accumulation, 6), []
    for _ in range(steps):
        optimizer.zero_grad()
        parts, known = [], preconditioner_of(optimizer, parameters)
        for _ in range(accumulation):
            batch = next(batches)
            loss = LOSS(model, batch).mean()
            parts.append(objective.gradient(batch))
            (loss / accumulation).backward()
            if w:
                w.step(loss, batch)
        if known is not None and accumulation == 2:
            apart = sum(
                float((p * (a - b) ** 2).sum()) for p, a, b in zip(known, *parts, strict=True)
            )
            by_hand.append(
                (
                    apart / 2 * 6,
                    sum(float((p * a * b).sum()) for p, a, b in zip(known, *parts, strict=True)),
                )
            )
        nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
    if w:
        w.__exit__(None, None, None)
    return model, by_hand, w.run if w else None


@pytest.mark.parametrize("accumulation", [1, 2])
def test_watch_measures_it_by_default_from_the_second_step_and_keeps_the_bits(
    accumulation: int, tmp_path: Path
) -> None:
    model, by_hand, run = adaptive_loop(tmp_path, accumulation=accumulation)
    plain, _, _ = adaptive_loop(tmp_path, accumulation=accumulation, watched=False)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True)
    )
    assert (
        run is not None
        and run.warnings == []
        and run.configuration.gauges == "noise,preconditioned_noise,preconditioned_sharpness"
    )
    series = run.series("preconditioned_noise")
    assert series.steps.tolist() == [*range(1, 15)] and len(run.series("noise")) == 15
    # the halves are training's own, read before clipping, and P is from before the step
    if accumulation == 2:
        seen = np.stack(
            [series.moments["variance"].sum(1), series.moments["norm_squared"].sum(1)], axis=1
        )
        assert seen == pytest.approx(np.array(by_hand), rel=1e-9)


def test_it_is_refused_under_other_optimizers_and_by_train(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    known = "whose preconditioner is known for Adam, .* and Adagrad, and not for"
    for kind in (torch.optim.SGD, torch.optim.Rprop):
        with pytest.raises(
            BadArgument,
            match=f"`gauges` names preconditioned_noise, {known} {kind.__name__}: leave",
        ):
            watch(
                model,
                kind(model.parameters(), lr=0.1),
                loss=LOSS,
                out=tmp_path,
                gauges="preconditioned_noise",
            )
    with pytest.raises(BadArgument, match="`optimizer` is sgd: leave it out, or use adamw"):
        train(load("digits"), Configuration(gauges="noise,preconditioned_noise"), tmp_path)


@pytest.mark.slow
def test_two_ranks_read_it_under_ddp_and_sharded(tmp_path: Path) -> None:
    """DDP to rounding, against the same training by hand; FSDP2 to bfloat16, in which P is
    gathered."""
    run_all(2, sys.executable, str(SUPPORT / "rank_adaptive.py"), str(tmp_path))
    for accumulation in (1, 2):
        expected = np.array(two_ranks_by_hand(accumulation))
        for name, precision in (("DistributedDataParallel", 1e-9), ("sharded", 1e-2)):
            run = Run.open(tmp_path / f"{name}-{accumulation}-1")
            series = run.series("preconditioned_noise")
            seen = np.stack(
                [series.moments["variance"].sum(1), series.moments["norm_squared"].sum(1)], axis=1
            )
            assert run.warnings == [] and series.steps.tolist() == [*range(1, STEPS)]
            assert seen == pytest.approx(
                expected, rel=precision, abs=precision * np.abs(expected).max()
            )


# The finding
# ---------------------------------------------------------------------------------------------------------
