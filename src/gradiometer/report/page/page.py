"""The page of a run: one self-contained file that asks nothing of any network, and the same charts as PNG."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gradiometer.diagnosis import Diagnosis
from gradiometer.errors import BadArgument
from gradiometer.measurement.reading import Draw
from gradiometer.report.charts.charts import save_png
from gradiometer.report.page.cards import answers_of, cards, further_cards
from gradiometer.report.page.checks import checks
from gradiometer.report.page.document import TEMPLATES, document
from gradiometer.report.sections.catalogue import sections
from gradiometer.report.sections.section import Section
from gradiometer.run.budget import overhead_sentence
from gradiometer.run.disk import replace_file
from gradiometer.run.reader import Run

STATUS_SYMBOLS = {"running": "▸", "finished": "✓", "interrupted": "‖", "diverged": "▲"}
CONTENT = "content.html.jinja"


def write_page(run: Run, diagnosis: Diagnosis, path: Path | None = None) -> Path:
    """Write the page of a run, aside and renamed: whoever looks sees the old page or the new one.

    Args:
        run: The run.
        diagnosis: What its readings say.
        path: Where to; left out, `report.html` in the run's folder.

    Returns:
        Where it lies.

    Raises:
        BadArgument: It cannot be written there.
    """
    path = run.path / "report.html" if path is None else path
    page = render(run, diagnosis).encode()
    try:
        replace_file(path, page)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if path == run.path / "report.html":
            way = f"mend that, then `gradiometer report {shlex.quote(str(run.path))}`"
            raise BadArgument(f"the page cannot be written to {path}: {reason}; {way}.") from error
        raise BadArgument(f"`path`: the page cannot be written to {path}: {reason}; name a file elsewhere.") from error
    return path


def write_charts(run: Run, diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write every chart of the page as PNG into a folder, made where it is missing.

    Returns:
        The files, in the order of the page.

    Raises:
        BadArgument: They cannot be written there.
    """
    figures = [figure for section in sections(run, diagnosis) for figure in section.figures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [save_png(figure.chart, folder / f"{figure.name}.png", figure.title) for figure in figures]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadArgument(f"`folder`: charts cannot be written to {folder}: {reason}; name another one.") from error


def render(run: Run, diagnosis: Diagnosis) -> str:
    """The page as text."""
    shown = sections(run, diagnosis)
    figures = tuple(figure for section in shown for figure in section.figures)
    return document(CONTENT, run.name, figures, **content(run, diagnosis, shown))


def content(run: Run, diagnosis: Diagnosis, shown: tuple[Section, ...]) -> dict[str, Any]:
    """What stands in the frame of the page, by the names its template has for it."""
    found = answers_of(diagnosis, shown)
    return {
        "run": run,
        "diagnosis": diagnosis,
        "sections": shown,
        "methods": [section.name for section in shown if _has_methods(section)],
        "without_replacement": run.sampling.draw is Draw.RESHUFFLED,
        "cards": cards(run, found),
        "further": further_cards(found),
        "checks": checks(run, diagnosis),
        "quantities": diagnosis.labels,
        "status_symbol": STATUS_SYMBOLS[run.status],
        "overhead": overhead_sentence(run.overhead, run.configuration.every),
        "configuration": _settings(msgspec.structs.asdict(run.configuration)),
        "manifest": _settings({name: value for name, value in run.manifest.items() if name != "configuration"}),
    }


def _has_methods(section: Section) -> bool:
    return (TEMPLATES / f"methods_{section.name}.html.jinja").is_file()


def _settings(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as flat pairs of name and value."""
    return list(_flat(values, prefix))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} · ")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(str(part) for part in value)
        else:
            yield f"{prefix}{name}", "—" if value is None else str(value)
