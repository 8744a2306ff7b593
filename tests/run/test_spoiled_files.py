"""Files of a run are decoded and not trusted: what does not fit is skipped and named, and what is
no file is refused."""

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path
from stat import S_ISFIFO
from typing import Any

import pytest
import torch

from gradiometer import BadArgument, Estimate, Run, RunDamaged, diagnose
from gradiometer.convergence.certificate import Certificate
from gradiometer.exploration.ensembles import Snapshot
from gradiometer.logs import read_log
from gradiometer.report.page.page import render
from gradiometer.run import Configuration
from gradiometer.run.artifacts import load_artifacts, save_artifact
from gradiometer.run.checkpoints import STATE, SUMS, TENSORS, load_latest, save
from gradiometer.run.folder import RunFolder
from gradiometer.run.recorder import Recorder
from gradiometer.storage import disk
from gradiometer.storage.journal import being_written
from gradiometer.verdict.triage.signs import Signs

EXACT = Estimate.exact(1.0).to_dict()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", {"configuration": Configuration().to_dict()})


def write_events(folder: RunFolder, *events: dict[str, Any]) -> Run:
    lines = [json.dumps({"step": 5, "time": 0.0, **event}) for event in events]
    folder.events_path.write_text("\n".join(lines) + "\n")
    return Run.open(folder.path)


TRIAGE = {"tensors": ["a", "b"], "sizes": [2, 2], "axes": [1, 1], "layers": ["Linear", "Linear"]}


@pytest.mark.parametrize(
    "event",
    [
        {"event": "warning"},
        {"event": "warning", "text": 3},
        {"event": "evaluation", "estimates": {"test_loss": 0.5}},
        {"event": "evaluation", "estimates": {"test_loss": EXACT | {"low": 2.0}}},
        {"event": "evaluation", "estimates": {"test_loss": EXACT | {"level": "nan"}}},
        {"event": "cooling", "begins": -1},
        {"event": "stationarity", "left": 1.0},
        {"event": "cut scored", "seen": "x", "within": True, "cut_at": 1, "predicted": EXACT},
        {"event": "endpoint", "examples": 64, "travelled": 1.0, "dead": {"relu": ["a", 2]}},
        {"event": "triage", **TRIAGE, "rows": [1, "x"]},
        {"event": "triage", **TRIAGE, "rows": [1]},
        {"event": "triage", **TRIAGE, "rows": [[1], 2]},
        {"event": "finished", "step": -1},
        {"event": "finished", "step": 2**60},
        {"event": "finished", "time": "nan"},
        {"event": "finished", "time": None},
        {"event": ""},
        {"event": ["finished"]},
    ],
)
def test_an_event_that_does_not_fit_is_skipped_and_named(
    folder: RunFolder, event: dict[str, Any]
) -> None:
    run = write_events(folder, {"event": "started"}, event, event, {"event": "interrupted"})
    assert [each["event"] for each in run.events] == [
        "started",
        "interrupted",
    ] and run.status == "interrupted"
    (warning,) = run.warnings
    assert warning.startswith("events.jsonl:2, and 1 more: ") and ": skipped (" in warning
    diagnose(run)


def test_events_that_fit_are_read_whole(folder: RunFolder) -> None:
    evaluation = {
        "event": "evaluation",
        "estimates": {"test_loss": EXACT | {"of_a_later_version": 1}},
        "note": "kept",
    }
    run = write_events(folder, evaluation, {"event": "unknown", "anything": [1]})
    assert Estimate(**run.evaluations[0]["estimates"]["test_loss"]) == Estimate.exact(1.0)
    assert (
        run.evaluations[0]["note"] == "kept"
        and run.events[1]["anything"] == [1]
        and not run.warnings
    )


@pytest.mark.parametrize(
    "examples", ["inf", "1e400", "-3", "0", "'many'", "nan", "1.5", "9999999999999999999"]
)
def test_a_number_of_examples_that_is_none_is_left_out_and_named(
    folder: RunFolder, examples: str
) -> None:
    manifest = folder.manifest_path
    manifest.write_text(
        f"{manifest.read_text()}\n[sampling]\ndraw = 'reshuffled'\nexamples = {examples}\n"
    )
    run = Run.open(folder.path)
    line = manifest.read_text().splitlines().index("[sampling]") + 1
    assert run.sampling.examples is None
    (warning,) = run.warnings
    assert warning.startswith(f"run.toml:{line}: `sampling` is damaged: left out (")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", "3"),
        ("steps", "-1"),
        ("ranks", "'two'"),
        ("problem", "[]"),
        ("versions", "{torch = 2.9}"),
        ("gauges", "[{name = 'mine'}]"),
        ("created", "2026-01-01T00:00:00Z"),
        ("probe", "{draw = 'never'}"),
    ],
)
def test_a_key_of_a_run_that_does_not_fit_is_left_out_and_named(
    folder: RunFolder, key: str, value: str
) -> None:
    path = folder.manifest_path
    rest = "\n".join(
        line for line in path.read_text().splitlines() if not line.startswith(f"{key} =")
    )
    path.write_text(f"{key} = {value}\n{rest}")
    run = Run.open(folder.path)
    assert key not in run.manifest and run.configuration == folder.configuration
    (warning,) = run.warnings
    assert warning.startswith(f"run.toml:1: `{key}` is damaged: left out (")
    render(run, diagnose(run))


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
@pytest.mark.parametrize("put", [put_fifo, put_socket, put_device])
def test_what_is_no_regular_file_is_refused(folder: RunFolder, put: Any) -> None:
    for path in (folder.events_path, folder.readings_path()):
        path.unlink(missing_ok=True)
        put(path)
        assert not being_written(path)
        with pytest.raises(RunDamaged, match="cannot be read"):
            diagnose(Run.open(folder.path))
        with pytest.raises(Exception, match=r"cannot be w|could not be w"):
            Recorder(folder, []).close()
        path.unlink()
    folder.manifest_path.unlink()
    put(folder.manifest_path)
    with pytest.raises(RunDamaged, match="cannot be read"):
        RunFolder.open(folder.path)
    with pytest.raises(BadArgument, match="cannot be read as a configuration"):
        Configuration.from_toml(folder.manifest_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_what_passes_for_regular_and_blocks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/kmsg does: a FIFO that is taken for a regular file, and that a program keeps open
    for writing."""
    path = tmp_path / "log.jsonl"
    os.mkfifo(path)
    monkeypatch.setattr(disk.stat, "S_ISREG", S_ISFIFO)
    monkeypatch.setattr(Path, "is_file", Path.is_fifo)
    kept_open = os.open(path, os.O_RDWR)
    with pytest.raises(
        BadArgument,
        match=r"log.jsonl` cannot be read: it has no content yet, and is no file on a disk",
    ):
        read_log(path)
    with pytest.raises(
        BadArgument, match="cannot be read as a configuration: it has no content yet"
    ):
        Configuration.from_toml(path)
    os.write(kept_open, b'{"step": 1, "loss": 2.0}\n')
    assert read_log(path).losses.values.tolist() == [2.0]
    os.close(kept_open)


def certificate(step: int) -> Certificate:
    one = Estimate.exact(1.0)
    return Certificate(step, "eval", one, one, one, one, gradients=4, curved=4, of=4)


def test_an_artifact_that_cannot_be_used_is_skipped_and_named(folder: RunFolder) -> None:
    run = Run.open(folder.path)
    for step in (1, 2, 3):
        save_artifact(run, certificate(step))
    first, second, _ = sorted(run.path.glob(Certificate.files))
    first.write_text(first.read_text().replace('"gradients": 4', '"gradients": -4'))
    second.write_text("[" * 100_000)
    assert [found.step for found in load_artifacts(run, Certificate)] == [3]
    assert [warning.partition(":")[0] for warning in run.warnings] == [
        "certificates/step_000001.json cannot be read",
        "certificates/step_000002.json cannot be read",
    ]


def lie(path: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint, with a checksum that matches."""
    (path / name).write_bytes(content)
    files = (path / TENSORS, path / STATE)
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (path / SUMS).write_text("".join(sums))


def header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 8


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TENSORS, header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}})),
        (TENSORS, header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**62]}})),
        (TENSORS, header({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}})),
        (TENSORS, (2**63).to_bytes(8, "little")),
        (TENSORS, b""),
        (STATE, b"[" * 100_000),
        (STATE, b'{"step": 2, "state": []}'),
        (STATE, b'{"step": 1e400, "state": {}}'),
        (STATE, b"[]"),
    ],
)
def test_a_checkpoint_that_lies_falls_back_to_the_one_before(
    folder: RunFolder, name: str, content: bytes
) -> None:
    for step in (1, 2):
        save(folder, step, {"a": torch.ones(2)}, {"step": step}, keep=2)
    lie(folder.checkpoints_path / "step_000002", name, content)
    checkpoint, warnings = load_latest(folder)
    assert checkpoint is not None and checkpoint.step == 1
    assert len(warnings) == 1 and "checkpoint `step_000002` is damaged" in warnings[0]


def test_a_checkpoint_that_does_not_fit_falls_back_but_is_kept(folder: RunFolder) -> None:
    for step in (1, 2):
        save(folder, step, {"a": torch.ones(2)}, {"step": step}, keep=2)

    def use(checkpoint: Any) -> None:
        if checkpoint.step == 2:
            raise RunDamaged("its state does not fit.")

    checkpoint, warnings = load_latest(folder, use=use)
    assert checkpoint is not None and checkpoint.step == 1
    assert warnings == ["checkpoint `step_000002` is not used: its state does not fit."]
    shutil.rmtree(folder.checkpoints_path / "step_000001")
    with pytest.raises(RunDamaged, match="its state does not fit"):
        load_latest(folder, use=use)
    assert (folder.checkpoints_path / "step_000002").is_dir()


def test_equal_snapshots_are_equal_in_bytes() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    files = {Snapshot.of(model, number=1, step=10).to_bytes() for _ in range(20)}
    assert len(files) == 1
    read = Snapshot.from_bytes(files.pop(), "here")
    assert read.state_dict.keys() == model.state_dict().keys() and read.step == 10


def test_losses_far_behind_all_others_take_no_memory(folder: RunFolder) -> None:
    """Every step between would need a number."""
    near = {"kind": "losses", "from": 0, "values": [1.0, 0.9, 0.8]}
    far = near | {"from": 2**53 - 8}
    folder.readings_path().write_text(f"{json.dumps(near)}\n{json.dumps(far)}\n")
    run = Run.open(folder.path)
    assert diagnose(run) is not None
    assert Signs.of(run).losses.tolist() == [1.0, 0.9, 0.8]
