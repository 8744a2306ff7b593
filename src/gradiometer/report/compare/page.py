"""The page of a comparison: the differences between runs, with intervals, their curves on the same
axes, and their forks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradiometer.loop import Alternative, Effect
from gradiometer.loop.branches import label_of, signed
from gradiometer.loop.recorded.record import ForkRecord, forks_of
from gradiometer.loop.recorded.trials import alike
from gradiometer.measurement.estimate import Estimate, counted
from gradiometer.measurement.uncertainty.differences import mean_of_few
from gradiometer.report.charts.axes import Curve
from gradiometer.report.charts.blocks import blocks
from gradiometer.report.charts.charts import curves_chart
from gradiometer.report.charts.interval_strip import strip
from gradiometer.report.charts.theme import LISTS, POINTS
from gradiometer.report.compare.contrast import (
    QUANTITIES,
    Compared,
    Contrast,
    RunGroup,
    finding_of,
    plain,
    verdict,
)
from gradiometer.report.page.cards import Card, Shown, Small
from gradiometer.report.page.document import document, write_document
from gradiometer.report.sections.forks import drawn_effects, general_interval
from gradiometer.report.sections.section import Figure, Numbers, Section, cells, change
from gradiometer.verdict.words.say import say

NOTE = (
    "Each effect is that of an alternative against going on as it is, in its own run, from its own "
    "step. The intervals of one fork cover together; those of different runs do not."
)


@dataclass(frozen=True)
class ForkTried:
    """The result of the newest fork of a run with an alternative.

    Args:
        group: The group of the run.
        compared: The run.
        record: The fork.
        alternative: The alternative.
        effect: Its effect.
        named: The name under which it is compared: an alternative of another run may differ a
            little.
    """

    group: RunGroup
    compared: Compared
    record: ForkRecord
    alternative: Alternative
    effect: Effect
    named: str

    @property
    def runs(self) -> str:
        """The letter of the group, with the seed if it has several runs."""
        return (
            self.group.letter
            if len(self.group.runs) == 1
            else f"{self.group.letter} {self.compared.seed_words}"
        )


def tried_by(groups: Sequence[RunGroup]) -> tuple[ForkTried, ...]:
    """The trials in the runs, by alternative and then by run; only the newest fork of each run
    counts for each."""
    found: list[ForkTried] = []
    known: list[Alternative] = []
    for group in groups:
        for compared in group.runs:
            here = list[Alternative]()
            for record in reversed(forks_of(compared.run)):
                fork = record.fork
                if not any(result.alternative == fork.names[0] for result in fork.results):
                    continue
                effects = {
                    effect.alternative: effect for effect in fork.effects(level=compared.level)
                }
                for one in fork.alternatives:
                    # the lanes of a race have one branch each, and no effect
                    is_known = one.name in effects and effects[one.name].estimate.tells
                    if not is_known or any(alike(one, other) for other in here):
                        continue
                    here.append(one)
                    first = next((other for other in known if alike(one, other)), one)
                    known += [one] * (first is one)
                    found.append(
                        ForkTried(group, compared, record, one, effects[one.name], first.name)
                    )
    order = [one.name for one in known]
    return tuple(sorted(found, key=lambda each: order.index(each.named)))


def forks_table(tried: Sequence[ForkTried]) -> Numbers:
    """One row for each run that has tried an alternative."""
    rows = tuple(
        (
            each.alternative.name,
            each.runs,
            f"{each.record.plan.step:,}",
            label_of(each.effect.readout),
            signed(each.effect.estimate),
            general_interval(each.effect),
            each.effect.verdict,
            f"{each.record.fork.replicates}",
        )
        for each in tried
    )
    return Numbers(
        ("alternative", "run", "step", "readout", "change", "in general", "shown", "replicates"),
        rows,
    )


def forks_figures(tried: Sequence[ForkTried], most: int) -> tuple[Figure, ...]:
    """The effects as intervals against zero, a chart for each readout.

    Args:
        tried: The trials.
        most: Most groups that are drawn.
    """
    letters = {each.group.letter for each in tried}
    # A to Z, then AA
    first = sorted(letters, key=lambda letter: (len(letter), letter))[:most]
    drawn = [each for each in tried if each.group.letter in first]
    figures = []
    for readout in dict.fromkeys(each.effect.readout for each in drawn):
        here = [each for each in drawn if each.effect.readout == readout]
        effects = {f"{each.named}, {each.runs}": each.effect for each in here}
        sentences = (f"{name}: {signed(effect.estimate)}." for name, effect in effects.items())
        figures.append(
            Figure(
                name=f"forks-{readout.replace('_', '-')}",
                title=f"Forks: {label_of(readout)}",
                chart=drawn_effects(effects),
                summary=" ".join(sentences),
                table=forks_table(here),
                note=NOTE,
            )
        )
    return tuple(figures)


CONTENT = "compare.html.jinja"

LOSS, SHARE = "loss, mean over examples", "share of test examples classified correctly"

# Title, axis and scale of the curve of each quantity, in the order of the page.
CURVES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "test_loss": ("Test loss", LOSS, {"scale": "by range"}),
    "training_loss": ("Training loss", LOSS, {"scale": "by range"}),
    "test_accuracy": ("Test accuracy", SHARE, {"scale": "linear", "format": "~%"}),
    "noise_scale": ("Gradient noise scale", "examples", {"scale": "by range"}),
}

CAVEAT = (
    "The verdict rests only on the first quantity, which is fixed in advance. Its intervals hold "
    "together over all configurations; every other interval has its own level. Runs are compared "
    "at the same step, not after the same number of examples or the same time."
)


def write_comparison(groups: Sequence[RunGroup], contrasts: Sequence[Contrast], path: Path) -> Path:
    """Write the page of a comparison; the file is complete or does not exist.

    Raises:
        StorageFailed: It cannot be written.
    """
    return write_document(render(groups, contrasts), path)


def render(groups: Sequence[RunGroup], contrasts: Sequence[Contrast]) -> str:
    """The page as text."""
    figures = _figures(groups[: LISTS.compared])
    runs = [each for group in groups for each in group.runs]
    tried = tried_by(groups)
    forks = forks_figures(tried, LISTS.compared)
    others = [_fold(figure.name, figure.title, (figure,)) for figure in figures[1:]]
    if forks:
        words = f"{counted(len(tried), 'trial')} in forks"
        others.insert(0, _fold("forks", "What would have happened", forks, words))
    rows = [
        (
            " against ".join(reversed(contrast.names)),
            QUANTITIES[each.quantity],
            "ratio" if each.is_ratio else "difference",
            *cells(each.estimate),
            f"{each.estimate.level:.0%}",
            f"{each.estimate.samples:,} {each.over}"
            if each.over != "seeds"
            else each.estimate.method,
            "" if each.needed is None else str(each.needed),
        )
        for contrast in contrasts
        for each in contrast.differences
    ]
    columns = (
        "runs",
        "quantity",
        "kind",
        "estimate",
        "interval",
        "level",
        "samples",
        "pairs of seeds needed",
    )
    return document(
        CONTENT,
        " · ".join(group.name for group in groups[: LISTS.compared]),
        (*figures, *forks),
        count=len(runs),
        verdict=verdict(groups, contrasts),
        groups=groups_table(groups),
        runs=Numbers(
            ("", "run", "seed", "status", "steps"),
            tuple(
                (
                    group.letter,
                    each.run.name,
                    "" if each.seed is None else str(each.seed),
                    each.run.status,
                    f"{each.run.steps:,}",
                )
                for group in groups
                for each in group.runs
            ),
        ),
        top=figures[0] if figures else None,
        left_out=[group.letter for group in groups[LISTS.compared :]],
        steps=max([each.run.steps for each in runs] + [1]),
        contrasts=[_row(contrast, alone=len(contrasts) == 1) for contrast in contrasts],
        quantities={
            f"{difference.quantity} {second}": f"{QUANTITIES[difference.quantity]}, "
            f"{second} {'divided by' if difference.is_ratio else 'minus'} {first}"
            for contrast in contrasts
            for first, second in [contrast.names]
            for difference in contrast.differences
        },
        differences=Numbers(columns, tuple(rows)),
        caveat=CAVEAT,
        others=others,
    )


def changes(contrast: Contrast) -> str:
    """The settings that differ, such as "learning rate 0.1 → 0.001"."""
    if not contrast.changed:
        return "only the seed differs"
    pairs = (
        f"{name.replace('_', ' ')} {plain(first)} → {plain(second)}"
        for name, (first, second) in contrast.changed.items()
    )
    return ", ".join(pairs)


def in_words(estimate: Estimate) -> str:
    """The number with its interval; only the lower end, if there is no upper one."""
    return " ".join(cells(estimate)) if estimate.tells else str(replace(estimate, unit=""))


def _row(contrast: Contrast, *, alone: bool) -> Card:
    """The row of a contrast, with its deciding difference. If it is the only one, its sentence is
    the page's title, and it is open and has the same strip."""
    first, second = contrast.names
    finding, deciding = finding_of(contrast), contrast.deciding
    said = say(finding)
    estimates, drawn = {}, {}
    for each in contrast.differences:
        name = f"{each.quantity} {second}"
        estimates[name] = each.estimate
        drawn[name] = strip(each.estimate, {"no difference": Estimate.exact(each.none)})
    strips = {name: each for name, each in drawn.items() if each is not None}
    small = Small(
        str(deciding.estimate),
        strip(deciding.estimate, {"equal": Estimate.exact(deciding.none)}),
        f"{deciding.quantity} {second}",
        f"difference in {QUANTITIES[deciding.quantity]}",
    )
    return Card(
        name=f"{second}-{first}",
        title=f"{second} against {first}: {changes(contrast)}",
        state=finding.state.name.lower(),
        word="a difference" if contrast.shown else "none shown",
        symbol=finding.state.symbol,
        small=None if alone else small,
        shown=(Shown(finding, replace(said, seen="") if alone else said, estimates, strips),),
    )


def _fold(name: str, title: str, figures: tuple[Figure, ...], words: str = "") -> Card:
    """A row with charts inside."""
    return Card(name, title, words=words, section=Section(name, title, "", figures))


def groups_table(groups: Sequence[RunGroup]) -> Numbers:
    """One row for each configuration: its settings that differ from the others, and its mean over
    seeds."""
    settings = [group.settings for group in groups]
    differing = [
        name for name in settings[0] if len({str(each.get(name)) for each in settings}) > 1
    ]
    measured = [name for name in QUANTITIES if any(name in group.numbers for group in groups)]
    rows = tuple(
        (
            group.letter,
            group.seeds,
            *(plain(group.settings.get(name)) for name in differing),
            *(in_words(group.numbers[name]) if name in group.numbers else "" for name in measured),
        )
        for group in groups
    )
    headings = (QUANTITIES[name] for name in measured)
    return Numbers(("", "runs", *(name.replace("_", " ") for name in differing), *headings), rows)


def _figures(groups: Sequence[RunGroup]) -> tuple[Figure, ...]:
    figures = []
    for quantity, (title, axis, scale) in CURVES.items():
        curves = {group.name: _over_seeds(group, quantity) for group in groups}
        shown = {group: points for group, points in curves.items() if points}
        rows = tuple(
            (group, f"{step:,}", *cells(estimate))
            for group, points in shown.items()
            for step, estimate in points
        )
        if shown:
            figures.append(
                Figure(
                    name=quantity.replace("_", "-"),
                    title=title,
                    chart=curves_chart(shown, axis, **scale),
                    summary=" ".join(
                        f"{group} {change(points)}." for group, points in shown.items()
                    ),
                    table=Numbers(("runs", "step", title.lower(), "interval"), rows),
                    single=all(len(points) == 1 for points in shown.values()),
                )
            )
    return tuple(figures)


def _over_seeds(group: RunGroup, quantity: str) -> Curve:
    """The curve of one run, or the mean over the seeds at the steps that all of them have, with its
    interval over the seeds."""
    last = min(each.run.steps for each in group.runs)
    first, *others = (dict(_curve(each, quantity, last)) for each in group.runs)
    if not others:
        return tuple(first.items())
    common = [step for step in first if all(step in other for other in others)]
    values = {step: [curve[step].value for curve in (first, *others)] for step in common}
    level = group.runs[0].level
    return tuple(
        (step, mean_of_few(v, level)) for step, v in values.items() if all(map(math.isfinite, v))
    )


def _curve(each: Compared, quantity: str, last: int) -> Curve:
    """The quantity along a run; the training loss up to a last step."""
    if quantity == "noise_scale":
        return each.diagnosis.history.get("noise_scale", ())
    if quantity == "training_loss":
        steps, losses = each.run.losses
        cut = blocks(
            steps[steps < last], losses[steps < last], level=each.level, most=POINTS.compared_blocks
        )
        return tuple((round(block.middle), block.mean) for block in cut)
    return tuple(
        (step, found[quantity])
        for step, found in sorted(each.evaluations.items())
        if quantity in found
    )
