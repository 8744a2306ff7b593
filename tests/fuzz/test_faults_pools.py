"""Faults of a pool: files that fail, processes that end in each phase, and programs that are
stopped."""

import errno
import os
import random
import re
import resource
import shlex
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
from loky.process_executor import ProcessPoolExecutor

from gradiometer import Interrupted, StorageFailed
from gradiometer.jobs import Job
from gradiometer.jobs.processes import Processes
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


@pytest.mark.parametrize("phase", ["shared", "job", "its arguments", "result", "closed pipes"])
def test_a_process_that_ends_in_any_phase_costs_its_jobs_only(phase: str) -> None:
    bad = {
        "shared": Job("bad", int, (0,)),
        "job": Job("bad", lambda _: os._exit(3)),
        "its arguments": Job("bad", lambda _, given: given, (Ends(),)),
        "result": Job("bad", lambda _: EndsIfSent()),
        "closed pipes": Job("bad", lambda _: closes()),
    }[phase]
    with Processes(1) as pool:
        outcomes = {
            each.name: each
            for each in pool.run([bad, Job("good", lambda _: 7)], shared=Shared(phase))
        }
        found = "" if phase == "closed pipes" else "ended with EXIT(3)"
        assert f"the process of the job 'bad' {found}" in str(outcomes["bad"].error)
        assert str(outcomes["bad"].error).endswith("; the job is not finished.")
        assert outcomes["good"].result == (None if phase == "shared" else 7)
        assert pool.results([Job("after", lambda: 8)]) == [8]


class Shared:
    """Ends the process that reads it in the phase "shared"."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (3,)) if self.phase == "shared" else (Shared, (self.phase,))


STARTS = {
    "ended with EXIT(4)": "raise SystemExit(4)",
    "ended with SIGKILL(-9), perhaps because memory ran out": "import os; os.kill(os.getpid(), 9)",
    "ended with EXIT(1)": "raise ValueError",
}


@pytest.mark.parametrize("found", STARTS)
def test_a_process_that_cannot_start_says_how_it_ended(
    found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable = tmp_path / "python"
    executable.write_text(
        f'#!/bin/sh\ncase "$*" in *popen_loky*) exec {sys.executable} -c '
        f'{shlex.quote(STARTS[found])};; *) exec {sys.executable} "$@";; esac\n'
    )
    executable.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(executable))
    with (
        Processes(2) as pool,
        pytest.raises(Interrupted, match=re.escape(f"could not start: it {found}")),
    ):
        pool.results([Job(f"{k}", abs, (k,)) for k in range(3)], shared=None)


def test_a_system_that_starts_no_process_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(ProcessPoolExecutor, "submit", refused)  # where loky starts its process
    with (
        Processes(1) as pool,
        pytest.raises(Interrupted, match="could not start: resource temporarily unavailable"),
    ):
        pool.results([Job("one", abs, (-1,))], shared=torch.ones(3))


def test_a_disk_without_room_for_what_is_shared_is_named(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with (
            Processes(1) as pool,
            pytest.raises(StorageFailed, match="could not be written: file too large; "),
        ):
            pool.results([Job("one", lambda shared: shared)], shared=torch.ones(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    with (
        Processes(1) as pool,
        pytest.raises(StorageFailed, match="no such file or directory; free some space"),
    ):
        pool.results([Job("one", lambda shared: shared)], shared=torch.ones(3))


STOPPED = """
import time
import torch
from gradiometer.jobs import Job
from gradiometer.jobs.processes import Processes

def work(shared, k):
    time.sleep(0.05)
    return shared.sum().item()

with Processes(2) as pool:
    list(pool.run([Job(f"{k}", work, (k,)) for k in range(400)], shared=torch.ones(3)))
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_program_that_is_stopped_at_any_moment(
    kind: signal.Signals, temporary: Path
) -> None:
    draw = random.Random(int(kind))
    for attempt in range(4):
        marked = os.environ | {"TMPDIR": str(temporary), "MARK": f"{temporary} {attempt}"}
        program = subprocess.Popen(
            [sys.executable, "-c", STOPPED], stderr=subprocess.PIPE, env=marked, text=True
        )
        until(lambda: list(temporary.glob("gradiometer-*/*")))
        until(lambda mark=marked["MARK"]: len(processes(mark)) > 1)
        time.sleep(draw.uniform(0, 4))
        program.send_signal(kind)
        _, said = program.communicate(timeout=60)
        until(lambda mark=marked["MARK"]: not processes(mark))
        assert list(temporary.iterdir()) == [], attempt
        assert said.count("Traceback") <= 1 and ("KeyboardInterrupt" in said) == (
            kind is signal.SIGINT
        ), said


def processes(mark: str) -> list[int]:
    """The living processes with this mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"MARK={mark}\0".encode() in path.read_bytes() and alive(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found
