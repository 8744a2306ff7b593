"""The trajectory: which iterates are kept, what their path is called, and that ordinary runs raise
no alarm."""

import math
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gradiometer import BadArgument, Interrupted, diagnose
from gradiometer.convergence.trajectory import Trajectory
from gradiometer.convergence.trajectory.dead_units import dead_units_of, twin_units_of
from gradiometer.convergence.trajectory.endpoint import NAME, Endpoint, endpoint_of
from gradiometer.convergence.trajectory.path_facts import Kind, Trail, facts_of, kind_of
from gradiometer.convergence.trajectory.trajectory import (
    CLAIMS,
    NUMBERS,
    PERIOD,
    _signs,
    sketch,
)
from gradiometer.measurement import Estimate, Finding, Objective, State, supervised
from gradiometer.problems import load
from gradiometer.run import Configuration, Run
from gradiometer.train import resume, train
from gradiometer.train.loop import Trainer
from gradiometer.verdict.words.say import say
from gradiometer_lab.closed_forms import Quadratic
from known_steps import kept_steps
from trajectory_cases import CASES, Case, named

ALARMS = {"diverging", "shaking apart", "circling", "saddle", "dead units", "symmetric start"}


def name_of(case: Case, seed: int = 0) -> str:
    """What the detector calls a case, with its look at where the run stands."""
    steps, points, rates = case.path(seed)
    path = Trail.of(steps, points, rates)
    estimates = facts_of(path)
    kind, finding = kind_of(estimates), Trajectory().judge(estimates)
    assert finding is not None and say(finding).seen.startswith(f"The parameters are {kind}: ")
    objective, problem = case.objective(points[-1])
    batch = problem.train.batch(torch.arange(min(256, len(problem.train))))
    return named(kind, endpoint_of(objective, batch, path))


def walk(points: np.ndarray, rate: float = 0.1) -> Kind:
    """The name of a path whose every point is given."""
    kept = np.array(kept_steps(len(points)))
    return kind_of(facts_of(Trail.of(kept, points[kept], np.full(len(kept), rate))))


def test_sixteen_iterates_of_every_doubling_are_kept_three_in_a_row() -> None:
    every = np.array(kept_steps(2**20))
    for power in range(4, 20):
        kept = every[(every >= 2**power) & (every < 2 ** (power + 1))]
        assert len(kept) == 16
        runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)
        assert power < 6 or [len(run) for run in runs] == [3, 3, 3, 3, 3, 1]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_gets_its_name(case: Case) -> None:
    if case.ends == "circling":
        pytest.skip("half a million steps: among the slow ones")
    assert name_of(case) == case.ends


def test_weight_decay_is_part_of_the_curvature_at_the_endpoint() -> None:
    case = next(case for case in CASES if case.name == "saddle")
    steps, points, rates = case.path()
    path = Trail.of(steps, points, rates)
    objective, problem = case.objective(points[-1])
    plain, penalised = (
        endpoint_of(objective, problem.train.data, path, weight_decay=decay) for decay in (0.0, 6.0)
    )
    assert plain.smallest and penalised.smallest and plain.saddle and not penalised.saddle
    assert penalised.smallest.value == pytest.approx(plain.smallest.value + 6.0, rel=1e-12)


def test_every_kind_has_a_meaning_and_alarms_have_advice() -> None:
    assert set(CLAIMS) == set(Kind)
    for kind, (claim, state, names) in CLAIMS.items():
        facts = {name: Estimate.exact(0.5) for name in names}
        said = say(Finding(Trajectory.name, Trajectory.issue, claim, state, facts=facts))
        assert said.means and bool(said.advice) == (str(kind) in ALARMS) == (
            state in (State.LOOK, State.ACT)
        )


@pytest.mark.slow
def test_the_winding_is_named() -> None:
    (case,) = (case for case in CASES if case.ends == "circling")
    assert name_of(case) == "circling"


def test_a_limit_cycle_is_named_and_a_spiral_inwards_is_not() -> None:
    time = np.arange(2**12)
    angle = 2 * math.pi * np.log2(time + 1) / 2
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert walk(circle) is Kind.CIRCLING
    assert walk(circle / np.sqrt(time + 1)[:, None]) is Kind.CONVERGING


def test_a_random_walk_wanders_and_a_straight_line_is_under_way() -> None:
    generator = np.random.default_rng(0)
    kinds = [walk(generator.standard_normal((2**12, 30)).cumsum(axis=0)) for _ in range(10)]
    assert (
        set(kinds) <= {Kind.WANDERING, Kind.CANNOT_TELL, Kind.UNDER_WAY}
        and kinds.count(Kind.WANDERING) >= 8
    )
    line = np.arange(2**12)[:, None] * np.ones((1, 30)) + 1e5 * generator.standard_normal(30)
    assert walk(line) is Kind.UNDER_WAY


def test_a_slow_approach_on_a_quadratic_is_not_called_diverging() -> None:
    quadratic = Quadratic([1.0], [1e-12], [5.0])
    rates = 0.1 / np.arange(1, 2**14)
    points = quadratic.simulate(rates, chains=1, batch_size=1, start=[1.0])[:, 0]
    kept = np.array(kept_steps(len(rates)))
    assert kind_of(facts_of(Trail.of(kept, points[kept], rates[kept]))) is Kind.UNDER_WAY


def test_a_short_run_cannot_be_classified() -> None:
    assert walk(np.random.default_rng(0).standard_normal((200, 3))) is Kind.CANNOT_TELL
    estimates = facts_of(Trail.of(np.arange(3), np.zeros((3, 2)), np.ones(3)))
    finding = Trajectory().judge(estimates)
    assert (
        finding is not None
        and finding.state is State.CANNOT_TELL
        and "cannot be classified" in say(finding).seen
    )


def test_the_interval_of_the_move_slope_covers_the_value_for_a_rate_of_one_over_t() -> None:
    rates, runs = 1 / np.arange(1, 2**13), 200
    start = np.ones(3)
    points = Quadratic(start, start).simulate(rates, chains=runs, batch_size=1, start=start, seed=1)
    kept = np.array(kept_steps(len(rates)))
    slopes = [
        facts_of(Trail.of(kept, points[kept, run], rates[kept]))["move_slope"]
        for run in range(runs)
    ]
    covered = np.mean([slope.low <= -0.5 <= slope.high for slope in slopes])
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / runs))


def test_a_sketch_is_the_point_itself_if_small_and_keeps_inner_products_if_not() -> None:
    small = [torch.randn(3, 4), torch.randn(5)]
    assert torch.equal(sketch(small), torch.cat([small[0].reshape(-1), small[1]]).double())
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 200, 5_000, generator=generator, dtype=torch.float64)
    sketches = [torch.stack([sketch([row]) for row in rows]) for rows in (one, one + other)]
    exact = (one * (one + other)).sum(dim=1)
    off = ((sketches[0] * sketches[1]).sum(dim=1) - exact) / exact
    assert abs(off.mean()) < 4 * off.std() / math.sqrt(200)
    # (‖u‖²‖v‖² + ⟨u, v⟩²)/numbers
    assert off.std() == pytest.approx(math.sqrt((1 * 2 + 1) / 61), rel=0.25)
    long = torch.zeros(61 * 2**12 + 500)  # its end is in another period, under other signs
    long[5], long[-3] = 1.0, 2.0
    assert sketch([long]).norm() in (torch.tensor(5.0).double().sqrt(), 1.0, 3.0)
    combined = sketch([one[0] - 2 * other[0]])
    torch.testing.assert_close(combined, sketch([one[0]]) - 2 * sketch([other[0]]))


def test_a_sketch_is_that_of_the_entries_however_they_lie_in_tensors() -> None:
    torch.manual_seed(0)
    whole = torch.randn(600_000)
    signs = _signs()
    expected = torch.zeros(NUMBERS, dtype=torch.float64)
    for place, part in enumerate(whole.split(PERIOD)):
        signed = (part * signs[place * 7919 % PERIOD :][: len(part)]).double()
        expected.index_add_(0, torch.arange(len(part)) % NUMBERS, signed)
    for sizes in ([600_000], [1, 124_927, 0, 124_928, 350_144], [300_000, 7, 299_993]):
        before = whole.clone()
        torch.testing.assert_close(sketch(whole.split(sizes)), expected, rtol=1e-12, atol=1e-10)
        assert torch.equal(whole, before)


class Functional(nn.Module):
    """ReLUs called as functions, on features and on channels, the second layer partly dead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.hidden = nn.Linear(16, 6)
        with torch.no_grad():
            self.hidden.bias[:4] = -100.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.hidden(torch.relu(self.conv(images)).flatten(1)))


def test_dead_units_are_counted_however_the_relu_is_called() -> None:
    torch.manual_seed(0)
    batch = (torch.rand(32, 1, 4, 4), torch.randint(6, (32,)))
    model = Functional()
    before = [parameter.clone() for parameter in model.parameters()]
    counts = dead_units_of(
        Objective(model, supervised(nn.CrossEntropyLoss(reduction="none"))), batch
    )
    assert list(counts) == ["ReLU 1", "ReLU 2"] and counts["ReLU 1"][1] == 4
    dead, units = counts["ReLU 2"]
    exact = int((model(batch[0]) == 0).all(dim=0).sum())
    assert (dead, units) == (exact, 6) and dead >= 4
    assert all(
        torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True)
    )


def test_equal_and_opposite_rows_are_twins_and_random_ones_are_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 10))
    assert twin_units_of(model) == {}
    with torch.no_grad():
        model[0].weight[7] = model[0].weight[3]
        model[0].weight[20] = -model[0].weight[3]
        model[0].weight[30:40] = 0
    assert twin_units_of(model) == {"0.weight": (3, 50)}


def test_a_network_of_equal_weights_is_still_symmetric_after_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 3))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    optimizer, inputs, labels = (
        torch.optim.SGD(model.parameters(), 0.1),
        torch.randn(64, 10),
        torch.randint(3, (64,)),
    )
    for step in range(200):
        part = slice(step % 4 * 16, step % 4 * 16 + 16)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[part]), labels[part]).backward()
        optimizer.step()
    assert twin_units_of(model)["0.weight"] == (20, 20)
    objective = Objective(model, supervised(nn.CrossEntropyLoss(reduction="none")))
    found = list(
        endpoint_of(
            objective, (inputs, labels), Trail.of(np.arange(3), np.zeros((3, 2)), np.ones(3))
        ).findings(Kind.UNDER_WAY)
    )
    assert [finding.state for finding in found] == [State.ACT]
    assert (
        say(found[0]).seen
        == "20 of 20 rows equal another up to sign in 0.weight: a symmetric start that training has kept."
    )


def curved(
    smallest: float, largest: float, travelled: float, along: float = 0.0, seen: float = 0.0
) -> Endpoint:
    bounds = [
        Estimate.bound(x, low=x - 0.01, high=x + 0.01, method="residual", samples=9)
        for x in (smallest, largest)
    ]
    return Endpoint(256, travelled, along, seen, *bounds)


def test_a_saddle_needs_a_marked_negative_curvature_and_a_long_stay() -> None:
    assert curved(-1.0, 2.0, 10.0).saddle
    assert not curved(-0.1, 2.0, 1000.0).saddle  # networks have such everywhere
    assert not curved(-1.0, 2.0, 2.0).saddle
    assert not curved(0.1, 2.0, 1000.0).saddle
    assert not curved(-1.0, 2.0, 10.0, along=0.9).saddle  # it has led off
    assert not curved(-1.0, 2.0, 10.0, seen=0.05).saddle  # the noise of batches sees the way out
    assert not list(curved(-1.0, 2.0, 10.0).findings(Kind.UNDER_WAY))
    (finding,) = curved(-1.0, 2.0, 10.0).findings(Kind.CONVERGING)
    assert "e^9.9" in say(finding).means
    again = Endpoint.of(curved(-1.0, 2.0, 10.0).to_dict())
    assert again == curved(-1.0, 2.0, 10.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Endpoint(0, 1.0), "`examples` must be at least 1, got 0"),
        (lambda: Endpoint(1, math.nan), "`travelled` must be at least 0 and finite, got nan"),
    ],
)
def test_bad_arguments_raise_and_are_named(build, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        build()


def trained(tmp_path, model: str, **changes) -> Run:
    """A short run of a counterexample."""
    settings = {
        "problem": "counterexample",
        "model": model,
        "budget": 0.02,
        "every": 64,
        "check_edge": False,
    }
    configuration = Configuration(**settings | changes)
    return train(load(configuration.problem, model=configuration.model), configuration, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "schedule", "seen"),
    [
        ("saddle", "InversePower(0.5, time_constant=2)", "Training is at a saddle"),
        (
            "mirrored",
            "InversePower(0.2, power=0.6)",
            "2 of 2 rows equal another up to sign in parameters",
        ),
        (
            "dead-unit",
            "Constant(2.0)",
            "1 of 1 units are dead in ReLU 1: zero on each of 256 examples",
        ),
        (
            "two-cycle",
            "Constant(3.0)",
            "The parameters are shaking apart: the correlation of each step with the next",
        ),
    ],
)
def test_a_run_with_an_unusual_end_has_a_finding_with_advice(
    tmp_path, model: str, schedule: str, seen: str
) -> None:
    run = trained(tmp_path, model, schedule=schedule, batch_size=256, epochs=330)
    found = [finding for finding in diagnose(run).findings if say(finding).seen.startswith(seen)]
    assert len(found) == 1 and found[0].state is State.ACT and say(found[0]).advice


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"learning_rate": 0.3, "batch_size": 128}, {"model": "cnn", "momentum": 0.9}]
)
def test_an_ordinary_run_raises_no_alarm(tmp_path, changes) -> None:
    configuration = Configuration(
        **{"problem": "digits", "learning_rate": 0.05, "epochs": 8, "every": 50} | changes
    )
    run = train(load("digits", model=configuration.model), configuration, tmp_path)
    spoken = [
        finding for finding in diagnose(run).findings if finding.gauge in (Trajectory.name, NAME)
    ]
    assert [finding.gauge for finding in spoken] == [Trajectory.name]
    assert spoken[0].state in (State.OK, State.CANNOT_TELL)
    assert [event["event"] for event in run.events].count(NAME) == 1


@pytest.mark.slow
def test_a_resumed_run_stores_the_same_iterates(tmp_path, monkeypatch) -> None:
    settings = {"schedule": "InversePower(0.5, power=0.6)", "batch_size": 16, "epochs": 20}
    whole = trained(tmp_path / "whole", "ring", **settings)
    step = Trainer._step

    def stops(self: Trainer) -> None:
        step(self)
        if self.training.step == 131:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", stops)
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", "ring", **settings)
    monkeypatch.setattr(Trainer, "_step", step)
    (folder,) = (tmp_path / "cut").iterdir()
    resumed = resume(folder)
    one, other = (run.series(Trajectory.name) for run in (whole, resumed))
    assert one is not None and other is not None
    assert one.steps.tolist() == other.steps.tolist() == kept_steps(320)
    assert (one.moments["point"] == other.moments["point"]).all()
    fields = [
        next(event for event in run.events if event["event"] == NAME) for run in (whole, resumed)
    ]
    assert Endpoint.of(fields[0]) == Endpoint.of(fields[1])


def test_no_iterate_is_stored_with_the_instrument_off(tmp_path) -> None:
    run = trained(tmp_path, "ring", budget=0.0, every=None, epochs=2, batch_size=16)
    assert run.series(Trajectory.name) is None
    assert not [event for event in run.events if event["event"] == NAME]
