"""Cooling by measurement: forks decide when the rate goes to zero, a stopped run continues with the
same bits."""

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from gradiometer import BadArgument, Interrupted, diagnose
from gradiometer.convergence.plateau.noise_floor import (
    CUT,
    Plateau,
    finding,
    forecast,
    gain_of_averaging,
    plateau_since,
)
from gradiometer.loop import Effect, Fork, Hold, Loop, engine, forking, forks_of
from gradiometer.loop.branch import Branch
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.engine import train_branch
from gradiometer.loop.loop import TRAIN_EXAMPLES
from gradiometer.measurement import Estimate, Objective, State
from gradiometer.problems import Examples
from gradiometer.report.sections.convergence import rates_of
from gradiometer.run import Configuration, Run
from gradiometer.run import problem as recorded
from gradiometer.run.budget import Budget
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.folder import RunFolder
from gradiometer.train import loop as loops
from gradiometer.train import loop_at, train
from gradiometer.train.cooling import Cooling, TrainProbe
from gradiometer.train.policies import Cool, ForkedTraining
from gradiometer.train.restoring import state_at
from gradiometer.train.training import Training
from gradiometer.verdict.words.say import say
from gradiometer_lab.closed_forms import Quadratic
from stopped_training import StopAt, weights

CURVATURES = [1.0, 0.5, 0.2]


def quadratic():
    return Quadratic(CURVATURES, [0.5, 0.5, 0.5]).problem(examples=500, start=[6.0, 6.0, 6.0])


def settings(**changes) -> Configuration:
    given = {
        "problem": "quadratic",
        "batch_size": 10,
        "epochs": 16,
        "learning_rate": 0.3,
        "every": 2000,
    }
    return Configuration(
        **(given | {"sampling": "replacement", "cool": "auto", "cool_budget": 1.0} | changes)
    )


def events(run: Run, name: str) -> list[dict]:
    return [event for event in run.events if event["event"] == name]


@pytest.fixture(scope="module")
def cooled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(quadratic(), settings(), tmp_path_factory.mktemp("cooled"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(quadratic(), settings(cool="watch"), tmp_path_factory.mktemp("watched"))


def decisions(run: Run) -> list[dict]:
    """What was decided, without the times."""
    return [
        {name: value for name, value in event.items() if name != "time"}
        for event in events(run, "cooling")
    ]


@pytest.mark.slow
def test_at_its_noise_floor_the_rate_goes_to_zero_where_a_fork_has_tried_it(cooled: Run) -> None:
    (decision,) = decisions(cooled)
    assert decision["step"] == decision["begins"] == 640 and decision["spent"] == pytest.approx(0.8)
    assert decision["fork"] == "0001" and decision["outcome"].startswith("hold 75% ")
    (record,) = forks_of(cooled)
    assert record.finished and record.plan.horizon == 160 * 10 == record.plan.left
    checkpoint, _ = load_latest(RunFolder.open(cooled.path))
    assert checkpoint.state["param_groups"][0]["lr"] == 0
    assert rates_of(cooled).values[[639, 640, 799]] == pytest.approx(
        [0.3, 0.3 * 159.5 / 160, 0.3 * 0.5 / 160]
    )


@pytest.mark.slow
def test_until_a_decision_the_bits_are_those_without_cooling(tmp_path: Path, cooled: Run) -> None:
    alone = train(quadratic(), settings(cool="off", checkpoint_at="640"), tmp_path)
    ours, theirs = (state_at(run, 640, quadratic()) for run in (cooled, alone))
    # the shape checker draws from it
    names = [name for name in theirs.tensors if not name.startswith("random.python")]
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in names)
    assert ours.state["param_groups"] == theirs.state["param_groups"]


def test_a_rate_that_still_pays_is_kept_to_the_end(tmp_path: Path) -> None:
    slow = {"learning_rate": 1e-4, "epochs": 4}
    run = train(quadratic(), settings(**slow), tmp_path)
    assert [(each["step"], each["begins"]) for each in decisions(run)] == [(160, None), (190, 200)]
    assert decisions(run)[-1]["spent"] == pytest.approx(1.0)
    assert all("lower" in each["outcome"] for each in decisions(run))
    assert weights(run) == weights(train(quadratic(), settings(**slow, cool="off"), tmp_path))
    (found,) = [finding for finding in diagnose(run).findings if finding.gauge == "cooling"]
    assert "At step 160 the rate was kept: hold 75% ends" in say(found).seen
    assert (
        "At step 190 the rate was kept to the end: hold 100% ends" in say(found).seen
        and "1.0 times" in say(found).means
    )
    assert "(hold)" in say(found).means and "one-sided" in say(found).caveat


@pytest.mark.slow
def test_a_larger_budget_pays_for_an_early_fork_and_for_one_where_the_test_proposes_a_cut(
    tmp_path: Path,
) -> None:
    run = train(quadratic(), settings(cool_budget=3.0), tmp_path)
    proposed = [look["step"] for look in events(run, "stationarity") if look["stopped"]]
    early, second, *_ = decisions(run)
    assert (early["step"], early["begins"], early["spent"]) == (80, None, pytest.approx(0.96))
    assert second["step"] == next(step for step in proposed if step > 600) < 640
    assert 1.9 < second["spent"] < 2.0 < decisions(run)[-1]["spent"] <= 3.0
    plans = [record.plan for record in forks_of(run)]
    assert [plan.horizon for plan in plans[:2]] == [128 * 10, (800 - second["step"]) * 10]
    assert (
        plans[0].alternatives == (Hold(0.8),)
        and plans[0].left == 720 * 10
        and [plan.replicates for plan in plans[:2]] == [3, 2]
    )


@pytest.mark.parametrize("steps", [1, 2, 7, 100, 333, 1001])
def test_a_budget_of_two_runs_pays_for_the_early_fork_and_the_marks(steps: int) -> None:
    problem = quadratic()
    cooling = Cooling(
        Objective(problem.model(), problem.loss), problem.train, (steps, 10), acts=True, budget=2.0
    )
    asked = []
    for step in range(steps):
        if cooling.asks(step):
            assert (
                cooling.pays(step)
                and step < cooling.stop(step) <= steps
                and 0 < cooling.hold(step).share <= 1
            )
            asked.append(step)
            cooling.decide(step, None, forked=True)
    assert cooling.spent <= 2 and (steps < 100 or len(asked) == 3)


def test_without_a_budget_the_rate_goes_to_zero_in_the_last_fifth_and_no_fork_is_made(
    tmp_path: Path,
) -> None:
    run = train(quadratic(), settings(cool_budget=0.0, epochs=2), tmp_path)
    ((decision),) = decisions(run)
    assert (decision["step"], decision["begins"], decision["fork"], decision["spent"]) == (
        80,
        80,
        None,
        0,
    )
    assert not forks_of(run)
    (found,) = [finding for finding in diagnose(run).findings if finding.gauge == "cooling"]
    assert "`cool_budget` did not pay for a fork" in say(found).seen and not say(found).caveat


@pytest.mark.parametrize(
    ("verdict", "step", "begins"),
    [
        ("better", 640, None),
        ("better", 760, 800),
        ("open", 640, 640),
        ("worse", 760, 760),
        ("diverged", 640, 640),
        ("better", 500, None),
        ("open", 500, None),
        ("worse", 500, 500),
        ("diverged", 500, 500),
    ],
)
def test_a_fork_decides(
    verdict: str, step: int, begins: int | None, cooled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the marks 640 and 760 the rate goes to zero unless keeping it ends lower; elsewhere only
    if it ends higher."""
    training = Training(quadratic(), settings(cool_budget=9.0), Budget(0.02), gauges=())
    training.step = step
    effect = Effect("hold 80%", "train_loss", GAIN, GAIN, None, replicates=2)
    monkeypatch.setattr(Effect, "verdict", verdict)
    asked = []
    fork = Fork(step, (Hold(0.8),), 2, 100, (), path=Path("forks/0001"))
    monkeypatch.setattr(
        Fork, "effects", lambda _, *readout, level: asked.append((*readout, level)) or [effect]
    )
    monkeypatch.setattr(ForkedTraining, "fork", lambda *_, **__: fork)
    assert training.cooling is not None
    decision = Cool(training.cooling).decide(ForkedTraining(training, cooled.path))
    assert (decision["begins"], decision["fork"]) == (begins, "0001")
    assert training.cooling.begins == begins
    # its ends are one-sided bounds at the run's 90 %
    assert asked == [("train_loss", pytest.approx(0.8))]


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Run:
    schedule = "Constant(0.3).then(400, Constant(0.03))"
    return train(
        quadratic(), settings(cool="watch", schedule=schedule), tmp_path_factory.mktemp("cut")
    )


@pytest.mark.slow
def test_the_forecast_of_a_cut_covers_the_known_gain_and_is_scored(cut: Run) -> None:
    """The floor at η = 0.3 less that at 0.03, exact for draws with replacement."""
    quadratic_of_train = Quadratic(CURVATURES, [0.5, 0.5, 0.5]).on(quadratic().train)
    floors = [quadratic_of_train.stationary_excess_loss(rate, 10) for rate in (0.3, 0.03)]
    (scored,) = events(cut, "cut scored")
    predicted = Estimate(**scored["predicted"])
    assert predicted.low <= floors[0] - floors[1] <= predicted.high
    assert scored["cut_at"] <= 400 < scored["step"]
    assert scored["within"] == (predicted.low <= scored["seen"] <= predicted.high)


@pytest.mark.slow
def test_watching_only_leaves_the_weights_as_they_were(tmp_path: Path, watched: Run) -> None:
    unwatched = train(quadratic(), settings(cool="off"), tmp_path)
    assert weights(unwatched) == weights(watched)
    assert not events(unwatched, "stationarity")
    assert events(watched, "stationarity") and not decisions(watched)


@pytest.mark.slow
def test_a_cooled_run_that_was_stopped_in_a_fork_continues_from_its_branches_to_the_same_bits(
    tmp_path: Path, cooled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_before, count = engine.train_branch, []

    def train_and_stop(*given):
        count.append(1)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_before(*given)

    monkeypatch.setattr(forking, "train_branch", train_and_stop)
    with pytest.raises(Interrupted, match="stopped at step 640"):
        train(quadratic(), settings(), tmp_path)
    (folder,) = tmp_path.iterdir()
    (record,) = forks_of(Run.open(folder))
    assert len(count) == 3 and len(record.fork.results) == 2 and not record.finished
    monkeypatch.setattr(recorded, "load", lambda *_, **__: quadratic())
    resumed = loops.resume(folder)
    # the third is trained again from its first update
    assert len(count) == 5 and weights(resumed) == weights(cooled)
    assert decisions(resumed) == decisions(cooled)
    assert events(resumed, "stationarity")[-1]["left"] == events(cooled, "stationarity")[-1]["left"]


@pytest.mark.slow
def test_a_run_that_is_stopped_on_its_way_to_zero_resumes_to_the_same_bits(
    tmp_path: Path, cooled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(quadratic(), settings(), tmp_path, StopAt(700))
    (folder,) = tmp_path.iterdir()
    monkeypatch.setattr(recorded, "load", lambda *_, **__: quadratic())
    assert weights(loops.resume(folder)) == weights(cooled)


@pytest.mark.slow
def test_the_way_to_zero_multiplies_whatever_the_schedule_gives(tmp_path: Path) -> None:
    run = train(
        quadratic(), settings(schedule="Constant(0.3).warmed_up(100)", cool_budget=0.0), tmp_path
    )
    assert decisions(run)[-1]["begins"] == 640
    assert rates_of(run).values[[50, 639, 640]] == pytest.approx([0.15, 0.3, 0.3 * 159.5 / 160])
    # after the rise
    assert events(run, "stationarity")[0]["steps"] == events(run, "stationarity")[0]["step"] - 100


def test_the_finding_says_since_when_and_what_a_cut_would_gain(watched: Run) -> None:
    (found,) = [
        finding for finding in diagnose(watched).findings if finding.gauge == "stationarity"
    ]
    assert "At η = 0.300 the loss shows no slope since about step" in say(found).seen
    assert "‰ per 1,000 steps. A cut to 0.0300 is predicted to gain 0.0" in say(found).seen


def test_a_moving_loss_is_compared_with_the_gain_of_a_cut() -> None:
    look = {"predicted": GAIN.to_dict(), "left": 0.5, "stopped": False}
    assert finding(None, 0.1, None, 0.01) is None
    paying, spent = (
        finding(None, 0.1, {**look, "stopped": stopped}, 0.01) for stopped in (False, True)
    )
    assert paying is not None and spent is not None
    assert (
        paying.state is State.OK
        and "gain 0.100 [0.0800, 0.120]; more steps could still gain 0.500" in say(paying).seen
    )
    assert spent.state is State.LOOK and "fork" in say(spent).advice and spent.cure == ("cool now",)


def test_the_probe_of_a_training_set_gives_the_gradient_of_its_loss() -> None:
    problem = quadratic()
    objective = Objective(problem.model(), problem.loss)
    probe = TrainProbe(objective, problem.train, TRAIN_EXAMPLES, seed=0)
    chosen = Examples(torch.cat(probe.parts))  # 496 of 500, so that its eight parts are equal
    exact = Quadratic(CURVATURES, [0.5, 0.5, 0.5]).on(chosen)
    point = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    np.testing.assert_allclose(
        probe.gradient(point)[0].numpy(), exact.gradient(point[0].numpy()), rtol=1e-10
    )


def test_a_short_early_fall_is_not_part_of_a_plateau() -> None:
    """The slope over all steps has an interval that contains zero, since the fall takes a hundredth
    of them."""
    noise = np.random.default_rng(0).standard_normal(4000)
    steps = np.arange(4000)
    losses = 2 + np.where(steps < 40, (40 - steps) / 4, 0.0) + 0.0002 * steps + 0.5 * noise
    found = plateau_since(steps, losses - 0.0002 * steps)
    assert found is not None and found.since >= 40
    risen = plateau_since(steps, losses)
    assert risen is None or risen.since >= 40


def test_a_plateau_is_found_since_its_start_and_not_in_a_slope() -> None:
    noise = np.random.default_rng(0).standard_normal(8000)
    steps = np.arange(8000)
    fell = np.where(steps < 3000, (3000 - steps) / 300, 0.0)
    found = plateau_since(steps, 10 + fell + noise)
    assert found is not None and 2300 <= found.since <= 6000
    assert found.slope.low <= 0 <= found.slope.high
    assert plateau_since(steps, 10 + (8000 - steps) / 200 + 0.01 * noise) is None
    assert plateau_since(steps[:100], noise[:100]) is None
    assert finding(None, 0.1, None, 0.01) is None
    steep = Plateau(
        2132, Estimate.interval(-6.1e-4, -1.2e-3, 4e-6, level=0.9, method="t", samples=568), 0.04
    )
    told = finding(steep, 0.1, None, 0.01)
    assert (
        told is not None
        and "since about step 2,132: −610 [−1,200, 4.0] ‰ per 1,000 steps" in say(told).seen
    )


@pytest.mark.parametrize("remembered", [0.0, 0.9])
def test_a_flat_loss_is_called_a_plateau_as_often_as_its_interval_says(remembered: float) -> None:
    """All of a stretch without a slope is found in 90 % of runs, with and without
    autocorrelation."""
    noise = np.random.default_rng(1).standard_normal((2000, 300))
    for step in range(1, 2000):
        noise[step] += remembered * noise[step - 1]
    found = [plateau_since(np.arange(2000), 20 + column) for column in noise.T]
    whole = np.mean([each is not None and each.since == 0 for each in found])
    assert 0.82 <= whole <= 0.95  # 87 % less three standard errors of 300


def test_cooling_and_the_cycles_of_snapshots_are_not_asked_for_at_once() -> None:
    with pytest.raises(BadArgument, match="the cycles of `snapshots` decay to zero by themselves"):
        settings(snapshots=3)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "trapezoid"])
def test_cooling_and_a_schedule_that_ends_at_zero_are_refused_together(schedule: str) -> None:
    with pytest.raises(
        BadArgument, match=f"`cool` is 'auto', but the {schedule} schedule decays to zero by itself"
    ):
        settings(schedule=schedule)


def test_too_few_examples_to_compare_points_on_are_refused() -> None:
    problem = Quadratic(CURVATURES, [0.5, 0.5, 0.5]).problem(examples=30)
    with pytest.raises(BadArgument, match="`cool` needs at least 64 training examples, got 30"):
        TrainProbe(Objective(problem.model(), problem.loss), problem.train, TRAIN_EXAMPLES, seed=0)


GAIN = Estimate.interval(0.1, 0.08, 0.12, level=0.9, method="", samples=8)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: plateau_since(np.arange(500), np.ones(500), math.nan),
            "`level` must lie between 0 and 1",
        ),
        (
            lambda: settings(cool_budget=math.nan),
            "`cool_budget` must be at least 0 and finite, got nan",
        ),
        (lambda: settings(level=0.5), "`level` must be above 0.5 for `cool` = auto, .* got 0.5"),
        (lambda: settings(level=math.nan), "`level` must lie between 0 and 1, got nan"),
        (lambda: settings(cool="on"), '`cool` must be one of "off", "watch", "auto", got "on"'),
    ],
)
def test_bad_arguments_raise_and_are_named(made, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        made()


def test_a_forecast_is_of_the_share_that_a_cut_takes_and_of_none_to_half_of_the_drift() -> None:
    """A cut to a tenth takes 0.9 of the gain 0.1 [0.08, 0.12]; of a fall by 0.04 it may take up to
    0.02."""
    found = forecast(GAIN, 0.04, 0.1, 0.01)
    assert [found.low, found.value, found.high] == pytest.approx([0.072, 0.09 + 0.01, 0.108 + 0.02])
    assert (found.level, found.samples) == (GAIN.level, GAIN.samples)


def test_the_gain_of_averaging_is_mean_loss_less_loss_of_the_mean() -> None:
    assert gain_of_averaging(
        np.array([1.2, 1.1, 1.3, 1.2, 1.25, 1.15, 1.2, 1.2]), 1.0
    ).value == pytest.approx(0.2)


def test_a_cut_is_to_a_tenth() -> None:
    assert CUT == 0.1


@pytest.mark.slow
def test_a_branch_of_a_fork_keeps_the_way_to_zero_that_the_run_has_begun(
    cooled: Run, monkeypatch
) -> None:
    problem, start = quadratic(), decisions(cooled)[0]["begins"] + 3
    ended = state_at(cooled, start + 15, problem)
    loop = loop_at(cooled, start, problem=problem)
    loop.data.see_own(800)
    assert state_at(cooled, start, problem).state["cooling"]["begins"] == 640
    ends = []
    monkeypatch.setattr(Loop, "readouts", lambda self, model: ends.append(model.state_dict()) or {})
    assert train_branch(loop, Branch(GoOn(), 0, horizon=15 * 10, tail="none")).updates == 15
    assert all(torch.equal(value, ended.tensors[f"model.{key}"]) for key, value in ends[0].items())
