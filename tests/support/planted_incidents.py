"""Trainings in which something goes wrong, planted: twelve incidents of six kinds, on two networks
each."""

import math

import torch
from torch import Tensor, nn

from gradiometer import Draw, supervised
from gradiometer.measurement import Order
from gradiometer.problems import Examples, Problem

EXAMPLES, BATCH, STEP = 3200, 16, 120
"""Training examples, those of a batch, and the step of the planted batch."""

Cause = tuple[str, str]
"""The kind of the cause, and its layer if it is one."""


def regression(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES, 6, generator=generator)
    slopes = torch.randn(6, 1, generator=generator)
    noise = 0.3 * torch.randn(EXAMPLES, 1, generator=generator)
    return inputs, torch.tanh(inputs @ slopes) + noise


def classes(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES, 8, generator=generator)
    scores = inputs @ torch.randn(8, 4, generator=generator)
    return inputs, (scores + 0.5 * torch.randn(EXAMPLES, 4, generator=generator)).argmax(dim=1)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def deep() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)
    )


squares = supervised(lambda output, target: (output - target).square().mean(1))
entropy = supervised(nn.CrossEntropyLoss(reduction="none"))


def planted(step: int = STEP) -> Tensor:
    """The positions of the examples in the batch of a step."""
    return Order(Draw.RESHUFFLED, EXAMPLES, BATCH).batch(step)


def nan_example_small(shift: int = 0) -> Problem:
    inputs, targets = regression(1 + shift)
    inputs[planted()[3], 2] = math.nan
    return Problem("incident", small, squares, Examples((inputs, targets)))


def nan_example_deep(shift: int = 0) -> Problem:
    inputs, labels = classes(2 + shift)
    inputs[planted()[7]] = math.inf
    return Problem("incident", deep, entropy, Examples((inputs, labels)))


def outlier_small(shift: int = 0) -> Problem:
    inputs, targets = regression(3 + shift)
    targets[planted()[5]] = 60.0
    return Problem("incident", small, squares, Examples((inputs, targets)))


def outlier_deep(shift: int = 0) -> Problem:
    inputs, labels = classes(4 + shift)
    example = planted()[9]
    fitted = torch.linalg.lstsq(inputs, nn.functional.one_hot(labels, 4).float()).solution
    # the label that the network is most sure to be wrong
    labels[example] = (inputs[example] @ fitted).argmin()
    inputs[example] *= 30
    return Problem("incident", deep, entropy, Examples((inputs, labels)))


def batch_small(shift: int = 0) -> Problem:
    """A whole batch in other units."""
    inputs, targets = regression(5 + shift)
    targets[planted()] = 12.0 + torch.randn(BATCH, 1, generator=torch.Generator().manual_seed(5))
    return Problem("incident", small, squares, Examples((inputs, targets)))


def stretch_small() -> Problem:
    """Four batches in a row in other units."""
    inputs, targets = regression(5)
    for step in range(STEP, STEP + 4):
        targets[planted(step)] += 12.0
    return Problem("incident", small, squares, Examples((inputs, targets)))


def batch_deep(shift: int = 0) -> Problem:
    """A whole batch with other labels, whose inputs are large."""
    inputs, labels = classes(6 + shift)
    inputs[planted()] *= 12
    labels[planted()] = (labels[planted()] + 1) % 4
    return Problem("incident", deep, entropy, Examples((inputs, labels)))


def rate_small(shift: int = 0) -> Problem:
    return Problem("incident", small, squares, Examples(regression(7 + shift)))


def rate_deep(shift: int = 0) -> Problem:
    return Problem("incident", deep, entropy, Examples(classes(8 + shift)))


class Loud(nn.Module):
    """A layer whose output grows with training, so that its own rate becomes too high."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.register_buffer("factor", torch.tensor(0.05))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.factor *= 1.05
        return self.factor * x @ self.weight.T


class Beside(nn.Module):
    """A network, and a loud layer beside it."""

    def __init__(self, network: nn.Module, loud: Loud) -> None:
        super().__init__()
        self.network, self.loud = network, loud

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) + self.loud(x)


def layer_small(shift: int = 0) -> Problem:
    return Problem(
        "incident", lambda: Beside(small(), Loud(6, 1)), squares, Examples(regression(9 + shift))
    )


class Entropy(nn.Module):
    """−log of the distance to the nearest half, not finite as soon as a count has come to it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return x + 0 * torch.log(STEP + 1 - self.calls)


def layer_deep(shift: int = 0) -> Problem:
    """A layer whose output is not finite from a step on, whatever the data and the rate."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), Entropy(), nn.Linear(24, 4))

    return Problem("incident", model, entropy, Examples(classes(10 + shift)))


def rise_small(shift: int = 0) -> Problem:
    """A batch with targets so large that its update leaves the network saturated."""
    inputs, targets = regression(11 + shift)
    targets[planted()] = 15.0
    return Problem("incident", saturated, squares, Examples((inputs, targets)))


def saturated() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1), nn.Tanh())


def rise_deep(shift: int = 0) -> Problem:
    return Problem("incident", deep, entropy, Examples(classes(12 + shift)))


CASES: dict[str, tuple[dict[str, object], Cause]] = {
    "nan_example_small": ({"learning_rate": 0.05}, ("example", "")),
    "nan_example_deep": ({"learning_rate": 0.1}, ("example", "")),
    "outlier_small": ({"learning_rate": 0.05}, ("example", "")),
    "outlier_deep": ({"learning_rate": 0.1}, ("example", "")),
    "batch_small": ({"learning_rate": 0.05}, ("batch", "")),
    "batch_deep": ({"learning_rate": 0.1}, ("batch", "")),
    "rate_small": ({"schedule": "0.05 + 40*(t/200)**12"}, ("rate", "")),
    "rate_deep": ({"schedule": "0.05 + 200*(t/200)**12"}, ("rate", "")),
    "rise_small": ({"learning_rate": 0.05}, ("batch", "")),
    "rise_deep": ({"schedule": "0.05 + 6/(1 + exp(120 - t))"}, ("rate", "")),
    "layer_small": ({"learning_rate": 0.05}, ("layer", "loud")),
    "layer_deep": ({"learning_rate": 0.1}, ("layer", "2")),
}
