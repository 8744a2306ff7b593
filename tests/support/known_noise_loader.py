"""What the tests of other libraries' loops share: a loader over the problem of known noise, and a
balance that closes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from fixed_point import BATCH, POINTS
from gradiometer_lab.temperature.thermometer import heat_balance
from known_steps import kept_steps

MEASURED = {"every": 1, "parts": 2, "level": 0.999, "gauges": "noise"}
QUIET = pytest.mark.filterwarnings("ignore")
"""Other people's loops warn of their own affairs."""


def loader(steps: int, size: int = BATCH) -> DataLoader[Tensor]:
    draws = RandomSampler(
        POINTS, replacement=True, num_samples=steps * size, generator=torch.manual_seed(1)
    )
    return DataLoader(POINTS, batch_size=size, sampler=draws)


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_balanced(run: Any, steps: int, momentum: float) -> None:
    """The thermometer saw every update as it was, clipped, and the trajectory the steps
    of its own."""
    assert run.warnings == [] and run.series("trajectory").steps.tolist() == kept_steps(steps)
    series = run.series("temperature")
    assert series.steps.tolist() == [*range(steps)] and (series.moments["factor"] < 0.9).any()
    balance = heat_balance(series, momentum=momentum)
    size = np.abs(balance.configurational) + np.abs(balance.heat) + np.abs(balance.drift)
    assert (np.abs(balance.residual) < 1e-10 * size.sum(1, keepdims=True)).all()
