"""The section of issue 3, convergence: the learning rate, its remaining sums, the plateau, the
path, and the certificate."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gradiometer.convergence.certificate.certificate import Certificate
from gradiometer.convergence.plateau.noise_floor import FINISH
from gradiometer.convergence.schedules.horizon import horizon
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.theorem.theorem import TheoremVerdict, theorem
from gradiometer.convergence.trajectory.path_facts import Trail
from gradiometer.convergence.trajectory.trajectory import Trajectory, lengths_of
from gradiometer.errors import BadArgument
from gradiometer.gauges import labels_of
from gradiometer.measurement import Estimate, Finding, Issue, State, significant
from gradiometer.report.charts.charts import (
    learning_rate_chart,
    move_lengths_chart,
    plateau_chart,
)
from gradiometer.report.charts.theme import LISTS, POINTS
from gradiometer.report.sections.questions import Answer
from gradiometer.report.sections.section import (
    Figure,
    Numbers,
    Section,
    cells,
    evenly,
    level_of,
)
from gradiometer.run import Configuration, Run
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.planned import planned
from gradiometer.verdict import Diagnosis, say
from gradiometer.verdict.words.convergence import course_of_rate

# A last rate below this share of the largest counts as zero, because the floor of the loss is
# proportional to η.
COOLED = 0.01

# Maximum number of steps in a sum over a schedule. A longer run uses evenly spaced steps.
SUMMED = 100_000


@dataclass(frozen=True)
class RateCurve:
    """The learning rate over a run.

    Args:
        steps: Steps, evenly spaced unless the rates were measured.
        values: η at these steps, constant up to the next one.
        end: η at the step after the last if it is known: a linear schedule reaches zero only there.
        total: T, the number of steps of the run.
        now: The current step.
        source: Source of the rates: `GIVEN`, `FORKED` or `MEASURED`.
        schedule: The schedule, if all rates come from it.
        verdict: The theorem's verdict on the schedule.
    """

    steps: Int[np.ndarray, " steps"]
    values: Float[np.ndarray, " steps"]
    end: float
    total: int
    now: int
    source: str
    schedule: Schedule | None = None
    verdict: TheoremVerdict | None = None

    @property
    def planned(self) -> bool:
        """True if every rate up to the end of the run is known."""
        return self.source != MEASURED

    @property
    def reaches_zero(self) -> bool:
        """True if η is below a hundredth of its peak at the last step or the step after it."""
        return bool(min(self.values[-1], self.end) < COOLED * self.values.max())

    def at(self, step: int) -> float:
        """η at a step of the run."""
        return float(self.values[self._place(step)])

    def sums(self, start: int = 0) -> tuple[float, float]:
        """Σ η and Σ η² from a step to the end of the run."""
        first = self._place(start)
        steps, values = self.steps[first:], self.values[first:]
        counts = np.diff(steps, append=self.total)
        counts[0] = max(counts[0] - max(start - steps[0], 0), 0)
        weighted = counts * values
        return float(weighted.sum()), float(weighted @ values)

    def _place(self, step: int) -> int:
        """The place of the newest rate at a step."""
        return max(int(np.searchsorted(self.steps, step, side="right")) - 1, 0)


GIVEN = "from the schedule"
FORKED = "from the schedule and the forks"
MEASURED = "as recorded"


def rates_of(run: Run) -> RateCurve | None:
    """The rates from schedule and forks if they agree with the measured ones, else the measured
    ones, if any."""
    total, measured = run.manifest.get("steps"), _rates(run)
    configuration = run.configuration
    if total is None or not isinstance(configuration, Configuration):
        return measured
    schedule = planned(configuration, total)
    steps = np.arange(0, total, -(-total // SUMMED))
    try:
        values = np.array([schedule(int(step)) for step in steps])
        end = schedule(total)
    except BadArgument:  # the schedule gives an invalid rate, which training reports
        return measured
    if not values.max() > 0:
        return None
    now = min(run.steps, total)
    if configuration.cool == "auto":
        # The step from which it goes to zero, as far as it is decided.
        begins = total - int(FINISH * total)
        for event in _events(run, "cooling"):
            begins = total if event["begins"] is None else int(event["begins"])
        left = np.clip((total - steps - 0.5) / max(total - begins, 1), 0.0, 1.0)
        values = values * np.where(steps < begins, 1.0, left)
        made = RateCurve(steps, values, 0.0 if begins < total else end, total, now, FORKED)
    else:
        made = RateCurve(steps, values, end, total, now, GIVEN, schedule, verdict_of(schedule))
    if measured is not None:
        places = np.searchsorted(made.steps, measured.steps, side="right") - 1
        exact = made.steps[places] == measured.steps
        if not np.allclose(made.values[places][exact], measured.values[exact], rtol=1e-6):
            return measured
    return made


def _rates(run: Run) -> RateCurve | None:
    """η as it was recorded: the largest one of the groups."""
    settings = run.hyperparameters
    if settings is None or not (settings.recorded and settings.rates.max() > 0):
        return None
    steps = np.array(settings.steps, dtype=np.int64)
    total = max(run.steps, int(steps[-1]), 1)
    return RateCurve(steps, settings.rates, float(settings.rates[-1]), total, run.steps, MEASURED)


# a formula may take a second
verdict_of = lru_cache(theorem)


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
    figures = (
        _rate_figure(rates),
        plateau_figure(run),
        trajectory_figure(run, diagnosis.estimates),
    )
    lead = LEAD
    if certificates:
        found = certificates[-1]
        lead += f" {say(found.finding()).seen} Verdict: {found.verdict}."
    elif run.has_program_with_model:
        lead += (
            f" {run.call('certify', 'train')} checks if this is a stationary point of the training "
            "loss."
        )
    finding = _finding(rates)
    path = _path_rows(diagnosis.estimates, labels_of(diagnosis.gauges, Issue.CONVERGENCE))
    rows = [*_rate_rows(rates), *path]
    parts = ["The schedule"]
    if _path_rows(diagnosis.estimates, Trajectory.labels):
        parts.append("the path")
    if certificates:
        parts.append("the certificate")
        found = certificates[-1]
        rows += _rows(
            (f"{words}, at step {found.step:,}", found.estimates[name])
            for name, words in Certificate.labels.items()
        )
    heading = "The schedule, the path, and the certificate"
    return Section(
        name="convergence",
        title=TITLE,
        lead=lead,
        figures=tuple(figure for figure in figures if figure is not None),
        table=Numbers(("quantity", "value", "interval", "level", "method"), tuple(rows)),
        answers=() if finding is None else (Answer(finding, {}),),
        heading=heading if len(parts) == 3 else ", and ".join(parts),
    )


def _rate_figure(rates: RateCurve) -> Figure:
    distance, noise = rates.sums()
    parts = [f"η {course_of_rate(_course(rates))}."]
    if rates.verdict is not None:
        parts.append(f"If the run never ended: {rates.verdict.why}")
    parts.append(f"Over the run Σ η = {significant(distance)} and Σ η² = {significant(noise)}.")
    goes_on = rates.now < rates.total
    if goes_on:
        left, noise_left = rates.sums(rates.now)
        parts.append(
            f"From step {rates.now:,} to the end, Σ η = {significant(left)} (distance in units of "
            f"‖g‖) and Σ η² = {significant(noise_left)} (noise) are left."
        )
    drawn = [
        (int(rates.steps[at]), float(rates.values[at]))
        for at in evenly(len(rates.steps), POINTS.rate)
    ]
    drawn.append((rates.total, drawn[-1][1]))
    now = rates.now if goes_on else None
    listed = rates.steps[evenly(len(rates.steps), LISTS.rates)].tolist()
    rows = tuple(
        (f"{step:,}", *map(significant, (rates.at(step), *rates.sums(step)))) for step in listed
    )
    return Figure(
        name="learning-rate",
        title="Learning rate",
        chart=learning_rate_chart(drawn, now, to_zero=rates.reaches_zero),
        summary=" ".join(parts),
        table=Numbers(("step", "learning rate", "Σ η left", "Σ η² left"), rows),
        note=(
            f"η at every step, {rates.source}. Σ η is how far a run can travel, in units of the "
            "gradient norm; Σ η² is the noise that it takes in."
        ),
        single=bool(rates.values.min() == rates.values.max()),
    )


def _course(rates: RateCurve) -> dict[str, Any]:
    """The learning rate along the run: first, highest and last, as the facts of a finding."""
    now = float(np.interp(rates.now, rates.steps, rates.values))
    return {
        "first": float(rates.values[0]),
        "last": float(rates.values[-1]),
        "last_step": int(rates.steps[-1]),
        "lowest": float(rates.values.min()),
        "peak": float(rates.values.max()),
        "peak_step": int(rates.steps[rates.values.argmax()]),
        "reaches_zero": rates.reaches_zero,
        "now": now if rates.now < rates.total else None,
    }


def _finding(rates: RateCurve) -> Finding | None:
    """A finding that says if η reaches zero by the end of the run."""
    if not rates.planned:
        return None
    claim, state = "schedule_above_zero", State.LOOK
    if rates.reaches_zero:
        claim, state = "schedule_to_zero", State.OK
    return Finding("schedule", Issue.CONVERGENCE, claim, state, facts=_course(rates))


def _rate_rows(rates: RateCurve) -> list[tuple[str, ...]]:
    """The conditions of the theorem, the sums over the run, and the worst case."""
    rows: list[tuple[str, ...]] = []
    verdict = rates.verdict
    if verdict is not None:
        words = {True: "yes", False: "no", None: "undecided"}
        conditions = {
            "η → 0": verdict.limit_zero,
            "Σ η = ∞": verdict.sum_diverges,
            "Σ η² < ∞": verdict.sum_of_squares_converges,
            "the theorem applies": verdict.theorem,
        }
        how = "asymptotics of the schedule"
        rows += [(name, words[answer], "", "", how) for name, answer in conditions.items()]
    since = f"left from step {rates.now:,}"
    names = ("Σ η over the run", "Σ η² over the run", f"Σ η {since}", f"Σ η² {since}")
    sums = (*rates.sums(), *rates.sums(rates.now))
    rows += [
        (name, significant(value), "exact", "", "") for name, value in zip(names, sums, strict=True)
    ]
    if rates.schedule is not None and rates.total <= SUMMED:
        bound = horizon(rates.schedule, rates.total).bound
        worst = significant(bound * math.sqrt(rates.total))
        rows.append(
            ("worst case over convex losses, × D G/√T", worst, "bound", "", "linear to zero: 2.0")
        )
    return rows


def _path_rows(
    estimates: Mapping[str, Estimate], labels: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """The facts of the path for the section's table: quantity, value, interval, level, method."""
    known = {
        words: estimates[name]
        for name, words in labels.items()
        if name in estimates and not math.isnan(estimates[name].value)
    }
    return _rows(known.items())


def _rows(named: Iterable[tuple[str, Estimate]]) -> list[tuple[str, ...]]:
    return [
        (words, *cells(estimate), level_of(estimate), estimate.method) for words, estimate in named
    ]


def plateau_figure(run: Run) -> Figure | None:
    """The results of the test, and the outcomes of forecasts of a cut; None if the test did not
    run."""
    tests = _events(run, "stationarity")
    if not tests:
        return None
    steps = run.manifest.get("steps", run.steps)
    decided = [event["begins"] for event in _events(run, "cooling")]
    begun = [step for step in decided if step is not None and step < steps]
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
    for event in _events(run, "cut scored"):
        verb = "gained" if event["seen"] >= 0 else "lost"
        met = "as forecast" if event["within"] else "not as forecast"
        parts.append(
            f"The cut at step {event['cut_at']:,} {verb} {significant(abs(event['seen']))}, {met}: "
            f"{Estimate(**event['predicted'])}."
        )
    rows = tuple(
        (
            f"{step:,}",
            significant(test["learning_rate"]),
            *cells(gain),
            significant(float(test["left"])),
            "yes" if test["stopped"] else "no",
        )
        for test, (step, gain) in zip(tests, gains, strict=True)
    )
    return Figure(
        name="plateau",
        title="Keep the learning rate, or cut it",
        chart=plateau_chart(gains, left, begun),
        summary=" ".join(parts),
        table=Numbers(
            ("step", "learning rate", "gain of a cut", "interval", "gain without a cut", "plateau"),
            rows,
        ),
        note=(
            "The gain of a cut is measured: the loss of the newest iterates minus the loss of "
            "their average, always on the same examples. A cut to a tenth gains nine tenths of it. "
            "The gain without a cut is extrapolated from the run so far. A gain that is not above "
            "zero cannot be drawn (▼)."
        ),
    )


def _events(run: Run, name: str) -> Sequence[Mapping[str, Any]]:
    return [event for event in run.events if event["event"] == name]


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
    moves = lengths_of(path, correlation.level)
    if len(moves) < 2:
        return None
    first, last = moves[0], moves[-1]
    (moved, stepped), (last_moved, last_stepped) = (
        [" ".join(cells(length)) for length in (move.moved, move.stepped)] for move in (first, last)
    )
    rows = tuple(
        (f"{move.first:,} – {move.last:,}", *cells(move.moved), *cells(move.stepped))
        for move in moves
    )
    return Figure(
        name=Trajectory.name,
        title="Path of the parameters",
        chart=move_lengths_chart(moves),
        summary=(
            f"Between groups of iterates the parameters moved by {moved} in steps "
            f"{first.first:,} to {first.last:,}, and by {last_moved} in steps {last.first:,} to "
            f"{last.last:,}. A single step moved them by {stepped} and {last_stepped}."
        ),
        table=Numbers(("steps", "between groups", "interval", "in one step", "interval"), rows),
        note=(
            "A run that comes to rest goes down here, one that fluctuates around a fixed position "
            "stays level, and one that travels goes up; a random walk by √2 per doubling."
        ),
    )
