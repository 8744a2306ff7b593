"""The section of issue 4, exploration: the snapshots of a run as an ensemble."""

import shlex

import altair as alt

from gradiometer.diagnosis import Diagnosis
from gradiometer.exploration.ensembles.ensemble_report import EnsembleReport
from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.axes import plain_row
from gradiometer.report.charts.marks import HEIGHT, WIDTH, bars, layered, linear_y, points, tooltip
from gradiometer.report.sections.questions import Answer
from gradiometer.report.sections.section import Figure, Numbers, Section, cells
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.reader import Run

SCORES = {
    "error": "error, share of examples",
    "nll": "log-loss",
    "calibrated_nll": "log-loss, calibrated",
    "brier": "Brier score",
    "calibration_error": "calibration error, debiased",
}
"""The scores as they are written on paper, in the order of the table."""


def ensemble_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 4: what the last m snapshots give, whether their confidence is deserved, and all scores."""
    reports = load_artifacts(run, EnsembleReport)
    lead = "Do the models along the way give more together than the last of them alone?"
    if not reports:
        taken = sum(event["event"] == "snapshot" for event in run.events)
        command = f"`gradiometer ensemble {shlex.quote(str(run.path))}`"
        told = f"{taken} snapshots are kept: {command} scores them." if taken else "No snapshot has been kept."
        return Section("ensemble", "Ensemble", f"{lead} {told}", ())
    (worth,) = reports
    finding = worth.finding(shlex.quote(str(run.path)))
    answer = Answer(finding, {"gain": worth.gain, "no gain": Estimate.exact(0.0)})
    return Section(
        "ensemble",
        "Ensemble",
        lead,
        (growing_figure(worth), reliability_figure(worth)),
        _table(worth),
        (answer,),
        heading="Scores, and what they differ by",
    )


def growing_figure(worth: EnsembleReport) -> Figure:
    """The calibrated log-loss of the last m snapshots averaged."""
    sizes = [(size.members, size.scores["calibrated_nll"]) for size in worth.growing]
    base = alt.Chart(alt.Data(values=[{"m": m, **plain_row(estimate)} for m, estimate in sizes]))
    base = base.encode(
        x=alt.X("m:O", axis=alt.Axis(title="m, the last snapshots averaged", labelAngle=0)), tooltip=tooltip("m:O")
    )
    added = ["", *(_interval(size.added["calibrated_nll"]) for size in worth.growing[1:])]
    rows = tuple((f"{m}", *cells(estimate), more) for (m, estimate), more in zip(sizes, added, strict=True))
    return Figure(
        name="growing",
        title="The ensemble as it grows",
        chart=layered(bars(base, linear_y("log-loss, calibrated, nats"))).properties(width=WIDTH, height=HEIGHT),
        summary=(
            f"The calibrated log-loss is {sizes[0][1]} for the last snapshot alone and {sizes[-1][1]} for all "
            f"{worth.snapshots}; validation examples call for the last {worth.chosen}."
        ),
        table=Numbers(("m", "log-loss, calibrated", "interval", "change by the m-th, paired"), rows),
        note=(
            "The bars are over test examples and move together from m to m; the change by each member, paired by "
            "example, is far better known and stands in the table."
        ),
    )


def reliability_figure(worth: EnsembleReport) -> Figure:
    """How often the ensemble is right, against how sure it is."""
    rows = [{"confidence": part.confidence, **plain_row(part.accuracy)} for part in worth.reliability]
    base = alt.Chart(alt.Data(values=rows))
    x = alt.X("confidence:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="confidence", format="~%"))
    base = base.encode(x=x, tooltip=[alt.Tooltip("confidence:Q", format=".1%"), alt.Tooltip("interval:N")])
    ends = [worth.reliability[0].confidence, worth.reliability[-1].confidence]
    diagonal = alt.Chart(alt.Data(values=[{"confidence": end, "value": end} for end in ends]))
    whole = alt.Scale(zero=False, domainMax=1.02)  # a point at 100 % is a whole one
    y = linear_y("share classified rightly", "~%", whole)
    line = diagonal.mark_line(strokeDash=[4, 4], opacity=0.6).encode(x=x, y=y("value"))
    surest = worth.reliability[-1]
    return Figure(
        name="reliability",
        title="Is its confidence deserved?",
        chart=layered(line, bars(base, y), points(base, y)).properties(width=WIDTH, height=HEIGHT),
        summary=(
            f"The calibration error is {worth.scores['calibration_error']}; where the ensemble is surest, at "
            f"{surest.confidence:.1%}, it is right "
            f"about {surest.accuracy.value:.0%} [{surest.accuracy.low:.0%}, {surest.accuracy.high:.0%}] of the time."
        ),
        table=Numbers(
            ("confidence", "accuracy", "interval", "examples"),
            tuple(
                (f"{part.confidence:.4f}", *cells(part.accuracy), f"{part.examples:,}") for part in worth.reliability
            ),
        ),
        note=f"Before calibration; dividing the logarithms by τ = {worth.temperature:.3g} calibrates. On the dashed "
        "line confidence is deserved; below it there is too much of it.",
    )


def _table(worth: EnsembleReport) -> Numbers:
    """Every score of the ensemble, and what it differs by from each rival."""
    rows = [(words, "the ensemble", *cells(worth.scores[name])) for name, words in SCORES.items()]
    for rival in worth.against:
        rows += [(words, f"less {rival.name}", *cells(rival.difference[name])) for name, words in SCORES.items()]
    rows.append(("disagreement over error", "the snapshots", *cells(worth.disagreement_over_error)))
    for way in worth.barriers:
        rows.append(("barrier of error", f"from {way.snapshot} to {worth.snapshots}", *cells(way.barrier)))
    return Numbers(("quantity", "of", "estimate", "interval"), tuple(rows))


def _interval(estimate: Estimate) -> str:
    value, interval = cells(estimate)
    return f"{value} {interval}"
