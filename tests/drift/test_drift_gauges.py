"""The gauges of drift: unbiased, covering as often as they say, and with something to say."""

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import CASES, Case
from gradiometer import BadArgument
from gradiometer.drift import (
    BatchSharpness,
    CurvatureAlongGradient,
    LossChange,
    PreconditionedSharpness,
    StepDrift,
)
from gradiometer.drift.curvature import edge_warning
from gradiometer.drift.stability import (
    MomentumRule,
    edge_finding,
    largest_stable_rate,
    stability_limit,
)
from gradiometer.measurement import (
    Draw,
    Estimate,
    Gauge,
    Objective,
    Reading,
    Sampling,
    Series,
    State,
    TrainingStep,
    supervised,
)
from gradiometer.measurement.optimizer.groups import Group
from gradiometer.measurement.preconditioner import preconditioner_of
from gradiometer.testing import check_gauge
from gradiometer.verdict.words.say import say

GAUGES: tuple[Gauge, ...] = (BatchSharpness(), CurvatureAlongGradient(), StepDrift(), LossChange())
SAMPLING = Sampling(Draw.REPLACEMENT, 48)
RATE, BATCH = 0.3, 6
COUNT = 200
"""Readings whose mean is compared with the exact value."""


class Small:
    """A network of 27 parameters on 48 examples, of which everything can be computed in full."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.inputs = torch.randn(48, 3, dtype=torch.float64) * torch.tensor(
            [2.0, 1.0, 0.5], dtype=torch.float64
        )
        self.labels = (self.inputs[:, 0] + torch.randn(48, dtype=torch.float64) > 0).long()
        self.objective = Objective(self.model, supervised(nn.CrossEntropyLoss(reduction="none")))
        self.here = torch.cat([p.detach().reshape(-1) for p in self.objective.parameters])

    def loss(self, at: Tensor, index: Tensor | None = None) -> Tensor:
        index = torch.arange(48) if index is None else index
        parts, start = [], 0
        for parameter in self.objective.parameters:
            parts.append(at[start : start + parameter.numel()].view(parameter.shape))
            start += parameter.numel()
        return self.objective.mean_loss(parts, (self.inputs[index], self.labels[index]))

    def gradient(self, at: Tensor, index: Tensor | None = None) -> Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad(self.loss(at, index), at)[0]

    def hessian(self, index: Tensor | None = None) -> Tensor:
        return torch.autograd.functional.hessian(lambda at: self.loss(at, index), self.here)

    def batch(
        self, draw: torch.Generator, size: int = BATCH
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        index = torch.randint(48, (size,), generator=draw)
        return (self.inputs[index], self.labels[index]), index

    def step(self, seed: int, probe: bool = True, size: int = BATCH) -> TrainingStep:
        draw = torch.Generator().manual_seed(seed)
        batch, other = self.batch(draw, size)[0], self.batch(draw, 8)[0]
        return TrainingStep(
            self.objective,
            batch,
            index=seed,
            learning_rate=RATE,
            sampling=SAMPLING,
            probe=(lambda: other) if probe else None,
        )


SMALL = Small()
CURVATURE = SMALL.hessian()
GRADIENT = SMALL.gradient(SMALL.here)
EACH = torch.stack([SMALL.gradient(SMALL.here, torch.tensor([place])) for place in range(48)])
NOISE = torch.cov(EACH.T, correction=0)


def series(
    gauge: Gauge, count: int, probe: bool = True, size: int = BATCH, start: int = 0
) -> Series:
    readings = [
        Reading(gauge.name, seed, size, RATE, gauge.measure(SMALL.step(seed, probe, size)))
        for seed in range(start, start + count)
    ]
    return Series.of(readings, SAMPLING)


def unbiased(samples: np.ndarray, exact: float) -> bool:
    return abs(samples.mean() - exact) < 4 * samples.std(ddof=1) / math.sqrt(len(samples))


def over_steps(what: Callable[[Tensor], Tensor], size: int, draws: int = 2000) -> float:
    """The mean of something over many batches, of the gradient that makes the step."""
    draw = torch.Generator().manual_seed(99)
    return float(
        torch.func.vmap(what)(EACH[torch.randint(48, (draws, size), generator=draw)].mean(1)).mean()
    )


def drift_along(direction: Tensor) -> Tensor:
    """‖g(Φ − η·direction) − g(Φ)‖²."""
    return (torch.func.grad(SMALL.loss)(SMALL.here - RATE * direction) - GRADIENT).square().sum()


@pytest.mark.slow
@pytest.mark.parametrize("probe", [True, False])
def test_curvature_along_gradient_and_noise_is_unbiased(probe: bool) -> None:
    found = series(CurvatureAlongGradient(), COUNT, probe, size=4 if probe else 8)
    assert unbiased(found.moments["gradient_curvature"], float(GRADIENT @ CURVATURE @ GRADIENT))
    assert unbiased(found.moments["noise_curvature"], float((CURVATURE * NOISE).sum()))


@pytest.mark.slow
@pytest.mark.parametrize("probe", [True, False])
def test_step_drift_is_unbiased(probe: bool) -> None:
    made_by = BATCH if probe else BATCH // 2
    count = COUNT if probe else 300  # half a batch is noisier
    found = series(StepDrift(), count, probe)
    assert set(found.moments["made_by"]) == {made_by}
    exact = over_steps(drift_along, made_by)
    assert unbiased(found.moments["drift"], exact)
    assert unbiased(found.moments["gradient_norm_squared"], float(GRADIENT @ GRADIENT))
    # so that a mistake would show
    assert abs(exact) > 8 * found.moments["drift"].std() / math.sqrt(count)


def test_predicted_and_measured_loss_change_are_unbiased() -> None:
    found, here = series(LossChange(), COUNT), SMALL.loss(SMALL.here).detach()
    exact = {
        "first_order": -RATE * over_steps(lambda g: g @ GRADIENT, BATCH),
        "second_order": RATE**2 / 2 * over_steps(lambda g: g @ CURVATURE @ g, BATCH),
        "seen": over_steps(lambda g: SMALL.loss(SMALL.here - RATE * g) - here, BATCH),
    }
    for name, value in exact.items():
        assert unbiased(found.moments[name], value), name


def test_batch_sharpness_uses_the_hessian_of_its_own_batch() -> None:
    draw = torch.Generator().manual_seed(5)
    _, index = SMALL.batch(draw)
    step = SMALL.step(5)
    gradient, hessian = SMALL.gradient(SMALL.here, index), SMALL.hessian(index)
    moments = BatchSharpness().measure(step)
    assert moments["curvature"] == pytest.approx(float(gradient @ hessian @ gradient))
    assert moments["norm_squared"] == pytest.approx(float(gradient @ gradient))


def test_batch_sharpness_uses_the_same_random_numbers_for_gradient_and_hessian() -> None:
    torch.manual_seed(0)
    case = CASES["dropout"]()
    step = TrainingStep(
        case.objective,
        case.batch,
        index=0,
        learning_rate=0.1,
        sampling=SAMPLING,
        gradient=[None] * 4,
    )
    gradient = step.graph.gradient.double()  # training's own, here zero, was made with other draws
    assert (
        BatchSharpness().measure(step)["norm_squared"] == pytest.approx(float(gradient @ gradient))
        and gradient.any()
    )


@pytest.mark.nightly
@pytest.mark.parametrize(
    "gauge", [CurvatureAlongGradient(), LossChange(), StepDrift()], ids=lambda gauge: gauge.name
)
def test_intervals_of_drift_cover_at_their_level(gauge: Gauge) -> None:
    curvature, noise = float(GRADIENT @ CURVATURE @ GRADIENT), float((CURVATURE * NOISE).sum())
    squared = float(GRADIENT @ GRADIENT)
    exact = {
        "gradient_curvature": curvature,
        "noise_curvature": noise,
        "predicted_change": -RATE * squared + RATE**2 / 2 * (curvature + noise / BATCH),
        "step_drift": over_steps(drift_along, BATCH, 10_000) / squared,
    }
    whole = series(gauge, 30 * 200)
    windows = [gauge.estimate(whole[at : at + 30]) for at in range(0, len(whole), 30)]
    for name in exact.keys() & windows[0].keys():
        covered = np.mean([found[name].low <= exact[name] <= found[name].high for found in windows])
        assert 0.83 <= covered <= 0.96, name  # 90 % ± 3 standard errors of 200 windows


@pytest.mark.parametrize("gauge", GAUGES, ids=lambda gauge: gauge.name)
def test_measuring_drift_leaves_training_as_it_was(gauge: Gauge, case: Case) -> None:
    from gradiometer.testing import training_state

    case.loss(case.model, case.batch).mean().backward()
    before = training_state(case.model)
    moments = gauge.measure(
        TrainingStep(
            case.objective,
            case.batch,
            index=3,
            learning_rate=0.1,
            sampling=Sampling(Draw.REPLACEMENT, 100),
        )
    )
    assert all(math.isfinite(value) for value in moments.values())
    assert training_state(case.model) == before


@pytest.mark.parametrize("gauge", GAUGES, ids=lambda gauge: gauge.name)
def test_a_gauge_meets_the_laws_on_a_network_whose_answers_are_known(gauge: Gauge) -> None:
    check_gauge(gauge, lambda: (SMALL.step(index) for index in range(4)))


@pytest.mark.parametrize("gauge", GAUGES, ids=lambda gauge: gauge.name)
def test_every_finding_is_a_sentence_without_nan(gauge: Gauge) -> None:
    for count in (2, 60):
        found = gauge.estimate(series(gauge, count))
        finding = gauge.judge(found)
        assert (
            finding is not None
            and say(finding).seen.endswith(".")
            and "nan" not in str(say(finding))
        )
        assert set(finding.numbers) <= set(found)
        assert (finding.state is State.CANNOT_TELL) or count == 60


def test_dropout_cancels_for_a_step_of_no_length() -> None:
    torch.manual_seed(0)
    case = CASES["dropout"]()
    step = TrainingStep(case.objective, case.batch, index=0, learning_rate=1e-12, sampling=SAMPLING)
    assert StepDrift().measure(step)["drift"] == pytest.approx(0, abs=1e-12)
    assert LossChange().measure(step)["seen"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "kind", [MomentumRule(), MomentumRule(0.5), MomentumRule(0.9), MomentumRule(0.9, nesterov=True)]
)
def test_steps_of_torch_on_a_quadratic_stop_shrinking_at_the_edge(kind: MomentumRule) -> None:
    limit = stability_limit(0.1, kind, weight_decay=0.2)
    for curvature, stable in ((0.98 * limit, True), (1.02 * limit, False)):
        point = nn.Parameter(torch.ones((), dtype=torch.float64))
        optimizer = torch.optim.SGD(
            [point],
            lr=0.1,
            momentum=kind.momentum,
            nesterov=kind.nesterov,
            weight_decay=0.2 if kind else 0,
        )
        for _ in range(1000):
            optimizer.zero_grad()
            (curvature * point**2 / 2).backward()
            optimizer.step()
        assert (point.abs().item() < 1e-6) == stable


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_steps_along_a_mean_of_gradients_stop_shrinking_at_their_edge(momentum: float) -> None:
    kind = MomentumRule(momentum, averaged=True)
    limit = stability_limit(0.1, kind)
    assert kind.limit_of_small_batches == 2 and (momentum != 0.9 or limit == pytest.approx(380))
    for curvature, stable in ((0.98 * limit, True), (1.02 * limit, False)):
        point = nn.Parameter(torch.ones((), dtype=torch.float64))
        # with a second moment that stays 1, Adam's step is η times the mean of the gradients
        optimizer = torch.optim.Adam([point], lr=0.1, betas=(momentum, 1 - 1e-15), eps=0.0)
        optimizer.state[point] = {
            "step": torch.tensor(1e18),
            "exp_avg": torch.zeros_like(point),
            "exp_avg_sq": torch.ones_like(point),
        }
        for _ in range(1500):
            optimizer.zero_grad()
            (curvature * point**2 / 2).backward()
            optimizer.step()
            optimizer.state[point]["exp_avg_sq"].fill_(1.0)
        assert (point.abs().item() < 1e-6) == stable


@pytest.mark.parametrize(
    ("optimizer", "limit"), [("RMSprop", 0.2), ("MyRMSprop", 0.2), ("NAdam", 2)]
)
def test_the_momentum_of_rmsprop_is_a_sum(optimizer: str, limit: float) -> None:
    kind = MomentumRule.of(Group(optimizer, "adaptive", 1e-3, momentum=0.9))
    assert kind.limit_of_small_batches == pytest.approx(limit)


def adam_step(step: int = 5) -> tuple[TrainingStep, torch.optim.Optimizer, Small]:
    """A step of Adam on the small network, whose state comes from this many updates."""
    small = Small()
    optimizer = torch.optim.Adam(small.model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    for start in range(step):
        index = torch.arange(start, start + BATCH)
        optimizer.zero_grad()
        small.objective.loss(
            small.model, (small.inputs[index], small.labels[index])
        ).mean().backward()
        optimizer.step()
    small.here = torch.cat([p.detach().reshape(-1) for p in small.objective.parameters])
    index = torch.arange(20, 20 + BATCH)
    made = TrainingStep(
        small.objective,
        (small.inputs[index], small.labels[index]),
        index=step,
        learning_rate=1e-3,
        groups=(Group("Adam", "adaptive", 1e-3, momentum=0.9),),
        sampling=SAMPLING,
        preconditioner=lambda: preconditioner_of(optimizer, small.objective.parameters),
    )
    return made, optimizer, small


def test_the_preconditioned_sharpness_is_that_of_sgd_in_divided_parameters() -> None:
    step, optimizer, small = adam_step()
    moments = PreconditionedSharpness().measure(step)
    assert moments is not None
    factors = preconditioner_of(optimizer, small.objective.parameters)
    assert factors is not None
    root = torch.cat([factor.reshape(-1) for factor in factors]).double().sqrt()
    index = torch.arange(20, 20 + BATCH)

    def loss(scaled: Tensor) -> Tensor:
        return small.loss(root * scaled, index)

    at = (small.here / root).detach()
    gradient = torch.autograd.functional.jacobian(loss, at)
    hessian = torch.autograd.functional.hessian(loss, at)
    assert moments["norm_squared"] == pytest.approx(float(gradient @ gradient))
    assert moments["curvature"] == pytest.approx(float(gradient @ hessian @ gradient))
    assert moments["momentum"] == 0.9 and moments["averaged"] == 1.0


def test_the_preconditioned_sharpness_needs_a_state() -> None:
    step, _, _ = adam_step(0)
    assert PreconditionedSharpness().measure(step) is None


def preconditioned(share: float) -> Series:
    """Twelve readings at this share of the edge of small batches, 2/η."""
    moments = {
        "curvature": 2 * share / 1e-3,
        "norm_squared": 1.0,
        "momentum": 0.9,
        "nesterov": 0.0,
        "averaged": 1.0,
    }
    name = PreconditionedSharpness.name
    return Series.of([Reading(name, 10 * i, 8, 1e-3, moments) for i in range(12)], SAMPLING)


@pytest.mark.parametrize(
    ("share", "claim"),
    [
        (0.1, "batch_sharpness_far_below_edge"),
        (0.5, "batch_sharpness_below_edge"),
        (3.0, "batch_sharpness_at_edge"),
        (40.0, "batch_sharpness_beyond_edge"),
    ],
)
def test_the_edge_of_adam_is_that_of_a_mean_of_gradients(share: float, claim: str) -> None:
    gauge, series = PreconditionedSharpness(), preconditioned(share)
    estimates = gauge.estimate(series)
    assert estimates["preconditioned_edge"].value == pytest.approx(38 / 1e-3)
    assert gauge.shares(series) == pytest.approx(np.full(12, share))
    found = gauge.judge(estimates)
    assert found is not None and found.claim == claim
    assert "2(1 + β₁)/((1 − β₁)η) = 38,000" in say(found).seen


def test_a_rate_above_the_edge_gives_a_warning() -> None:
    matrix = torch.diag(torch.tensor([1.0, 50.0], dtype=torch.float64))
    model = nn.Linear(2, 1, bias=False).double()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model.weight @ matrix @ model.weight.T / 2).mean() + 0 * batch.sum()

    objective, batch = Objective(model, loss), torch.zeros(4, 1, dtype=torch.float64)
    assert edge_warning(objective, batch, learning_rate=0.039) is None
    warning = edge_warning(objective, batch, learning_rate=0.08)
    assert warning is not None and "0.0800 is 2.0 times beyond the edge of stability" in warning
    assert "2/η = 25.0" in warning and "try --lr 0.04" in warning
    assert edge_warning(objective, batch, learning_rate=0.07, kind=MomentumRule(0.9)) is None
    assert (
        edge_warning(objective, batch, learning_rate=0.07, kind=MomentumRule(0.9, nesterov=True))
        is not None
    )


@pytest.mark.parametrize(
    ("value", "state"),
    [(5.0, State.OK), (20.0, State.LOOK), (60.0, State.ACT)],
    ids=["below", "at", "beyond"],
)
def test_the_finding_about_the_learning_rate_has_three_states(value: float, state: State) -> None:
    sharpness = Estimate.bound(
        value, low=value - 0.1, high=value + 0.1, method="Lanczos, residual", samples=9
    )
    finding = edge_finding(sharpness, 0.1)
    assert finding.state is state and "2/η = 20.0" in say(finding).seen
    rate = largest_stable_rate(sharpness)
    assert rate.low < 2 / value < rate.high
    assert largest_stable_rate(Estimate.exact(-1.0)).value == math.inf


def _estimates(
    share: float, width: float, momentum: float = 0.0
) -> tuple[BatchSharpness, dict[str, Estimate]]:
    gauge = BatchSharpness(momentum)
    edge = gauge.kind.limit / 0.1

    def around(value: float) -> Estimate:
        return Estimate.interval(
            value, value * (1 - width), value * (1 + width), level=0.9, method="m", samples=50
        )

    return gauge, {
        "batch_sharpness": around(share * edge),
        "edge_share": around(share),
        "edge": Estimate.exact(edge),
        "small_batch_edge": Estimate.exact(gauge.kind.limit_of_small_batches / 0.1),
        "momentum": Estimate.exact(momentum),
    }


@pytest.mark.parametrize(
    ("share", "width", "momentum", "state"),
    [
        (0.2, 0.1, 0.0, State.OK),
        (1.0, 0.1, 0.0, State.LOOK),
        (1.8, 0.1, 0.0, State.ACT),
        (0.8, 0.5, 0.0, State.CANNOT_TELL),
        (0.02, 0.1, 0.9, State.OK),
        (0.055, 0.1, 0.9, State.LOOK),  # 2(1 − μ)/η is where small batches settle
        (1.8, 0.1, 0.9, State.ACT),
    ],
)
def test_the_state_follows_the_share_of_the_edge(
    share: float, width: float, momentum: float, state: State
) -> None:
    gauge, estimates = _estimates(share, width, momentum)
    assert gauge.judge(estimates).state is state


def test_estimates_of_drift_need_no_torch() -> None:
    script = """
import sys
sys.modules["torch"] = None
import gradiometer.drift.batch_sharpness, gradiometer_lab.one_step, gradiometer.drift.stability
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: BatchSharpness(momentum=1.0),
            "`momentum` must be at least 0 and below 1, got 1.0",
        ),
        (lambda: MomentumRule(float("nan")), "`momentum` must be at least 0 and below 1, got nan"),
        (lambda: stability_limit(float("nan")), "`learning_rate` must be positive, got nan"),
        (lambda: stability_limit(0.1, weight_decay=-1.0), "`weight_decay` must be at least 0"),
        (
            lambda: StepDrift().measure(SMALL.step(0, probe=False, size=1)),
            "no other half can judge its step: pass a `probe`",
        ),
        (
            lambda: StepDrift().measure(SMALL.step(0, probe=False, size=2)),
            "leaves only 1 example to split in halves",
        ),
    ],
)
def test_settings_and_steps_without_drift_are_refused(build, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        build()
