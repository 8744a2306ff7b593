"""A link in the place of any file or folder of a run: no command writes or deletes
where it leads."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import called
from gradiometer.cli import main
from gradiometer.storage.disk import check_inside, remove_folder, write_new
from gradiometer.storage.journal import JournalWriter

RUN = "runs/digits-mlp-1"
TUNING = "runs/quadratic-position-tuning"
TUNE = ("tune", "quadratic", "--steps", "24", "--budget", "2")
FORK = ("fork", RUN, "--at", "20", "rate 2x", "--horizon", "5 updates", "--replicates", "1")
QUIET = ("--no-open",)
MAKE = (
    (
        "train",
        "digits",
        "--steps",
        "40",
        "--every",
        "5",
        "--snapshots",
        "2",
        "--set",
        "checkpoint_at=20",
        *QUIET,
    ),
    ("measure", "certificate", RUN, "--examples", "64", "--batches", "8"),
    ("measure", "sharpness", RUN, "--examples", "64", "--top", "1", "--probes", "4"),
    ("ensemble", RUN, "--points", "0"),
    FORK,
    TUNE,
)
COMMANDS = {
    "resume": ("resume", RUN, *QUIET),
    "fork": (*FORK[:4], "rate 0.5x", *FORK[5:]),
    "same fork": FORK,
    "certify": (*MAKE[1], "--tolerance", "0.02"),
    "sharpness": (*MAKE[2], "--seed", "1"),
    "ensemble": MAKE[3],
    "report": ("show", RUN),
    "sample": ("learn", "sample", RUN, "--steps", "20", "--burn-in", "4", "--chains", "1"),
    "export": ("runs", "export", RUN, "--out", f"{RUN}/losses.csv"),
    "list": ("runs", "list", "runs", "--page", f"{RUN}/runs.html"),
}
"""The commands that write into a run, or beside it."""

TUNINGS = {
    "same tuning": TUNE,
    "another tuning": (*TUNE[:4], "--seed", "1"),
    "report of a tuning": ("show", TUNING),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a tuning, and a run with everything that a run can have, stopped after its last
    checkpoint."""
    made = tmp_path_factory.mktemp("links")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for arguments in MAKE:
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
            assert ended.value.code == 0, arguments
        events = made / RUN / "events.jsonl"
        lines = events.read_text().splitlines(keepends=True)
        events.write_text("".join(line for line in lines if '"finished"' not in line))
        yield made


def contents(folder: Path) -> dict[str, str]:
    """Every name below a folder, with a digest of what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def check(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    command: tuple[str, ...],
    places: slice = slice(None),
) -> None:
    """Put a link in the place of each file and folder of a run or a tuning, and call the command."""
    found = sorted(str(path.relative_to(base / folder)) for path in (base / folder).rglob("*"))
    names = found[places]
    assert names
    for number, name in enumerate(names):
        place = tmp_path / str(number)
        shutil.copytree(base / folder, place / folder)
        elsewhere = place / "elsewhere"
        elsewhere.mkdir()
        (place / folder / name).rename(elsewhere / "it")
        (place / folder / name).symlink_to(elsewhere / "it")
        before = contents(elsewhere)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            code, _, error = called(capsys, *command)
        assert code in (0, 2, 6), (name, error)
        assert "Traceback" not in error, (name, error)
        assert contents(elsewhere) == before, (name, error)
        shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="POSIX")
@pytest.mark.parametrize(("first", "command"), [*enumerate(COMMANDS)])
def test_no_command_follows_a_link(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], first: int, command: str
) -> None:
    """In every fifth place, another one for each command; by night in all of them."""
    check(base, tmp_path, capsys, RUN, COMMANDS[command], slice(first % 5, None, 5))


@pytest.mark.nightly
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_follows_a_link_in_any_place(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    check(base, tmp_path, capsys, RUN, COMMANDS[command])


@pytest.mark.nightly
@pytest.mark.parametrize("command", TUNINGS)
def test_no_command_follows_a_link_in_any_place_of_a_tuning(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    check(base, tmp_path, capsys, TUNING, TUNINGS[command])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "command"), [*enumerate(TUNINGS)])
def test_no_command_follows_a_link_in_a_tuning(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], first: int, command: str
) -> None:
    check(base, tmp_path, capsys, TUNING, TUNINGS[command], slice(first, None, 5))


def test_a_link_is_refused_below_a_run_and_allowed_elsewhere(tmp_path: Path) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    (elsewhere / "inner").mkdir(parents=True)
    # a link may lead to a folder that looks like a run
    (elsewhere / "run.toml").write_text("format = 1")
    run.mkdir()
    (run / "run.toml").write_text("format = 1")
    (run / "checkpoints").symlink_to(elsewhere)
    (tmp_path / "link").symlink_to(run)
    for path in (run / "checkpoints" / "file", run / "checkpoints" / "inner" / "file"):
        for refused in (lambda path: write_new(path, b"x"), remove_folder, check_inside):
            with pytest.raises(OSError, match="leads out of the folder of the run"):
                refused(path)
        with pytest.raises(Exception, match="leads out of the folder of the run"):
            JournalWriter(path, run)
    check_inside(tmp_path / "link" / "events.jsonl")
    write_new(tmp_path / "link" / "file", b"x")
    assert (run / "file").read_bytes() == b"x" and [
        path.name for path in (elsewhere / "inner").iterdir()
    ] == []


def test_a_link_in_the_place_of_a_folder_is_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    for name in ("step", ".step.removed"):
        (tmp_path / name).symlink_to(kept)
    remove_folder(tmp_path / "step")
    assert (
        (kept / "file").exists()
        and not (tmp_path / "step").exists()
        and not (tmp_path / ".step.removed").is_symlink()
    )


def test_a_configuration_beside_a_link_to_the_runs_may_have_the_name_of_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, large_disk = tmp_path / "project", tmp_path / "large-disk"
    project.mkdir()
    large_disk.mkdir()
    monkeypatch.chdir(project)
    Path("runs").symlink_to(large_disk)
    Path("run.toml").write_text("steps = 4\n")
    code, _, error = called(capsys, "train", "digits", "--config", "run.toml", *QUIET)
    assert code == 0, error
