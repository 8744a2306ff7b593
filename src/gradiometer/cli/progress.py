"""Progress of long work on standard error: a bar on a terminal, otherwise a plain line every few
seconds. A training has plain lines, and its headline when that changes.
"""

import gc
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from gradiometer.jobs.pool import Pool
    from gradiometer.loop.branch import BranchResult
    from gradiometer.loop.recorded.record import Plan
    from gradiometer.run.folder import RunFolder
    from gradiometer.run.recorder import Recorder
    from gradiometer.train.training import Training

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


# Seconds of training before its headline is read for the first time.
FIRST_HEADLINE = 10.0

# Largest share of the time that reading the headline may take. It counts against the 2 % of the
# instrument, of which the measurements need nearly all.
HEADLINE_SHARE = 0.004

# Weight of the mean of earlier losses against the newest one.
SMOOTHING = 0.98


class TrainingProgress:
    """Prints a line every few seconds while a run is trained, and its headline when that changes.
    Its time counts as time of the instrument.

    Args:
        console: The console to print on.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.waiting = ExitStack()
        self.path = Path()
        self.loss: float | None = None
        self.claim = ""
        self.began_at = self.shown_at = self.reads_at = 0.0
        self.began_step = 0

    def wait(self, words: str) -> None:
        """Show that work continues in which no step is made, until `begin` or `close`."""
        self.close()
        self.waiting.enter_context(waiting(self.console, words))

    def begin(self, training: "Training", recorder: "Recorder", folder: "RunFolder") -> None:
        """Print what will be trained, and how to open its page meanwhile."""
        from gradiometer.measurement.estimate import counted

        self.close()
        # A search for garbage in all modules of torch takes a quarter of a second, and would count
        # as the cost of the measured step that it comes in.
        gc.freeze()
        self.began_at = self.shown_at = time.monotonic()
        self.reads_at = self.began_at + FIRST_HEADLINE
        self.began_step = training.step
        self.path = folder.path
        self._print(
            f"{training.problem.name} · {training.problem.model_name} · "
            f"{counted(training.objective.dimension, 'parameter')} · "
            f"{counted(training.steps, 'step')} of B = {training.configuration.batch_size:,} · "
            f"{folder.path}"
        )
        self._print(
            f"The page during training: gradiometer show --live {shlex.quote(str(self.path))}"
        )

    def update(self, training: "Training", recorder: "Recorder", loss: float) -> None:
        """Add the loss of a step, and print a line if the last one is `LINE_SECONDS` old."""
        self.loss = loss if self.loss is None else SMOOTHING * self.loss + (1 - SMOOTHING) * loss
        if training.step == training.steps:
            self.wait("the last checks")
            return
        now = time.monotonic()
        if now - self.shown_at < LINE_SECONDS:
            return
        self.shown_at = now
        with training.budget.spending("progress"):
            self._print(self._line(training))
            if now >= self.reads_at:
                self._read_headline()

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.console.print(
            f"warning: {text}",
            highlight=False,
            markup=False,
            soft_wrap=not self.console.is_terminal,
        )

    def close(self) -> None:
        """End what `wait` shows."""
        self.waiting.close()

    def _line(self, training: "Training") -> str:
        done = max(training.step - self.began_step, 1)
        seconds = (time.monotonic() - self.began_at) / done * (training.steps - training.step)
        return (
            f"step {training.step:,}/{training.steps:,} · loss {self.loss:.4f} · "
            f"learning rate {training.learning_rate:.3g} · {clock(seconds)} left"
        )

    def _read_headline(self) -> None:
        """Print the headline of what the run has on disk by now, if it is another one."""
        from gradiometer.run.reader import Run
        from gradiometer.verdict.diagnosis import diagnose

        began = time.monotonic()
        run = Run.reopen(self.path)
        diagnosis = diagnose(run)
        self.reads_at = time.monotonic() + (time.monotonic() - began) / HEADLINE_SHARE
        headline = diagnosis.headline
        if headline is not None and run.steps and headline.claim != self.claim:
            self.claim = headline.claim
            self._print(f"so far: {diagnosis.said}")

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def watching(quiet: bool) -> AbstractContextManager[TrainingProgress | None]:
    """The progress of a training on standard error, or None if `quiet`."""
    if quiet:
        return nullcontext()
    progress = TrainingProgress(error_console())
    progress.wait("loading")
    return closing(progress)


@contextmanager
def start_pool(pool: str) -> "Iterator[Pool]":
    """The pool of a text. Its processes import what a run's branches need while this program does
    the same."""
    from gradiometer.jobs.choice import opened

    with opened(pool) as where:
        where.start(["gradiometer.train.restoring"])
        yield where
