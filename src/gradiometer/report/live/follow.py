"""A run followed while it is written: looked at when its files have changed, drawn within a share of a core."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradiometer.diagnosis import diagnose
from gradiometer.report.page.document import document, fragment, specs
from gradiometer.report.page.markup import json_for_script
from gradiometer.report.page.page import CONTENT, content
from gradiometer.report.sections.catalogue import sections
from gradiometer.report.sections.section import Figure
from gradiometer.run.journal import being_written
from gradiometer.run.reader import Run

SHARE, SHARE_OF_LONG = 0.05, 0.004
"""Of a core, that looking and drawing may use: a long run changes slowly, and its page with it. Waiting and sending
the page come on top; of a long run all of it is meant to stay below 0.01."""

LONG = 100_000
"""Steps from which on a run is long."""

SOONEST = 1.0
"""Seconds from one look to the next, at least."""


@dataclass(frozen=True)
class View:
    """What is shown of a run at one moment.

    Attributes:
        version: Counts from 1; another one is another view.
        figures: Its charts.
        values: What its template is given.
    """

    version: int
    figures: tuple[Figure, ...]
    values: dict[str, Any]

    def page(self, live: str, runs: list[tuple[str, str]]) -> str:
        """The whole page, which asks `live` for what comes next."""
        return document(
            CONTENT, self.values["run"].name, self.figures, live, view=self.version, runs=runs, **self.values
        )

    def update(self, live: str) -> str:
        """The same for a page that is shown already, as JSON."""
        html = fragment(CONTENT, live=live, **self.values)
        return json_for_script({"version": self.version, "html": html, "specs": specs(self.figures)})


class Followed:
    """One run and its latest view. It may be asked from several threads.

    Args:
        path: The run's folder.

    Raises:
        BadArgument: It is not a run.
    """

    def __init__(self, path: Path) -> None:
        self.run = Run.open(path)
        self.view: View | None = None
        self.not_before = 0.0
        self._seen: tuple[object, ...] = ()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The run's."""
        return self.run.name

    def latest(self) -> View:
        """The view there is, or the first."""
        if self.view is None:
            self.look()
        assert self.view is not None
        return self.view

    def look(self) -> bool:
        """Draw the run anew if its files have changed and its share of the time allows. Returns whether it was."""
        with self._lock:
            if self.view is not None and time.monotonic() < self.not_before:
                return False
            seen = self._state()
            if self.view is not None and (seen == self._seen or not self.run.folder.manifest_path.is_file()):
                return False  # where it was moved or deleted, what was seen last stays
            began = time.thread_time()
            run = self.run.refreshed()
            share = SHARE_OF_LONG if run.steps > LONG else SHARE
            if self.view is None:
                began = time.thread_time()  # read from its start, once: that is not what a look costs
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
        """What shows that something was written, or that the writer is gone, without reading a line."""
        folder = self.run.folder
        paths = (folder.readings_path(), folder.events_path, folder.path / "curvature", folder.manifest_path)
        return (*map(_stamp, paths), being_written(folder.events_path))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
