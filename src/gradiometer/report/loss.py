"""The section about the losses: training, test, and test accuracy."""

from collections.abc import Sequence

import numpy as np

from gradiometer.diagnosis import Diagnosis
from gradiometer.measurement.reading import Estimate, significant
from gradiometer.report.blocks import Block, blocks
from gradiometer.report.charts import accuracy_chart, loss_chart
from gradiometer.report.marks import Windows
from gradiometer.report.section import Figure, Numbers, Section, cells, course, numbers_of
from gradiometer.run.reader import Run


def loss_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Training and test loss, and test accuracy, along the run."""
    training = blocks(*run.losses, level=run.configuration.level)
    figures = []
    test_loss, test_accuracy = _evaluations(run, "test_loss"), _evaluations(run, "test_accuracy")
    if training or test_loss:
        figures.append(_loss_figure(training, test_loss))
    if test_accuracy:
        figures.append(
            Figure(
                name="accuracy",
                title="Test accuracy",
                chart=accuracy_chart(test_accuracy),
                summary=f"Test accuracy {course(test_accuracy)}.",
                table=numbers_of(test_accuracy, "test accuracy"),
            )
        )
    lead = "" if figures else "No loss has been recorded yet."
    return Section("loss", "Loss", lead, tuple(figures))


def _loss_figure(training: Sequence[Block], test: Windows) -> Figure:
    ends = [(block.last, block.mean) for block in training]
    parts = [f"{name} {course(points)}" for name, points in (("Training loss", ends), ("Test loss", test)) if points]
    spoiled = sum(block.spoiled for block in training)
    if spoiled:
        first = next(block.first for block in training if block.spoiled)
        parts.append(f"{spoiled:,} losses are not finite, from the block at step {first:,} on; they are in no mean")
    return Figure(
        name="loss",
        title="Training and test loss" if test and training else ("Training loss" if training else "Test loss"),
        chart=loss_chart(training, test),
        summary=". ".join(parts) + ".",
        table=_loss_table(training, test),
        note=_block_note(training),
    )


def _block_note(training: Sequence[Block]) -> str:
    if not training:
        return ""
    length = int(np.median([block.count for block in training]))
    level = training[0].mean.level
    return (
        f"The line is the mean of {length:,} successive batch losses, the band its {level:.0%} interval by batch "
        "means. Every single loss is in the run folder."
    )


def _loss_table(training: Sequence[Block], test: Windows) -> Numbers:
    rows = [
        (
            f"{block.first:,} to {block.last:,}",
            "training",
            *cells(block.mean),
            f"{significant(block.lowest)} to {significant(block.highest)}",
        )
        for block in training
    ]
    rows += [(f"{step:,}", "test", *cells(estimate), "") for step, estimate in test]
    return Numbers(("steps", "loss", "mean", "interval", "single batches"), tuple(rows))


def _evaluations(run: Run, quantity: str) -> Windows:
    return tuple(
        (event["step"], Estimate(**event["estimates"][quantity]))
        for event in run.evaluations
        if quantity in event.get("estimates", {})
    )
