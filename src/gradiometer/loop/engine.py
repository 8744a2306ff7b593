"""Branches: an alternative is trained from a loop to its horizon, and the model is read out, beside
a training that is not touched."""

import math
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.interruption import heed
from gradiometer.loop.branch import Branch, BranchResult, tail_factor
from gradiometer.loop.changes.alternative import Alternative
from gradiometer.loop.loop import Loop
from gradiometer.measurement.hidden_state import HiddenState
from gradiometer.measurement.untouched import Surroundings
from gradiometer.randomness import untouched_randomness


def train_branch(loop: Loop, branch: Branch) -> BranchResult:
    """Train one branch. Random states, and what the loss uses besides its model, are afterwards as
    before.

    The random draws of a replicate (data order, Dropout) are the same for all alternatives and on
    any machine.

    Args:
        loop: The training, which is copied.
        branch: What to do from there.

    Returns:
        The result. A loss or a readout that is not finite ends the branch as diverged; it is not an
        error.

    Raises:
        StopAsked: A stop was asked for, and the caller heeds it.
        BadArgument: The alternative does not fit the training, or the data end before the horizon.
        UserCodeFailed: The loss, the optimizer or a metric raised.
    """
    seed = zlib.crc32(f"{loop.seed}/{branch.replicate}/draws".encode())
    with untouched_randomness(seed, loop.devices):
        with changed(loop, branch.alternative, branch.replicate, seed) as copy:
            result = _train(copy, branch)
            if result.diverged is None:
                copy.finish()
        if result.diverged is not None:
            return result
        readouts = loop.readouts(copy.model)
    for name, readout in readouts.items():
        if not math.isfinite(readout.mean):
            return replace(result, diverged=f"{name} is {readout.mean}")
    return replace(result, readouts=readouts)


@contextmanager
def changed(loop: Loop, alternative: Alternative, replicate: int, seed: int) -> Iterator[Loop]:
    """A copy with an alternative. What its functions use besides the model is
    afterwards as before."""
    copy = loop.copy()
    copy.begin(replicate)
    # What is found before the change is not of this branch alone.
    with Surroundings((*copy.calls, alternative), copy.model).untouched(seed):
        alternative(copy)
        yield copy


def _train(loop: Loop, branch: Branch) -> BranchResult:
    """Train up to the horizon."""
    began, stream = time.perf_counter(), loop.stream
    horizon = max(round(loop.share * branch.horizon), 1)
    tail = partial(tail_factor, branch.tail, horizon=horizon, hold=loop.hold)
    curve: list[tuple[int, float]] = []
    losses: list[Tensor | float] = []
    highest, updates, diverged = math.nan, 0, None
    fewest = 1
    while horizon - stream.examples >= fewest and diverged is None:
        heed()
        before = stream.examples
        try:
            loss = loop.advance(tail, horizon - before)
        except UserCodeFailed as error:
            if is_finite(loop.model):
                raise
            diverged = f"the parameters are not finite ({error})"
            break
        # BatchNorm needs two examples, also in the last batch, which is cut at the horizon.
        fewest = fewest if before else min(stream.examples, 2)
        if loss is not None:
            losses.append(loss)
            updates += 1
        # A curve has at most 48 points.
        due = stream.examples * 48 // horizon > len(curve)
        if losses and (due or horizon - stream.examples < fewest):
            mean, most = _mean_and_most(losses)
            highest = most if math.isnan(highest) else max(highest, most)
            curve.append((stream.examples, mean))
            losses.clear()
            if not math.isfinite(mean):
                diverged = (
                    f"the loss is {mean} after {updates:,} update{'s' if updates > 1 else ''}"
                )
    return BranchResult(
        branch.alternative.name,
        branch.replicate,
        branch.horizon,
        updates,
        stream.examples,
        time.perf_counter() - began,
        tuple(curve),
        diverged=diverged,
        highest=highest,
    )


def _mean_and_most(losses: Sequence[Tensor | float]) -> tuple[float, float]:
    """The mean of some losses and the highest, which are fetched from their device together."""
    if all(isinstance(loss, Tensor) for loss in losses):
        known = torch.stack([loss for loss in losses if isinstance(loss, Tensor)]).double()
        mean, most = torch.stack([known.mean(), known.max()]).tolist()
        return mean, most
    numbers = list(map(float, losses))
    return sum(numbers) / len(numbers), max(numbers)


def is_finite(model: nn.Module) -> bool:
    """True if all parameters of a model are finite."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@contextmanager
def guarded_copy(original: Loop, seed: int) -> Iterator[Loop]:
    """A copy of a training to start branches from. Gradients of the training are set aside inside.

    Args:
        original: The training.
        seed: Seed of the branches.

    Raises:
        BadArgument: At the end, if the user's functions have changed the training in place of the
            copies that they were called with. It is put back to what it was.
        UserCodeFailed: The user's functions use an iterator, which cannot be put back.
    """
    start = original.copy()
    start.seed = seed
    parameters = list(original.model.parameters())
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    # What functions and modules keep is shared by the copies, as far as it cannot be copied.
    hidden = HiddenState(original.calls, original.model)
    try:
        with hidden.untouched():
            yield start
    finally:
        touched = any(parameter.grad is not None for parameter in parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        changed = not _same(original.state(), start.state())
    if touched or changed:
        if changed:
            original.restore(start.state())
        raise BadArgument(
            "`loss`, `step`, `evaluate` or an alternative worked on the training itself: use only "
            "the model, optimizer and batch that the function is called with. The training was put "
            "back to what it was."
        )


def _same(one: Any, two: Any) -> bool:
    """True if two trees of tensors and numbers have the same values."""
    if isinstance(one, Tensor):
        is_nan = one.is_floating_point() and torch.allclose(one, two, 0, 0, equal_nan=True)
        return torch.equal(one, two) or is_nan
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return not isinstance(one, int | float) or repr(one) == repr(two)
