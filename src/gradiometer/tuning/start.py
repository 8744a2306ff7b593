"""The start of a training: its loss, the size of its gradient, and the rate at which an optimizer
overshoots there."""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.loop.loop import Loop
from gradiometer.measurement.batch import Batch, mapped
from gradiometer.measurement.loss import checked_loss
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness


@dataclass(frozen=True)
class Start:
    """The start of a training.

    Args:
        norm: The norm of the gradient of a batch, as the mean over some batches.
        batches: The batches, and those on which rates are probed.
        seed: Seed of the random draws.
        loss: The mean loss of these batches.
        gradients: What has been spent so far, in gradients of a batch; a forward pass counts a
            third.
    """

    norm: float
    batches: tuple[Batch, ...]
    seed: int
    loss: float
    gradients: float


def start_of(loop: Loop, *, seed: int) -> Start:
    """The norm of the gradient at the start. The loop is not touched.

    Args:
        loop: The training.
        seed: Seed of the data order and of the random draws.

    Raises:
        BadArgument: The data end before.
        UserCodeFailed: The loss raised, or its gradient is zero or not finite.
    """
    digits = zlib.crc32(f"{seed}/start".encode())
    source = loop.data.batches(digits)
    device = next(iter(loop.devices))
    found = list[Batch]()
    norms = list[float]()
    losses = list[float]()
    for _ in range(2):
        batch: Any = next(source, None)
        if batch is None:
            raise BadArgument("`batches` ended before 2 batches: give more.")
        found.append(mapped(batch, lambda tensor: tensor.to(device)))
        with _gradient(loop, found[-1], digits) as (copy, loss):
            squares = [
                p.grad.double().square().sum()
                for p in copy.model.parameters()
                if p.grad is not None
            ]
            norms.append(float(torch.stack(squares).sum().sqrt()))
        if not math.isfinite(loss):
            raise UserCodeFailed(
                f"`loss` is {loss} before the first update: no rate can be chosen."
            )
        losses.append(loss)
    norm = sum(norms) / len(norms)
    if not 0 < norm < math.inf:
        raise UserCodeFailed(
            f"`loss` has a gradient of norm {norm} at the start of training: no rate can be chosen."
        )
    mean_loss = sum(losses) / len(losses)
    return Start(norm, tuple(found), digits, mean_loss, float(len(found)))


def overshooting_rate(loop: Loop, start: Start) -> tuple[float, float]:
    """The rate at which the first update of an optimizer overshoots, and what it has cost in
    gradients of a batch.

    An update along d at the rate a is expected to lower the loss by a·s, where s is the slope. It
    overshoots where it
    lowers the loss of the same batch by half of that: at the minimum of a parabola. Only
    differences of losses count, and d is the update that the optimizer really makes. So the rate
    does not depend on a constant in the loss; a loss that is a times as large has 1/a of it under
    SGD, and the same under Adam.

    Args:
        loop: The training with an optimizer at the rate 1. It is not touched.
        start: Its start.

    Returns:
        The geometric mean over the batches, to a factor of √2.

    Raises:
        UserCodeFailed: The optimizer makes no update, or one that is not finite.
    """
    logarithms, spent = 0.0, 0.0
    for batch in start.batches:
        with _gradient(loop, batch, start.seed) as (copy, loss):
            line = _Line(copy, batch, loss, start.seed)
            logarithms += math.log(line.crossing())
            spent += 1 + line.forwards / 3
    return math.exp(logarithms / len(start.batches)), spent


@contextmanager
def _gradient(loop: Loop, batch: Batch, seed: int) -> Iterator[tuple[Loop, float]]:
    """A copy of the loop with the gradient of a batch, and the loss."""
    copy = loop.copy()
    with untouched_randomness(seed, copy.devices):
        copy.optimizer.zero_grad(set_to_none=True)
        yield copy, float(copy.backward([batch]))


class _Line:
    """The loss of a batch along the first update of an optimizer."""

    def __init__(self, loop: Loop, batch: Batch, loss: float, seed: int) -> None:
        self.loop = loop
        self.batch = batch
        self.loss = loss
        self.seed = seed
        self.moved = [p for p in loop.model.parameters() if p.grad is not None]
        self.start = [p.detach().clone() for p in self.moved]
        self.forwards = 0
        gradients = [p.grad.clone() for p in self.moved if p.grad is not None]
        with torch.no_grad():
            for p in self.moved:
                p.zero_()  # from zero, a small update is not lost in rounding
        with user_code("optimizer"):
            self.loop.optimizer.step()
        self.update = [p.detach().clone() for p in self.moved]
        # AdamW divides by √v + ε, and both round to zero in float16.
        if not all(bool(update.isfinite().all()) for update in self.update):
            raise UserCodeFailed(
                f"`optimizer` {type(loop.optimizer).__name__} makes a first update that is not "
                f"finite, in parameters of {self.moved[0].dtype}: no rate can be chosen. Leave it "
                "out, or train in a wider type."
            )
        pairs = zip(gradients, self.update, strict=True)
        self.slope = -float(
            torch.stack([(one.double() * two.double()).sum() for one, two in pairs]).sum()
        )
        if not self.slope > 0:
            raise UserCodeFailed(
                "`optimizer` does not go down the gradient in its first update: no rate can be "
                "chosen."
            )

    @torch.no_grad()
    def overshoots(self, rate: float) -> bool:
        """True if the update at this rate lowers the loss by less than half of what the slope
        promises."""
        self.forwards += 1
        for p, start, update in zip(self.moved, self.start, self.update, strict=True):
            p.copy_(start + rate * update)
        with untouched_randomness(self.seed, self.loop.devices), user_code("loss"):
            assert self.loop.loss is not None
            after = float(
                checked_loss(self.loop.loss(self.loop.model, self.batch), self.batch).mean()
            )
        return not self.loss - after > 0.5 * rate * self.slope

    def crossing(self) -> float:
        """The rate, by steps of four down or up from an update of length 1, and two halvings on the
        way back."""
        length = float(
            torch.stack([update.double().square().sum() for update in self.update]).sum().sqrt()
        )
        low = high = 1 / length
        if self.overshoots(high):
            while self.overshoots(low := high / 4) and low > 0:
                high = low
        else:
            while not self.overshoots(high := low * 4) and high < math.inf:
                low = high
        # To a factor of √2, which is finer than the octaves between lanes.
        for _ in range(2):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.overshoots(middle) else (middle, high)
        return math.sqrt(low * high)
