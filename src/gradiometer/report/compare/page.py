"""The page of a comparison: the differences between runs, with intervals, and their curves on the same axes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.report.charts.blocks import blocks
from gradiometer.report.charts.interval_strip import strip
from gradiometer.report.charts.marks import Curve
from gradiometer.report.compare.charts import together_chart
from gradiometer.report.compare.contrast import QUANTITIES, Compared, Contrast, claim, sentence
from gradiometer.report.page.cards import Card, Shown
from gradiometer.report.page.document import document
from gradiometer.report.sections.section import Figure, Numbers, cells, change
from gradiometer.storage.disk import replace_file, writing

CONTENT = "compare.html.jinja"

LOSS, SHARE = "loss, mean over examples", "share of test examples classified correctly"

CAVEAT = (
    "Each interval has its own level. The verdict rests only on the first quantity, which is fixed in advance. "
    "Runs are compared at the same step, not after the same number of examples or the same time."
)


def write_comparison(compared: Sequence[Compared], contrasts: Sequence[Contrast], path: Path) -> Path:
    """Write the page of a comparison; the file is complete or does not exist.

    Raises:
        StorageFailed: It cannot be written.
    """
    page = render(compared, contrasts).encode()
    with writing(path, "choose another file"):
        replace_file(path, page)
    return path


def render(compared: Sequence[Compared], contrasts: Sequence[Contrast]) -> str:
    """The page as text."""
    figures = _figures(compared)
    return document(
        CONTENT,
        " · ".join(each.run.name for each in compared),
        figures,
        compared=compared,
        verdict=" ".join(sentence(contrast) for contrast in contrasts),
        runs=_runs_table(compared),
        cards=[_card(contrast) for contrast in contrasts],
        quantities={
            f"{difference.quantity} {second}": f"{QUANTITIES[difference.quantity]}, "
            f"{second} {'divided by' if difference.is_ratio else 'minus'} {first}"
            for contrast in contrasts
            for first, second in [contrast.names]
            for difference in contrast.differences
        },
        differences=_differences_table(contrasts),
        figures=figures,
        steps=max([each.run.steps for each in compared] + [1]),
    )


def finding_of(contrast: Contrast) -> Finding:
    """A contrast as a finding: "look" if a difference is shown, otherwise "cannot tell"."""
    return Finding(
        gauge="comparison",
        issue=Issue.CONVERGENCE,
        state=State.LOOK if contrast.shown else State.CANNOT_TELL,
        seen=sentence(contrast),
        means=claim(contrast),
        caveat=CAVEAT,
    )


def changes(contrast: Contrast) -> str:
    """The settings that differ, such as "learning rate 0.1 → 0.001"."""
    if not contrast.changed:
        return "only the seed differs"
    pairs = (f"{name.replace('_', ' ')} {first} → {second}" for name, (first, second) in contrast.changed.items())
    return ", ".join(pairs)


def _card(contrast: Contrast) -> Card:
    first, second = contrast.names
    finding = finding_of(contrast)
    estimates = {f"{each.quantity} {second}": each.estimate for each in contrast.differences}
    drawn = {
        f"{each.quantity} {second}": strip(each.estimate, {"no difference": Estimate.exact(each.none)})
        for each in contrast.differences
    }
    shown = Shown(finding, estimates, {name: each for name, each in drawn.items() if each is not None})
    return Card(
        name=f"{second}-{first}",
        short=f"{second} against {first}",
        title=f"{second} against {first}: {changes(contrast)}",
        state=finding.state.name.lower(),
        word="a difference" if contrast.shown else "none shown",
        symbol=finding.state.symbol,
        shown=(shown,),
    )


def _runs_table(compared: Sequence[Compared]) -> Numbers:
    settings = [{**each.settings, "seed": each.seed} for each in compared]
    differing = [name for name in settings[0] if len({str(each[name]) for each in settings}) > 1]
    rows = tuple(
        (each.letter, each.run.name, each.run.status, f"{each.run.steps:,}", *(str(given[name]) for name in differing))
        for each, given in zip(compared, settings, strict=True)
    )
    return Numbers(("", "run", "status", "steps", *(name.replace("_", " ") for name in differing)), rows)


def _differences_table(contrasts: Sequence[Contrast]) -> Numbers:
    rows = [
        (
            " against ".join(reversed(contrast.names)),
            QUANTITIES[each.quantity],
            "ratio" if each.is_ratio else "difference",
            *cells(each.estimate),
            f"{each.estimate.level:.0%}",
            f"{each.estimate.samples:,} {each.over}" if each.over != "seeds" else each.estimate.method,
            "" if each.needed is None else str(each.needed),
        )
        for contrast in contrasts
        for each in contrast.differences
    ]
    columns = ("runs", "quantity", "kind", "estimate", "interval", "level", "samples", "pairs of seeds needed")
    return Numbers(columns, tuple(rows))


def _figures(compared: Sequence[Compared]) -> tuple[Figure, ...]:
    wanted: list[tuple[str, str, str, str | None, Callable[[Compared], Curve]]] = [
        ("training-loss", "Training loss", LOSS, None, _losses),
        ("test-loss", "Test loss", LOSS, None, partial(_evaluated, quantity="test_loss")),
        ("test-accuracy", "Test accuracy", SHARE, "~%", partial(_evaluated, quantity="test_accuracy")),
        ("noise-scale", "Gradient noise scale", "examples", None, _noise_scales),
    ]
    made = []
    for name, title, axis, format, curve_of in wanted:
        curves = {f"{each.letter} {each.run.name}": curve_of(each) for each in compared}
        if shown := {run: points for run, points in curves.items() if points}:
            made.append(_figure(name, title, axis, format, shown))
    return tuple(made)


def _figure(name: str, title: str, axis: str, format: str | None, shown: dict[str, Curve]) -> Figure:
    rows = [(run, f"{step:,}", *cells(estimate)) for run, points in shown.items() for step, estimate in points]
    return Figure(
        name=name,
        title=title,
        chart=together_chart(shown, axis, format),
        summary=" ".join(f"{run} {change(points)}." for run, points in shown.items()),
        table=Numbers(("run", "step", title.lower(), "interval"), tuple(rows)),
    )


def _losses(each: Compared) -> Curve:
    cut = blocks(*each.run.losses, level=each.run.configuration.level, most=60)
    return tuple((round(block.middle), block.mean) for block in cut)


def _noise_scales(each: Compared) -> Curve:
    return each.diagnosis.history.get("noise_scale", ())


def _evaluated(each: Compared, quantity: str) -> Curve:
    return tuple((step, found[quantity]) for step, found in sorted(each.evaluations.items()) if quantity in found)
