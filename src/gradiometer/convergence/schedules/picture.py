"""A picture of schedules over a run."""

from collections.abc import Mapping
from typing import Any

import altair as alt

from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.errors import BadArgument

MOST_POINTS = 2000
"""Largest number of points per schedule; a shorter run shows every step."""


def picture(schedules: Mapping[str, Schedule], steps: int) -> Any:
    """An altair chart of η over the steps of a run, one line per schedule.

    Args:
        schedules: Schedules by their names in the legend.
        steps: Length of the run.

    >>> from gradiometer.convergence.schedules import Cosine
    >>> from gradiometer.convergence.schedules.picture import picture
    >>> chart = picture({"cosine": Cosine(0.1, steps=100)}, 100)
    >>> chart.data.values[50]
    {'step': 50, 'rate': 0.05, 'schedule': 'cosine'}
    """
    if not steps >= 1:
        raise BadArgument(f"`steps` must be at least 1, got {steps}.")
    shown = sorted({round(place * (steps - 1) / MOST_POINTS) for place in range(MOST_POINTS + 1)})
    points = [
        {"step": step, "rate": schedule(step), "schedule": name}
        for name, schedule in schedules.items()
        for step in shown
    ]
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("rate:Q", title="learning rate η"),
            color=alt.Color(
                "schedule:N",
                title=None,
                legend=alt.Legend(orient="bottom", columns=1, labelLimit=560),
            ),
            strokeDash=alt.StrokeDash("schedule:N", title=None),
        )
        .properties(width=560, height=280)
    )
