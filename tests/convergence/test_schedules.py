"""Schedules: equal to those of other libraries, pure, composable, and stored without loss."""

import json
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as peer

from gradiometer import BadArgument
from gradiometer.convergence.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InversePower,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    SnapshotCycle,
    StepDecay,
    WarmupStableDecay,
)
from gradiometer.convergence.schedules.horizon import horizon, picture, transfer_rate
from gradiometer.convergence.schedules.schedule import Warmup

CATALOGUE = [
    "Constant(0.1)",
    "StepDecay(0.1, every=30, factor=0.5)",
    "MultiStep(0.1, milestones=(10, 20))",
    "Exponential(0.1, factor=0.99)",
    "Polynomial(0.1, steps=50, power=2.0)",
    "Linear(0.1, steps=50, final=0.01)",
    "Cosine(0.1, steps=50)",
    "InversePower(0.1, power=0.6)",
    "WarmupStableDecay(0.1, warmup=5, stable=20, decay=10, shape='1-sqrt')",
    "Formula('0.1/sqrt(t)')",
    "OneCycle(0.1, steps=50)",
    "CosineRestarts(0.1, steps=10, lengthen=2, shrink=0.5)",
    "SnapshotCycle(0.1, steps=100, snapshots=7)",
    "InversePower(0.1) * Cosine(1.0, steps=50)",
    "0.5 * InversePower(0.1)",
    "InversePower(0.1).then(20, Constant(0.01))",
    "InversePower(0.1).warmed_up(10)",
]
PEERS = json.loads((Path(__file__).with_name("peer_schedules.json")).read_text())


@pytest.fixture(params=CATALOGUE)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return Schedule.parse(request.param)


def test_every_kind_of_schedule_is_in_the_catalogue() -> None:
    assert {type(Schedule.parse(text)).__name__ for text in CATALOGUE} >= set(Schedule.kinds) - {
        "Rising"
    }


def test_the_repr_recreates_it(schedule: Schedule) -> None:
    assert Schedule.parse(repr(schedule)) == schedule


def test_json_and_pickle_recreate_it(schedule: Schedule) -> None:
    back = Schedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert back == schedule
    assert hash(back) == hash(schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_it_is_a_finite_rate_at_every_step_up_to_two_to_the_thousand(schedule: Schedule) -> None:
    for step in (*range(200), *(2**power - 1 for power in range(8, 1000)), 2**1000):
        rate = schedule(step)
        assert math.isfinite(rate) and rate >= 0
        assert rate == schedule(step)


@pytest.mark.parametrize("step", [-1, True, 2**1000 + 1, np.int64(-1)])
def test_an_invalid_step_is_rejected(step: Any) -> None:
    with pytest.raises(BadArgument, match="`step` must lie between 0"):
        Constant(0.1)(step)


class TorchCase(NamedTuple):
    """Our schedule, a function that makes the same PyTorch scheduler, and the length of the run."""

    ours: Schedule
    theirs: Any
    steps: int


TORCH = {
    "constant": TorchCase(Constant(0.05).then(5, 0.1), lambda o: peer.ConstantLR(o, 0.5, 5), 20),
    "step": TorchCase(StepDecay(0.1, 7, 0.5), lambda o: peer.StepLR(o, 7, 0.5), 40),
    "multi-step": TorchCase(
        MultiStep(0.1, (3, 9, 9), 0.5), lambda o: peer.MultiStepLR(o, [3, 9, 9], 0.5), 20
    ),
    "exponential": TorchCase(Exponential(0.1, 0.99), lambda o: peer.ExponentialLR(o, 0.99), 200),
    "linear": TorchCase(Linear(0.03, 10, 0.1), lambda o: peer.LinearLR(o, 0.3, 1.0, 10), 20),
    "polynomial": TorchCase(
        Polynomial(0.1, 30, power=2.0), lambda o: peer.PolynomialLR(o, 30, 2.0), 50
    ),
    "cosine": TorchCase(Cosine(0.1, 50, 0.01), lambda o: peer.CosineAnnealingLR(o, 50, 0.01), 50),
    "one-cycle": TorchCase(
        OneCycle(0.1, 100), lambda o: peer.OneCycleLR(o, 0.1, 100, cycle_momentum=False), 99
    ),
    "one-cycle in three": TorchCase(
        OneCycle(0.1, 100, 0.25, 10.0, 100.0, linear=True, three_phases=True),
        lambda o: peer.OneCycleLR(
            o,
            0.1,
            100,
            pct_start=0.25,
            div_factor=10.0,
            final_div_factor=100.0,
            anneal_strategy="linear",
            three_phase=True,
            cycle_momentum=False,
        ),
        99,
    ),
    "restarts": TorchCase(
        CosineRestarts(0.1, 10, final=0.01),
        lambda o: peer.CosineAnnealingWarmRestarts(o, 10, 1, 0.01),
        55,
    ),
    "growing restarts": TorchCase(
        CosineRestarts(0.1, 10, lengthen=3),
        lambda o: peer.CosineAnnealingWarmRestarts(o, 10, 3),
        300,
    ),
    "one after another": TorchCase(
        Linear(0.01, 10, 0.1).then(10, Exponential(0.1, 0.9)),
        lambda o: peer.SequentialLR(
            o, [peer.LinearLR(o, 0.1, 1.0, 10), peer.ExponentialLR(o, 0.9)], [10]
        ),
        40,
    ),
    "product": TorchCase(
        Constant(0.5).then(5, 1.0) * Exponential(0.1, 0.9),
        lambda o: peer.ChainedScheduler([peer.ConstantLR(o, 0.5, 5), peer.ExponentialLR(o, 0.9)]),
        40,
    ),
    "lambda": TorchCase(
        InversePower(0.1), lambda o: peer.LambdaLR(o, lambda step: 1 / (1 + step)), 40
    ),
}


def optimizer(lr: float = 0.1, **settings: Any) -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, **settings)


def followed(optimizer: Optimizer, scheduler: Any, steps: int) -> list[float]:
    rates = [float(optimizer.param_groups[0]["lr"])]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


@pytest.mark.parametrize("name", TORCH)
def test_it_equals_the_torch_scheduler_over_a_whole_run(name: str) -> None:
    case = TORCH[name]
    reference = optimizer()
    theirs = followed(reference, case.theirs(reference), case.steps)
    assert theirs == pytest.approx(
        [case.ours(step) for step in range(case.steps + 1)], abs=1e-12, rel=1e-12
    )
    mine = optimizer()
    assert theirs == pytest.approx(
        followed(mine, case.ours.scheduler(mine), case.steps), abs=1e-12, rel=1e-12
    )


@pytest.mark.parametrize("name", TORCH)
def test_a_resumed_run_equals_the_torch_scheduler(name: str) -> None:
    case, half = TORCH[name], TORCH[name].steps // 2
    reference = optimizer()
    theirs = followed(reference, case.theirs(reference), case.steps)
    first = optimizer()
    scheduler = case.ours.scheduler(first)
    followed(first, scheduler, half)
    saved = json.loads(
        json.dumps({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()})
    )
    second = optimizer()
    resumed = case.ours.scheduler(second)
    second.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["scheduler"])
    assert followed(second, resumed, case.steps - half) == pytest.approx(
        theirs[half:], abs=1e-12, rel=1e-12
    )


@pytest.mark.parametrize("given", PEERS, ids=lambda given: f"{given['peer']}: {given['schedule']}")
def test_it_equals_the_schedule_of_another_library(given: dict[str, Any]) -> None:
    schedule = Schedule.parse(given["schedule"])
    assert [schedule(step) for step in range(len(given["rates"]))] == pytest.approx(
        given["rates"], abs=1e-12
    )


def test_the_snapshot_cycle_equals_the_paper_and_takes_one_snapshot_per_cycle() -> None:
    cycle = SnapshotCycle(0.2, steps=100, snapshots=7)
    for t in range(1, 101):
        paper = (
            0.2 / 2 * (math.cos(math.pi * ((t - 1) % math.ceil(100 / 7)) / math.ceil(100 / 7)) + 1)
        )
        assert cycle(t - 1) == pytest.approx(paper, rel=1e-12)
    assert sum(map(cycle.takes_snapshot, range(200))) == 7


def test_a_group_with_another_rate_keeps_its_ratio() -> None:
    body, head = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    both = SGD([{"params": [body], "lr": 0.01}, {"params": [head]}], lr=0.1)
    scheduler = Cosine(0.3, steps=10).scheduler(both)
    both.step()
    scheduler.step()
    assert both.param_groups[1]["lr"] == pytest.approx(Cosine(0.3, steps=10)(1), rel=1e-12)
    assert both.param_groups[0]["lr"] == pytest.approx(Cosine(0.3, steps=10)(1) / 10, rel=1e-12)


def test_an_optimizer_with_a_rate_of_zero_is_rejected() -> None:
    with pytest.raises(BadArgument, match="`lr` of the optimizer must be positive"):
        Constant(0.1).scheduler(optimizer(0.0))


def test_warming_up_within_covers_the_schedules_own_beginning() -> None:
    cosine = Cosine(0.1, steps=50)
    assert Warmup(cosine, 10, within=True)(20) == cosine(20)
    assert Warmup(cosine, 10)(20) == cosine(10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Constant(-0.1),
            "`rate` of Constant must be a finite number and not negative, got -0.1",
        ),
        (lambda: Constant(math.nan), "`rate` of Constant must"),
        (lambda: Cosine(math.inf, 10), "`initial` of Cosine must"),
        (lambda: Cosine(0.1, 0), "`steps` of Cosine must be a whole number of at least 1, got 0"),
        (lambda: InversePower(0.1, time_constant=math.nan), "`time_constant` of InversePower must"),
        (
            lambda: CosineRestarts(0.1, 10, lengthen=0.5),
            "`lengthen` of CosineRestarts must be at least 1",
        ),
        (
            lambda: CosineRestarts(0.1, 10, shrink=2.0),
            "`shrink` of CosineRestarts must be at most 1",
        ),
        (
            lambda: WarmupStableDecay(0.1, 1, 1, 1, shape="cubic"),
            "`shape` of WarmupStableDecay must be one of",
        ),
        (lambda: MultiStep(0.1, (-1,)), "`milestones` of MultiStep must"),
        (lambda: Schedule.parse("Cosin(0.1, steps=10)"), "is not known. Did you mean Cosine?"),
        (
            lambda: Schedule.parse("Cosine(0.1, step=10)"),
            "`step` is not a setting of Cosine. Did you mean steps? Its settings are",
        ),
        (lambda: Schedule.parse("Cosine(0.1)"), "`Cosine` does not accept these settings"),
        (lambda: Schedule.parse("Cosine(0.1, steps=10).formula(3)"), "is not part of a schedule"),
        (lambda: Schedule.parse("__import__('os')"), "'__import__' is not known"),
        (lambda: Schedule.parse("Constant(rate=0.1, rate=0.2)"), "a setting is given twice"),
        (lambda: Schedule.parse("Cosine("), "is not a schedule"),
        (lambda: Schedule.parse("0.1"), "is a number"),
        (lambda: Schedule.from_dict({"initial": 1}), "must be an object with the key 'kind'"),
        (lambda: Exponential(0.1, 3.0)(10_000), "gives inf at step 10000"),
        (lambda: Constant(0.1) * -1.0, "`rate` of Constant must"),
    ],
)
def test_an_invalid_schedule_raises_and_names_the_setting(make: Any, message: str) -> None:
    with pytest.raises(BadArgument) as refusal:
        make()
    assert message in str(refusal.value)


class Rising(Schedule):
    """A user-defined schedule with invalid rates."""

    def formula(self, step: Any) -> Any:
        return 1 - 0.5 * step if step < 5 else math.nan

    def __repr__(self) -> str:
        return "Rising()"


def test_a_negative_or_nan_rate_raises_and_names_the_step() -> None:
    with pytest.raises(BadArgument, match=r"gives -0.5 at step 3"):
        Rising()(3)
    with pytest.raises(BadArgument, match=r"gives nan at step 5"):
        Rising()(5)


@pytest.mark.parametrize(
    ("shape", "worst_case"),
    [
        (Linear(1.0, 1000), 2.006),
        (Cosine(1.0, 1000), 2.063),
        (WarmupStableDecay(1.0, 0, 800, 200), 2.173),
        (InversePower(1.0, power=0.5), 2.570),
        (Constant(1.0), 2.913),
        (InversePower(1.0), 6.222),
    ],
)
def test_the_bound_of_a_finite_run_is_the_published_one(shape: Schedule, worst_case: float) -> None:
    over = horizon(shape, 1000)
    assert over.bound * math.sqrt(1000) == pytest.approx(worst_case, abs=5e-4)
    assert horizon(shape * 3.0, 1000).bound == pytest.approx(over.bound)


def test_the_best_base_rate_makes_the_bound_smallest() -> None:
    """The bound, term by term, at the best base rate and close to it."""

    def bound(base: float) -> float:
        rates = [base * Cosine(1.0, 50)(step) for step in range(50)]
        total = sum(rates)
        last = sum(
            rates[k] / sum(rates[k + 1 :]) * sum(rate**2 for rate in rates[k:]) / sum(rates[k:])
            for k in range(49)
        )
        return 1 / (2 * total) + sum(rate**2 for rate in rates) / (2 * total) + last / 2

    over = horizon(Cosine(1.0, 50), 50)
    assert bound(over.best_peak) == pytest.approx(over.bound, rel=1e-12)
    assert bound(over.best_peak * 1.01) > over.bound < bound(over.best_peak / 1.01)


def test_a_finite_run_has_a_distance_and_a_noise_from_any_step_on() -> None:
    over = horizon(Linear(0.1, 10), 10)
    assert (
        over.reaches_zero
        and over.distance == pytest.approx(0.55)
        and over.noise == pytest.approx(0.0385)
    )
    assert not horizon(InversePower(0.1), 1000).reaches_zero


def test_a_tuned_rate_transfers_to_another_shape_and_back() -> None:
    linear, constant = Linear(1.0, 1000), Constant(1.0)
    assert (carried := transfer_rate(0.1, constant, linear, 1000)) == pytest.approx(
        0.1 * 0.031497 / 0.010856, rel=1e-3
    )
    assert transfer_rate(carried, linear, constant, 1000) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "ask", [lambda: horizon(Constant(0.0), 10), lambda: horizon(Constant(0.1), 0)]
)
def test_a_run_without_steps_or_rates_is_rejected(ask: Any) -> None:
    with pytest.raises(BadArgument, match=r"nothing is learned|`steps` must lie"):
        ask()


def test_the_picture_shows_every_schedule_over_the_run() -> None:
    points = picture({"cosine": Cosine(0.1, 100), "inverse": InversePower(0.1)}, 100).to_dict()[
        "data"
    ]["values"]
    assert {point["schedule"] for point in points} == {"cosine", "inverse"}
    assert {point["step"] for point in points} == set(range(100))


def test_sums_of_rates_beyond_the_largest_float_are_infinite_without_a_warning() -> None:
    over = horizon(Constant(1e308), 100)
    assert over.distance == over.noise == math.inf and math.isfinite(over.bound)
