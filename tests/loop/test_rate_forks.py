"""Forks at marks of a training change its rate only where that is shown to gain, and a stop changes
no bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import called
from forked_run import fork_of
from gradiometer import BadArgument, Interrupted, Problem, diagnose
from gradiometer.loop import forks_of
from gradiometer.run import Configuration, Run
from gradiometer.run import problem as recorded
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks
from gradiometer.train import policies, resume, train
from gradiometer.train.policies import RateForks, policies_of
from gradiometer.train.restoring import state_at
from gradiometer.train.training import Training
from gradiometer.verdict import say
from gradiometer_lab.closed_forms import Quadratic
from stopped_training import StopAt, weights

STEPS = 200
MARKS = [20, 60, 120]


def quadratic() -> Problem:
    return Quadratic([1.0, 0.5, 0.2], [0.05, 0.05, 0.05]).problem(
        examples=500, start=[6.0, 6.0, 6.0]
    )


def settings(**changes: Any) -> Configuration:
    given = {
        "problem": "quadratic",
        "batch_size": 10,
        "steps": STEPS,
        "learning_rate": 0.004,
        "budget": 0.0,
    }
    return Configuration(**(given | {"schedule": "linear", "fork_budget": 9.0} | changes))


def decisions(run: Run) -> list[dict[str, Any]]:
    return [event for event in run.events if event["event"] == RateForks.event]


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "load", lambda *_, **__: quadratic())


@pytest.fixture(scope="module")
def slow_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose rate is far too low, with a budget for all forks."""
    return train(quadratic(), settings(), tmp_path_factory.mktemp("slow"))


def test_a_rate_that_is_far_too_low_is_doubled_at_the_marks_and_the_run_ends_lower(
    slow_run: Run, tmp_path: Path
) -> None:
    found = decisions(slow_run)
    assert [event["step"] for event in found] == MARKS and [event["factor"] for event in found] == [
        2,
        2,
        2,
    ]
    assert [record.plan.step for record in forks_of(slow_run)] == MARKS
    plain = train(quadratic(), settings(fork_budget=0.0), tmp_path)
    losses = slow_run.losses[1]
    assert losses[: MARKS[0]].tolist() == plain.losses[1][: MARKS[0]].tolist()
    assert losses[-20:].mean() < 0.8 * plain.losses[1][-20:].mean() and not forks_of(plain)
    (said,) = [one for one in diagnose(slow_run).findings if one.gauge == "rate"]
    assert (
        "At step 20 the rate was multiplied by 2" in say(said).seen
        and "times the updates" in say(said).means
    )


def test_a_lower_rate_is_taken_where_it_is_shown_to_end_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a momentum of 0.98 the position swings, and at step 60 the lower rate
    stops it sooner."""
    monkeypatch.setattr(policies, "FACTORS", (0.5, 8.0))
    run = train(quadratic(), settings(learning_rate=0.5, momentum=0.98, batch_size=50), tmp_path)
    assert [event["factor"] for event in decisions(run)][1] == 0.5
    before, after = (
        state_at(run, step, quadratic()).state["param_groups"][0]["lr"] for step in (60, 61)
    )
    assert after == pytest.approx(0.5 * before * (1 - 61 / STEPS) / (1 - 60 / STEPS), rel=1e-6)


def test_the_forks_cost_no_more_than_the_budget_and_are_left_out_where_it_does_not_pay(
    tmp_path: Path,
) -> None:
    one = train(quadratic(), settings(fork_budget=1.1), tmp_path)
    assert [event["step"] for event in decisions(one)] == MARKS[:1] and decisions(one)[0][
        "spent"
    ] <= 1.1
    late = train(quadratic(), settings(fork_budget=0.5), tmp_path)
    assert [event["step"] for event in decisions(late)] == MARKS[2:]
    none = train(quadratic(), settings(fork_budget=0.3), tmp_path)
    assert not decisions(none) and not forks_of(none)
    whole = RateForks(settings(), STEPS)
    assert sum(map(whole.cost, MARKS)) == pytest.approx(2.4, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [MARKS[0] + 1, MARKS[1] - 1, MARKS[1], MARKS[2] + 5])
def test_a_run_that_was_stopped_resumes_to_the_same_bits(
    slow_run: Run, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(Interrupted):
        train(quadratic(), settings(), tmp_path, StopAt(stop))
    (folder,) = tmp_path.iterdir()
    resumed = resume(folder)
    assert resumed.losses[1].tolist() == slow_run.losses[1].tolist() and weights(
        resumed
    ) == weights(slow_run)
    assert {e["step"]: e["spent"] for e in decisions(resumed)} == {
        e["step"]: e["spent"] for e in decisions(slow_run)
    }


@pytest.mark.slow
def test_a_fork_that_was_stopped_continues_from_its_branches(
    slow_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradiometer.loop import forking

    made, count = forking.train_branches, []

    def train_some(*arguments: Any, **named: Any) -> Any:
        for result in made(*arguments, **named):
            count.append(result)
            if len(count) == 3:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(forking, "train_branches", train_some)
    with pytest.raises(KeyboardInterrupt):
        train(quadratic(), settings(checkpoint_seconds=0), tmp_path)
    (folder,) = tmp_path.iterdir()
    kept = (folder / "forks").glob("*/branches.jsonl")
    assert sum(len(path.read_text().splitlines()) for path in kept) == 3
    resumed = resume(folder)
    assert resumed.losses[1].tolist() == slow_run.losses[1].tolist()
    lines = [
        len(path.read_text().splitlines()) for path in (folder / "forks").glob("*/branches.jsonl")
    ]
    assert lines == [6, 6, 6]  # no branch is trained twice


def test_a_fork_of_the_run_starts_from_the_changed_rate(slow_run: Run) -> None:
    state = state_at(slow_run, 100, quadratic())
    assert not state.warnings and state.state["param_groups"][0]["lr"] == pytest.approx(
        4 * 0.004 * 0.5
    )
    made = fork_of(slow_run, ["rate 0.5x"], at=100, horizon="20 updates", replicates=2)
    assert made.fork.effects("train_loss")[0].verdict == "worse"


def test_a_fork_budget_is_refused_where_it_cannot_be_used() -> None:
    for wrong in ({"fork_budget": -1.0}, {"cool": "watch", "schedule": "constant"}, {"level": 0.4}):
        with pytest.raises(BadArgument, match="fork_budget"):
            settings(**wrong)
    with pytest.raises(BadArgument, match="`fork_budget` is for training in one process"):
        policies_of(
            Training(quadratic(), settings(), Budget(0.0), Ranks(rank=0, count=2), gauges=())
        )


@pytest.mark.slow
def test_train_with_tune_forks_with_what_tuning_leaves_of_its_budget(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    small = [
        "train",
        "quadratic",
        "--steps",
        "100",
        "-b",
        "10",
        "--tune",
        "--json",
        "--budget",
        "0",
    ]
    code, out, _ = called(capsys, *small, "--tune-budget", "2.5")
    run = Run.open(json.loads(out)["run"])
    assert code == 0 and 1.1 < run.configuration.fork_budget < 2.5
    # at the first mark, after 10 steps, the winner was still a lane of the race
    assert (
        decisions(run)[0]["step"] == 30
        and decisions(run)[-1]["spent"] <= run.configuration.fork_budget
    )
