"""The run folder: made once, whole or not at all; opened, or refused in a sentence."""

import errno
import os
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gradiometer import BadArgument, RunDamaged, RunNotFound, StorageFailed
from gradiometer.measurement import Draw, Sampling
from gradiometer.run import Configuration
from gradiometer.run.folder import FORMAT, RunFolder, run_folders

MANIFEST = {
    "configuration": {"batch_size": 4},
    "versions": {"gradiometer": "0.2.0"},
    "sampling": {"draw": "reshuffled", "examples": 1437},
    "layers": ["0.weight", "0.bias"],
    "nothing": None,
}


def test_a_run_explains_itself_when_it_is_opened_again(tmp_path: Path) -> None:
    made = RunFolder.create(tmp_path / "new" / "runs", "digits", MANIFEST)
    opened = RunFolder.open(made.path)
    assert opened.name == "digits-1"
    assert opened.configuration == Configuration(batch_size=4)
    assert opened.sampling == Sampling(Draw.RESHUFFLED, 1437)
    assert opened.layers == ("0.weight", "0.bias")
    assert opened.manifest["format"] == FORMAT and "nothing" not in opened.manifest
    assert sorted(path.name for path in made.path.iterdir()) == [
        "checkpoints",
        "run.toml",
        "snapshots",
    ]


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    for name in ("a-7", "a-x", "b-12"):
        (tmp_path / name).mkdir()
    assert [RunFolder.create(tmp_path, "a", {}).name for _ in range(3)] == ["a-8", "a-9", "a-10"]
    assert RunFolder.create(tmp_path, "b", {}).name == "b-13"


def test_runs_made_at_the_same_time_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: RunFolder.create(tmp_path, "run", {}).name, range(40)))
    assert sorted(names) == sorted(f"run-{number}" for number in range(1, 41))


@pytest.mark.parametrize("stem", ["", ".hidden", "a/b", "/", " x", "\0", "\x1b", "a\0b", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, stem: str) -> None:
    with pytest.raises(BadArgument, match="`name` must be a file name"):
        RunFolder.create(tmp_path, stem, {})


def test_a_parent_that_cannot_hold_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StorageFailed, match=r"file` could not be written: .*; choose another folder for the runs"
    ):
        RunFolder.create(tmp_path / "file", "a", {})
    with pytest.raises(StorageFailed, match=r"`/proc` could not be written"):
        RunFolder.create("/proc", "a", {})


def test_a_read_only_parent_and_a_full_disk_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    for code, name in [(errno.EACCES, "mkdir"), (errno.EROFS, "mkdir"), (errno.ENOSPC, "write")]:
        with (
            monkeypatch.context() as patch,
            pytest.raises(StorageFailed, match=os.strerror(code).lower()),
        ):
            patch.setattr(os, name, refuse)
            RunFolder.create(tmp_path, "a", MANIFEST)
        assert not list(tmp_path.iterdir())


def test_a_manifest_that_toml_cannot_store_is_refused_and_nothing_is_created(
    tmp_path: Path,
) -> None:
    for manifest in ({"x": object()},):
        with pytest.raises(BadArgument, match="`manifest`"):
            RunFolder.create(tmp_path, "a", manifest)
    assert not list(tmp_path.iterdir())


def test_a_newer_format_is_refused_and_both_versions_are_named(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "a", {"versions": {"gradiometer": "9.1"}})
    text = run.manifest_path.read_text().replace(f"format = {FORMAT}", f"format = {FORMAT + 1}")
    run.manifest_path.write_text(text)
    with pytest.raises(
        RunDamaged,
        match=r"format 2 by gradiometer 9\.1, and .* reads formats up to 1: install a newer",
    ):
        RunFolder.open(run.path)


def test_a_folder_without_a_run_is_refused_and_runs_nearby_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=r"is not a run folder: there is no such folder\.$"):
        RunFolder.open(tmp_path / "digits-1")
    one, two = (RunFolder.create(tmp_path, stem, {}) for stem in ("digits", "moons"))
    with pytest.raises(RunNotFound, match=rf"no such folder; nearby is `{one.path}`\.$"):
        RunFolder.open(tmp_path / "digit-1")
    with pytest.raises(
        RunNotFound, match=r"no run.toml in it; nearby are .*(moons-1|digits-1).*(moons-1|digits-1)"
    ):
        RunFolder.open(tmp_path)
    with pytest.raises(RunNotFound, match=rf"it is a file; nearby is `{two.path}`\.$"):
        RunFolder.open(two.manifest_path)
    with pytest.raises(RunNotFound, match=r"there is no run\.toml in it; nearby are"):
        (tmp_path / "empty").mkdir()
        RunFolder.open(tmp_path / "empty")
    assert set(run_folders(tmp_path)) == {one.path, two.path}


def test_a_manifest_cut_or_flipped_at_any_byte_is_read_or_refused_but_never_crashes(
    tmp_path: Path,
) -> None:
    run = RunFolder.create(tmp_path, "a", MANIFEST)
    whole = run.manifest_path.read_bytes()
    for offset in range(len(whole)):
        for damaged in (
            whole[:offset],
            whole[:offset] + bytes([whole[offset] ^ 0x90]) + whole[offset + 1 :],
        ):
            run.manifest_path.write_bytes(damaged)
            try:
                opened = RunFolder.open(run.path)
                _ = opened.configuration, opened.sampling, opened.layers
            except (RunNotFound, RunDamaged) as refusal:
                assert "run.toml" in str(refusal)
    run.manifest_path.write_bytes(whole)
    assert tomllib.loads(whole.decode())["name"] == "a-1"
