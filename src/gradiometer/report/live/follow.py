"""A run followed while it is written: its page is drawn again when files change, within a share of
one core."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradiometer.report.page.document import document, fragment, specs
from gradiometer.report.page.markup import json_for_script
from gradiometer.report.page.page import CONTENT, content
from gradiometer.report.sections.catalogue import sections
from gradiometer.report.sections.section import Figure
from gradiometer.run.reader import Run
from gradiometer.storage.journal import being_written
from gradiometer.verdict.diagnosis import diagnose

SHARE, SHARE_OF_LONG = 0.05, 0.004
"""Share of one core that reading and drawing may use. It is smaller for a long run, whose page
changes slowly: with waiting and sending the page, the total should stay below 0.01 for a long run.
"""

LONG = 100_000
"""Number of steps above which a run is long."""

SOONEST = 1.0
"""Minimum time between two checks of the files, in seconds."""


@dataclass(frozen=True)
class View:
    """The content of the page of a run at one moment.

    Attributes:
        version: Number of the view, from 1.
        figures: The charts.
        values: The variables of the template.
    """

    version: int
    figures: tuple[Figure, ...]
    values: dict[str, Any]

    def page(self, live: str, runs: list[tuple[str, str]]) -> str:
        """The whole page, which gets its updates from the address `live`."""
        return document(
            CONTENT,
            self.values["run"].name,
            self.figures,
            live,
            view=self.version,
            runs=runs,
            **self.values,
        )

    def update(self, live: str) -> str:
        """The update of a page that is already open, as JSON."""
        html = fragment(CONTENT, live=live, **self.values)
        return json_for_script(
            {"version": self.version, "html": html, "specs": specs(self.figures)}
        )


class Followed:
    """One run and its latest view. Several threads may use it.

    Args:
        path: The run's folder.

    Raises:
        RunNotFound: There is no run in the folder.
    """

    def __init__(self, path: Path) -> None:
        self.run = Run.open(path)
        self.view: View | None = None
        self.not_before = 0.0
        self._seen: tuple[object, ...] = ()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.name

    def latest(self) -> View:
        """The latest view. The first call draws it."""
        if self.view is None:
            self.look()
        assert self.view is not None
        return self.view

    def look(self) -> bool:
        """Draw the run again if its files have changed and its share of a core allows. Returns True
        if it was drawn."""
        with self._lock:
            if self.view is not None and time.monotonic() < self.not_before:
                return False
            seen = self._state()
            if self.view is not None and (
                seen == self._seen or not self.run.folder.manifest_path.is_file()
            ):
                return False  # a run that was moved or deleted keeps its last view
            began = time.thread_time()
            run = self.run.refreshed()
            share = SHARE_OF_LONG if run.steps > LONG else SHARE
            if self.view is None:
                began = time.thread_time()  # the first reading from the start is not counted
            self.view = self._drawn(run)
            self._seen = seen
            self.not_before = time.monotonic() + max(SOONEST, (time.thread_time() - began) / share)
            return True

    def _drawn(self, run: Run) -> View:
        diagnosis = diagnose(run)
        shown = sections(run, diagnosis)
        figures = tuple(figure for section in shown for figure in section.figures)
        values = content(run, diagnosis, shown)
        self.run = run
        return View(1 if self.view is None else self.view.version + 1, figures, values)

    def _state(self) -> tuple[object, ...]:
        """A value that changes when something is written or the writer ends; no file is read."""
        folder = self.run.folder
        paths = (
            folder.readings_path(),
            folder.events_path,
            folder.path / "curvature",
            folder.manifest_path,
        )
        forks = sorted(folder.path.glob("forks/*/*.json*"))
        return (*map(_stamp, (*paths, *forks)), being_written(folder.events_path))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
