"""The reader: what was recorded is read, without torch, also from damaged files."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gradiometer.measurement import Draw, Estimate, Sampling
from gradiometer.run import Configuration, Run
from gradiometer.run.budget import Budget
from gradiometer.run.folder import RunFolder
from gradiometer.run.recorder import Recorder
from recorded_run import MANIFEST, Square, Wild, check_whole, train


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", MANIFEST)


def test_everything_recorded_is_read(folder: RunFolder) -> None:
    unknown = Estimate.unknown(level=0.9, method="none", samples=0)
    with Recorder(folder, [Square()], every=1) as recorder:
        recorder.event("started", 0)
        train(recorder, 0, 2500)
        recorder.event("evaluation", 2500, estimates={"test_loss": unknown.to_dict()})
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
    assert (
        run.overhead["measured_steps"] == 2500
        and run.overhead["every"] == 1
        and run.overhead["budget"] is None
    )


def test_an_empty_run_is_read_as_one(folder: RunFolder) -> None:
    run = Run.open(folder.path)
    assert [len(part) for part in run.losses] == [0, 0]
    assert (run.gauges, run.events, run.evaluations, run.overhead, run.steps, run.warnings) == (
        (),
        [],
        [],
        {},
        0,
        [],
    )
    assert run.status == "interrupted"


def test_reading_a_run_imports_no_torch(folder: RunFolder) -> None:
    with Recorder(folder, [Square()], every=10) as recorder:
        train(recorder, 0, 100)
    script = (
        "import sys; from gradiometer.run.reader import Run; run = "
        "Run.open(sys.argv[1]);print(len(run.losses[0]), len(run.series('square')), run.status, "
        "run.overhead['mode'], run.warnings);print(sorted({'torch', 'safetensors', 'scipy', "
        "'altair'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(folder.path)]
    printed = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert printed == ["100 10 interrupted apart []", "[]"]


def test_losses_that_are_not_finite_are_kept(folder: RunFolder) -> None:
    given = [1.0, math.inf, math.nan, -math.inf]
    with Recorder(folder, []) as recorder:
        for step, value in enumerate(given):
            recorder.loss(step, value)
    np.testing.assert_array_equal(Run.open(folder.path).losses[1], given)


def test_readings_that_are_not_finite_are_written_and_flagged_but_not_estimated_from(
    folder: RunFolder,
) -> None:
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
    assert run.warnings == ["wild: 6 of 9 readings are not finite, the first at step 0: skipped."]


def test_a_run_is_seen_as_it_is_written(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
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
        "events.jsonl:2, and 1 more: not an event (event, step and time): skipped (Expected `int`, got `str` - at `$.step`).",
        "readings.jsonl:8-13: 6 lines cannot be read: skipped.",
        "square: 1 readings have other moments than the rest: skipped.",
    ]


@pytest.mark.parametrize("name", ["readings.jsonl", "events.jsonl"])
@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_file_cut_or_flipped_at_any_byte_never_crashes_the_reader(
    folder: RunFolder, name: str, stride: int
) -> None:
    with Recorder(folder, [Wild()], every=1) as recorder:
        recorder.event("started", 0)
        train(recorder, 0, 3)
        recorder.resume(2)
        train(recorder, 2, 3)
    path = folder.path / name
    whole = path.read_bytes()
    for offset in range(0, len(whole), stride):
        for content in (
            whole[:offset],
            whole[:offset] + bytes([whole[offset] ^ 0x05]) + whole[offset + 1 :],
        ):
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
