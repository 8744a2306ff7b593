"""Faults of a pool: pipes and files that fail, processes that end in each phase, and programs that are stopped."""

import errno
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from gradiometer import Interrupted, StorageFailed
from gradiometer.jobs import Job, Processes, channel, worker
from trainings import alive, until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, which is empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


class Pipe:
    """A pipe whose n-th operation fails. The operations of all pipes are counted together."""

    calls: list[str]
    fails_at: int | None

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pipe, name)
        if name not in ("read", "write", "flush"):
            return found

        def call(*given: Any) -> Any:
            Pipe.calls.append(name)
            if len(Pipe.calls) - 1 == Pipe.fails_at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return found(*given)

        return call


def test_every_operation_of_a_pipe_fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = channel.Channel
    monkeypatch.setattr(worker, "Channel", lambda *pipes: made(*map(Pipe, pipes)))
    monkeypatch.setattr(worker, "SECONDS", 0.2)
    jobs = [Job(f"{k}", lambda shared, k: shared.sum().item() + k, (k,)) for k in range(2)]
    Pipe.calls, Pipe.fails_at = [], None
    with Processes(1) as pool:
        assert pool.results(jobs, shared=torch.ones(3)) == [3.0, 4.0]
    for place in range(total := len(Pipe.calls)):
        Pipe.calls, Pipe.fails_at = [], place
        with Processes(1) as pool:
            try:
                outcomes = list(pool.run(jobs, shared=torch.ones(3)))
            except Interrupted as error:
                assert "a process of the pool could not start: it " in str(error) and str(error).endswith("."), place
                continue
            lost = [outcome for outcome in outcomes if outcome.error is not None]
            assert len(outcomes) == 2 and len(lost) == 1, place
            assert f"the process of the job {lost[0].name!r} has closed the pipes" in lost[0].error, place
    assert total > 15


class Ends:
    """Ends the process that reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


class EndsIfSent:
    """Ends the process that sends it."""

    def __reduce__(self) -> Any:
        os._exit(3)


def closes() -> None:
    os.closerange(3, 100)
    time.sleep(60)


def sends_text() -> None:
    pipes = [int(each.name) for each in Path("/proc/self/fd").iterdir() if is_pipe(each)]
    os.write(max(pipes), b"no message of any kind")


def is_pipe(descriptor: Path) -> bool:
    try:
        return int(descriptor.name) > 2 and "pipe" in str(descriptor.readlink())
    except OSError:
        return False


@pytest.mark.parametrize("phase", ["shared", "job", "its arguments", "result", "closed pipes", "text in a pipe"])
def test_a_process_that_ends_in_any_phase_costs_its_jobs_only(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SECONDS", 0.2)
    bad = {
        "shared": Job("bad", int, (0,)),
        "job": Job("bad", lambda _: os._exit(3)),
        "its arguments": Job("bad", lambda _, given: given, (Ends(),)),
        "result": Job("bad", lambda _: EndsIfSent()),
        "closed pipes": Job("bad", lambda _: closes()),
        "text in a pipe": Job("bad", lambda _: sends_text()),
    }[phase]
    with Processes(1) as pool:
        outcomes = {each.name: each for each in pool.run([bad, Job("good", lambda _: 7)], shared=Shared(phase))}
        found = "has closed the pipes of the pool, or wrote" if "pipe" in phase else "ended with exit code 3"
        assert f"the process of the job 'bad' {found}" in str(outcomes["bad"].error)
        assert outcomes["good"].result == (None if phase == "shared" else 7)
        assert pool.results([Job("after", lambda: 8)]) == [8]


class Shared:
    """Ends the process that reads it in the phase "shared"."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (3,)) if self.phase == "shared" else (Shared, (self.phase,))


STARTS = {
    "ended with exit code 4": "raise SystemExit(4)",
    "was killed by signal 9 (SIGKILL)": "import os; os.kill(os.getpid(), 9)",
    "has closed the pipes of the pool": "import os, time; os.close(0); os.close(1); time.sleep(60)",
    "ended with exit code 1": "import os; os.write(1, b'some text'); raise SystemExit(1)",
}


@pytest.mark.parametrize("found", STARTS)
def test_a_process_that_cannot_start_says_how_it_ended(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SECONDS", 0.5)
    monkeypatch.setattr(worker, "START", STARTS[found])
    with Processes(2) as pool, pytest.raises(Interrupted, match=re.escape(f"could not start: it {found}")):
        pool.results([Job(f"{k}", abs, (k,)) for k in range(3)], shared=None)


def test_text_that_is_printed_while_python_starts_is_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "START", f"import os; os.write(1, b'welcome'); {worker.START}")
    with Processes(1) as pool:
        assert pool.results([Job("one", abs, (-1,))]) == [1]


def test_a_system_that_starts_no_process_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refused)
    with Processes(1) as pool, pytest.raises(Interrupted, match="could not start: resource temporarily unavailable"):
        pool.results([Job("one", abs, (-1,))], shared=torch.ones(3))


def test_a_disk_without_room_for_what_is_shared_is_named(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with Processes(1) as pool, pytest.raises(StorageFailed, match=r"file too large\): free some space there"):
            pool.results([Job("one", lambda shared: shared)], shared=torch.ones(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    with Processes(1) as pool, pytest.raises(StorageFailed, match=r"no such file or directory.*: free some space"):
        pool.results([Job("one", lambda shared: shared)], shared=torch.ones(3))


STOPPED = """
import time
import torch
from gradiometer.jobs import Job, Processes

def work(shared, k):
    time.sleep(0.05)
    return shared.sum().item()

with Processes(2) as pool:
    list(pool.run([Job(f"{k}", work, (k,)) for k in range(400)], shared=torch.ones(3)))
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_program_that_is_stopped_at_any_moment(kind: signal.Signals, temporary: Path) -> None:
    draw = random.Random(int(kind))
    for attempt in range(4):
        marked = os.environ | {"TMPDIR": str(temporary), "MARK": f"{temporary} {attempt}"}
        program = subprocess.Popen([sys.executable, "-c", STOPPED], stderr=subprocess.PIPE, env=marked, text=True)
        until(lambda: list(temporary.glob("*/shared")))
        until(lambda mark=marked["MARK"]: len(processes(mark)) > 1)
        time.sleep(draw.uniform(0, 4))
        program.send_signal(kind)
        _, said = program.communicate(timeout=60)
        until(lambda mark=marked["MARK"]: not processes(mark))
        assert list(temporary.iterdir()) == [], attempt
        assert said.count("Traceback") <= 1 and ("KeyboardInterrupt" in said) == (kind is signal.SIGINT), said


def processes(mark: str) -> list[int]:
    """The living processes with this mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"MARK={mark}\0".encode() in path.read_bytes() and alive(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found
