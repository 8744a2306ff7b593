"""The section about forks: what would have happened with another rate, batch or schedule."""

from collections.abc import Sequence

from gradiometer.loop.branch import BranchResult
from gradiometer.loop.branches import Fork, at_end, comparison, setting
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.comparison.words import label_of, mean_end, signed, stopped, undecided
from gradiometer.loop.recorded.record import ForkRecord, forks_of
from gradiometer.measurement.estimate import significant
from gradiometer.report.charts.fork_charts import MOST, branches_chart, effects_chart
from gradiometer.report.charts.interval_strip import interval
from gradiometer.report.sections.section import Figure, Numbers, Section
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

SHOWN = 1
"""Most forks with charts, the newest ones: a race has one a lane. The CSV file has all."""

WORDS = 3
"""Most alternatives that the row of the section names."""


def forks_section(run: Run, diagnosis: Diagnosis) -> Section:
    """The newest forks with their charts, and a table of all effects."""
    records = [record for record in forks_of(run) if _has_baseline(record)]
    level = run.configuration.level
    effects = {record.name: record.fork.effects(level=level) for record in records}
    newest = list(reversed(records))
    figures = [
        figure for record in newest[:SHOWN] for figure in _figures(record, effects[record.name])
    ]
    return Section(
        "forks",
        "What would have happened",
        "Each alternative was trained from a step of this run, on the same data as going on as it "
        "is.",
        tuple(figures),
        _table(newest, effects) if newest else None,
        heading="All forks",
        words=_words(effects[newest[0].name]) if newest else "",
    )


def _has_baseline(record: ForkRecord) -> bool:
    """True if going on as it is has a branch, so that there is something to compare with."""
    return any(result.alternative == record.fork.names[0] for result in record.fork.results)


def _sentence(record: ForkRecord, effects: Sequence[Effect]) -> str:
    """What was done, what came of it, and how far it is."""
    done = len(record.fork.results)
    progress = ""
    if not record.finished:
        state = "under way" if record.running else "stopped"
        progress = f" ({state}, {done:,} of {len(record.plan.branches):,} branches)"
    sentence = (
        f"{setting(record.fork).removesuffix('.')}{progress}. {comparison(record.fork, effects)}"
    )
    return f"{sentence} {at_end(record.fork)}".rstrip()


def _words(effects: Sequence[Effect]) -> str:
    """The effects in a few words, for the row of the section."""
    shown = effects[:WORDS]
    readout = f"change in {label_of(shown[0].readout)}: " if shown else ""
    return readout + "; ".join(
        f"{effect.alternative} {signed(effect.estimate)}" for effect in shown
    )


def _figures(record: ForkRecord, effects: Sequence[Effect]) -> tuple[Figure, ...]:
    fork = record.fork
    curves = {name: branch_curve(fork, fork.of(name)) for name in fork.names}
    shown = {name: curve for name, curve in curves.items() if curve}
    left_out = list(shown)[MOST:]
    made = []
    if effects:
        made.append(_effects_figure(record, effects))
    if shown:
        note = (
            "Each line is the mean over replicates, and its band goes from the lowest to the "
            "highest of them."
        )
        if left_out:
            note += f" Not drawn: {', '.join(left_out)}; the table has them."
        made.append(
            Figure(
                name=f"fork-{record.name}-branches",
                title=f"The branches from step {fork.step:,}",
                chart=branches_chart(dict(list(shown.items())[:MOST])),
                summary=f"The mini-batch loss ends at {_ends(shown)}.",
                table=_curves_table(shown),
                note=note,
            )
        )
    return tuple(made)


def _ends(curves: dict[str, list[tuple[float, float, float, float]]]) -> str:
    """Where the loss of each alternative ends."""
    return ", ".join(f"{significant(curve[-1][1])} ({name})" for name, curve in curves.items())


def _effects_figure(record: ForkRecord, effects: Sequence[Effect]) -> Figure:
    readout, general = label_of(effects[0].readout), [effect.in_general for effect in effects]
    note = " ".join(
        (
            *(f"◆ {warning}" for warning in record.warnings),
            "The thick bars are about these test examples, and cover together.",
        )
    )
    if any(general):
        note += " The thin lines also count that other examples could have been drawn."
    return Figure(
        name=f"fork-{record.name}-effects",
        title=f"Against going on as it is, from step {record.fork.step:,}",
        chart=effects_chart(
            {effect.alternative: effect.estimate for effect in effects},
            {
                effect.alternative: effect.in_general
                for effect in effects
                if effect.in_general is not None
            },
            f"change in {readout}, {'lower' if effects[0].lower_is_better else 'higher'} is better",
        ),
        summary=_sentence(record, effects),
        table=_table([record], {record.name: tuple(effects)}),
        note=" ".join((note, *stopped(record.stops or ()), *undecided(effects))),
    )


def _table(records: Sequence[ForkRecord], effects: dict[str, tuple[Effect, ...]]) -> Numbers:
    """One row for each alternative of each fork, the baseline first."""
    rows = []
    for record in records:
        found = {effect.alternative: effect for effect in effects[record.name]}
        readout = next((effect.readout for effect in found.values()), "")
        for name in record.fork.names:
            effect, results = found.get(name), record.fork.of(name)
            general = (
                "" if effect is None or effect.in_general is None else interval(effect.in_general)
            )
            rows.append(
                (
                    record.name,
                    f"{record.fork.step:,}",
                    name,
                    mean_end(results, readout),
                    "" if effect is None else signed(effect.estimate),
                    general,
                    "" if effect is None else effect.verdict,
                    f"{max(result.updates for result in results):,}",
                    f"{len(results)}",
                )
            )
    columns = (
        "fork",
        "step",
        "alternative",
        "end",
        "change",
        "in general",
        "shown",
        "updates",
        "replicates",
    )
    return Numbers(columns, tuple(rows))


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
        if len(losses) == most and all(map(_is_drawn, losses))
    ]


def _is_drawn(loss: float) -> bool:
    return abs(loss) < float("inf")


def _curves_table(curves: dict[str, list[tuple[float, float, float, float]]]) -> Numbers:
    rows = [
        (name, f"{step:,.0f}", significant(mean), f"{significant(low)} to {significant(high)}")
        for name, curve in curves.items()
        for step, mean, low, high in curve
    ]
    return Numbers(("alternative", "step", "mean loss", "replicates"), tuple(rows))
