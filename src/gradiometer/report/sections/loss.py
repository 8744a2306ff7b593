"""The section about the losses: training, test, and test accuracy."""

import math
from collections.abc import Sequence

import numpy as np

from gradiometer.drift.spikes.detection import Spike
from gradiometer.loop.recorded.record import forks_of
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import State
from gradiometer.report.charts.blocks import Block, blocks
from gradiometer.report.charts.charts import accuracy_chart, loss_chart
from gradiometer.report.charts.marks import Curve
from gradiometer.report.sections.forks import branch_curve
from gradiometer.report.sections.section import Figure, Numbers, Section, cells, change, numbers_of
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis
from gradiometer.verdict.words.spikes import steps_in_words

MOST_JUMPS = 12
"""A learning rate that was recorded more often follows a curve, which has its own chart."""

MOST_TICKS = 120
"""Maximum number of measured steps that are marked."""

GUESS_IN_VIEW = 3.0
"""A level of a guess further above the losses would flatten their curve."""

BRANCH_POINTS = 15
"""Points of a branch: each is a mean over several batches, whose own losses would hide it."""

FEW = 3
"""With fewer blocks there is no line to see, so every loss is drawn."""


def loss_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Training and test loss, and test accuracy, along the run."""
    training = blocks(*run.losses, level=run.configuration.level)
    figures = []
    test_loss, test_accuracy = _evaluations(run, "test_loss"), _evaluations(run, "test_accuracy")
    if training or test_loss:
        batches = _single_batches(run) if len(training) < FEW else ()
        figures.append(_loss_figure(training, test_loss, batches, diagnosis, run))
    if test_accuracy:
        figures.append(
            Figure(
                name="accuracy",
                title="Test accuracy",
                chart=accuracy_chart(test_accuracy),
                summary=f"Test accuracy {change(test_accuracy)}.",
                table=numbers_of(test_accuracy, "test accuracy"),
                single=len(test_accuracy) == 1,
            )
        )
    lead = "" if figures else "No loss has been recorded yet."
    return Section("loss", "Loss and test scores", lead, tuple(figures))


def _single_batches(run: Run) -> tuple[tuple[int, float], ...]:
    """The finite losses of a short run, one by one."""
    steps, losses = run.losses
    return tuple(
        (int(step), float(loss))
        for step, loss in zip(steps, losses, strict=True)
        if np.isfinite(loss)
    )


def _loss_figure(
    training: Sequence[Block],
    test: Curve,
    batches: Sequence[tuple[int, float]],
    diagnosis: Diagnosis,
    run: Run,
) -> Figure:
    spikes = diagnosis.spikes
    ends = [(block.last, block.mean) for block in training if block.mean.tells or not batches]
    parts = [
        f"{name} {change(points)}"
        for name, points in (("Training loss", ends), ("Test loss", test))
        if points
    ]
    if batches:
        one, other = (
            f"{significant(loss)} at step {step:,}" for step, loss in (batches[0], batches[-1])
        )
        parts.insert(0, f"The loss of a batch goes from {one} to {other}")
    spoiled = sum(block.spoiled for block in training)
    if spoiled:
        first = next(block.first for block in training if block.spoiled)
        parts.append(
            f"{spoiled:,} losses from step {first:,} on are not finite; the means exclude them"
        )
    if spikes:
        parts.append(f"The loss spiked at {steps_in_words([spike.first for spike in spikes])}")
    changes = _rate_changes(run)
    if changes:
        parts.append("; ".join(f"{words} at step {step:,}" for step, words in changes))
    place, tried = _place(diagnosis), _tried(run, diagnosis)
    events = [*((spike.peak, _rise(spike)) for spike in spikes), *changes, *place]
    marks = []
    if events:
        marks.append(
            "A vertical line marks a spike, a change of the rate, or the step of the verdict."
        )
    guess = _guess(training, diagnosis)
    if guess is not None:
        parts.append(f"A guess, without a look at the inputs, costs {significant(guess)}")
    for name, curve in tried.items():
        parts.append(f"The branch with {name} ends at {significant(curve[-1][1])}")
    readings = _measured_steps(run)
    marks += ["A tick at the bottom marks a measured step."] * bool(readings)
    note = " ".join(text for text in (_block_note(training, batches), *marks) if text)
    return Figure(
        name="loss",
        title="Training and test loss"
        if test and training
        else ("Training loss" if training else "Test loss"),
        chart=loss_chart(training, test, batches, events, readings, guess, tried),
        summary=". ".join(parts) + ".",
        table=_loss_table(training, test, batches),
        note=note,
    )


def _guess(training: Sequence[Block], diagnosis: Diagnosis) -> float | None:
    """The level of a guess, if it is known and of the size of the losses that are drawn."""
    level = math.nan if diagnosis.triage is None else diagnosis.triage.level.value
    highest = max((block.mean.value for block in training), default=math.nan)
    return level if 0 < level <= GUESS_IN_VIEW * highest else None


def _place(diagnosis: Diagnosis) -> list[tuple[int, str]]:
    """The step at which what the headline says has happened, if it is one step."""
    facts = {} if diagnosis.headline is None else diagnosis.headline.facts
    step = facts.get("numbers", {}).get("step") if facts.get("numbers") else None
    return [] if step is None else [(int(step), "here it happened")]


def _tried(run: Run, diagnosis: Diagnosis) -> dict[str, list[tuple[float, float]]]:
    """The branches in which the cure of the headline was tried, as step and loss, thinned out."""
    headline = diagnosis.headline
    if headline is None or headline.trial is None or headline.state is not State.ACT:
        return {}
    forks = {result["fork"]: result["effect"].alternative for result in headline.trial.results}
    found = {}
    for record in forks_of(run):
        name = forks.get(record.name)
        curve = [] if name is None else branch_curve(record.fork, record.fork.of(name))
        if curve:
            groups = np.array_split(np.array(curve), min(len(curve), BRANCH_POINTS))
            found[f"tried: {name}"] = [
                (float(g[:, 0].mean()), float(g[:, 1].mean())) for g in groups
            ]
    return found


def _rate_changes(run: Run) -> list[tuple[int, str]]:
    """The steps at which the learning rate jumped, with its new value; none if it
    follows a curve."""
    settings = run.hyperparameters
    if settings is None or not settings.recorded or not 1 < len(settings.steps) <= MOST_JUMPS:
        return []
    rates = settings.rates.tolist()
    pairs = zip(settings.steps[1:], rates, rates[1:], strict=False)
    return [
        (step, f"learning rate {significant(after)}")
        for step, before, after in pairs
        if after != before
    ]


def _measured_steps(run: Run) -> list[int]:
    """At most `MOST_TICKS` of the steps that were measured by any gauge, evenly chosen."""
    series = [
        found for gauge in run.gauges if (found := run.series(gauge)) is not None and len(found)
    ]
    steps = (
        np.unique(np.concatenate([found.steps for found in series]))
        if series
        else np.array([], dtype=int)
    )
    chosen = (
        steps[np.unique(np.linspace(0, len(steps) - 1, MOST_TICKS).round().astype(int))]
        if len(steps)
        else steps
    )
    return [int(step) for step in chosen]


def _rise(spike: Spike) -> str:
    """The spike as text, for its mark and its row."""
    return f"spike from {significant(spike.level)} to {significant(spike.height)}"


def _block_note(training: Sequence[Block], batches: Sequence[tuple[int, float]]) -> str:
    if not training:
        return ""
    if batches:
        mean = (
            ", the point with a bar is their mean"
            if all(block.mean.tells for block in training)
            else ""
        )
        return f"The run is short, so the line is the loss of every batch{mean}."
    length = int(np.median([block.count for block in training]))
    level = training[0].mean.level
    return (
        f"The line is the mean of {length:,} successive batch losses, and the band is its "
        f"{level:.0%} interval by batch means. The run folder has every single loss."
    )


def _loss_table(
    training: Sequence[Block], test: Curve, batches: Sequence[tuple[int, float]]
) -> Numbers:
    rows = [
        (
            f"{block.first:,} to {block.last:,}",
            "training",
            *cells(block.mean),
            f"{significant(block.lowest)} to {significant(block.highest)}",
        )
        for block in training
    ]
    rows += [
        (f"{step:,}", "training, one batch", "", "", significant(loss)) for step, loss in batches
    ]
    rows += [(f"{step:,}", "test", *cells(estimate), "") for step, estimate in test]
    return Numbers(("steps", "loss", "mean", "interval", "single batches"), tuple(rows))


def _evaluations(run: Run, quantity: str) -> Curve:
    return tuple(
        (event["step"], Estimate(**event["estimates"][quantity]))
        for event in run.evaluations
        if quantity in event["estimates"]
    )
