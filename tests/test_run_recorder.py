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
from gradiometer.run import Budget, Recorder, Run, RunFolder
from recorded_run import MANIFEST, Dear, Square, Step, check_whole, loss_at, train


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
                recorder.measure(Step(step))
            recorder.loss(step, 0.0)
        overhead = recorder.overhead
    assert overhead["budget"] == 0.02 and 0.0195 < overhead["used"] <= 0.0202
    assert overhead["every"] == pytest.approx(50, rel=0.02) and 95 <= overhead["measured_steps"] <= 101
    assert overhead["spent"]["readings"] == pytest.approx(overhead["used"], rel=0.02) and overhead["short_of"] is None
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
    for name, gauges in {"beside": [Square(), Dear()], "left": [Given(), Dear()], "alone": [Dear()]}.items():
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


def test_a_loss_costs_microseconds_and_loses_no_step_whatever_their_order(folder: RunFolder) -> None:
    with Recorder(folder, []) as recorder:
        for step in [*range(5), *range(100, 3000), 7, 6]:
            recorder.loss(step, float(step))
    steps, losses = Run.open(folder.path).losses
    assert np.array_equal(steps, [0, 1, 2, 3, 4, 6, 7, *range(100, 3000)]) and np.array_equal(losses, steps)


def test_the_live_panel_sees_the_last_readings(folder: RunFolder) -> None:
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
    assert [event["step"] for event in run.evaluations] == [*range(61), 120]  # that of the checkpoint's own step stays
    assert [event["step"] for event in run.events if event["event"] == "resumed"] == [80, 60]
    assert run.steps == 120 and run.warnings == []


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


def test_each_rank_writes_a_file_of_its_own_and_rank_0_the_events(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=1) as zero, Recorder(folder, [Square()], every=2, rank=1) as one:
        train(zero, 0, 20)
        train(one, 0, 20)
        one.event("evaluation", 1)
    assert sorted(path.name for path in folder.path.glob("*.jsonl")) == [
        "events.jsonl",
        "readings.jsonl",
        "readings.rank1.jsonl",
    ]
    check_whole(Run.open(folder.path), 20)
    second = Run.open(folder.path, rank=1)
    assert len(second.losses[0]) == 20 and list(second.series("square").steps) == list(range(0, 20, 2))  # type: ignore[union-attr]
    assert second.events == []


def test_two_processes_cannot_write_one_run(folder: RunFolder) -> None:
    with (
        Recorder(folder, []),
        pytest.raises(BadArgument, match=r"readings\.jsonl` is being written by another process"),
    ):
        Recorder(folder, [])
    Recorder(folder, []).close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"every": 0}, "`every` must be at least 1 step, got 0"),
        ({"rank": -1}, "`rank` must be at least 0, got -1"),
        ({"gauges": [Square(), Square()]}, "`gauges` must have different names, got square, square"),
    ],
)
def test_nonsense_is_refused_by_name(folder: RunFolder, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadArgument, match=sentence):
        Recorder(folder, **{"gauges": [], **settings})


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
    command = [sys.executable, "-c", KILLED, str(folder.path), str(Path(__file__).parent)]
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
