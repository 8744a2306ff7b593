"""Whole trainings of a task of `tasks/bank.py`: one by one with any optimizer, or many rates
at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradiometer.measurement import Batch
from gradiometer.tuning import Tuned, tune
from gradiometer.tuning.lane import LoopLane
from tasks.bank import Cell, Pairs

MOMENTUM = 0.9
BETAS, EPSILON, DECAY = (0.9, 0.999), 1e-8, 0.01
"""AdamW's settings, torch's defaults."""
FORWARD = 1 / 3
"""Cost of a forward pass without a gradient, relative to a gradient of the same examples."""
CHUNK = 512

Shape = Callable[[float], float]
"""The rate as a factor, at this share of the run."""
SHAPES: Mapping[str, Shape] = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + cos(pi * share)) / 2,
}


def trapezoid(share: float) -> float:
    """The shape of a training at a rate that `tune` has chosen."""
    return min(1.0, 2 - 2 * share)


Optimizer = Literal["sgd", "adamw"]
State = dict[str, Tensor]
"""Parameters or buffers by name; in a stack each has one entry per lane first."""


@dataclass(frozen=True)
class End:
    """Where a training ended: the mean losses over all examples, and the cost of finding it, in
    whole runs."""

    train: float
    test: float
    cost: float = 1.0
    rate: float = float("nan")


class Counted:
    """The loss of a cell, which counts the examples it is asked for."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.gradients, self.forwards = cell, 0, 0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The losses of a batch."""
        if torch.is_grad_enabled():
            self.gradients += len(batch[0])
        else:
            self.forwards += len(batch[0])
        return self.cell.loss(model, batch)

    @property
    def runs(self) -> float:
        """The cost so far, in whole trainings; a forward pass alone is a third of a gradient."""
        return (self.gradients + FORWARD * self.forwards) / (self.cell.steps * self.cell.batch)


class MeanLoss(nn.Module):
    """A model that returns the mean loss of a batch, for `functional_call`."""

    def __init__(self, cell: Cell, model: nn.Module) -> None:
        super().__init__()
        self.cell, self.model = cell, model

    def forward(self, batch: Pairs) -> Tensor:
        """The mean loss."""
        return self.cell.loss(self.model, batch).mean()


def losses_of(cell: Cell, model: nn.Module) -> tuple[float, float]:
    """The mean loss over all training and over all test examples, in eval mode."""
    was = model.training
    model.eval()
    with torch.no_grad():
        found = [
            sum(float(cell.loss(model, batch).sum()) for batch in examples.batches(CHUNK))
            / len(examples)
            for examples in (cell.train, cell.test)
        ]
    model.train(was)
    return found[0], found[1]


def trained(
    cell: Cell,
    seed: int,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    shape: Shape | None,
) -> nn.Module:
    """A whole training with this optimizer, whose rate has this shape."""
    model = cell.model(seed).train()
    updates, batches = optimizer(model), cell.batches(seed)
    peaks = [group["lr"] for group in updates.param_groups]
    for step in range(cell.steps):
        if shape is not None:
            for group, peak in zip(updates.param_groups, peaks, strict=True):
                group["lr"] = peak * shape(step / cell.steps)
        updates.zero_grad()
        cell.loss(model, next(batches)).mean().backward()
        updates.step()
    return model


def sgd(rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """SGD with Nesterov momentum 0.9."""
    return lambda model: torch.optim.SGD(
        model.parameters(), lr=rate, momentum=MOMENTUM, nesterov=True
    )


def stacked(
    cell: Cell,
    seed: int,
    rates: Sequence[float],
    shapes: Sequence[str],
    optimizer: Optimizer = "sgd",
) -> list[End]:
    """A whole training for every rate and shape, all at once on the same batches: rates of the
    first shape first."""
    lanes = [(rate, SHAPES[shape]) for shape in shapes for rate in rates]
    wrapped, batches = MeanLoss(cell, cell.model(seed)).train(), cell.batches(seed)
    params, buffers = (
        {name: value.detach().expand(len(lanes), *value.shape).clone() for name, value in parts}
        for parts in (wrapped.named_parameters(), wrapped.named_buffers())
    )

    def mean_loss(params: State, buffers: State, batch: Pairs) -> Tensor:
        return functional_call(wrapped, (params, buffers), (batch,))

    gradients = vmap(grad(mean_loss), in_dims=(0, 0, None))
    update = {"sgd": _momentum, "adamw": _adamw}[optimizer](params)
    for step in range(cell.steps):
        now = torch.tensor([rate * shape(step / cell.steps) for rate, shape in lanes])
        update(gradients(params, buffers, next(batches)), now, step)
    wrapped.eval()
    means = vmap(mean_loss, in_dims=(0, 0, None))
    with torch.no_grad():
        train, test = (
            sum(
                len(batch[0]) * means(params, buffers, batch).double()
                for batch in examples.batches(CHUNK)
            )
            / len(examples)
            for examples in (cell.train, cell.test)
        )
    return [
        End(float(one), float(other), rate=rate)
        for one, other, (rate, _) in zip(train, test, lanes, strict=True)
    ]


Update = Callable[[State, Tensor, int], None]


def _momentum(params: State) -> Update:
    """Nesterov momentum, as torch's SGD."""
    moved = {name: torch.zeros_like(value) for name, value in params.items()}

    def update(gradients: State, rates: Tensor, step: int) -> None:
        for name, value in params.items():
            moved[name].mul_(MOMENTUM).add_(gradients[name])
            value.sub_(_by_lane(rates, value) * gradients[name].add(moved[name], alpha=MOMENTUM))

    return update


def _adamw(params: State) -> Update:
    """AdamW, as torch's."""
    first, second = (
        {name: torch.zeros_like(value) for name, value in params.items()} for _ in range(2)
    )

    def update(gradients: State, rates: Tensor, step: int) -> None:
        for name, value in params.items():
            rate, gradient = _by_lane(rates, value), gradients[name]
            first[name].lerp_(gradient, 1 - BETAS[0])
            second[name].lerp_(gradient.square(), 1 - BETAS[1])
            scale = (second[name] / (1 - BETAS[1] ** (step + 1))).sqrt() + EPSILON
            value.mul_(1 - rate * DECAY).sub_(
                rate * first[name] / (1 - BETAS[0] ** (step + 1)) / scale
            )

    return update


def _by_lane(rates: Tensor, value: Tensor) -> Tensor:
    """One rate per lane, in the shape of the parameter."""
    return rates.view(-1, *[1] * (value.dim() - 1))


def choice_of(
    cell: Cell,
    seed: int,
    optimizer: str = "sgd",
    progress: Callable[[str], None] | None = None,
) -> tuple[Tuned, Counted]:
    """The choice of `gradiometer.tuning.tune` with its defaults, and the loss that has counted what
    it cost."""
    counted = Counted(cell)
    found = tune(
        cell.model(seed).train(),
        loss=counted,
        batches=cell.batches,
        steps=cell.steps,
        optimizer=optimizer,
        seed=seed,
        progress=progress,
    )
    return found, counted


def tuned(
    cell: Cell,
    seed: int,
    optimizer: str = "sgd",
    progress: Callable[[str], None] | None = None,
) -> End:
    """`gradiometer.tuning.tune`, and its winner trained to the end. Its cost is counted here."""
    found, counted = choice_of(cell, seed, optimizer, progress)
    model = gone_on(cell, seed, found, counted)
    return End(*losses_of(cell, model), cost=counted.runs, rate=found.learning_rate)


def gone_on(
    cell: Cell, seed: int, found: Tuned, loss: Callable[[nn.Module, Pairs], Tensor]
) -> nn.Module:
    """The lane of a choice, trained to its end."""
    assert isinstance(found.lane, LoopLane)
    model = cell.model(seed).train()
    updates, scheduler = found.go_on(model)
    batches = found.lane.batches()
    for _ in range(found.done, found.steps):
        updates.zero_grad()
        loss(model, batches.take()[0]).mean().backward()
        updates.step()
        scheduler.step()
    return model
