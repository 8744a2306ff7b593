"""The loss and the length of the gradient at the start of training."""

import zlib
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.loop.loop import Loop
from gradiometer.measurement.batch import mapped
from gradiometer.measurement.loss import checked_loss
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness

BATCHES = 4


@dataclass(frozen=True)
class Start:
    """The model at the start, as the mean over some batches.

    Args:
        loss: The loss.
        norm: The norm of the gradient of a batch.
        forwards: Batches of which only the loss was measured.
    """

    loss: float
    norm: float
    forwards: int = 0


def start_of(loop: Loop, *, seed: int, forwards: int = 0) -> Start:
    """The loss and the norm of the gradient, from four batches. The loop is not touched.

    The loss is also measured on so many further batches, fewer if the data end: what branches learn is compared to it,
    and in four batches a few examples of a large loss may hide that.

    Raises:
        BadArgument: The data end before.
        UserCodeFailed: The loss raised, or its gradient is zero or not finite.
    """
    loss = loop.loss
    assert loss is not None
    copy, digits = loop.copy(), zlib.crc32(f"{seed}/start".encode())
    device = next(iter(copy.devices))
    batches, losses, norms = copy.data.batches(digits), list[float](), list[float]()
    with untouched_randomness(digits, copy.devices):
        for _ in range(BATCHES):
            batch: Any = next(batches, None)
            if batch is None:
                raise BadArgument(f"`batches` ended before {BATCHES} batches: give more.")
            copy.optimizer.zero_grad(set_to_none=True)
            losses.append(float(copy.backward([mapped(batch, lambda tensor: tensor.to(device))])))
            gradients = [p.grad.double() for p in copy.model.parameters() if p.grad is not None]
            norms.append(float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()))
        with torch.no_grad(), user_code("loss"):
            for further in islice(batches, forwards):
                batch = mapped(further, lambda tensor: tensor.to(device))
                losses.append(float(checked_loss(loss(copy.model, batch), batch).mean()))
    norm = sum(norms) / len(norms)
    if not 0 < norm < float("inf"):
        raise UserCodeFailed(f"`loss` has a gradient of norm {norm} at the start of training: no rate can be chosen.")
    return Start(sum(losses) / len(losses), norm, len(losses) - BATCHES)
