"""The section about forks: what would have happened with another rate, batch or schedule."""

from collections.abc import Mapping, Sequence

import altair as alt

from gradiometer.loop.branch import BranchResult
from gradiometer.loop.branches import (
    Fork,
    label_of,
    mean_end,
    sentence,
    signed,
    stopped,
    undecided,
)
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.recorded.record import ForkRecord, forks_of
from gradiometer.measurement.estimate import significant
from gradiometer.report.charts.charts import MOST, branches_chart, effects_chart
from gradiometer.report.charts.interval_strip import interval
from gradiometer.report.sections.section import Figure, Numbers, Section
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

Lines = dict[str, list[tuple[float, float, float, float]]]
"""Step, mean, lowest and highest loss over replicates, by alternative."""


def forks_section(run: Run, diagnosis: Diagnosis) -> Section:
    """The newest fork with its charts, and a table of all effects."""
    # without a branch of going on as it is, there is nothing to compare with
    records = [
        record
        for record in reversed(forks_of(run))
        if any(result.alternative == record.fork.names[0] for result in record.fork.results)
    ]
    level = run.configuration.level
    effects = {record.name: record.fork.effects(level=level) for record in records}
    lead = (
        "Each alternative was trained from a step of this run, on the same data as going on as it "
        "is."
    )
    figures, table, words = list[Figure](), None, ""
    if records:
        # only those of the newest: a race has a fork a lane, and the table has all
        newest = records[0]
        found = effects[newest.name]
        if found:
            figures.append(_effects_figure(newest, found))
            changes = (f"{each.alternative} {signed(each.estimate)}" for each in found[:3])
            words = f"change in {label_of(found[0].readout)}: {'; '.join(changes)}"
        fork = newest.fork
        curves = {name: branch_curve(fork, fork.of(name)) for name in fork.names}
        drawn = {name: curve for name, curve in curves.items() if curve}
        if drawn:
            figures.append(_branches_figure(newest, drawn))
        table = _table(records, effects)
    return Section(
        "forks",
        "What would have happened",
        lead,
        tuple(figures),
        table,
        heading="All forks",
        words=words,
    )


def _branches_figure(record: ForkRecord, curves: Lines) -> Figure:
    note = (
        "Each line is the mean over replicates, and its band goes from the lowest to the "
        "highest of them."
    )
    left_out = list(curves)[MOST:]
    if left_out:
        note += f" Not drawn: {', '.join(left_out)}; the table has them."
    ends = ", ".join(f"{significant(curve[-1][1])} ({name})" for name, curve in curves.items())
    rows = tuple(
        (name, f"{step:,.0f}", significant(mean), f"{significant(low)} to {significant(high)}")
        for name, curve in curves.items()
        for step, mean, low, high in curve
    )
    return Figure(
        name=f"fork-{record.name}-branches",
        title=f"The branches from step {record.fork.step:,}",
        chart=branches_chart(dict(list(curves.items())[:MOST])),
        summary=f"The mini-batch loss ends at {ends}.",
        table=Numbers(("alternative", "step", "mean loss", "replicates"), rows),
        note=note,
    )


def _effects_figure(record: ForkRecord, effects: Sequence[Effect]) -> Figure:
    under_way = ""
    if not record.finished:
        state = "under way" if record.running else "stopped"
        done, total = len(record.fork.results), len(record.plan.branches)
        under_way = f"{state}, {done:,} of {total:,} branches"
    notes = [f"◆ {warning}" for warning in record.warnings]
    notes.append("The thick bars are about these test examples, and cover together.")
    if any(effect.in_general is not None for effect in effects):
        notes.append("The thin lines also count that other examples could have been drawn.")
    notes += (*stopped(record.stops or ()), *undecided(effects))
    return Figure(
        name=f"fork-{record.name}-effects",
        title=f"Against going on as it is, from step {record.fork.step:,}",
        chart=drawn_effects({effect.alternative: effect for effect in effects}),
        summary=sentence(record.fork, effects, under_way),
        table=_table([record], {record.name: tuple(effects)}),
        note=" ".join(notes),
        single=not any(effect.estimate.tells for effect in effects),
    )


def drawn_effects(effects: Mapping[str, Effect]) -> alt.LayerChart:
    """The chart of effects on the same readout, by their labels."""
    first = next(iter(effects.values()))
    better = "lower" if first.lower_is_better else "higher"
    return effects_chart(
        {label: effect.estimate for label, effect in effects.items()},
        {
            label: effect.in_general
            for label, effect in effects.items()
            if effect.in_general is not None
        },
        [f"change in {label_of(first.readout)},", f"{better} is better"],
    )


def general_interval(effect: Effect) -> str:
    """The interval that also counts other examples; empty if it is not known."""
    return "" if effect.in_general is None else interval(effect.in_general)


def _table(records: Sequence[ForkRecord], effects: Mapping[str, Sequence[Effect]]) -> Numbers:
    """One row for each alternative of each fork, the baseline first."""
    rows = []
    for record in records:
        found = {effect.alternative: effect for effect in effects[record.name]}
        readout = next((effect.readout for effect in found.values()), "")
        for name in record.fork.names:
            results = record.fork.of(name)
            effect = found.get(name)
            change = ("", "", "")
            if effect is not None:
                change = (signed(effect.estimate), general_interval(effect), effect.verdict)
            rows.append(
                (
                    record.name,
                    f"{record.fork.step:,}",
                    name,
                    mean_end(results, readout),
                    *change,
                    f"{max(result.updates for result in results):,}",
                    f"{len(results)}",
                )
            )
    columns = ("fork", "step", "alternative", "end", "change", "in general", "shown")
    return Numbers((*columns, "updates", "replicates"), tuple(rows))


def branch_curve(
    fork: Fork, results: Sequence[BranchResult]
) -> list[tuple[float, float, float, float]]:
    """Step, mean, lowest and highest loss over the replicates, at the places that all
    of them have."""
    updates = max(result.updates for result in fork.of(fork.names[0]))
    batch = fork.horizon / max(updates, 1)
    by_place: dict[int, list[float]] = {}
    for result in results:
        for examples, loss in result.curve:
            by_place.setdefault(examples, []).append(loss)
    most = max(map(len, by_place.values()), default=0)
    return [
        (fork.step + examples / batch, sum(losses) / len(losses), min(losses), max(losses))
        for examples, losses in sorted(by_place.items())
        if len(losses) == most and all(abs(loss) < float("inf") for loss in losses)
    ]
