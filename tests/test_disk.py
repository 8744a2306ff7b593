"""Files are on the disk, whole, before anybody sees them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradiometer.storage.disk import replace_file, write_new


def test_a_write_that_takes_a_part_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: really(descriptor, bytes(content)[:7]))
    write_new(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are read from /proc")
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
