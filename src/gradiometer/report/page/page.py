"""The page of a run as one self-contained file, its charts as PNG, and a small card for
notebooks."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gradiometer.arguments import type_name
from gradiometer.errors import BadArgument
from gradiometer.measurement import Draw, Finding, State
from gradiometer.measurement.artifact import Artifact
from gradiometer.report.charts.charts import save_png
from gradiometer.report.charts.theme import LISTS
from gradiometer.report.page.cards import (
    Shown,
    action_of,
    answers_of,
    cards,
    checks,
    further_cards,
    rows,
)
from gradiometer.report.page.document import document, fill_in, write_document
from gradiometer.report.page.first import (
    First,
    effect_in_words,
    first_screen,
    grounds_of,
    place_of,
    verdict_word,
    without_home,
)
from gradiometer.report.sections.catalogue import sections
from gradiometer.report.sections.questions import Answer
from gradiometer.report.sections.section import Figure, Section
from gradiometer.run.artifacts import save_artifact
from gradiometer.run.cadence.overhead import overhead_sentence
from gradiometer.run.reader import Run, check_run
from gradiometer.storage.disk import writing
from gradiometer.verdict import say
from gradiometer.verdict.diagnosis import Diagnosis, diagnose, is_without_illness

DRAWN = {
    Draw.RESHUFFLED: "reshuffled",
    Draw.REPLACEMENT: "with replacement",
    Draw.FRESH: "of new examples",
}
CONTENT = "content.html.jinja"


def write_page(
    run: Run,
    diagnosis: Diagnosis,
    path: Path | None = None,
    *,
    shown: tuple[Section, ...] | None = None,
) -> Path:
    """Write the page of a run and return its path. The file is replaced at once: readers see the
    old or the new page.

    Args:
        run: The run.
        diagnosis: Its diagnosis.
        path: File to write; by default `report.html` in the run's folder.
        shown: The sections of this diagnosis, if they are drawn already.

    Raises:
        StorageFailed: It cannot be written.
    """
    check_run(run)
    if not isinstance(diagnosis, Diagnosis):
        raise BadArgument(
            f"`diagnosis` must be a Diagnosis, got {type_name(diagnosis)}: give diagnose(run)."
        )
    standard = run.path / "report.html"
    path = path or standard
    remedy = "choose another file"
    if path == standard:
        remedy = f"when that is fixed, run gradiometer show {shlex.quote(str(run.path))}"
    return write_document(render(run, diagnosis, shown), path, remedy)


def keep(run: Run, artifact: Artifact) -> Path:
    """Write an artifact into a run, and update the run's page. Returns the path of the page."""
    save_artifact(run, artifact)
    return write_page(run, diagnose(run))


def write_charts(
    run: Run, diagnosis: Diagnosis, folder: Path, *, shown: tuple[Section, ...] | None = None
) -> list[Path]:
    """Write every chart of the page as PNG into a folder, which is created if missing.

    Args:
        run: The run.
        diagnosis: Its diagnosis.
        folder: The folder.
        shown: The sections of this diagnosis, if they are drawn already.

    Returns:
        The files, in the order of the page.

    Raises:
        StorageFailed: They cannot be written.
    """
    shown = sections(run, diagnosis) if shown is None else shown
    figures = [figure for section in shown for figure in section.figures if not figure.single]
    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        return [
            save_png(figure.chart, folder / f"{figure.name}.png", figure.title)
            for figure in figures
        ]


def render(run: Run, diagnosis: Diagnosis, shown: tuple[Section, ...] | None = None) -> str:
    """The page as HTML."""
    shown = sections(run, diagnosis) if shown is None else shown
    values = content(run, diagnosis, shown)
    page = document(CONTENT, run.name, figures_of(values["first"], shown), **values)
    return without_home(page, run.path)


def figures_of(first: First, shown: Iterable[Section]) -> tuple[Figure, ...]:
    """Every figure of the page once: those of the first screen, then those of the sections."""
    found = [*first.figures, *(figure for section in shown for figure in section.figures)]
    return tuple({figure.name: figure for figure in found}.values())


def content(run: Run, diagnosis: Diagnosis, shown: tuple[Section, ...]) -> dict[str, Any]:
    """The variables of the template of the page's content."""
    found = answers_of(diagnosis, shown)
    asked = cards(run, found)
    action = action_of(answer.finding for answer in found)
    headline = next(
        (Shown.of(answer) for answer in found if answer.finding is diagnosis.headline), None
    )
    title = f"{diagnosis.said[:1].upper()}{diagnosis.said[1:]}."
    if _says_little(diagnosis) and action is not None and action.finding.state.rank < CANNOT_TELL:
        headline, title = action, action.said.seen
    elif headline is None and diagnosis.headline is not None:
        headline = Shown(diagnosis.headline, say(diagnosis.headline), {}, {})
    first = first_screen(run, diagnosis, shown, action, headline, title)
    made = rows(diagnosis, shown, asked, further_cards(found), first.figures)
    configuration, optimizer = run.configuration, run.hyperparameters
    defaults = {field.name: field.default for field in msgspec.structs.fields(configuration)}
    changed = {
        name: value
        for name, value in msgspec.structs.asdict(configuration).items()
        if value != defaults[name]
    }
    batch = f"B\u00a0=\u00a0{configuration.batch_size:,}"
    if _assumes_draws(run):
        changed["sampling"] = "not known"
    else:
        batch += f", {DRAWN[run.sampling.draw]}"
    return {
        "run": run,
        "diagnosis": diagnosis,
        "facts": (
            configuration.problem,
            batch,
            *(() if optimizer is None else (optimizer.sentence,)),
        ),
        "optimizer": {} if optimizer is None else optimizer.facts,
        "first": first,
        "at_top": [figure.name for figure in first.figures],
        "description": first.description,
        "place": place_of(run.path),
        "action": action,
        "rows": made,
        "unmeasured": [card for card in asked if not card.shown],
        "meant": gradient_meant(run),
        "checks": tuple(checks(run, diagnosis)),
        "quantities": diagnosis.labels,
        "overhead": overhead_sentence(run.overhead, configuration.every),
        "configuration": _settings(changed),
        "manifest": _settings(
            {name: value for name, value in run.manifest.items() if name != "configuration"}
        ),
    }


CANNOT_TELL = State.CANNOT_TELL.rank


def _says_little(diagnosis: Diagnosis) -> bool:
    """True if the verdict is only that one gauge finds something ok: what is advised then leads."""
    headline = diagnosis.headline
    return headline is not None and headline.state is State.OK and not is_without_illness(headline)


def _assumes_draws(run: Run) -> bool:
    """True if it is not known how batches were drawn. They are then taken as independent draws."""
    return run.sampling.draw is Draw.REPLACEMENT and run.sampling.examples is None


def gradient_meant(run: Run) -> str:
    """A sentence about the gradient that is meant by g, and about the examples that
    are measured."""
    measured, count = run.measured_sampling, f"{run.measured_sampling.examples or 0:,}"
    if "probe" in run.manifest:
        examples = (
            "new examples"
            if measured.draw is Draw.FRESH
            else f"draws with replacement from {count} examples"
        )
        return (
            f"The measured batches are not those of training but a probe, independent {examples}. "
            "Here g is the "
            + (
                "gradient of the distribution that they come from."
                if measured.draw is Draw.FRESH
                else "gradient of these examples."
            )
        )
    if measured.draw is Draw.FRESH:
        return "Here g is the gradient of the distribution that the examples come from."
    if _assumes_draws(run):
        return (
            "It is not known how the batches were drawn: they are taken as independent draws, and "
            "g is the gradient of what they are drawn from."
        )
    if measured.draw is Draw.REPLACEMENT:
        return (
            "Here g is the gradient of the training set, from which batches are drawn with "
            "replacement."
        )
    return (
        "Here g is the gradient of the training set. The coming batch has not been trained on yet "
        "in this epoch, so in a small training set its gradient and noise are larger; a `probe` of "
        "independent examples has no such bias."
    )


def _settings(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings that have a value, as pairs of name and text. Nested ones are one text: python
    3.11.7, torch 2.9.0."""
    named = ((name, _as_text(value)) for name, value in values.items())
    return [(name, text) for name, text in named if text != "—"]


def _as_text(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "—"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_as_text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(map(_as_text, value[: LISTS.names]))
        left = len(value) - LISTS.names
        return f"{shown} and {left:,} more" if left > 0 else shown
    return str(value)


# One colour for each state, with a contrast of 3 to 1 on white and on black. Words have the colour
# of the notebook.
COLOURS = {"act": "#d6595e", "look": "#b07a16", "cannot_tell": "#7d8894", "ok": "#37945c"}


def card(
    findings: Sequence[Finding],
    warnings: Iterable[str],
    diagnosis: Diagnosis | None,
    run: Run | None = None,
) -> str:
    """The card as HTML. All styles are inside the elements.

    Args:
        findings: The findings, the most urgent first.
        warnings: What was wrong with the loop or with measuring it.
        diagnosis: The diagnosis with their estimates; None if there are none to draw.
        run: The run, whose name, state, steps and folder are shown; None to leave them out.
    """
    estimates = {} if diagnosis is None else diagnosis.estimates
    gauges = {} if diagnosis is None else {gauge.name: gauge for gauge in diagnosis.gauges}
    page = None if run is None else run.path / "report.html"
    return fill_in(
        "notebook.html.jinja",
        shown=[
            Shown.of(Answer(finding, estimates, gauges.get(finding.gauge))) for finding in findings
        ],
        warnings=tuple(warnings),
        quantities={} if diagnosis is None else diagnosis.labels,
        colours=COLOURS,
        word_of=verdict_word,
        effect_of=effect_in_words,
        grounds_of=grounds_of,
        run=run,
        page=page if page is not None and page.is_file() else None,
    )
