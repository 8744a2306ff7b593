"""The figure of the plateau test: the gain of a cut of the learning rate, and the possible gain
without a cut."""

from collections.abc import Mapping
from typing import Any

from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.report.charts.convergence_charts import plateau_chart
from gradiometer.report.sections.section import Figure, Numbers, cells
from gradiometer.run.reader import Run

Event = Mapping[str, Any]


def plateau_figure(run: Run) -> Figure | None:
    """The results of the test, and the outcomes of forecasts of a cut; None if the test did not
    run."""
    tests = _named(run, "stationarity")
    if not tests:
        return None
    decided = [event["begins"] for event in _named(run, "cooling")]
    begun = [
        step for step in decided if step is not None and step < run.manifest.get("steps", run.steps)
    ]
    scored = _named(run, "cut scored")
    gains = [(int(test["step"]), Estimate(**test["gain"])) for test in tests]
    left = [(int(test["step"]), Estimate.exact(float(test["left"]))) for test in tests]
    last = tests[-1]
    parts = [
        f"At the last test, at step {last['step']:,} with η = "
        f"{significant(last['learning_rate'])}, a cut to zero would lower the training loss by "
        f"{gains[-1][1]}, the cost of the noise. Without a cut, the possible gain is "
        f"{significant(left[-1][1].value)}."
    ]
    if begun:
        parts.append(f"The rate goes to zero from step {begun[-1]:,}.")
    parts += [_score(event) for event in scored]
    return Figure(
        name="plateau",
        title="Keep the learning rate, or cut it",
        chart=plateau_chart(gains, left, begun),
        summary=" ".join(parts),
        table=Numbers(
            ("step", "learning rate", "gain of a cut", "interval", "gain without a cut", "plateau"),
            tuple(
                (
                    f"{test['step']:,}",
                    significant(test["learning_rate"]),
                    *cells(Estimate(**test["gain"])),
                    significant(float(test["left"])),
                    "yes" if test["stopped"] else "no",
                )
                for test in tests
            ),
        ),
        note=(
            "The gain of a cut is measured: the loss of the newest iterates minus the loss of "
            "their average, always on the same examples. A cut to a tenth gains nine tenths of it. "
            "The gain without a cut is extrapolated from the run so far. A gain that is not above "
            "zero cannot be drawn (▼)."
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
