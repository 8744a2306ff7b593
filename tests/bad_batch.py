"""A problem with one example far from all others: its batch spikes the loss, at step 500 with batches of 8."""

import torch
from torch import nn

from gradiometer import Draw, supervised
from gradiometer.measurement import Order
from gradiometer.problems import Examples, Problem


def problem() -> Problem:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6400, 4, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [-1.0], [0.5], [2.0]]) + torch.randn(6400, 1, generator=generator)
    targets[Order(Draw.RESHUFFLED, 6400, 8).batch(500)[0]] = 120.0
    loss = supervised(lambda output, target: (output - target).square().mean(1))
    return Problem("bad-batch", lambda: nn.Linear(4, 1), loss, Examples((inputs, targets)))
