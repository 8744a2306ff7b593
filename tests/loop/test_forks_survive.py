"""A fork in a folder survives a full disk and a kill: what was finished is kept, and the same call
ends with the same bits."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forked_loop import BATCHES, OwnLoop
from gradiometer.errors import GradiometerError
from gradiometer.loop import Fork
from gradiometer.loop.recorded.record import ForkRecord

ASKED: dict[str, Any] = {"batches": list(BATCHES), "replicates": 2, "horizon": "12 updates"}

# The same fork in a process of its own, which is killed after two branches.
KILLED = """
import os, signal
from test_forks_survive import ASKED, OwnLoop

def progress(result, done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

OwnLoop().fork(out=OUT, progress=progress, **ASKED)
"""


def numbers(found: Fork) -> list[dict[str, Any]]:
    return [{**result.to_dict(), "seconds": 0} for result in found.results]


@pytest.fixture(scope="module")
def whole() -> list[dict[str, Any]]:
    """The branches of a fork that nothing has happened to."""
    return numbers(OwnLoop().fork(**ASKED))


def kept(out: Path) -> int:
    (record,) = (ForkRecord.open(path) for path in (out / "forks").iterdir())
    assert not record.finished
    return len(record.fork.results)


def test_a_full_disk_costs_the_branch_that_it_could_not_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[dict[str, Any]]
) -> None:
    written, write = [0], os.write

    def full(descriptor: int, content: Any) -> int:
        if b'"readouts"' in bytes(content):
            written[0] += 1
            if written[0] == 3:
                # half of a line still finds room
                write(descriptor, bytes(content)[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    with monkeypatch.context() as patched, pytest.raises(GradiometerError) as raised:
        patched.setattr(os, "write", full)
        OwnLoop().fork(out=tmp_path, **ASKED)
    assert "start the same jobs again" in str(raised.value) or "full" in str(raised.value)
    assert kept(tmp_path) == 2
    assert numbers(OwnLoop().fork(out=tmp_path, **ASKED)) == whole


def test_a_file_that_the_system_lets_grow_no_further_costs_no_finished_branch(
    tmp_path: Path, whole: list[dict[str, Any]]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = []
    for size in (5_000, 12_000, before[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            found = OwnLoop().fork(out=tmp_path, **ASKED)
        except GradiometerError as error:
            assert "file too large" in str(error) and "earlier lines are safe" in str(error)
            sizes.append(kept(tmp_path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 0 < sizes[0] < sizes[1] < len(whole) and numbers(found) == whole


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_fork_that_was_killed_goes_on_with_the_same_bits(
    tmp_path: Path, whole: list[dict[str, Any]]
) -> None:
    here = Path(__file__).parent
    support = here.parent / "support"
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED.replace("OUT", f"__import__('pathlib').Path({str(tmp_path)!r})", 1),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*sys.path, str(support), str(here)]),
        },
        timeout=300,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert kept(tmp_path) == 2
    trained: list[str] = []
    again = OwnLoop().fork(
        out=tmp_path, progress=lambda result, *_: trained.append(result.alternative), **ASKED
    )
    assert numbers(again) == whole
