"""Whether a learning rate still pays: what a cut gains against what going on may, at every look."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.report.charts.convergence_charts import paying_chart
from gradiometer.report.sections.section import Figure, Numbers, cells
from gradiometer.run.reader import Run

Event = Mapping[str, Any]


def paying_figure(run: Run) -> Figure | None:
    """The looks of the test, its cuts, and how their forecasts were met; None where nothing was watched."""
    looks = _named(run, "stationarity")
    if not looks:
        return None
    cuts, scored = [int(event["step"]) for event in _named(run, "cut")], _named(run, "cut scored")
    gains = [(int(look["step"]), Estimate(**look["gain"])) for look in looks]
    left = [(int(look["step"]), Estimate.exact(float(look["left"]))) for look in looks]
    last = looks[-1]
    parts = [
        f"At the last look, step {last['step']:,}, the noise at η = {significant(last['learning_rate'])} costs "
        f"{gains[-1][1]} in the training loss, which a cut to zero gains; going on may still gain "
        f"{significant(left[-1][1].value)}."
    ]
    if cuts:
        parts.append(f"The rate was cut at step {_listed(cuts)}.")
    parts += [_score(event) for event in scored]
    return Figure(
        name="still-paying",
        title="Going on, or a cut",
        chart=paying_chart(gains, left, cuts),
        summary=" ".join(parts),
        table=Numbers(
            ("step", "learning rate", "a cut gains", "interval", "going on gains", "stopped paying"),
            tuple(
                (
                    f"{look['step']:,}",
                    significant(look["learning_rate"]),
                    *cells(Estimate(**look["gain"])),
                    significant(float(look["left"])),
                    "yes" if look["stopped"] else "no",
                )
                for look in looks
            ),
        ),
        note=(
            "What a cut gains is measured: the loss of the newest iterates less that of their average, on examples "
            "that stay the same; a cut to a tenth gains nine tenths of it. What going on gains is extrapolated along "
            "the run's own way; a gain that is not above zero cannot be drawn (▼)."
        ),
    )


def _named(run: Run, name: str) -> list[Event]:
    return [event for event in run.events if event["event"] == name]


def _score(event: Event) -> str:
    verb = "gained" if event["seen"] >= 0 else "lost"
    met = "as forecast" if event["within"] else "not as forecast"
    return (
        f"The cut at step {event['cut_at']:,} {verb} {significant(abs(event['seen']))}, {met}: "
        f"{Estimate(**event['predicted'])}."
    )


def _listed(steps: Sequence[int]) -> str:
    *first, last = [f"{step:,}" for step in steps]
    return f"{', '.join(first)} and {last}" if first else last
