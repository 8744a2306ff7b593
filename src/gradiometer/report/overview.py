"""The runs of a folder at a glance: one line for each, sorted and filtered, and a page."""

import difflib
import fnmatch
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradiometer.errors import BadArgument, GradiometerError
from gradiometer.measurement import Estimate, State
from gradiometer.report.charts.blocks import blocks
from gradiometer.report.charts.interval_strip import Sparkline, interval, number, sparkline
from gradiometer.report.charts.theme import LISTS
from gradiometer.report.page.document import document, write_document
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import run_folders
from gradiometer.run.reader import Run, Status
from gradiometer.storage.disk import reason_of
from gradiometer.verdict.diagnosis import diagnose
from gradiometer.verdict.words.say import in_brief

STATUS_SYMBOLS = {"running": "▸", "finished": "✓", "interrupted": "‖", "diverged": "▲"}


@dataclass(frozen=True)
class RunRow:
    """A run as one line.

    Args:
        path: Its folder.
        problem: Name of the problem, or of the watched loop.
        optimizer: Optimizer and learning rate, such as "SGD 0.1".
        batch_size: Number of examples in a batch; None if it is not known.
        seed: Seed; None for a watched run.
        steps: The last step.
        status: running, finished, interrupted or diverged.
        loss: The training loss, as its mean over the last part of the run.
        score: The newest test accuracy, or else test loss; None without evaluations.
        is_accuracy: True if `score` is an accuracy.
        verdict: The run in one sentence.
        headline: The same without its steps and score.
        claim: Name of what limits it; empty if nothing was measured.
        brief: The same in at most four words.
        state: How urgent that is.
        curve: The training loss along the run as a small line; None if it is too short.
        age: Seconds since it was last written to.
    """

    path: Path
    problem: str
    optimizer: str
    batch_size: int | None
    seed: int | None
    steps: int
    status: Status
    loss: Estimate
    score: Estimate | None
    is_accuracy: bool
    verdict: str
    headline: str
    claim: str
    brief: str
    state: State
    curve: Sparkline | None
    age: float

    @property
    def symbol(self) -> str:
        """Its status as one letter."""
        return STATUS_SYMBOLS[self.status]

    @property
    def loss_words(self) -> str:
        """The last loss with its interval; empty without one."""
        return f"{number(self.loss.value)} {interval(self.loss)}" if self.loss.samples else ""

    @property
    def score_words(self) -> str:
        """The test accuracy in percent, or the test loss, with its interval; empty without an
        evaluation."""
        if self.score is None:
            return ""
        if self.is_accuracy:
            return f"{self.score.value:.1%} [{self.score.low:.1%}, {self.score.high:.1%}]"
        return f"{number(self.score.value)} {interval(self.score)}"

    @property
    def age_words(self) -> str:
        """The age in its largest unit, such as "3 h"."""
        for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
            if self.age >= seconds:
                return f"{self.age / seconds:.0f} {unit}"
        return f"{self.age:.0f} s"

    def to_dict(self) -> dict[str, Any]:
        """The line as `--json` prints it."""
        kept = (
            "problem",
            "optimizer",
            "batch_size",
            "seed",
            "steps",
            "status",
            "verdict",
            "claim",
            "age",
        )
        score = None if self.score is None else self.score.to_dict()
        key = "test_accuracy" if self.is_accuracy else "test_loss"
        numbers = {"loss": self.loss.to_dict(), key: score}
        return {"run": str(self.path), **{name: getattr(self, name) for name in kept}, **numbers}


# The columns of the list after the name of the run.
COLUMNS: dict[str, Callable[[RunRow], str]] = {
    "steps": lambda run: f"{run.steps:,}",
    "loss": lambda run: run.loss_words,
    "test": lambda run: run.score_words,
    "age": lambda run: run.age_words,
}


def _lower(value: float) -> float:
    return math.inf if math.isnan(value) else value


# The orders of a listing: the newest, the first by name, the lowest loss, the best score, the
# longest, or what is limited most urgently comes first.
ORDERS: dict[str, Callable[[RunRow], Any]] = {
    "age": lambda run: run.age,
    "name": lambda run: run.path.name,
    "loss": lambda run: _lower(run.loss.value),
    "score": lambda run: (
        math.inf if run.score is None else (-1 if run.is_accuracy else 1) * _lower(run.score.value)
    ),
    "steps": lambda run: -run.steps,
    "limits": lambda run: (run.state.rank, run.brief, _lower(run.loss.value)),
}


def listing(
    folder: Path, *, sort: str = "age", match: str = "*"
) -> tuple[tuple[RunRow, ...], tuple[str, ...]]:
    """The runs in a folder, and a warning for each that cannot be read.

    Args:
        folder: The folder of the runs.
        sort: "age" (newest first), "name", "loss" (lowest first), "score" (best first), "steps"
            (longest first) or "limits" (by what limits them, the most urgent first).
        match: A pattern for the names of the runs, such as "digits-*".

    Raises:
        BadArgument: The folder does not exist.
        StorageFailed: The folder cannot be read.

    >>> from gradiometer.report.overview import listing
    >>> from gradiometer.run.folder import RunFolder
    >>> folder = RunFolder.create("some-runs", "empty", {})
    >>> runs, warnings = listing(folder.path.parent)
    >>> runs[0].path.name, runs[0].steps, warnings
    ('empty-1', 0, ())
    """
    if not folder.is_dir():
        near = difflib.get_close_matches(str(folder), ("list", "compare", "export"), n=1)
        hint = f": did you mean `gradiometer runs {near[0]}`?" if near else "."
        raise BadArgument(f"`folder` is {str(folder)!r}, which is not a folder{hint}")
    found: list[RunRow] = []
    warnings: list[str] = []
    for path in run_folders(folder):
        if not fnmatch.fnmatch(path.name, match):
            continue
        try:
            found.append(_row(path))
        except (GradiometerError, OSError) as error:  # damaged, or deleted meanwhile
            why = f"it cannot be read: {reason_of(error)}." if isinstance(error, OSError) else error
            warnings.append(f"{path.name} is left out: {why}")
    return tuple(sorted(found, key=ORDERS[sort])), tuple(warnings)


def _row(path: Path) -> RunRow:
    run = Run.open(path)
    configuration = run.configuration
    diagnosis = diagnose(run)
    settings, estimates = run.hyperparameters, diagnosis.estimates
    parts = blocks(*run.losses, level=configuration.level, most=LISTS.parts)
    unknown = Estimate.unknown(level=configuration.level, method="no loss on record", samples=0)
    trained = isinstance(configuration, Configuration)
    headline = diagnosis.headline
    files = [path for path in (run.readings_path(), run.events_path) if path.exists()]
    written = max(path.stat().st_mtime for path in (run.manifest_path, *files))
    return RunRow(
        path=path,
        problem=configuration.problem if isinstance(configuration, Configuration) else "your loop",
        optimizer="" if settings is None else f"{settings.optimizer} {settings.rate_words}",
        batch_size=getattr(configuration, "batch_size", None),
        seed=configuration.seed if trained else None,
        steps=run.steps,
        status=run.status,
        loss=parts[-1].mean if parts else unknown,
        score=estimates.get("test_accuracy", estimates.get("test_loss")),
        is_accuracy="test_accuracy" in estimates,
        verdict=diagnosis.verdict,
        headline=f"{diagnosis.said[:1].upper()}{diagnosis.said[1:]}.",
        claim="" if headline is None else headline.claim,
        brief=in_brief(headline),
        state=State.CANNOT_TELL if headline is None else headline.state,
        curve=sparkline([(round(part.middle), part.mean) for part in parts]),
        age=max(time.time() - written, 0.0),
    )


CONTENT = "overview.html.jinja"


def write_overview(runs: Sequence[RunRow], path: Path) -> Path:
    """Write the page of these runs; the file is complete or does not exist. Its links are relative
    to its folder.

    Raises:
        BadArgument: The path is that of a folder.
        StorageFailed: It cannot be written.
    """
    if path.is_dir() or not path.name:
        raise BadArgument(
            f"`page` must be a file, and `{path}` is a folder: write `--page {path / 'runs.html'}`."
        )
    # the folder of the runs: the page may lie elsewhere
    folder = runs[0].path.parent if runs else path.parent
    reports = [run.path / "report.html" for run in runs]
    links = [
        quote(os.path.relpath(report, path.parent)) if report.exists() else "" for report in reports
    ]
    page = document(
        CONTENT,
        folder.resolve().name,
        (),
        runs=list(zip(runs, links, strict=True)),
        columns=COLUMNS,
    )
    return write_document(page, path)
