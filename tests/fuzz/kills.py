"""Work that is killed again and again loses nothing, and ends with the bits of work that was never
killed.

`python tests/fuzz/kills.py 1000 [SEED]` kills so many times and prints the counts. A process that
has imported everything forks a short process for each attempt. It is killed by SIGKILL or SIGTERM
at a random moment, or kills itself
at a random file operation, in the middle of it if it writes: after its first byte, its half, or all
but its last. It does so at a random append to a journal as often as at any file operation, since
few of these are appends. What was appended is noted by the process, and every line of it must stay
a line of a journal.
"""

import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
from faults import CALLS
from works import LOOP, QUIET, WORKS, Facts, Work, is_training, watched_loop

import gradiometer
from gradiometer.cli import main

HARD, IN_ORDER, AT_A_FILE, IN_AN_APPEND = (
    "SIGKILL",
    "SIGTERM",
    "at a file operation",
    "in an append",
)
NOTES = "appended"
SOON = 2.0
"""Seconds of the processor in which a process that is asked to stop has to end."""

DEATHS = 12
"""Kills of one piece of work, after which it is continued to its end."""


@contextmanager
def dying(way: str = "", place: int = -1) -> Iterator[Counter[str]]:
    """The process kills itself at this file operation or append of the block, in the middle of it
    if it writes.

    Yields the number of file operations and of appends so far. What is appended is noted in the
    file `NOTES`.
    """
    calls: Counter[str] = Counter()
    journals: set[int] = set()
    notes, note = os.open(NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), os.write

    def wrapped(name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            ways = [
                AT_A_FILE,
                *([IN_AN_APPEND] if name == "write" and given[0] in journals else []),
            ]
            dies = way in ways and calls[way] == place
            calls.update(ways)
            if dies:
                if name == "write":
                    size = len(given[1])
                    really(given[0], bytes(given[1])[: (1, size // 2, size - 1)[place % 3]])
                os.kill(os.getpid(), signal.SIGKILL)
            made = really(*given, **named)
            if IN_AN_APPEND in ways:
                note(notes, bytes(given[1])[:made])
            elif name == "open":
                (journals.add if str(given[0]).endswith(".jsonl") else journals.discard)(made)
            return made

        return call

    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(patch.object(os, name, wrapped(name, getattr(os, name))))
        yield calls


def begun(arguments: Sequence[str], folder: Path, way: str = "", place: int = -1) -> int:
    """Start a command in a forked process. Returns its number. The number of its file operations is
    written at its end."""
    if number := os.fork():
        return number
    code = 70
    try:
        os.chdir(folder)
        for descriptor, name in ((1, "out"), (2, "err")):
            opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(opened, descriptor)
        with dying(way, place) as calls:
            try:
                if tuple(arguments) == LOOP:
                    watched_loop()
                    code = 0
                else:
                    main([*arguments])
            except SystemExit as ended:
                code = int(ended.code or 0)
        Path("calls").write_text(json.dumps(calls))
    finally:
        os._exit(code)


def processor_seconds(number: int) -> float:
    """What a process has used so far, also one that has ended and is not waited for; 0 where the
    system does not say."""
    path = Path(f"/proc/{number}/stat")
    if not path.exists():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ended(number: int) -> int:
    """The exit code of a process; the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def grounds(work: Work, parent: Path) -> Path:
    """A new folder for a piece of work, with what it works on."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    if work.ground and ended(begun(work.ground, folder)):
        raise AssertionError((folder / "err").read_text())
    return folder


def records(content: bytes) -> set[str]:
    """The lines that are JSON, with sorted names: the file of a fork's branches may be written anew
    without damaged lines."""
    found = set()
    for line in content.split(b"\n"):
        with suppress(ValueError):
            found.add(json.dumps(json.loads(line), sort_keys=True))
    return found


def check_lines(folder: Path) -> None:
    """Every line that was appended to a journal is a line of one."""
    lost = records((folder / NOTES).read_bytes()) if (folder / NOTES).exists() else set()
    for path in folder.rglob("*.jsonl"):
        lost -= records(path.read_bytes())
    assert not lost, f"appended, and then lost: {[line[:100] for line in lost]}"


def next_of(work: Work, folder: Path) -> tuple[str, ...]:
    """The command that continues a piece of work."""
    if is_training(work) and (found := sorted(folder.glob("runs/*/run.toml"))):
        return ("resume", str(found[0].parent), *QUIET)
    return work.begin


def check_kept(before: Any, after: Any, whole: Any) -> None:
    """Nothing that was there is lost, and everything that is there is as in undisturbed work."""
    for name, part in before.items():
        if isinstance(part, dict) and name != "tensors":
            kept = set(part)
            # a resumed run repeats those from its checkpoint on
            if name in (
                "losses",
                "readings",
                "events",
            ):
                kept = {each for each in part if int(str(each).split()[-1]) < before["step"]}
            assert kept <= set(after[name]), f"{name}: lost {kept - set(after[name])}"
    for name in ("losses", "branches", "snapshots", "files"):
        for place, value in after.get(name, {}).items():
            assert whole[name].get(place) == value, f"{name} {place}: not as in undisturbed work"
    assert before.get("step", 0) <= after.get("step", 0), "a checkpoint is lost"


class Killer:
    """Kills one kind of work, again and again.

    Args:
        name: Its name in `WORKS`.
        parent: Folder for everything.
    """

    def __init__(self, name: str, parent: Path) -> None:
        self.name, self.work = name, WORKS[name]
        self.parent = parent / name.replace(" ", "")
        self.parent.mkdir()
        self.ground = grounds(self.work, self.parent)
        folder = self._fresh()
        begin = time.monotonic()
        code = ended(begun(self.work.begin, folder))
        assert code == 0, (folder / "err").read_text()
        self._size(begin, folder)
        self.whole = self.work.facts(folder)

    def kill(self, draw: random.Random, deaths: int, counts: Counter[str]) -> None:
        """Kill one piece of work up to so many times, and continue it to its end."""
        folder, before = self._fresh(), Facts()
        for _ in range(deaths):
            way = draw.choice((HARD, IN_ORDER, AT_A_FILE, IN_AN_APPEND))
            begin, untouched = time.monotonic(), not before
            code = self._death(way, draw, folder)
            killed = code != 0
            if untouched and not killed:
                self._size(begin, folder)
            counts[f"{self.name}, {way}"] += killed
            counts["kills"] += killed
            expected = (0, 5, -15) if way == IN_ORDER else (0, -9)
            said = (folder / "err").read_text() if (folder / "err").exists() else ""
            assert code in expected and "Traceback" not in said, (
                f"{self.name}, {way}, exit {code}: {said}"
            )
            after = self.work.facts(folder)
            check_kept(before, after, self.whole)
            check_lines(folder)
            before = after
            if not killed or after.get("status") == "finished" or after == self.whole:
                break
        if before.get("status") != "finished" and before != self.whole:
            code = ended(begun(next_of(self.work, folder), folder))
            assert code == 0, f"{self.name}, continued: {(folder / 'err').read_text()}"
        found = self.work.facts(folder)
        different = {
            name: (found.get(name), part)
            for name, part in self.whole.items()
            if found.get(name) != part
        }
        assert not different, f"{self.name}: not as undisturbed work: {different!s:.1000}"
        check_lines(folder)
        self._write_page(folder)
        left = [
            path
            for path in folder.rglob(".*")
            if path.is_file() and (path.parent / "run.toml").exists()
        ]
        assert not left, f"{self.name}: left over {left}"
        counts["pieces of work"] += 1
        shutil.rmtree(folder)

    def _write_page(self, folder: Path) -> None:
        """Write a page that was killed after the last step or branch, as a user would."""
        for found in folder.glob("runs/*/run.toml"):
            page = found.parent / "report.html"
            if not page.exists() or page.with_name(f".{page.name}.partial").exists():
                code = ended(begun(("show", str(found.parent), *QUIET), folder))
                assert code == 0, f"{self.name}, page: {(folder / 'err').read_text()}"

    def _size(self, begin: float, folder: Path) -> None:
        """The length of undisturbed work. A busy machine changes it, and what falls behind its end
        kills nothing."""
        self.seconds, self.calls = (
            time.monotonic() - begin,
            json.loads((folder / "calls").read_text()),
        )

    def _fresh(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.parent))
        return shutil.copytree(self.ground, folder, dirs_exist_ok=True)

    def _death(self, way: str, draw: random.Random, folder: Path) -> int:
        """The exit code of a command that is killed in this way."""
        command = next_of(self.work, folder)
        if way in (AT_A_FILE, IN_AN_APPEND):
            return ended(begun(command, folder, way, draw.randrange(self.calls.get(way, 1))))
        number = begun(command, folder)
        moment = time.monotonic() + draw.uniform(0, self.seconds)
        while time.monotonic() < moment and not os.waitid(
            os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            time.sleep(0.002)
        used = processor_seconds(number)
        os.kill(number, signal.SIGKILL if way == HARD else signal.SIGTERM)
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
        took = processor_seconds(number) - used
        assert took < SOON, f"{self.name}: {took:.1f} s from {way} to the end"
        return ended(number)


def warm() -> None:
    """Import what the commands import, once for all processes."""
    for module in pkgutil.walk_packages(gradiometer.__path__, "gradiometer."):
        if "integrations" not in module.name and not module.name.endswith(
            ("__main__", "on_ray", "ray_task")
        ):
            importlib.import_module(module.name)


def many(total: int, seed: int, names: Sequence[str] = tuple(WORKS)) -> Counter[str]:
    """Kill at least so many times, each kind of work in turn. Returns the counts."""
    warm()
    counts: Counter[str] = Counter()
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as parent:
        killers = [Killer(name, Path(parent)) for name in names]
        while counts["kills"] < total:
            for killer in killers:
                if counts["kills"] < total:
                    try:
                        killer.kill(draw, min(DEATHS, total - counts["kills"]), counts)
                    except AssertionError as fault:
                        counts["faults"] += 1
                        click.echo(f"--- fault {counts['faults']}: {fault}")
            click.echo(f"{counts['kills']} kills of {counts['pieces of work']} pieces of work")
    return counts


if __name__ == "__main__":
    arguments = [*map(int, sys.argv[1:3]), 0]
    found = many(arguments[0], arguments[1])
    for what, count in sorted(found.items()):
        click.echo(f"{count:6}  {what}")
    sys.exit(found["faults"] > 0)
