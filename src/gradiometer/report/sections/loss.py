"""The sections about the losses: training, test, and test accuracy; and the spikes."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gradiometer.drift.spikes.cause import GAUGE as SPIKES
from gradiometer.drift.spikes.cause import clearest
from gradiometer.measurement.estimate import Estimate, counted, significant
from gradiometer.report.charts.axes import Curve
from gradiometer.report.charts.blocks import Block, blocks
from gradiometer.report.charts.charts import accuracy_chart, loss_chart, spike_chart
from gradiometer.report.charts.theme import POINTS
from gradiometer.report.sections.section import (
    Figure,
    Numbers,
    Section,
    cells,
    change,
    evenly,
    numbers_of,
)
from gradiometer.run.reader import Run
from gradiometer.verdict.claims import GAUGE as TRIAGE
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.diagnosis import Diagnosis
from gradiometer.verdict.words.spikes import steps_in_words


def loss_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Training and test loss, and test accuracy, along the run."""
    training = blocks(*run.losses, level=run.configuration.level)
    test_loss, accuracy = _evaluations(run, "test_loss"), _evaluations(run, "test_accuracy")
    figures = []
    if training or test_loss:
        figures.append(_loss_figure(training, test_loss, diagnosis, run))
    if accuracy:
        figures.append(
            Figure(
                name="accuracy",
                title="Test accuracy",
                chart=accuracy_chart(accuracy),
                summary=f"Test accuracy {change(accuracy)}.",
                table=numbers_of(accuracy, "test accuracy"),
                single=len(accuracy) == 1,
            )
        )
    lead = "" if figures else "No loss has been recorded yet."
    return Section("loss", "Loss and test scores", lead, tuple(figures))


def _loss_figure(training: Sequence[Block], test: Curve, diagnosis: Diagnosis, run: Run) -> Figure:
    # with fewer than three blocks there is no line to see, so every loss is drawn
    batches = list[tuple[int, float]]()
    if len(training) < 3:
        steps, losses = run.losses
        finite = np.isfinite(losses)
        batches = list(zip(steps[finite].tolist(), losses[finite].tolist(), strict=True))
    changes, place = _rate_changes(run), _place(run, diagnosis)
    spikes = [
        (spike.peak, f"spike from {significant(spike.level)} to {significant(spike.height)}")
        for spike in diagnosis.spikes
    ]
    events = [*spikes, *changes]
    if place is not None:
        # the label of the verdict's place says what the plain rule would
        events = [(step, words) for step, words in events if step != place[0]]
        place = place[0], f"{place[1]}, step {place[0]:,}"
    readings, guess = _measured_steps(run), _guess(training, diagnosis)
    notes = [_block_note(training, is_short=bool(batches))]
    if events or place:
        notes.append(
            "A vertical line marks a spike, a change of the rate, or the step of the verdict."
        )
    if readings:
        notes.append("A tick at the bottom marks a measured step.")
    parts = _loss_sentences(training, test, batches)
    if spikes:
        firsts = [spike.first for spike in diagnosis.spikes]
        parts.append(f"The loss spiked at {steps_in_words(firsts)}")
    if changes:
        parts.append("; ".join(f"{words} at step {step:,}" for step, words in changes))
    if guess is not None:
        parts.append(
            f"Chance level, the loss of an answer that does not look at the inputs, is {significant(guess)}"
        )
    title = "Training and test loss" if test else "Training loss"
    return Figure(
        name="loss",
        title=title if training else "Test loss",
        chart=loss_chart(training, test, batches, events, readings, guess, place),
        summary=". ".join(parts) + ".",
        table=_loss_table(training, test, batches),
        note=" ".join(filter(None, notes)),
    )


def _loss_sentences(
    training: Sequence[Block], test: Curve, batches: Sequence[tuple[int, float]]
) -> list[str]:
    """Where the losses begin and end, and how many are not finite."""
    sentences = []
    if batches:
        (first, start), (last, end) = batches[0], batches[-1]
        sentences.append(
            f"The loss of a batch goes from {significant(start)} at step {first:,} to "
            f"{significant(end)} at step {last:,}"
        )
    ends = [(block.last, block.mean) for block in training if block.mean.tells or not batches]
    if ends:
        sentences.append(f"Training loss {change(ends)}")
    if test:
        sentences.append(f"Test loss {change(test)}")
    spoiled = [block for block in training if block.spoiled]
    if spoiled:
        sentences.append(
            f"{sum(block.spoiled for block in spoiled):,} losses from step {spoiled[0].first:,} on "
            "are not finite; the means exclude them"
        )
    return sentences


def _guess(training: Sequence[Block], diagnosis: Diagnosis) -> float | None:
    """The level of a guess, if it is known and of the size of the losses that are drawn."""
    level = math.nan if diagnosis.triage is None else diagnosis.triage.level.value
    highest = max((block.mean.value for block in training), default=math.nan)
    # a level further above the losses would flatten their curve
    return level if 0 < level <= 3 * highest else None


# The fact that names the step of a claim, and what happened there, in a few words.
PLACES = {
    Claim.OVERFIT: ("best_step", "best on held-out data"),
    Claim.BAD_BATCH: ("step", "one batch"),
    Claim.RATE_BURST: ("step", "the rate jumps"),
    Claim.DECAY_EARLY: ("from_step", "rate near zero"),
    Claim.SCHEDULE_UNIT: ("step", "rate near zero"),
}


def _place(run: Run, diagnosis: Diagnosis) -> tuple[int, str] | None:
    """The step that the verdict is about, and what happened there; None if it is about no single
    step."""
    headline = diagnosis.headline
    highest = max(diagnosis.spikes, key=lambda spike: spike.score, default=None)
    spike = None if highest is None else (highest.peak, "spike")
    if headline is None or headline.gauge == SPIKES:
        return spike
    if headline.claim == Claim.NO_DECAY:
        return run.steps // 2, "no decay"
    fact, words = "step", "here"
    if headline.gauge == TRIAGE:
        fact, words = PLACES.get(Claim(headline.claim), (fact, words))
    step = {**headline.facts, **(headline.facts.get("numbers") or {})}.get(fact)
    return (int(step), words) if isinstance(step, int | float) else spike


def _rate_changes(run: Run) -> list[tuple[int, str]]:
    """The steps at which the learning rate jumped, with its new value; none if it follows a curve,
    which has its own chart: that is recorded more often than a dozen times."""
    settings = run.hyperparameters
    if settings is None or not settings.recorded or len(settings.steps) > 12:
        return []
    rates = zip(settings.steps, settings.rates.tolist(), strict=True)
    return [
        (step, f"learning rate {significant(after)}")
        for (_, before), (step, after) in pairwise(rates)
        if after != before
    ]


def _measured_steps(run: Run) -> list[int]:
    """At most some of the steps that were measured by any gauge, evenly chosen."""
    measured = set[int]()
    for gauge in run.gauges:
        series = run.series(gauge)
        if series is not None:
            measured.update(series.steps.tolist())
    steps = sorted(measured)
    return [steps[place] for place in evenly(len(steps), POINTS.readings)]


def _block_note(training: Sequence[Block], *, is_short: bool) -> str:
    if not training:
        return ""
    if is_short:
        known = all(block.mean.tells for block in training)
        mean = ", the point with a bar is their mean" if known else ""
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


NAME = "spikes"


def spikes_section(run: Run, diagnosis: Diagnosis) -> Section:
    """The losses around the clearest spike, and where every spike began, rose to and ended."""
    spikes = diagnosis.spikes
    lead = (
        "A spike is a rise of the loss that noise alone does not explain, and that comes down "
        "again."
    )
    if not spikes:
        return Section(NAME, "Spikes", lead, (), heading="All spikes")
    spike = clearest(spikes)
    steps, losses = run.losses
    # three lengths of the spike on each side of it, and at least twenty losses
    margin = max(3 * spike.length, 20)
    near = (steps >= spike.first - margin) & (steps <= spike.last + margin) & np.isfinite(losses)
    count = int(near.sum())
    kept = np.flatnonzero(near)[evenly(count, POINTS.spike)]
    drawn = list(zip(steps[kept].tolist(), losses[kept].tolist(), strict=True))
    thinned = f" {len(kept):,} of {count:,} losses are drawn." if len(kept) < count else ""
    end = f"back after {counted(spike.length, 'step')}" if spike.ended else "not back yet"
    figure = Figure(
        name="spike",
        title=f"The loss around step {spike.first:,}",
        chart=spike_chart(drawn, spike.first, spike.last),
        summary=(
            f"The loss of single batches, from {significant(spike.level)} before to "
            f"{significant(spike.height)} at step {spike.peak:,}, {end}."
        ),
        table=Numbers(
            ("step", "loss of the batch"),
            tuple((f"{step:,}", significant(loss)) for step, loss in drawn),
        ),
        note=(
            "The shaded steps are the spike. The level before it is the median of the batches "
            f"there.{thinned}"
        ),
    )
    rows = tuple(
        (
            f"{each.first:,} to {each.last:,}",
            significant(each.level),
            significant(each.height),
            f"{each.peak:,}",
            f"{significant(each.score, 2)} ({significant(each.limit, 2)})",
            "yes" if each.ended else "not yet",
        )
        for each in spikes
    )
    rise = "rise in spreads (limit of noise)"
    columns = ("steps", "level before", "highest", "at step", rise, "came back")
    table = Numbers(columns, rows)
    return Section(NAME, "Spikes", lead, (figure,), table, heading="All spikes")
