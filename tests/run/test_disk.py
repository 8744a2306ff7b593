"""Files are on the disk, whole, before anybody sees them."""

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from gradiometer.errors import BadArgument, RunDamaged
from gradiometer.logs import read_log
from gradiometer.run.readings import Readings
from gradiometer.storage.disk import one_at_a_time, read_file, replace_file, write_new
from gradiometer.storage.journal import read_journal


@pytest.mark.parametrize("name", ["readings.jsonl", "events.jsonl", "forks/0001/branches.jsonl"])
def test_a_file_that_is_too_large_for_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It has no lines, and no content on the disk."""
    monkeypatch.setattr("gradiometer.storage.disk.memory", lambda: 8e9)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(1_100_000_000)
    tracemalloc.start()
    with pytest.raises(OSError, match=r"it has 1\.1 GB, more than 12% of the memory"):
        read_file(path)
    with pytest.raises(RunDamaged, match=r"cannot be read: it has 1\.1 gb, more than 12% of the"):
        if name == "readings.jsonl":
            Readings(path).read()
        else:
            read_journal(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    with pytest.raises(BadArgument, match="cannot be read: it has"):
        read_log(path)


def test_a_write_that_takes_a_part_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.write
    monkeypatch.setattr(
        os, "write", lambda descriptor, content: really(descriptor, bytes(content)[:7])
    )
    write_new(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="names of open files are read from /proc"
)
def test_a_replaced_file_is_on_the_disk_before_it_is_seen_and_its_name_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any) -> Any:
            target = Path(f"/proc/self/fd/{first}").readlink() if name == "fsync" else Path(first)
            calls.append(f"{name} {target.name}")
            return really(first, *rest)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    replace_file(tmp_path / "a", b"content")
    assert calls == ["fsync .a.partial", "replace .a.partial", f"fsync {tmp_path.name}"]


def test_of_several_writers_of_a_file_each_writes_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    contents = [letter * 200_000 for letter in (b"a", b"b", b"c")]

    def write(content: bytes) -> None:
        for _ in range(20):
            replace_file(path, content)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(write, contents))
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_a_process_that_inherited_the_open_folder_does_not_keep_others_waiting(
    tmp_path: Path,
) -> None:
    fcntl = pytest.importorskip("fcntl")
    opened: list[int] = []
    really = os.open
    with (
        patch.object(os, "open", lambda *given: opened.append(really(*given)) or opened[-1]),
        one_at_a_time(tmp_path),
    ):
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=opened[:1]
        )
    with child:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        assert child.poll() is None
        child.communicate(b"\n")


def test_a_device_takes_what_is_written_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page for /dev/null, written by root, once put a file in its place."""
    device = tmp_path / "null"
    device.touch()
    before = device.stat().st_ino
    monkeypatch.setattr(Path, "is_char_device", lambda self: self == device)
    replace_file(device, b"page")
    assert device.stat().st_ino == before and device.read_bytes() == b"page"
