"""Several processes on one run: one writes, any number reads, and a killed writer leaves what it
has flushed."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gradiometer import BadArgument, Run
from gradiometer.run import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.run.recorder import Recorder

WRITER = """
import sys
from gradiometer.run.folder import RunFolder
from gradiometer.run.recorder import Recorder
with Recorder(RunFolder.open(sys.argv[1]), []) as recorder:
    recorder.event("started", 0)
    for step in range(10**9):
        recorder.loss(step, 1 / (step + 1))
        if step % 50 == 0:
            recorder.flush()
            print(step, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", {"configuration": Configuration().to_dict()})


def check(run: Run) -> int:
    """What is read is a beginning of what was written. Returns the number of steps."""
    steps, losses = run.losses
    assert steps.tolist() == list(range(len(steps)))
    assert losses.tolist() == [1 / (step + 1) for step in steps.tolist()]
    return len(steps)


def test_a_second_writer_is_refused_and_spoils_nothing(folder: RunFolder) -> None:
    with Recorder(folder, []) as first:
        first.loss(0, 1.0)
        first.flush()
        with pytest.raises(BadArgument, match="is being written by another process"):
            Recorder(folder, [])
        first.loss(1, 0.5)
        assert Run.open(folder.path).status == "running"
    assert check(Run.open(folder.path)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_readers_see_a_beginning_while_a_writer_writes_and_is_killed(folder: RunFolder) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    flushed = int(writer.stdout.readline())
    seen: list[list[int]] = [[], []]
    failed: list[BaseException] = []

    def read(counts: list[int]) -> None:
        run = Run.open(folder.path)
        try:
            while writer.poll() is None or len(counts) < 5:
                run = run.refreshed()
                counts.append(check(run))
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=read, args=(counts,)) for counts in seen]
    for reader in readers:
        reader.start()
    while flushed < 500:
        flushed = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    for reader in readers:
        reader.join(20)
    writer.stdout.close()
    assert not failed, failed
    assert all(counts == sorted(counts) for counts in seen)
    whole = Run.open(folder.path)
    assert check(whole) > flushed and whole.status == "interrupted"
    assert all("incomplete" in warning for warning in whole.warnings)


def test_many_processes_create_runs_in_one_folder(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(RunFolder.create(tmp_path, "run", {}).path))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in made) == sorted(f"run-{number}" for number in range(1, 21))
    assert all(json.dumps(RunFolder.open(path).manifest) for path in made)
