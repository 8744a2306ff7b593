"""Where the parameters go: how far they move in each doubling of time, and the facts their path's name rests on."""

import math
from collections.abc import Mapping

import numpy as np

from gradiometer.convergence.trajectory.move_lengths import lengths_of
from gradiometer.convergence.trajectory.path_facts import Path
from gradiometer.convergence.trajectory.trajectory import Trajectory
from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.convergence_charts import move_lengths_chart
from gradiometer.report.sections.section import Figure, Numbers, cells
from gradiometer.run.reader import Run


def trajectory_figure(run: Run, estimates: Mapping[str, Estimate]) -> Figure | None:
    """How far Φ moved in each doubling of the steps; None where there are no two of them, or nothing was kept.

    Args:
        run: The run.
        estimates: What its readings say, by name.
    """
    series, told = run.series(Trajectory.name), estimates.get("step_correlation")
    if series is None or told is None:
        return None
    path = Path.of(series.steps, np.asarray(series.moments["point"]), series.learning_rate)
    found = lengths_of(path, told.level)
    if len(found) < 2:
        return None
    first, last = found[0], found[-1]
    finding = Trajectory().interpret(estimates)
    seen = "" if finding is None else f"{finding.seen} {finding.means} "
    rows = tuple((f"{each.first:,} – {each.last:,}", *cells(each.moved), *cells(each.stepped)) for each in found)
    return Figure(
        name=Trajectory.name,
        title="Where the parameters go",
        chart=move_lengths_chart(found),
        summary=(
            f"{seen}From place to place the parameters moved {_told(first.moved)} in steps {first.first:,} to "
            f"{first.last:,}, and {_told(last.moved)} in steps {last.first:,} to {last.last:,}; one step moved them "
            f"{_told(first.stepped)} and {_told(last.stepped)}."
        ),
        table=Numbers(("steps", "from place to place", "interval", "in one step", "interval"), rows),
        note=(
            "Sixteen iterates of every doubling of the steps are kept, at five places in it. On these axes a run that "
            "comes to rest goes down, one that wanders about a place stays level, and one under way goes up, a random "
            "walk by a factor of √2 a doubling. Lengths are those of a sketch of 61 numbers where Φ has more; the "
            "intervals hold what it errs by."
        ),
    )


def _told(length: Estimate) -> str:
    return " ".join(cells(length))


def trajectory_rows(
    estimates: Mapping[str, Estimate], labels: Mapping[str, str] = Trajectory.labels
) -> list[tuple[str, ...]]:
    """The facts of the path for the section's table: quantity, value, interval, level, method."""
    return [
        (
            words,
            *cells(estimate),
            "" if estimate.level == 1 else f"{estimate.level:.0%}",
            estimate.method,
        )
        for name, words in labels.items()
        if (estimate := estimates.get(name)) is not None and not math.isnan(estimate.value)
    ]
