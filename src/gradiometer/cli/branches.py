"""The progress of a fork: a bar on a terminal, or a plain line every few seconds."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from gradiometer.cli.progress import Counter, error_console, waiting

if TYPE_CHECKING:
    from gradiometer.jobs.pool import Pool
    from gradiometer.loop.branch import BranchResult
    from gradiometer.loop.recorded.record import Plan


class Advised:
    """Shows how many branches are finished.

    Args:
        console: The console to draw on; None to show nothing.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.counted = 0
        self.began = False
        self.waiting = ExitStack()
        self.counter = Counter(console, "branches")

    def prepare(self) -> None:
        """Show that the branches are prepared, until the first of them begins: steps of the run may
        be repeated."""
        if self.console is not None:
            self.waiting.enter_context(waiting(self.console, "preparing the branches"))

    def begin(self, plan: "Plan") -> None:
        """Print what will be trained, and start the bar."""
        self.waiting.close()
        self.began = True
        if self.console is None:
            return
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

    def count(self, result: "BranchResult") -> None:
        """A branch is finished, and the number of all branches is not known."""
        self.waiting.close()
        self.counted += 1
        self.counter.line(f"{self.counted} branches, now {result.alternative}")

    def close(self) -> None:
        """Remove the bar."""
        self.waiting.close()
        self.counter.close()


def following(quiet: bool) -> AbstractContextManager[Advised]:
    """The progress on standard error, or none if `quiet`."""
    shown = Advised(None if quiet else error_console())
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
