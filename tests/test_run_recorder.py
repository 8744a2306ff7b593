"""The recorder and the reader: what was measured is read, without torch, after any kind of end."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gradiometer.errors import BadArgument, Interrupted
from gradiometer.measurement.estimate import Estimates
from gradiometer.measurement.finding import Finding, Issue
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Draw, Moments, Sampling, Series
from gradiometer.run.budget import Budget
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.run.reader import Run
from gradiometer.run.recorder import Recorder


@dataclass(frozen=True)
class Step:
    index: int
    batch_size: int = 32
    learning_rate: float = 0.1


@dataclass(frozen=True)
class Square(Gauge):
    """The square of the step, and a moment per layer."""

    name: ClassVar[str] = "square"
    one_in: ClassVar[int] = 1
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = ""

    def measure(self, step: Any) -> Moments:
        return {"square": float(step.index**2), "layers": [float(step.index), 0.1]}

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        return {}

    def interpret(self, estimates: Estimates) -> Finding | None:
        return None


@dataclass(frozen=True)
class Dear(Square):
    """Asked at one in sixteen steps that others measure."""

    name: ClassVar[str] = "dear"
    one_in: ClassVar[int] = 16


@dataclass(frozen=True)
class Wild(Square):
    """Not finite at every third step."""

    name: ClassVar[str] = "wild"
    one_in: ClassVar[int] = 1

    def measure(self, step: Any) -> Moments:
        value = (math.nan, math.inf, 1.0)[step.index % 3]
        return {"value": 1.0 if step.index % 3 else value, "layers": [1.0, -math.inf if step.index % 3 == 1 else 2.0]}


MANIFEST = {
    "configuration": Configuration().to_dict(),
    "sampling": {"draw": "reshuffled", "examples": 1437},
    "layers": ["weight", "bias"],
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", MANIFEST)


def loss_at(step: int) -> float:
    return 1 / (step + 1)


def train(recorder: Recorder, first: int, last: int) -> None:
    for step in range(first, last):
        if recorder.due(step):
            recorder.measure(Step(step))
        recorder.loss(step, loss_at(step))


def check_whole(run: Run, steps: int) -> None:
    """Every loss and every reading of every step, once, as it was."""
    seen, losses = run.losses
    assert np.array_equal(seen, np.arange(steps)) and np.array_equal(losses, [loss_at(step) for step in range(steps)])
    series = run.series("square")
    assert series is not None
    assert np.array_equal(series.steps, np.arange(steps))
    assert np.array_equal(series.moments["square"], np.arange(steps) ** 2.0)
    assert np.array_equal(series.moments["layers"][:, 0], np.arange(steps))


def test_everything_recorded_is_read(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=1) as recorder:
        recorder.event("started", 0)
        train(recorder, 0, 2500)
        recorder.event("evaluation", 2500, estimates={"test_loss": {"value": math.nan, "high": math.inf}})
        recorder.event("finished", 2500)
    run = Run.open(folder.path)
    check_whole(run, 2500)
    assert run.warnings == [] and run.gauges == ("square",) and run.series("none") is None
    assert run.name == "run-1" and run.path == folder.path and run.layers == ("weight", "bias")
    assert run.configuration == Configuration() and run.sampling == Sampling(Draw.RESHUFFLED, 1437)
    series = run.series("square")
    assert series is not None and series.sampling == run.sampling and series.layers == run.layers
    assert set(series.batch_size) == {32} and set(series.learning_rate) == {0.1}
    assert run.status == "finished" and run.steps == 2500
    assert [event["event"] for event in run.events] == ["started", "evaluation", "finished"]
    (evaluation,) = run.evaluations
    assert math.isnan(evaluation["estimates"]["test_loss"]["value"])
    assert evaluation["estimates"]["test_loss"]["high"] == math.inf
    assert abs(evaluation["time"] - time.time()) < 60
    assert run.overhead["measured_steps"] == 2500 and run.overhead["every"] == 1 and run.overhead["budget"] is None


def test_an_empty_run_is_read_as_one(folder: RunFolder) -> None:
    run = Run.open(folder.path)
    assert [len(part) for part in run.losses] == [0, 0]
    assert (run.gauges, run.events, run.evaluations, run.overhead, run.steps, run.warnings) == ((), [], [], {}, 0, [])
    assert run.status == "interrupted"


def test_reading_a_run_imports_no_torch(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=10) as recorder:
        train(recorder, 0, 100)
    script = (
        "import sys; from gradiometer.run.reader import Run; run = Run.open(sys.argv[1]);"
        "print(len(run.losses[0]), len(run.series('square')), run.status, run.overhead['mode'], run.warnings);"
        "print(sorted({'torch', 'safetensors', 'scipy', 'altair'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(folder.path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert printed == ["100 10 interrupted apart []", "[]"]


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


def test_losses_that_are_not_finite_are_kept(folder: RunFolder) -> None:
    given = [1.0, math.inf, math.nan, -math.inf]
    with Recorder(folder, []) as recorder:
        for step, value in enumerate(given):
            recorder.loss(step, value)
    np.testing.assert_array_equal(Run.open(folder.path).losses[1], given)


def test_readings_that_are_not_finite_are_written_and_flagged_but_not_estimated_from(folder: RunFolder) -> None:
    with Recorder(folder, [Square(), Wild()], every=1) as recorder:
        train(recorder, 0, 9)
        recent = recorder.recent("wild")
    lines = [json.loads(line) for line in folder.readings_path().read_text().splitlines()]
    wild = [line for line in lines if line.get("gauge") == "wild"]
    assert [line.get("finite", True) for line in wild] == [False, False, True] * 3
    assert wild[0]["moments"]["value"] == "nan" and wild[1]["moments"]["layers"][1] == "-inf"
    run = Run.open(folder.path)
    series = run.series("wild")
    assert series is not None and recent is not None
    assert list(series.steps) == list(recent.steps) == [2, 5, 8]
    assert run.warnings == ["wild: 6 of 9 readings are not finite, the first at step 0: left out."]


def test_the_live_panel_sees_the_last_readings(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=1) as recorder:
        assert recorder.recent("square") is None and recorder.recent("none") is None
        train(recorder, 0, 1200)
        recent = recorder.recent("square")
    assert recent is not None and len(recent) == 1000 and recent.steps[-1] == 1199
    assert recent.layers == ("weight", "bias") and recent.sampling.examples == 1437


def test_a_run_is_seen_as_it_is_written(folder: RunFolder) -> None:
    now = 0.0
    with Recorder(folder, [Square()], budget=Budget(0.5, lambda: now)) as recorder:
        recorder.event("started", 0)
        for step in range(30):
            now += 0.1
            recorder.due(step)
            recorder.loss(step, 0.0)
        run = Run.open(folder.path)
        assert len(run.losses[0]) >= 19  # at most a second, here ten steps, is still on its way
        assert run.status == "running"
    assert Run.open(folder.path).status == "interrupted"


@pytest.mark.parametrize("end", ["finished", "diverged", "interrupted"])
def test_the_status_is_what_the_run_last_said(folder: RunFolder, end: str) -> None:
    with Recorder(folder, []) as recorder:
        recorder.event("started", 0)
        recorder.event(end, 100)
        assert Run.open(folder.path).status == end
    with Recorder(folder, []) as recorder:
        recorder.resume(50)
        assert Run.open(folder.path).status == "running"


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
        assert resumed.budget.spent >= state["budget"]["spent"] > 0


def test_a_checkpoint_that_does_not_say_how_often_was_asked_is_gone_on_from(folder: RunFolder) -> None:
    budget = {"elapsed": 50.0, "spent": 0.1, "costs": [0.01]}
    state = {"measured_steps": 1, "first_measured": 99, "last_measured": 99, "budget": budget}  # as once written
    with Recorder(folder, [Dear()], budget=Budget(0.02)) as recorder:
        recorder.load_state_dict(state)
        assert recorder.state_dict()["asked_about"] == 100
        assert not recorder.due(100)  # eight steps of half a second are not earned
        assert recorder.state_dict()["asked_about"] == 101


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
        ({"gauges": [Square(), Square()]}, "`gauges` must have names of their own, got square, square"),
    ],
)
def test_nonsense_is_refused_by_name(folder: RunFolder, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadArgument, match=sentence):
        Recorder(folder, **{"gauges": [], **settings})


def test_lines_that_are_json_but_no_readings_are_named_and_left_out(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=1) as recorder:
        recorder.event("started", 0)
        train(recorder, 0, 5)
    good = folder.readings_path().read_text().splitlines()[0]
    strange = [
        '{"kind":"reading"}',
        '{"kind":"something"}',
        '{"kind":"losses","from":-1,"values":[1]}',
        '{"kind":"losses","from":9e99,"values":[1]}',
        '{"kind":"losses","from":9,"values":["one"]}',
        good.replace('"step":0', '"step":"0"'),
        good.replace('"step":0', '"step":5').replace("[0.0,0.1]", "[0.0]"),
    ]
    with folder.readings_path().open("a") as file:
        file.write("\n".join(strange) + "\n")
    with folder.events_path.open("a") as file:
        file.write('{"event":"evaluation","step":"3","time":0}\n{"event":3}\n')
    run = Run.open(folder.path)
    check_whole(run, 5)
    assert [event["event"] for event in run.events] == ["started"]
    assert run.warnings == [
        "events.jsonl:2: not an event (event, step and time): left out.",
        "events.jsonl:3: not an event (event, step and time): left out.",
        "readings.jsonl:8-13: 6 garbled lines are left out.",
        "square: 1 readings have other moments than the rest: left out.",
    ]


@pytest.mark.parametrize("name", ["readings.jsonl", "events.jsonl"])
def test_a_file_cut_or_flipped_at_any_byte_never_crashes_the_reader(folder: RunFolder, name: str) -> None:
    with Recorder(folder, [Wild()], every=1) as recorder:
        recorder.event("started", 0)
        train(recorder, 0, 3)
        recorder.resume(2)
        train(recorder, 2, 3)
    path = folder.path / name
    whole = path.read_bytes()
    for offset in range(len(whole)):
        for content in (whole[:offset], whole[:offset] + bytes([whole[offset] ^ 0x05]) + whole[offset + 1 :]):
            path.write_bytes(content)
            run = Run.open(folder.path)
            steps, losses = run.losses
            assert len(steps) == len(losses) and (np.diff(steps) > 0).all()
            for gauge in run.gauges:
                series = run.series(gauge)
                assert series is not None and (np.diff(series.steps) > 0).all()
                assert all(np.isfinite(values).all() for values in series.moments.values())
            assert run.status and run.steps >= 0 and isinstance(run.overhead, dict)
            assert all("\n" not in warning for warning in run.warnings)


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
from test_run_recorder import Recorder, RunFolder, Square, train

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
