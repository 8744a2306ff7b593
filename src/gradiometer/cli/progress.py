"""Progress of long work on standard error: a bar on a terminal, otherwise a plain line every few
seconds.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from gradiometer.jobs.pool import Pool
    from gradiometer.loop.branch import BranchResult
    from gradiometer.loop.recorded.record import Plan


# Seconds between two plain lines.
LINE_SECONDS = 5.0


class Counter:
    """Shows how many pieces of work are finished.

    Args:
        console: The console to draw on.
        words: The name of the pieces, such as "branches".
    """

    def __init__(self, console: Console, words: str) -> None:
        self.console = console
        self.words = words
        self.began_at = self.shown_at = time.monotonic()
        self._bar: Progress | None = None

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` are finished; with 0 they begin now."""
        if not self.console.is_terminal:
            if done == 0:
                self.began_at = self.shown_at = time.monotonic()
                return
            left = (time.monotonic() - self.began_at) / done * (total - done)
            ending = f" · {clock(left)} left" if done < total else ""
            self.line(f"{done:,} of {total:,} {self.words}{ending}", at_once=done == total)
            return
        if self._bar is None:
            columns = (
                TextColumn(self.words),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.add_task(self.words, total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def line(self, text: str, *, at_once: bool = False) -> None:
        """Print a line, if the last one is `LINE_SECONDS` old."""
        if at_once or time.monotonic() - self.shown_at >= LINE_SECONDS:
            self.shown_at = time.monotonic()
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


def counting(words: str, *, quiet: bool = False) -> AbstractContextManager[Counter]:
    """A counter on standard error, or none if `quiet`."""
    return closing(Counter(error_console(quiet=quiet), words))


def working(words: str, *, quiet: bool = False) -> AbstractContextManager[object]:
    """Show that work of unknown length continues, with the time that has passed.

    Args:
        words: Name of the work, such as "sampling".
        quiet: Show nothing.
    """
    return waiting(error_console(quiet=quiet), words)


def waiting(console: Console, words: str) -> AbstractContextManager[object]:
    """The same on a console that is given."""
    return console.status(words) if console.is_terminal else _lines(console, words)


@contextmanager
def _lines(console: Console, words: str) -> Iterator[None]:
    began, ended = time.monotonic(), Event()

    def say() -> None:
        while not ended.wait(LINE_SECONDS):
            console.print(
                f"{words}: {time.monotonic() - began:,.0f} s",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    thread = Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def clock(seconds: float) -> str:
    """A time in minutes and seconds.

    >>> clock(75.2)
    '1:15'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def error_console(*, quiet: bool = False) -> Console:
    """A console on standard error. A quiet one shows nothing, and draws no bar."""
    terminal = False if quiet else None
    return Console(stderr=True, file=sys.stderr, quiet=quiet, force_terminal=terminal)


class Advised:
    """Shows how many branches are finished.

    Args:
        console: The console to draw on.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = False
        self.waiting = ExitStack()
        self.counter = Counter(console, "branches")

    def prepare(self) -> None:
        """Show that the branches are prepared, until the first of them begins: steps of the run may
        be repeated."""
        self.waiting.enter_context(waiting(self.console, "preparing the branches"))

    def begin(self, plan: "Plan") -> None:
        """Print what will be trained, and start the bar."""
        self.waiting.close()
        self.began = True
        count = len(plan.branches)
        self.console.print(
            f"{'; '.join(plan.names)}: {count} branches from step {plan.step:,}, {plan.horizon:,} "
            "examples each",
            highlight=False,
            soft_wrap=not self.console.is_terminal,
        )
        self.counter.update(0, count)

    def update(self, result: "BranchResult", done: int, total: int) -> None:
        """A branch is finished."""
        self.counter.update(done, total)

    def close(self) -> None:
        """Remove the bar."""
        self.waiting.close()
        self.counter.close()


def following(quiet: bool) -> AbstractContextManager[Advised]:
    """The progress on standard error, or none if `quiet`."""
    shown = Advised(error_console(quiet=quiet))
    shown.prepare()
    return closing(shown)


@contextmanager
def start_pool(pool: str) -> "Iterator[Pool]":
    """The pool of a text. Its processes import what a run's branches need while this program does
    the same."""
    from gradiometer.jobs.choice import opened

    with opened(pool) as where:
        where.start(["gradiometer.train.restoring"])
        yield where
