"""Work that is killed again and again loses nothing, and ends with the bits of work that was never
killed.

`PYTHONPATH=tests/support python tests/fuzz/kills.py 500 [SEED [WORK,...]]` stops work so many times, or that
of some kinds, and prints the counts. A process that has imported everything forks a short process for each attempt.
It is stopped by SIGKILL, SIGTERM or Ctrl-C at a random moment, or kills itself at a random file
operation, in the middle of it if it writes: after its first byte, its half, or all but its last. It
does so at a random append to a journal as often as at any file operation, since few of these are
appends. What was appended is noted by the process, and every line of it must stay a line of a
journal.
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
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import torch
from faults import CALLS
from works import PROGRAMS, QUIET, WORKS, Facts, Work, hashed, is_training

import gradiometer
from gradiometer.cli import main

HARD, IN_ORDER, BY_HAND, AT_A_FILE, IN_AN_APPEND = (
    "SIGKILL",
    "SIGTERM",
    "Ctrl-C",
    "at a file operation",
    "in an append",
)
SIGNALS = {HARD: signal.SIGKILL, IN_ORDER: signal.SIGTERM, BY_HAND: signal.SIGINT}
ENDS = {HARD: (0, -9), IN_ORDER: (0, 5, -15), BY_HAND: (0, 5)}
"""Exit codes of a process that was sent a signal: 0 if it had just ended, 5 if it was stopped."""

NOTES = "appended"
SOON = 2.0
"""Seconds of the processor in which a process that is asked to stop has to end."""

DEATHS = 12
"""Kills of one piece of work, after which it is continued to its end."""


def opened_at(descriptor: int, name: object) -> str:
    """The whole path of an open file, where the system says it."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 (os.open is counted)
    except OSError:
        return str(name)


@contextmanager
def dying(way: str = "", place: int = -1) -> Iterator[Counter[str]]:
    """The process kills itself at this file operation or append of the block, in the middle of it
    if it writes.

    Yields the number of file operations and of appends so far. What is appended is noted in the
    file `NOTES`.
    """
    calls: Counter[str] = Counter()
    journals: set[int] = set()
    repeated: set[int] = set()
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
            if IN_AN_APPEND in ways and given[0] not in repeated:
                note(notes, bytes(given[1])[:made])
            elif name == "open":
                path = opened_at(made, given[0])
                (journals.add if path.endswith(".jsonl") else journals.discard)(made)
                # a lane that is stopped on its way is trained again from its start
                (repeated.add if "/lanes/" in path else repeated.discard)(made)
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
        # a shell starts what runs in the background without Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        for descriptor, name in ((1, "out"), (2, "err")):
            opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(opened, descriptor)
        with dying(way, place) as calls:
            try:
                if arguments[0] in PROGRAMS:
                    PROGRAMS[arguments[0]]()
                    code = 0
                else:
                    main([*arguments])
            except SystemExit as ended:
                code = int(ended.code or 0)
        Path("calls").write_text(json.dumps(calls))
    except KeyboardInterrupt:
        code = 5
    except BaseException:
        traceback.print_exc()
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
    """A folder with what a piece of work works on, which several works may share."""
    folder = parent / "ground" / hashed(json.dumps(work.ground).encode())
    if not folder.exists():
        folder.mkdir(parents=True)
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


def moment_of(draw: random.Random) -> float:
    """When to stop, in units of undisturbed work: mostly early, so that one piece of work is
    stopped several times before its end."""
    return draw.random() * draw.choice((0.2, 0.4, 1))


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
        self.ground = grounds(self.work, parent)
        folder = self._fresh()
        begin = time.monotonic()
        code = ended(begun(self.work.begin, folder))
        assert code == 0, (folder / "err").read_text()
        self._size(begin, folder)
        self.whole = self.work.facts(folder)

    def kill(self, draw: random.Random, deaths: int, counts: Counter[str]) -> None:
        """Stop one piece of work up to so many times, and continue it to its end."""
        folder, before = self._fresh(), Facts()
        for number in range(deaths):
            way = draw.choice((*SIGNALS, AT_A_FILE, IN_AN_APPEND))
            begin = time.monotonic()
            code = self._death(way, draw, folder)
            killed = code != 0
            if not number and not killed:
                self._size(begin, folder)
            counts[f"{self.name}, {way}"] += killed
            counts["kills"] += killed
            try:
                before = self._check(way, code, folder, before)
            except AssertionError as error:
                raise AssertionError(f"{self.name}, stop {number}, {way}: {error}") from None
            if not killed or before.get("status") == "finished" or before == self.whole:
                break
        try:
            self._continue(folder, before)
        except AssertionError as error:
            raise AssertionError(f"{self.name}, continued: {error}") from None
        counts["pieces of work"] += 1
        shutil.rmtree(folder)

    def _check(self, way: str, code: int, folder: Path, before: Facts) -> Facts:
        """What the work has done, after a stop that lost nothing of what it had done before."""
        said = (folder / "err").read_text() if (folder / "err").exists() else ""
        assert code in ENDS.get(way, (0, -9)) and "Traceback" not in said, f"exit {code}: {said}"
        after = self.work.facts(folder)
        check_kept(before, after, self.whole)
        check_lines(folder)
        return after

    def _continue(self, folder: Path, before: Facts) -> None:
        """Go on to the end, which must be that of undisturbed work."""
        if before.get("status") != "finished" and before != self.whole:
            code = ended(begun(next_of(self.work, folder), folder))
            assert code == 0, (folder / "err").read_text()
        found = self.work.facts(folder)
        different = {
            name: (found.get(name), part)
            for name, part in self.whole.items()
            if found.get(name) != part
        }
        assert not different, f"not as undisturbed work: {different!s:.1000}"
        check_lines(folder)
        self._write_page(folder)
        left = [
            path
            for path in folder.rglob(".*")
            if path.is_file() and (path.parent / "run.toml").exists()
        ]
        assert not left, f"left over {left}"

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
            place = int(self.calls.get(way, 1) * moment_of(draw))
            return ended(begun(command, folder, way, place))
        number = begun(command, folder)
        moment = time.monotonic() + self.seconds * moment_of(draw)
        while time.monotonic() < moment and not os.waitid(
            os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            time.sleep(0.002)
        used = processor_seconds(number)
        os.kill(number, SIGNALS[way])
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
        took = processor_seconds(number) - used
        assert took < SOON, f"{self.name}: {took:.1f} s from {way} to the end"
        return ended(number)


def warm() -> None:
    """Import what the works import, once for all processes."""
    torch.set_num_threads(
        1
    )  # two threads for one small model wait for each other on a busy machine
    for module in pkgutil.walk_packages(gradiometer.__path__, "gradiometer."):
        if "integrations" not in module.name and not module.name.endswith(
            ("__main__", "on_ray", "ray_task")
        ):
            importlib.import_module(module.name)
    # What is imported when it is first used: a compiler, the charts of a page.
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        PROGRAMS["forking_loop"]()
        os.chdir(here)


def many(total: int, seed: int, counts: Counter[str], names: Sequence[str] = tuple(WORKS)) -> None:
    """Kill at least so many times, each kind of work in turn, and count in `counts`."""
    warm()
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


def print_table(counts: Counter[str]) -> None:
    for what, count in sorted(counts.items()):
        click.echo(f"{count:6}  {what}")


if __name__ == "__main__":
    given = [*sys.argv[1:], *("100", "0", "")[len(sys.argv) - 1 :]]
    chosen = [name for name in given[2].split(",") if name]
    found: Counter[str] = Counter()
    try:
        many(int(given[0]), int(given[1]), found, chosen or tuple(WORKS))
    finally:
        # also of what was stopped by Ctrl-C before its end
        print_table(found)
    sys.exit(found["faults"] > 0)
