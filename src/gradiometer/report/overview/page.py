"""The page of a folder of runs, with a link to the page of each run."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradiometer.errors import BadArgument
from gradiometer.measurement.finding import State
from gradiometer.report.overview.listed import RunRow
from gradiometer.report.page.document import document
from gradiometer.storage.disk import replace_file, writing

CONTENT = "overview.html.jinja"

_STATES = {state.rank: state for state in State}


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
    page = document(
        CONTENT, path.parent.resolve().name, (), runs=[_row(run, path.parent) for run in runs]
    ).encode(errors="replace")
    with writing(path, "choose another file"):
        replace_file(path, page)
    return path


def _row(run: RunRow, folder: Path) -> dict[str, Any]:
    report = run.path / "report.html"
    return {
        "name": run.path.name,
        "link": quote(os.path.relpath(report, folder)) if report.exists() else "",
        "optimizer": run.optimizer,
        "steps": f"{run.steps:,}",
        "status": run.status,
        "loss": run.loss_words,
        "score": run.score_words,
        "age": run.age_words,
        "verdict": run.brief,
        "sentence": run.headline,
        "state": _STATES[run.urgency],
        "curve": run.curve,
    }
