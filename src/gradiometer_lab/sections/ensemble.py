"""The section of issue 4, exploration: the snapshots of a run as an ensemble."""

import shlex

from gradiometer.exploration.ensembles.ensemble_report import SCORES, EnsembleReport
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Issue
from gradiometer.report.charts.charts import members_chart, reliability_chart
from gradiometer.report.sections.questions import Answer
from gradiometer.report.sections.section import Figure, Numbers, Section, cells
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

METHOD = (
    "Predictors are compared example by example, on examples that calibrated none of them. "
    "Formulas: docs/explanation/exploration.md."
)


def ensemble_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 4: the log-loss of the last m snapshots, their calibration, and all scores."""
    reports = load_artifacts(run, EnsembleReport)
    lead = "Do the snapshots together predict better than the last one alone?"
    if not reports:
        taken = sum(event["event"] == "snapshot" for event in run.events)
        state = "The run has no snapshots."
        if taken:
            state = f"The run has {taken} snapshots: {run.call('ensemble', 'test')} scores them."
        return Section(
            "ensemble",
            "Ensemble of snapshots",
            f"{lead} {state}",
            (),
            method=METHOD,
            issue=Issue.EXPLORATION,
        )
    (report,) = reports
    finding = report.finding(shlex.quote(str(run.path)))
    rows = [(words, "the ensemble", *cells(report.scores[name])) for name, words in SCORES.items()]
    for baseline in report.baselines:
        rows += [
            (words, f"minus {baseline.name}", *cells(baseline.difference[name]))
            for name, words in SCORES.items()
        ]
    rows.append(
        ("disagreement over error", "the snapshots", *cells(report.disagreement_over_error))
    )
    for number, path in enumerate(report.paths, start=1):
        rows.append(("error barrier", f"from {number} to {report.snapshots}", *cells(path.barrier)))
    answer = Answer(finding, {"gain": report.gain, "no gain": Estimate.exact(0.0)})
    return Section(
        "ensemble",
        "Ensemble of snapshots",
        lead,
        (size_figure(report), reliability_figure(report)),
        Numbers(("quantity", "of", "estimate", "interval"), tuple(rows)),
        (answer,),
        heading="Scores and differences",
        method=METHOD,
        issue=Issue.EXPLORATION,
    )


def size_figure(report: EnsembleReport) -> Figure:
    """The calibrated log-loss of the last m snapshots averaged."""
    sizes = [(size.members, size.scores["calibrated_nll"]) for size in report.sizes]
    added = ["", *(" ".join(cells(size.added["calibrated_nll"])) for size in report.sizes[1:])]
    rows = tuple(
        (f"{m}", *cells(estimate), more) for (m, estimate), more in zip(sizes, added, strict=True)
    )
    return Figure(
        name="ensemble_size",
        title="Size of the ensemble",
        chart=members_chart(sizes),
        summary=(
            f"The calibrated log-loss is {sizes[0][1]} for the last snapshot alone and "
            f"{sizes[-1][1]} for all {report.snapshots}. On the validation examples, the last "
            f"{report.chosen} are best."
        ),
        table=Numbers(
            ("m", "log-loss, calibrated", "interval", "change by the m-th, paired"), rows
        ),
        note=(
            "The intervals are over test examples. The change by each member, in the table, is "
            "paired by example and much more precise."
        ),
    )


def reliability_figure(report: EnsembleReport) -> Figure:
    """The accuracy of the ensemble against its confidence."""
    most_confident = report.reliability[-1]
    accuracy = most_confident.accuracy
    return Figure(
        name="reliability",
        title="Calibration of the ensemble",
        chart=reliability_chart([(part.confidence, part.accuracy) for part in report.reliability]),
        summary=(
            f"The calibration error is {report.scores['calibration_error']}. In the bin with the "
            f"highest confidence, {most_confident.confidence:.1%}, the accuracy is "
            f"{accuracy.value:.0%} [{accuracy.low:.0%}, {accuracy.high:.0%}]."
        ),
        table=Numbers(
            ("confidence", "accuracy", "interval", "examples"),
            tuple(
                (f"{part.confidence:.4f}", *cells(part.accuracy), f"{part.examples:,}")
                for part in report.reliability
            ),
        ),
        note=(
            "Before calibration, which divides the log-probabilities by τ = "
            f"{report.temperature:.3g}. On the dashed line the confidence is correct; below it the "
            "confidence is too high."
        ),
    )
