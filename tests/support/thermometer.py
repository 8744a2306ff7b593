"""Training runs by torch, measured with a thermometer."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from gradiometer.exploration.temperature import Temperature
from gradiometer.measurement import (
    Batch,
    Draw,
    Objective,
    Origin,
    Reading,
    Sampling,
    TrainingStep,
    velocity_of,
)
from gradiometer.measurement.batch import mapped, take

INDEPENDENT = Sampling(Draw.REPLACEMENT, 500)


@dataclass(frozen=True)
class Sgd:
    """Settings of a training run and of its thermometer."""

    rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    decay: float = 0.0

    @property
    def gauge(self) -> Temperature:
        return Temperature(self.momentum, self.nesterov, self.decay)

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.SGD:
        return torch.optim.SGD(
            parameters,
            self.rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.decay,
        )


def double(batch: Batch) -> Batch:
    return mapped(batch, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def readings_of(
    objective: Objective, batches: Iterator[Batch], sgd: Sgd, rates, every: int = 1
) -> list[Reading]:
    """The readings of a training run by torch."""
    optimizer, origin, readings = sgd.optimizer(objective.parameters), Origin(), []
    for step, (batch, rate) in enumerate(zip(batches, rates, strict=False)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        objective.loss(objective.model, batch).mean().backward()
        if step % every == 0:
            velocity = velocity_of(optimizer, objective.parameters) if sgd.momentum else None
            caught = TrainingStep(
                objective,
                batch,
                index=step,
                learning_rate=rate,
                sampling=INDEPENDENT,
                gradient=[parameter.grad for parameter in objective.parameters],
                motion=origin.motion(objective.parameters, step, velocity),
            )
            readings.append(
                Reading("temperature", step, caught.batch_size, rate, sgd.gauge.measure(caught))
            )
        optimizer.step()
    return readings


def parts_of(batch: Batch, size: int, seed: int = 0) -> Iterator[Batch]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield take(batch, torch.randint(12, (size,), generator=draw))
