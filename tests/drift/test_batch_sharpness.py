"""The batch sharpness: its intervals cover where its value is known, and its edge is the lowest."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer.drift import BatchSharpness, PreconditionedSharpness
from gradiometer.measurement import Draw, Objective, Reading, Sampling, Series, TrainingStep
from gradiometer.measurement.optimizer.groups import Group

EXAMPLES, BATCH, RATE = 64, 8, 0.1
WINDOWS, READINGS = 200, 30
FACTORS = torch.tensor([4.0, 1.0, 0.25, 0.02], dtype=torch.float64)
"""P of an optimizer at rest, one factor for each weight."""


def logistic(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, labels = batch
    outputs = model(inputs).squeeze(1)
    return nn.functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")


@pytest.mark.nightly
@pytest.mark.parametrize("gauge", [BatchSharpness(), PreconditionedSharpness()])
def test_the_intervals_of_batch_sharpness_cover(gauge: BatchSharpness) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False).double()
    inputs = torch.randn(EXAMPLES, 4, dtype=torch.float64)
    labels = (inputs[:, 0] + torch.randn(EXAMPLES) > 0).double()
    factors = FACTORS if isinstance(gauge, PreconditionedSharpness) else torch.ones_like(FACTORS)

    draw = torch.Generator().manual_seed(1)
    draws = torch.randint(EXAMPLES, (200_000, BATCH), generator=draw)
    chances = torch.sigmoid(model(inputs).squeeze(1)).detach()
    gradients = ((chances - labels)[:, None] * inputs)[draws].mean(1)
    steps = factors * gradients
    slopes = (inputs[draws] * steps[:, None]).sum(2)
    curvature = ((chances * (1 - chances))[draws] * slopes.square()).mean()
    exact = float(curvature / (gradients * steps).sum(1).mean())

    objective = Objective(model, logistic)
    sampling = Sampling(Draw.REPLACEMENT, EXAMPLES)
    readings = []
    for number in range(WINDOWS * READINGS):
        index = torch.randint(EXAMPLES, (BATCH,), generator=draw)
        step = TrainingStep(
            objective,
            (inputs[index], labels[index]),
            index=number,
            learning_rate=RATE,
            sampling=sampling,
            preconditioner=lambda: [factors[None]],
        )
        moments = gauge.measure(step)
        assert moments is not None
        readings.append(Reading(gauge.name, number, BATCH, RATE, moments))
    series = Series.of(readings, sampling)

    found = [
        gauge.estimate(series[at : at + READINGS])[gauge.name]
        for at in range(0, len(series), READINGS)
    ]
    covered = np.mean([each.low <= exact <= each.high for each in found])
    # 90 % ± 3 standard errors of 200 windows
    assert abs(covered - 0.9) < 3 * math.sqrt(0.9 * 0.1 / WINDOWS)


def test_the_edge_of_groups_with_several_momenta_is_the_lowest() -> None:
    model = nn.Linear(4, 1, bias=False).double()
    step = TrainingStep(
        Objective(model, logistic),
        (torch.ones(BATCH, 4, dtype=torch.float64), torch.ones(BATCH, dtype=torch.float64)),
        index=0,
        learning_rate=RATE,
        sampling=Sampling(Draw.REPLACEMENT, EXAMPLES),
        groups=(Group("SGD", "sgd", RATE, momentum=0.9), Group("SGD", "sgd", RATE, momentum=0.5)),
    )
    moments = BatchSharpness().measure(step)
    assert moments is not None and moments["momentum"] == 0.5


def test_what_steps_come_to_leaves_out_the_first_one() -> None:
    """Curvature at the start of a network may be far above what follows, as many rates rise."""
    readings = [
        Reading(
            "batch_sharpness", 10 * number, BATCH, RATE, {"curvature": size, "norm_squared": 1.0}
        )
        for number, size in enumerate([100.0, 1.0, 4.0, 2.0])
    ]
    series = Series.of(readings, Sampling(Draw.REPLACEMENT, EXAMPLES))
    assert BatchSharpness().estimate(series)["reached"].value == pytest.approx(4 * RATE / 2)
