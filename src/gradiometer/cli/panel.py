"""The view of a run during training: a live panel on a terminal, otherwise a plain line every 5
seconds."""

import gc
import textwrap
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gradiometer.cli.progress import LINE_SECONDS, clock, error_console, waiting
from gradiometer.drift.spikes.cause import explain, spikes_finding
from gradiometer.drift.spikes.detection import find_spikes
from gradiometer.estimation.batch_advice import is_outranked
from gradiometer.measurement.estimate import Estimate, Estimates, counted, significant
from gradiometer.measurement.finding import Finding, State
from gradiometer.measurement.gauge import Gauge, RunFacts, estimates_of
from gradiometer.report.charts.interval_strip import interval
from gradiometer.report.sections.questions import (
    NOT_MEASURED,
    NOT_MEASURED_SYMBOL,
    QUESTIONS,
    Answer,
)
from gradiometer.run.cadence.overhead import of_the_budget, time_used, too_few
from gradiometer.run.planned import hyperparameters_of
from gradiometer.verdict.diagnosis import judge
from gradiometer.verdict.words.say import say

if TYPE_CHECKING:
    from gradiometer.run.folder import RunFolder
    from gradiometer.run.recorder import Recorder
    from gradiometer.train.training import Training

SMOOTHING = 0.98

# Number of the last losses in which spikes are searched.
LOSSES = 4096

# Width of the names of the questions, in characters.
NAMES = 14

BLOCKS = "▁▂▃▄▅▆▇█"

COLOURS = {State.OK: "green", State.LOOK: "yellow", State.ACT: "red", State.CANNOT_TELL: "cyan"}


class Panel:
    """Shows a run during training. Drawing counts as time of the instrument.

    Args:
        console: The console to draw on.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.waiting = ExitStack()
        self.path = Path()
        self.loss: float | None = None
        self.losses: deque[float] = deque(maxlen=LOSSES)
        self.rates: deque[float] = deque(maxlen=LOSSES)
        self.shown_at = 0.0
        self.began_at = 0.0
        self.began_step = 0
        self.interval = 1.0 if console.is_terminal else LINE_SECONDS

    def wait(self, words: str) -> None:
        """Show that work continues in which no step is made, until the panel starts or is
        stopped."""
        self.close()
        self.waiting.enter_context(waiting(self.console, words))

    def begin(self, training: "Training", recorder: "Recorder", folder: "RunFolder") -> None:
        """Print what will be trained, and start the panel."""
        self.close()
        # A search for garbage in all modules of torch takes a quarter of a second, and would count
        # as the cost of the measured step that it comes in.
        gc.freeze()
        self.shown_at = self.began_at = time.monotonic()
        self.began_step = training.step
        self.path = folder.path
        self.console.print(
            f"{training.problem.name} · {training.problem.model_name} · "
            f"{counted(training.objective.dimension, 'parameter')} · "
            f"{counted(training.steps, 'step')} of B = {training.configuration.batch_size:,} · "
            f"{folder.path}",
            highlight=False,
            soft_wrap=True,
        )
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()

    def update(self, training: "Training", recorder: "Recorder", loss: float) -> None:
        """Add the loss of a step, and draw if the interval has passed."""
        self.loss = loss if self.loss is None else SMOOTHING * self.loss + (1 - SMOOTHING) * loss
        self.losses.append(loss)
        self.rates.append(training.learning_rate)
        if training.step == training.steps:
            self.wait("the last checks")
            return
        now = time.monotonic()
        if now - self.shown_at < self.interval:
            return
        self.shown_at = now
        with training.budget.spending("panel"):
            if self.live is not None:
                self.live.update(self._draw(training, recorder), refresh=True)
            else:
                self.console.print(self._line(training, recorder), highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning, which stays above the panel."""
        self.console.print(
            f"warning: {text}",
            highlight=False,
            markup=False,
            soft_wrap=not self.console.is_terminal,
        )

    def close(self) -> None:
        """Stop the panel."""
        self.waiting.close()
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _draw(self, training: "Training", recorder: "Recorder") -> RenderableType:
        bar = Table.grid("bar", "words", expand=True, padding=(0, 1))
        bar.columns[0].ratio = 1
        bar.add_row(
            ProgressBar(total=training.steps, completed=training.step),
            f"step {training.step:,} of {training.steps:,} · {self._time_left(training)} left",
        )
        estimated = list(_estimates(training, recorder))
        width = min(100, self.console.width)
        overhead = recorder.overhead
        # Fixed costs, such as the check of the edge before the first step, are many times the
        # training of the first second.
        used = time_used({**overhead, "used": of_the_budget(overhead)}, recorder.every)
        measured = f"measured {counted(overhead['measured_steps'], 'step')}, using {used}"
        cost = f"{measured}\n{too_few(overhead, recorder.every)}"
        return Box(
            Group(
                bar,
                self._numbers(training, estimated, width),
                self._questions(training, estimated, width),
                Text(cost.rstrip(), style="dim"),
            ),
            title=Text(f"gradiometer · {training.problem.name}"),
            title_align="left",
            width=width,
        )

    def _numbers(
        self, training: "Training", estimated: "list[tuple[Gauge, Estimates]]", width: int
    ) -> Table:
        """The loss with its curve, the present learning rate, and the noise scale now."""
        scales = [found["noise_scale"] for _, found in estimated if "noise_scale" in found]
        known = bool(scales) and scales[0].tells
        noise = _with_interval(scales[0]) if known else "cannot tell yet"
        table = Table.grid(padding=(0, 1))
        table.add_column(width=NAMES + 3)
        table.add_column(no_wrap=True)
        curve = spark(self.losses, width - NAMES - 20)
        table.add_row("loss", Text(f"{self.loss:<10.4f}{curve}"))
        table.add_row("learning rate", f"{training.learning_rate:.3g}")
        table.add_row("noise scale now", f"{noise}, B = {training.configuration.batch_size:,}")
        return table

    def _questions(
        self, training: "Training", estimated: "list[tuple[Gauge, Estimates]]", width: int
    ) -> Table:
        """The five questions in two lines each: the finding, or the command that would measure
        it."""
        room = max(width - NAMES - 8, 20)
        table = Table.grid(padding=(0, 1))
        for column in (2, NAMES, room):
            table.add_column(width=column)

        def add(short: str, finding: Finding) -> None:
            style = COLOURS[finding.state]
            body = two_lines(f"{finding.state}: {say(finding).seen}", room)
            table.add_row(Text(finding.state.symbol, style), Text(short, style), Text(body))

        configuration, measured = training.configuration, {gauge.name for gauge, _ in estimated}
        settings = hyperparameters_of(configuration, training.step)
        facts = RunFacts(settings, configuration.schedule, frozenset(measured))
        answers = []
        for gauge, estimates in sorted(
            estimated, key=lambda pair: is_outranked(pair[0].name, measured)
        ):
            judged = judge(gauge, estimates, facts)
            if judged is not None:
                answers.append(Answer(judged, estimates, gauge))
        for question in QUESTIONS:
            found = question.answers(answers)
            if found:
                add(question.short, found[0].finding)
            else:
                command = question.command_for(self.path, training.configuration)
                body = two_lines(f"{NOT_MEASURED} yet\n{command}", room)
                dim = (Text(words, "dim") for words in (NOT_MEASURED_SYMBOL, question.short))
                table.add_row(*dim, Text(body))
        steps = range(training.step - len(self.losses), training.step)
        spikes = [
            spike.at(steps)
            for spike in find_spikes(np.array(self.losses), rates=np.array(self.rates))
        ]
        if spikes:
            add("spikes", spikes_finding(spikes, explain))
        return table

    def _line(self, training: "Training", recorder: "Recorder") -> str:
        parts = [f"step {training.step:,}/{training.steps:,}", f"loss {self.loss:.4f}"]
        parts.append(f"learning rate {training.learning_rate:.3g}")
        for _, estimates in _estimates(training, recorder):
            # the first estimate of a gauge is the one that it is about
            name, estimate = next(iter(estimates.items()))
            parts.append(f"{name.replace('_', ' ')} {_with_interval(estimate)}")
        return " · ".join([*parts, f"{self._time_left(training)} left"])

    def _time_left(self, training: "Training") -> str:
        done = max(training.step - self.began_step, 1)
        seconds = time.monotonic() - self.began_at
        return clock(seconds / done * (training.steps - training.step))


def watching(quiet: bool) -> AbstractContextManager[Panel | None]:
    """A panel on standard error, or None if `quiet`."""
    if quiet:
        return nullcontext()
    panel = Panel(error_console())
    panel.wait("loading")
    return closing(panel)


def _estimates(training: "Training", recorder: "Recorder") -> "Iterator[tuple[Gauge, Estimates]]":
    for gauge in training.gauges:
        series = recorder.recent(gauge.name)
        if series is not None and len(series) > 1:
            yield (
                gauge,
                estimates_of(gauge, series.at_newest(by_layer=False), training.configuration.level),
            )


def spark(values: Iterable[float], width: int) -> str:
    """A curve of small blocks: the means over at most `width` parts of the finite values, on a
    scale of their own.

    >>> spark([8.0, 4.0, 2.0, 1.0, 1.0, 1.0], 3)
    '█▃▁'
    """
    numbers = np.array([value for value in values if np.isfinite(value)])
    if not len(numbers) or width < 1:
        return ""
    means = [part.mean() for part in np.array_split(numbers, min(width, len(numbers)))]
    heights = np.log(means) if min(means) > 0 else np.array(means)
    levels = (heights - heights.min()) / (np.ptp(heights) or 1.0) * (len(BLOCKS) - 1)
    return "".join(BLOCKS[round(level)] for level in levels.tolist())


def two_lines(words: str, width: int) -> str:
    """A text in exactly two lines of this width. A longer text ends in an ellipsis.

    >>> two_lines("The noise scale is above the batch size.", 16).split("\\n")
    ['The noise scale', 'is above the …']
    """
    lines = [line for part in words.split("\n") for line in textwrap.wrap(part, width)][:3]
    if len(lines) > 2:
        lines = [lines[0], textwrap.shorten(f"{lines[1]} {lines[2]} …", width, placeholder=" …")]
    return "\n".join([*lines, "", ""][:2])


def _with_interval(estimate: Estimate) -> str:
    value = significant(estimate.value)
    return f"{value} {interval(estimate)}" if estimate.tells else str(estimate)
