"""The section about spikes: the losses around the clearest one, and a table of all."""

from collections.abc import Sequence

import numpy as np

from gradiometer.drift.spikes.detection import Spike
from gradiometer.drift.spikes.finding import clearest
from gradiometer.measurement.estimate import counted, significant
from gradiometer.report.charts.drift_charts import spike_chart
from gradiometer.report.sections.section import Figure, Numbers, Section
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

NAME = "spikes"

AROUND = 3
"""The chart shows so many lengths of the spike on each side of it, and at least `FEWEST` losses."""

FEWEST, MOST = 20, 400
"""Fewest losses that are drawn on each side, and most that are drawn in all."""


def spikes_section(run: Run, diagnosis: Diagnosis) -> Section:
    """The losses around the clearest spike, and where every spike began, rose to and ended."""
    spikes = diagnosis.spikes
    lead = (
        "A spike is a rise of the loss that noise alone does not explain, and that comes down "
        "again."
    )
    figures = (_figure(run, clearest(spikes)),) if spikes else ()
    return Section(
        NAME, "Spikes", lead, figures, _table(spikes) if spikes else None, heading="All spikes"
    )


def _figure(run: Run, spike: Spike) -> Figure:
    steps, losses = run.losses
    margin = max(AROUND * spike.length, FEWEST)
    near = np.flatnonzero(
        (steps >= spike.first - margin) & (steps <= spike.last + margin) & np.isfinite(losses)
    )
    kept = near[np.unique(np.linspace(0, len(near) - 1, MOST).round().astype(int))]
    drawn = [(int(steps[place]), float(losses[place])) for place in kept]
    rows = tuple((f"{step:,}", significant(loss)) for step, loss in drawn)
    thinned = f" {len(kept):,} of {len(near):,} losses are drawn." if len(kept) < len(near) else ""
    return Figure(
        name="spike",
        title=f"The loss around step {spike.first:,}",
        chart=spike_chart(drawn, spike.first, spike.last),
        summary=f"The loss of single batches, from {_words(spike)}.",
        table=Numbers(("step", "loss of the batch"), rows),
        note=(
            "The shaded steps are the spike. The level before it is the median of the batches "
            f"there.{thinned}"
        ),
    )


def _words(spike: Spike) -> str:
    end = f"back after {counted(spike.length, 'step')}" if spike.ended else "not back yet"
    return (
        f"{significant(spike.level)} before to {significant(spike.height)} at step {spike.peak:,}, "
        f"{end}"
    )


def _table(spikes: Sequence[Spike]) -> Numbers:
    rows = tuple(
        (
            f"{spike.first:,} to {spike.last:,}",
            significant(spike.level),
            significant(spike.height),
            f"{spike.peak:,}",
            f"{significant(spike.score, 2)} ({significant(spike.limit, 2)})",
            "yes" if spike.ended else "not yet",
        )
        for spike in spikes
    )
    columns = (
        "steps",
        "level before",
        "highest",
        "at step",
        "rise in spreads (limit of noise)",
        "came back",
    )
    return Numbers(columns, rows)
