"""The section about the losses: training, test, and test accuracy."""

from collections.abc import Sequence

import numpy as np

from gradiometer.diagnosis import Diagnosis
from gradiometer.drift.spikes.detection import Spike
from gradiometer.drift.spikes.finding import steps_of
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.report.charts.blocks import Block, blocks
from gradiometer.report.charts.charts import accuracy_chart, loss_chart
from gradiometer.report.charts.marks import Curve
from gradiometer.report.sections.section import Figure, Numbers, Section, cells, change, numbers_of
from gradiometer.run.reader import Run

FEW = 3
"""With fewer blocks there is no line to see, so every loss is drawn."""


def loss_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Training and test loss, and test accuracy, along the run."""
    training = blocks(*run.losses, level=run.configuration.level)
    figures = []
    test_loss, test_accuracy = _evaluations(run, "test_loss"), _evaluations(run, "test_accuracy")
    if training or test_loss:
        figures.append(
            _loss_figure(training, test_loss, _single_batches(run) if len(training) < FEW else (), diagnosis.spikes)
        )
    if test_accuracy:
        figures.append(
            Figure(
                name="accuracy",
                title="Test accuracy",
                chart=accuracy_chart(test_accuracy),
                summary=f"Test accuracy {change(test_accuracy)}.",
                table=numbers_of(test_accuracy, "test accuracy"),
            )
        )
    lead = "" if figures else "No loss has been recorded yet."
    return Section("loss", "Loss", lead, tuple(figures))


def _single_batches(run: Run) -> tuple[tuple[int, float], ...]:
    """The finite losses of a short run, one by one."""
    steps, losses = run.losses
    return tuple((int(step), float(loss)) for step, loss in zip(steps, losses, strict=True) if np.isfinite(loss))


def _loss_figure(
    training: Sequence[Block], test: Curve, batches: Sequence[tuple[int, float]], spikes: Sequence[Spike]
) -> Figure:
    ends = [(block.last, block.mean) for block in training if block.mean.tells or not batches]
    parts = [f"{name} {change(points)}" for name, points in (("Training loss", ends), ("Test loss", test)) if points]
    if batches:
        one, other = (f"{significant(loss)} at step {step:,}" for step, loss in (batches[0], batches[-1]))
        parts.insert(0, f"The loss of a batch goes from {one} to {other}")
    spoiled = sum(block.spoiled for block in training)
    if spoiled:
        first = next(block.first for block in training if block.spoiled)
        parts.append(f"{spoiled:,} losses from step {first:,} on are not finite; the means exclude them")
    if spikes:
        parts.append(f"The loss spiked at {steps_of(spikes)}")
    note = _block_note(training, batches)
    return Figure(
        name="loss",
        title="Training and test loss" if test and training else ("Training loss" if training else "Test loss"),
        chart=loss_chart(training, test, batches, [(spike.peak, _rise(spike)) for spike in spikes]),
        summary=". ".join(parts) + ".",
        table=_loss_table(training, test, batches, spikes),
        note=f"{note} A vertical line marks a spike.".strip() if spikes else note,
    )


def _rise(spike: Spike) -> str:
    """The spike as text, for its mark and its row."""
    return f"spike from {significant(spike.level)} to {significant(spike.height)}"


def _block_note(training: Sequence[Block], batches: Sequence[tuple[int, float]]) -> str:
    if not training:
        return ""
    if batches:
        mean = ", the point with a bar is their mean" if all(block.mean.tells for block in training) else ""
        return f"The run is short, so the line is the loss of every batch{mean}."
    length = int(np.median([block.count for block in training]))
    level = training[0].mean.level
    return (
        f"The line is the mean of {length:,} successive batch losses, and the band is its {level:.0%} interval by "
        "batch means. The run folder has every single loss."
    )


def _loss_table(
    training: Sequence[Block], test: Curve, batches: Sequence[tuple[int, float]], spikes: Sequence[Spike]
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
    rows += [(f"{step:,}", "training, one batch", "", "", significant(loss)) for step, loss in batches]
    rows += [
        (f"{spike.first:,} to {spike.last:,}", "training, spike", "", "", _rise(spike).removeprefix("spike "))
        for spike in spikes
    ]
    rows += [(f"{step:,}", "test", *cells(estimate), "") for step, estimate in test]
    return Numbers(("steps", "loss", "mean", "interval", "single batches"), tuple(rows))


def _evaluations(run: Run, quantity: str) -> Curve:
    return tuple(
        (event["step"], Estimate(**event["estimates"][quantity]))
        for event in run.evaluations
        if quantity in event.get("estimates", {})
    )
