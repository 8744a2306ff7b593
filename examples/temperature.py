"""The learning rate is a temperature: `python examples/temperature.py [--data-dir FOLDER]`

A network of 101,770 parameters on Fashion-MNIST (or a smaller one on the digits, where it is not on
this machine), with batches drawn with replacement. First four settings, each trained from the
start: the heat balance of its last steps in posterior units, where the posterior of the training
set is at 1. Then twelve settings with small rates, each started
where the same training stands: the slope of log T against log η/(B(1 − μ)), which is 1 for the heat
of the batches. A minute.
"""

import argparse
import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from gradiometer import (
    BadArgument,
    Draw,
    Estimate,
    Objective,
    Problem,
    Sampling,
    Series,
    Temperature,
    TrainingStep,
)
from gradiometer.measurement import Estimates, Origin, Reading, significant, velocity_of
from gradiometer.measurement.uncertainty import transform, weighted_slope
from gradiometer.problems import load


@dataclass(frozen=True)
class Setting:
    """How to train."""

    rate: float
    batch_size: int
    momentum: float = 0.0

    @property
    def heat(self) -> float:
        """η/(B(1 − μ)), which the temperature goes with."""
        return self.rate / (self.batch_size * (1 - self.momentum))

    def __str__(self) -> str:
        momentum = f", μ = {self.momentum:g}" if self.momentum else ""
        return f"η = {self.rate:g}, B = {self.batch_size}{momentum}"


TABLE = (Setting(0.1, 128), Setting(0.1, 32), Setting(0.4, 32), Setting(0.01, 32, 0.9))
LINE = tuple(
    Setting(rate * (1 - momentum), batch_size, momentum)
    for rate in (0.0005, 0.002, 0.008)
    for batch_size in (8, 32)
    for momentum in (0.0, 0.9)
)
IMAGES = 128_000
"""Seen by each setting of the table before it is measured."""


class Run:
    """A training in plain torch, with the thermometer beside it."""

    def __init__(
        self, problem: Problem, setting: Setting, seed: int, model: nn.Module | None = None
    ) -> None:
        self.problem, self.setting = problem, setting
        torch.manual_seed(0)
        self.objective = Objective(
            problem.model() if model is None else copy.deepcopy(model), problem.loss
        )
        self.optimizer = torch.optim.SGD(
            self.objective.parameters, setting.rate, momentum=setting.momentum
        )
        self.draw, self.origin, self.steps = torch.Generator().manual_seed(seed), Origin(), 0
        self.sampling = Sampling(Draw.REPLACEMENT, len(problem.train))

    def train(self, steps: int, every: int | None = None) -> list[Reading]:
        """Make so many steps, and read the thermometer at one in `every`."""
        gauge, readings = Temperature(self.setting.momentum), []
        for index in range(steps):
            batch = self.problem.train.batch(
                torch.randint(
                    len(self.problem.train), (self.setting.batch_size,), generator=self.draw
                )
            )
            self.optimizer.zero_grad(set_to_none=True)
            self.objective.loss(self.objective.model, batch).mean().backward()
            if every and index % every == 0:
                step = self.caught(batch)
                readings.append(
                    Reading(
                        gauge.name,
                        self.steps,
                        step.batch_size,
                        self.setting.rate,
                        gauge.measure(step),
                    )
                )
            self.optimizer.step()
            self.steps += 1
        return readings

    def caught(self, batch: tuple[torch.Tensor, torch.Tensor]) -> TrainingStep:
        """The step as the thermometer sees it, between backward and update."""
        parameters = self.objective.parameters
        velocity = velocity_of(self.optimizer, parameters) if self.setting.momentum else None
        return TrainingStep(
            self.objective,
            batch,
            index=self.steps,
            learning_rate=self.setting.rate,
            sampling=self.sampling,
            gradient=[parameter.grad for parameter in parameters],
            motion=self.origin.motion(parameters, self.steps, velocity),
        )

    def temperature(self, steps: int, every: int, units: str = "posterior") -> Estimates:
        """The heat balance of the next steps."""
        readings = self.train(steps, every)
        gauge = Temperature(self.setting.momentum, units=units)
        return gauge.estimate(Series.of(readings, self.sampling, self.objective.layers))


def table(problem: Problem, images: int) -> list[tuple[Setting, Estimates]]:
    """Every setting of the table, from the start, measured after so many images."""
    found = []
    for setting in TABLE:
        run = Run(problem, setting, seed=1)
        run.train(images // setting.batch_size)
        found.append((setting, run.temperature(steps=1000, every=4)))
    return found


def line(problem: Problem, images: int) -> tuple[Estimate, Estimate]:
    """The slope of log T against log η/(B(1 − μ)), of all heat and of that of the batches, from one
    place."""
    start = Run(problem, Setting(0.1, 32), seed=1)
    start.train(images // 32)
    found = []
    for seed, setting in enumerate(LINE, start=2):
        run = Run(problem, setting, seed, start.objective.model)
        run.train(20)  # so that the velocity is what it stays
        found.append(run.temperature(steps=240, every=2))
    places = [math.log(setting.heat) for setting in LINE]
    both = ("temperature", "temperature_minibatch")
    return tuple(
        weighted_slope(places, [transform(each[name], math.log) for each in found]) for name in both
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The learning rate is a temperature.")
    parser.add_argument(
        "--data-dir", help="folder of Fashion-MNIST, where it is not found by itself"
    )
    parser.add_argument(
        "--images", type=int, default=IMAGES, help="seen before anything is measured"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        problem = load("fashion-mnist", data_dir=given.data_dir)
    except BadArgument:
        problem = load("digits")
    examples = len(problem.train)
    print(f"{problem.description} In posterior units, N = {examples:,}; intervals are 90 %.\n")
    print(f"{'':<27}{'temperature':<25}{'of the batches':<25}{'of step length':<30}drift")
    for setting, found in table(problem, given.images):
        names = ("temperature", "temperature_minibatch", "temperature_step", "temperature_drift")
        cells = [str(found[name]) for name in names]
        print(f"{setting!s:<27}{cells[0]:<25}{cells[1]:<25}{cells[2]:<30}{cells[3]}")
    whole, batches = line(problem, given.images)
    lowest, highest = (
        significant(examples * pick(setting.heat for setting in LINE), 2) for pick in (min, max)
    )
    print(
        f"\nFrom one place, over {len(LINE)} settings with ηN/(B(1 − μ)) from {lowest} to "
        f"{highest}: the heat of the batches goes with the {batches} power of η/(B(1 − μ)), all "
        f"heat with the {whole} power, since that of the step length, η‖g‖²/(2d), does not fall "
        "with B."
    )


if __name__ == "__main__":
    main()
