"""The counterexamples by name: escapes to infinity, saddles, cycles, a unit that dies.

The losses are non-negative with a Lipschitz gradient, as the convergence theorem requires. Under
rates that satisfy its three conditions the loss converges and the gradient goes to zero, but the
theorem does not say how Φ behaves.
"""

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import nn

from gradiometer.lab.counterexamples.counterexample import (
    Arctangent,
    Counterexample,
    LogCosh,
    Mirrored,
    Ring,
    Saddle,
    Softplus,
    Winding,
)
from gradiometer.measurement.loss import supervised
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem

COUNTEREXAMPLES: tuple[type[Counterexample], ...] = (
    Arctangent,
    Softplus,
    Saddle,
    Mirrored,
    LogCosh,
    Winding,
    Ring,
)

DEAD_UNIT = "dead-unit"
DYING_RATE = 2.0
"""η at which the first step kills the unit in `dead_unit`."""


def load(model: str = "arctangent", seed: int = 0) -> Problem:
    """The problem of the counterexample with this name, or of `dead_unit`."""
    made = {counterexample.name: counterexample for counterexample in COUNTEREXAMPLES}
    problem = dead_unit() if model == DEAD_UNIT else made[model]().problem(seed=seed)
    return replace(problem, name="counterexample", model_name=model)


def dead_unit(examples: int = 256) -> Problem:
    """½(max(0, wx + b) − 1)² from w = b = 3, with evenly spaced x in [0, 1]: at η = 2 one full step
    kills the unit.

    The full gradient is E (3x + 2)(x, 1) = (2, 3.5), so w = −1 and b = −4: the unit outputs 0 for
    every x, its gradient is exactly zero, and no rate revives it. At η = 0.1 it learns.
    """
    x = ((torch.arange(examples, dtype=torch.float64) + 0.5) / examples).unsqueeze(1)
    return Problem(
        name=DEAD_UNIT,
        model=_unit,
        loss=supervised(_half_square),
        train=Examples((x, torch.ones_like(x)), "train"),
        model_name="relu",
        description="One ReLU unit that a large first step kills.",
    )


def _unit() -> nn.Module:
    linear = nn.Linear(1, 1, dtype=torch.float64)
    nn.init.constant_(linear.weight, 3.0)
    nn.init.constant_(linear.bias, 3.0)
    return nn.Sequential(OrderedDict(linear=linear, relu=nn.ReLU()))


def _half_square(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((outputs - targets) ** 2 / 2).squeeze(1)
