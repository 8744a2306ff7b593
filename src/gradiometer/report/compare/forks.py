"""The forks of the runs of a comparison, with the effects of the same alternative next to each
other."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradiometer.loop.changes.alternative import Alternative
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.comparison.words import label_of, signed
from gradiometer.loop.recorded.record import ForkRecord, forks_of
from gradiometer.loop.recorded.trials import alike
from gradiometer.report.charts.fork_charts import effects_chart
from gradiometer.report.charts.interval_strip import interval
from gradiometer.report.compare.contrast import Compared, RunGroup
from gradiometer.report.sections.section import Figure, Numbers

NOTE = (
    "Each effect is that of an alternative against going on as it is, in its own run, from its own "
    "step. The intervals of one fork cover together; those of different runs do not."
)


@dataclass(frozen=True)
class ForkTried:
    """What the newest fork of a run with an alternative has shown.

    Args:
        group: The group of the run.
        compared: The run.
        record: The fork.
        alternative: The alternative.
        effect: What it changed.
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
    """What was tried in the runs, by alternative and then by run; only the newest fork of each run
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
            "" if each.effect.in_general is None else interval(each.effect.in_general),
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
        tried: What was tried.
        most: Most groups that are drawn.
    """
    drawn = [each for each in tried if each.group.letter in _letters(tried)[:most]]
    figures = []
    for readout in dict.fromkeys(each.effect.readout for each in drawn):
        here = {
            f"{each.named}, {each.runs}": each.effect
            for each in drawn
            if each.effect.readout == readout
        }
        lower = next(iter(here.values())).lower_is_better
        general = {
            name: effect.in_general
            for name, effect in here.items()
            if effect.in_general is not None
        }
        figures.append(
            Figure(
                name=f"forks-{readout.replace('_', '-')}",
                title=f"Forks: {label_of(readout)}",
                chart=effects_chart(
                    {name: effect.estimate for name, effect in here.items()},
                    general,
                    f"change in {label_of(readout)}, {'lower' if lower else 'higher'} is better",
                ),
                summary=" ".join(
                    f"{name}: {signed(effect.estimate)}." for name, effect in here.items()
                ),
                table=forks_table([each for each in drawn if each.effect.readout == readout]),
                note=NOTE,
            )
        )
    return tuple(figures)


def _letters(tried: Sequence[ForkTried]) -> list[str]:
    return list(
        dict.fromkeys(
            sorted((each.group.letter for each in tried), key=lambda letter: (len(letter), letter))
        )
    )
