"""The section of issue 3, convergence: the learning rate, its remaining sums, the path, and the
certificate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradiometer.convergence.certificate.certificate import Certificate
from gradiometer.convergence.schedules.horizon import horizon
from gradiometer.convergence.theorem.theorem import TheoremVerdict
from gradiometer.gauges import labels_of
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.report.charts.convergence_charts import learning_rate_chart
from gradiometer.report.sections.plateau_chart import plateau_figure
from gradiometer.report.sections.questions import Answer
from gradiometer.report.sections.rates import SUMMED, RateCurve, rates_of
from gradiometer.report.sections.section import Figure, Numbers, Section, cells
from gradiometer.report.sections.trajectory import trajectory_figure, trajectory_rows
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis
from gradiometer.verdict.words.convergence import course_of_rate
from gradiometer.verdict.words.say import say

DRAWN = 400
"""Maximum number of steps in the chart."""
ROWS = 25
"""Maximum number of steps in the table of the chart."""
TITLE = "Learning rate and convergence"
LEAD = (
    "SGD comes to rest only if the learning rate goes to zero. Does it, and has SGD come to rest?"
)


def convergence_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 3: η along the run, the theorem's verdict, how far the run can still travel, its path,
    its certificate."""
    rates, certificates = rates_of(run), load_artifacts(run, Certificate)
    if rates is None:
        return Section("convergence", TITLE, f"{LEAD} Nothing has been recorded yet.", ())
    drawn = (_rate_figure(rates), plateau_figure(run), trajectory_figure(run, diagnosis.estimates))
    figures = [figure for figure in drawn if figure is not None]
    finding = _finding(rates)
    if not certificates:
        advice = (
            f" {run.call('certify', 'train')} checks if this is a stationary point of the training "
            "loss."
        )
        lead = LEAD + (advice if run.has_program_with_model else "")
    else:
        lead = f"{LEAD} {say(certificates[-1].finding()).seen} Verdict: {certificates[-1].verdict}."
    return Section(
        name="convergence",
        title=TITLE,
        lead=lead,
        figures=tuple(figures),
        table=_table(rates, diagnosis, certificates),
        answers=() if finding is None else (Answer(finding, {}),),
        heading=_heading(diagnosis.estimates, certificates),
    )


def _rate_figure(rates: RateCurve) -> Figure:
    distance, noise = rates.sums()
    parts = [f"η {course_of_rate(_course(rates))}."]
    if rates.verdict is not None:
        parts.append(f"If the run never ended: {rates.verdict.why}")
    parts.append(f"Over the run Σ η = {significant(distance)} and Σ η² = {significant(noise)}.")
    if rates.now < rates.total:
        left, noise_left = rates.sums(rates.now)
        parts.append(
            f"From step {rates.now:,} to the end, Σ η = {significant(left)} (distance in units of "
            f"‖g‖) and Σ η² = {significant(noise_left)} (noise) are left."
        )
    chosen = np.unique(np.linspace(0, len(rates.steps) - 1, DRAWN).round().astype(int))
    drawn = [(int(rates.steps[place]), float(rates.values[place])) for place in chosen]
    drawn.append((rates.total, drawn[-1][1]))
    return Figure(
        name="learning-rate",
        title="Learning rate",
        chart=learning_rate_chart(
            drawn, rates.now if rates.now < rates.total else None, to_zero=rates.reaches_zero
        ),
        summary=" ".join(parts),
        table=_rate_table(rates),
        note=(
            f"η at every step, {rates.source}. Σ η is how far a run can travel, in units of the "
            "gradient norm; Σ η² is the noise that it takes in. In a finite run it matters that η "
            "is zero at the end."
        ),
    )


def _course(rates: RateCurve) -> dict[str, Any]:
    """The learning rate along the run: first, highest and last, as the facts of a finding."""
    return {
        "first": float(rates.values[0]),
        "last": float(rates.values[-1]),
        "last_step": int(rates.steps[-1]),
        "lowest": float(rates.values.min()),
        "peak": float(rates.values.max()),
        "peak_step": int(rates.steps[rates.values.argmax()]),
        "reaches_zero": rates.reaches_zero,
        "now": float(np.interp(rates.now, rates.steps, rates.values))
        if rates.now < rates.total
        else None,
    }


def _rate_table(rates: RateCurve) -> Numbers:
    chosen = np.unique(np.linspace(0, len(rates.steps) - 1, ROWS).round().astype(int))
    rows = []
    for place in chosen:
        step = int(rates.steps[place])
        left = rates.sums(step)
        rows.append(
            (
                f"{step:,}",
                significant(float(rates.values[place])),
                *(significant(part) for part in left),
            )
        )
    return Numbers(("step", "learning rate", "Σ η left", "Σ η² left"), tuple(rows))


def _finding(rates: RateCurve) -> Finding | None:
    """A finding that says if η reaches zero by the end of the run."""
    if not rates.planned:
        return None
    if rates.reaches_zero:
        claim, state = "schedule_to_zero", State.OK
    else:
        claim, state = "schedule_above_zero", State.LOOK
    return Finding("schedule", Issue.CONVERGENCE, claim, state, facts=_course(rates))


def _heading(estimates: Mapping[str, Estimate], certificates: Sequence[Certificate]) -> str:
    parts = ["the path"] * bool(trajectory_rows(estimates)) + ["the certificate"] * bool(
        certificates
    )
    return (
        ", and ".join(["The schedule", *parts])
        if len(parts) < 2
        else "The schedule, the path, and the certificate"
    )


def _table(rates: RateCurve, diagnosis: Diagnosis, certificates: Sequence[Certificate]) -> Numbers:
    estimates, labels = diagnosis.estimates, labels_of(diagnosis.gauges, Issue.CONVERGENCE)
    rows = [*_conditions(rates.verdict)] if rates.verdict is not None else []
    distance, noise = rates.sums()
    left, noise_left = rates.sums(rates.now)
    for name, value in (
        ("Σ η over the run", distance),
        ("Σ η² over the run", noise),
        (f"Σ η left from step {rates.now:,}", left),
        (f"Σ η² left from step {rates.now:,}", noise_left),
    ):
        rows.append((name, significant(value), "exact", "", ""))
    if rates.schedule is not None and rates.total <= SUMMED:
        found = horizon(rates.schedule, rates.total)
        worst = significant(found.bound * math.sqrt(rates.total))
        rows.append(
            ("worst case over convex losses, × D G/√T", worst, "bound", "", "linear to zero: 2.0")
        )
    rows += trajectory_rows(estimates, labels)
    if certificates:
        rows += _certified(certificates[-1].estimates, certificates[-1].step)
    return Numbers(("quantity", "value", "interval", "level", "method"), tuple(rows))


def _conditions(verdict: TheoremVerdict) -> list[tuple[str, ...]]:
    words = {True: "yes", False: "no", None: "undecided"}
    answers = {
        "η → 0": verdict.limit_zero,
        "Σ η = ∞": verdict.sum_diverges,
        "Σ η² < ∞": verdict.sum_of_squares_converges,
        "the theorem applies": verdict.theorem,
    }
    return [
        (name, words[answer], "", "", "asymptotics of the schedule")
        for name, answer in answers.items()
    ]


def _certified(estimates: Mapping[str, Estimate], step: int) -> list[tuple[str, ...]]:
    return [
        (
            f"{words}, at step {step:,}",
            *cells(estimates[name]),
            "" if estimates[name].method == "exact" else f"{estimates[name].level:.0%}",
            estimates[name].method,
        )
        for name, words in Certificate.labels.items()
    ]
