"""The progress of a fork on the terminal: a bar, or a plain line every 10 seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from gradiometer.forks.branch import BranchResult
    from gradiometer.forks.recorded.plan import Plan

LINE_SECONDS = 10.0


class Following:
    """Shows how many branches are finished.

    Args:
        console: The console to draw on; None to show nothing.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.shown_at = time.monotonic()
        self.counted = 0
        self._bar: Progress | None = None

    def begin(self, plan: "Plan") -> None:
        """Print what will be trained, and start the bar."""
        if self.console is None:
            return
        count = len(plan.branches)
        self.console.print(
            f"{', '.join(plan.names)}: {count} branches from step {plan.step:,}, {plan.horizon:,} examples each",
            highlight=False,
            soft_wrap=not self.console.is_terminal,
        )
        if self.console.is_terminal:
            columns = (TextColumn("branches"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.add_task("branches", total=count)
            self._bar.start()

    def update(self, result: "BranchResult", done: int, total: int) -> None:
        """A branch is finished."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        elif self.console is not None and (time.monotonic() - self.shown_at >= LINE_SECONDS or done == total):
            self.shown_at = time.monotonic()
            self.console.print(f"{done} of {total} branches", highlight=False)

    def count(self, result: "BranchResult") -> None:
        """A branch is finished, and the number of all branches is not known."""
        self.counted += 1
        if self.console is not None and time.monotonic() - self.shown_at >= LINE_SECONDS:
            self.shown_at = time.monotonic()
            self.console.print(f"{self.counted} branches, now {result.alternative}", highlight=False)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def following(quiet: bool) -> Iterator[Following]:
    """The progress on standard error, or none if `quiet`."""
    shown = Following(None if quiet else Console(stderr=True, file=sys.stderr))
    try:
        yield shown
    finally:
        shown.close()
