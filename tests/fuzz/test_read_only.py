"""Every command on a run of somebody else, who lets others read it, or only parts of it."""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest
from command_lines import GROUPS, SHORT
from harness import recorded_run
from kills import ended

from gradiometer.cli import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
NOBODY = 65534
COMMANDS = {
    name: (*((GROUPS[name],) if name in GROUPS else ()), name, *arguments)
    for name, arguments in SHORT.items()
    if "--nothing" not in arguments
}


def as_nobody(arguments: tuple[str, ...], folder: Path, said: Path) -> int:
    """The exit code of a command of another user, in a folder; what it says is written to a
    file."""
    number = os.fork()
    if number:
        return ended(number)
    code = 70
    try:
        os.chdir(folder)
        with said.open("w") as file, redirect_stdout(file), redirect_stderr(file):
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            try:
                main([*arguments])
            except SystemExit as stopped:
                code = int(stopped.code or 0)
    finally:
        os._exit(code)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run, in folders that everybody may look into."""
    made = tmp_path_factory.mktemp("read-only")
    for parent in (made, *made.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    base = recorded_run(made / "base")
    for name in ("run", "other"):
        shutil.copytree(base, made / "ground" / name)
    # The other user may not be able to import what lies in the home of this one.
    for place, arguments in enumerate(COMMANDS.values()):
        shutil.copytree(made / "ground", made / f"imports {place}")
        with pytest.MonkeyPatch.context() as patch, suppress(SystemExit):
            patch.chdir(made / f"imports {place}")
            main([*arguments])
    yield made / "ground"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lock(folder: Path) -> None:
    """Let everybody read, and nobody write."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def check(command: str, folder: Path, said: Path, label: str) -> None:
    before = contents(folder)
    code = as_nobody(COMMANDS[command], folder, said)
    text = said.read_text()
    assert code in (0, 2, 3, 6), f"{label}: exit {code}: {text}"
    assert "Traceback" not in text and "bug in gradiometer" not in text, f"{label}: {text}"
    assert code in (0, 3) or "rror: " in text, f"{label}: {text}"
    assert contents(folder) == before, label


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_a_folder_that_cannot_be_written_to_is_done_or_says_why(
    command: str, ground: Path, tmp_path: Path
) -> None:
    lock(ground)
    check(command, ground, tmp_path / "said", command)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "files",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.nightly)],
)
def test_a_file_that_cannot_be_read_is_named(
    command: str, files: int, ground: Path, tmp_path: Path
) -> None:
    """As root, who reads every file, the command is another user."""
    names = sorted(path for path in (ground / "run").rglob("*"))
    for path in random.Random(command).sample(names, files):
        lock(ground)
        path.chmod(0o000)
        check(command, ground, tmp_path / "said", f"{command}, {path.relative_to(ground)}")
    lock(ground)
