"""The path of the parameters: how far they move in each doubling of the steps, and the facts that
classify it."""

import math
from collections.abc import Mapping

import numpy as np

from gradiometer.convergence.trajectory.path_facts import Trail
from gradiometer.convergence.trajectory.trajectory import Trajectory, lengths_of
from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.convergence_charts import move_lengths_chart
from gradiometer.report.sections.section import Figure, Numbers, cells
from gradiometer.run.reader import Run


def trajectory_figure(run: Run, estimates: Mapping[str, Estimate]) -> Figure | None:
    """How far Φ moved in each doubling of the steps; None with fewer than two doublings or without
    readings.

    Args:
        run: The run.
        estimates: The estimates of its readings, by name.
    """
    series, correlation = run.series(Trajectory.name), estimates.get("step_correlation")
    if series is None or correlation is None:
        return None
    path = Trail.of(series.steps, np.asarray(series.moments["point"]), series.learning_rate)
    found = lengths_of(path, correlation.level)
    if len(found) < 2:
        return None
    first, last = found[0], found[-1]
    rows = tuple(
        (f"{each.first:,} – {each.last:,}", *cells(each.moved), *cells(each.stepped))
        for each in found
    )
    return Figure(
        name=Trajectory.name,
        title="Path of the parameters",
        chart=move_lengths_chart(found),
        summary=(
            f"Between groups of iterates the parameters moved by {_text(first.moved)} in "
            f"steps {first.first:,} to {first.last:,}, and by {_text(last.moved)} in steps "
            f"{last.first:,} to {last.last:,}. A single step moved them by {_text(first.stepped)} "
            f"and {_text(last.stepped)}."
        ),
        table=Numbers(("steps", "between groups", "interval", "in one step", "interval"), rows),
        note=(
            "A run that comes to rest goes down here, one that fluctuates around a fixed position "
            "stays level, and one that travels goes up; a random walk by √2 per doubling."
        ),
    )


def _text(length: Estimate) -> str:
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
