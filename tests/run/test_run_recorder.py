"""The recorder: who is measured and when, and what is on disk after any kind of end."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gradiometer import BadArgument, Interrupted
from gradiometer.measurement import Moments
from gradiometer.measurement.optimizer.groups import Group
from gradiometer.run import Run
from gradiometer.run.budget import READINGS, Budget
from gradiometer.run.folder import RunFolder
from gradiometer.run.recorder import FOLLOWED, LOSSES_A_LINE, Recorder
from recorded_run import MANIFEST, Dear, Square, Step, check_whole, loss_at, train

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", MANIFEST)


def test_every_so_many_steps_depends_on_the_step_alone(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=7) as recorder:
        assert [step for step in range(30) if recorder.due(step)] == [0, 7, 14, 21, 28]
    with Recorder(folder, [Square()], every=7, budget=Budget(0.0)) as recorder:
        assert not any(recorder.due(step) for step in range(30))
        assert recorder.overhead["mode"] == "off"
    with Recorder(folder, [], every=1) as recorder:
        assert not recorder.due(0)


def test_the_budget_decides_and_what_was_used_is_stated(folder: RunFolder) -> None:
    now = 0.0
    budget = Budget(0.02, lambda: now)

    @dataclass(frozen=True)
    class Slow(Square):
        def measure(self, step: Any) -> Moments:
            nonlocal now
            now += 0.01
            return super().measure(step)

    with Recorder(folder, [Slow()], budget=budget) as recorder:
        for step in range(5000):
            now += 0.01
            if recorder.due(step):
                with budget.spending(READINGS):
                    recorder.measure(Step(step))
            recorder.loss(step, 0.0)
        overhead = recorder.overhead
    assert overhead["budget"] == 0.02 and 0.0195 < overhead["used"] <= 0.0202
    assert (
        overhead["every"] == pytest.approx(50, rel=0.02) and 95 <= overhead["measured_steps"] <= 101
    )
    assert (
        overhead["spent"]["readings"] == pytest.approx(overhead["used"], rel=0.02)
        and overhead["short_of"] is None
    )
    assert Run.open(folder.path).overhead == overhead


@dataclass(frozen=True)
class Given(Square):
    """Refuses from its third reading on."""

    name: ClassVar[str] = "given"

    def measure(self, step: Any) -> Moments:
        if step.index >= 2:
            raise BadArgument("`step` is the third.")
        return super().measure(step)


def test_a_dear_gauge_has_its_turn_at_every_measured_step_where_no_cheap_one_makes_up_a_round(
    tmp_path: Path,
) -> None:
    asked = {}
    for name, gauges in {
        "beside": [Square(), Dear()],
        "left": [Given(), Dear()],
        "alone": [Dear()],
    }.items():
        folder = RunFolder.create(tmp_path, name, MANIFEST)
        with Recorder(folder, gauges, every=1) as recorder:
            train(recorder, 0, 20)
        series = Run.open(folder.path).series("dear")
        assert series is not None
        asked[name] = series.steps.tolist()
    assert asked == {"beside": [15], "left": [*range(3, 20)], "alone": [*range(20)]}


def test_where_every_gauge_has_refused_no_step_is_due(folder: RunFolder) -> None:
    with Recorder(folder, [Given()], every=1) as recorder:
        train(recorder, 0, 5)
        assert not recorder.due(5) and recorder.overhead["measured_steps"] == 2


def test_a_loss_costs_microseconds_and_loses_no_step_whatever_their_order(
    folder: RunFolder,
) -> None:
    with Recorder(folder, []) as recorder:
        for step in [*range(5), *range(100, 3000), 7, 6]:
            recorder.loss(step, float(step))
    steps, losses = Run.open(folder.path).losses
    assert np.array_equal(steps, [0, 1, 2, 3, 4, 6, 7, *range(100, 3000)]) and np.array_equal(
        losses, steps
    )


def test_a_line_has_at_most_a_thousand_losses(folder: RunFolder) -> None:
    with Recorder(folder, []) as recorder:
        for step in range(2500):
            recorder.loss(step, loss_at(step))
    lines = [json.loads(line) for line in folder.readings_path().read_text().splitlines()]
    assert LOSSES_A_LINE == 1000
    assert [len(line["values"]) for line in lines if line["kind"] == "losses"] == [1000, 1000, 500]


def test_losses_given_together_belong_to_the_steps_they_are_given_for(folder: RunFolder) -> None:
    with Recorder(folder, []) as recorder:
        for first, last in ((0, 3), (3, 5), (10, 12), (12, 2000), (5, 7)):
            recorder.losses(first, [float(step) for step in range(first, last)])
    steps, losses = Run.open(folder.path).losses
    assert steps.tolist() == losses.tolist() == [*range(7), *range(10, 2000)]


def test_losses_reach_the_file_after_a_second_and_not_before(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("gradiometer.run.recorder.time.perf_counter", lambda: now)
    with Recorder(folder, [Square()], every=1) as recorder:
        written = []
        for step in range(12):  # four steps a second
            recorder.due(step)
            written.append(len(Run.open(folder.path).losses[0]))
            recorder.loss(step, loss_at(step))
            now += 0.25
    assert written == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8]


@dataclass(frozen=True)
class Chooses(Square):
    """Measures at two steps of its own."""

    name: ClassVar[str] = "chooses"
    own_steps: ClassVar[bool] = True

    def wants(self, step: int) -> bool:
        return step in (20, 200)


def test_the_next_step_that_a_gauge_wants_is_found_64_steps_ahead(folder: RunFolder) -> None:
    with Recorder(folder, [Square(), Chooses()], every=1000) as recorder:
        assert FOLLOWED == 64
        found = {step: recorder.next_wanted(step, 999) for step in (0, 20, 21, 136, 137, 950)}
        assert found == {0: 20, 20: 20, 21: 85, 136: 200, 137: 200, 950: 999}
        assert recorder.next_wanted(0, 10) == 10  # not looked at beyond the end that was given
    with Recorder(folder, [Square()], every=1000) as recorder:
        assert recorder.next_wanted(0, 999) == 999


def test_the_last_readings_are_in_memory(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=1) as recorder:
        assert recorder.recent("square") is None and recorder.recent("none") is None
        train(recorder, 0, 1200)
        recent = recorder.recent("square")
    assert recent is not None and len(recent) == 1000 and recent.steps[-1] == 1199
    assert recent.layers == ("weight", "bias") and recent.sampling.examples == 1437


def test_a_resumed_run_drops_what_lay_beyond_its_checkpoint(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=1) as recorder:
        recorder.event("started", 0)
        for step in range(100):
            recorder.event("evaluation", step, first=True)
            recorder.measure(Step(step))
            recorder.loss(step, -1.0 if step >= 60 else loss_at(step))
    for checkpoint, last in ((80, 90), (60, 120)):
        with Recorder(folder, [Square()], every=1) as recorder:
            recorder.resume(checkpoint)
            train(recorder, checkpoint, last)
            assert recorder.recent("square").steps[0] == checkpoint  # type: ignore[union-attr]
            recorder.event("evaluation", last, first=False)
    run = Run.open(folder.path)
    check_whole(run, 120)
    # that of the checkpoint's own step stays
    assert [event["step"] for event in run.evaluations] == [
        *range(61),
        120,
    ]
    assert [event["step"] for event in run.events if event["event"] == "resumed"] == [80, 60]
    assert run.steps == 120 and run.warnings == []


def test_an_incomplete_line_is_named_until_its_step_is_made_again(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=1) as recorder:
        recorder.event("started", 0)
        train(recorder, 0, 20)
    for path in (folder.events_path, folder.readings_path()):
        with path.open("a") as file:
            file.write('{"kind": "reading", "gau')
    followed = Run.open(folder.path)
    assert [warning.partition(":")[2].split(":")[1:] for warning in followed.warnings] == [
        [" the last line is incomplete", " skipped."]
    ] * 2
    with Recorder(folder, [Square()], every=1) as recorder:
        recorder.resume(15)
        train(recorder, 15, 30)
    for run in (Run.open(folder.path), followed.refreshed()):
        check_whole(run, 30)
        assert run.warnings == []


@pytest.mark.parametrize("garbled", ['{"kind": "reading", "gauge": ?}', "\0\0\0}"])
def test_a_damaged_line_is_named_also_before_steps_that_are_made_again(
    folder: RunFolder, garbled: str
) -> None:
    with Recorder(folder, [Square()], every=1) as recorder:
        train(recorder, 0, 20)
    for path in (folder.events_path, folder.readings_path()):
        path.write_text(f"{path.read_text()}{garbled}\n")
    with Recorder(folder, [Square()], every=1) as recorder:
        recorder.resume(15)
        train(recorder, 15, 30)
    assert [warning.rpartition(": a ")[2] for warning in Run.open(folder.path).warnings] == [
        "line cannot be read: skipped."
    ] * 2


def test_a_recorder_that_goes_back_forgets_its_own_readings_from_there_on(
    folder: RunFolder,
) -> None:
    with Recorder(folder, [Square()], every=1) as recorder:
        train(recorder, 0, 10)
        recorder.resume(5)
        recent = recorder.recent("square")
        assert recent is not None and recent.steps.tolist() == [0, 1, 2, 3, 4]


def test_a_recorder_that_goes_back_writes_the_settings_again(folder: RunFolder) -> None:
    """The rate was cut after step 100, and is cut at once in the repeated part, so that it is equal
    to the last one."""

    def look(first: int, last: int, cut: int) -> None:
        for step in range(first, last):
            if step >= recorder.settings.next_look:
                recorder.settings.look(step, (Group("SGD", "sgd", 0.1 if step < cut else 0.01),))
            recorder.loss(step, loss_at(step))

    with Recorder(folder, []) as recorder:
        look(0, 150, cut=100)
        recorder.resume(90)
        look(90, 120, cut=90)
    settings = Run.open(folder.path).hyperparameters
    assert (
        settings is not None
        and settings.steps == (0, 90)
        and settings.rates.tolist() == [0.1, 0.01]
    )


def test_a_checkpoint_counts_also_the_steps_that_no_question_was_asked_about(
    folder: RunFolder,
) -> None:
    with Recorder(folder, [Square()], every=10) as recorder:
        train(recorder, 0, 96)  # asked at step 91 for the last time
        recorder.flush()
        assert recorder.state_dict()["budget"]["steps"] == 96
        train(recorder, 96, 99)
    assert recorder.budget.steps == 99


def test_a_recorder_goes_on_counting_from_its_checkpoint(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=2) as recorder:
        train(recorder, 0, 100)
        state = json.loads(json.dumps(recorder.state_dict()))
    with Recorder(folder, [Square()], every=2) as resumed:
        resumed.load_state_dict(state)
        resumed.resume(100)
        train(resumed, 100, 200)
        assert resumed.overhead["measured_steps"] == 100 and resumed.overhead["every"] == 2
        assert resumed.budget.spent >= sum(state["budget"]["spent"].values()) > 0


def test_two_processes_cannot_write_one_run(folder: RunFolder) -> None:
    with (
        Recorder(folder, []),
        pytest.raises(BadArgument, match=r"readings\.jsonl` is being written by another process"),
    ):
        Recorder(folder, [])
    Recorder(folder, []).close()


def test_a_full_disk_interrupts_and_what_was_written_before_is_read(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Interrupted, match=f"gradiometer resume {folder.path}"):  # noqa: SIM117
        with Recorder(folder, [Square()], every=1) as recorder:
            train(recorder, 0, 1500)
            recorder.flush()
            train(recorder, 1500, 1600)
            monkeypatch.setattr(os, "write", refuse)
            recorder.flush()
    monkeypatch.undo()
    check_whole(Run.open(folder.path), 1500)
    with Recorder(folder, [Square()], every=1) as recorder:  # the files were let go
        recorder.resume(1500)
        train(recorder, 1500, 1700)
    check_whole(Run.open(folder.path), 1700)


def test_the_first_error_is_heard_also_where_the_disk_is_full(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(KeyError, match="mine"), Recorder(folder, [Square()]) as recorder:
        recorder.loss(0, 1.0)
        monkeypatch.setattr(os, "write", refuse)
        raise KeyError("mine")


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from gradiometer.run.folder import RunFolder
from gradiometer.run.recorder import Recorder
from recorded_run import Square, train

recorder = Recorder(RunFolder.open(sys.argv[1]), [Square()], every=1)
recorder.event("started", 0)
train(recorder, 0, 4000)
recorder.flush()
train(recorder, 4000, 7001)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_nothing_from_before_its_last_flush(folder: RunFolder) -> None:
    command = [sys.executable, "-c", KILLED, str(folder.path), str(SUPPORT)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    killed = Run.open(folder.path)
    assert killed.status == "interrupted" and 4000 <= len(killed.losses[0]) <= 7001
    with Recorder(folder, [Square()], every=1) as recorder:
        recorder.resume(4000)
        train(recorder, 4000, 4500)
        recorder.event("finished", 4500)
    run = Run.open(folder.path)
    check_whole(run, 4500)
    assert run.status == "finished"
