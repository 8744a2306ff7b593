"""Grow a branch: train one alternative from a state to its horizon, and read out the model."""

import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gradiometer.errors import UserCodeFailed
from gradiometer.forks.alternatives.alternative import Alternative
from gradiometer.forks.branch import Branch, BranchResult, Readout, tail_factor
from gradiometer.forks.continuation import Continuation
from gradiometer.measurement.untouched import Surroundings
from gradiometer.randomness import untouched_randomness

PIECES = 48
"""Most points of the curve of a branch."""

FEWEST = 2
"""Fewest examples of the last batch, which is cut at the horizon: BatchNorm needs two."""


@runtime_checkable
class Source(Protocol):
    """A state that training can be continued from, any number of times. It can be pickled.

    `seed` is the seed of the fork. `devices` are those of the model.
    """

    seed: int

    @property
    def devices(self) -> set[torch.device]:
        """The devices of the model."""
        ...

    def continuation(self, replicate: int) -> Continuation:
        """New copies of everything that training changes, and the data in the order of this replicate.

        The random states are those of the replicate, and may be set here to others.
        """
        ...

    def readouts(self, model: nn.Module) -> Mapping[str, Readout]:
        """The numbers that a model is judged by. The same random numbers, and no gradients, at every call."""
        ...


def grown(source: Source, branch: Branch) -> BranchResult:
    """Train one branch. Random states, and what the loss uses besides its model, are afterwards as before.

    The random draws of a replicate (data order, Dropout) are the same for all alternatives and on any machine.

    Args:
        source: The state.
        branch: What to do from there.

    Returns:
        The result. A loss or a readout that is not finite ends the branch as diverged; it is not an error.

    Raises:
        BadArgument: The alternative does not fit the training, or the data end before the horizon.
        UserCodeFailed: The loss, the optimizer or a metric raised.
    """
    seed = zlib.crc32(f"{source.seed}/{branch.replicate}/draws".encode())
    with untouched_randomness(seed, source.devices):
        with changed(source, branch.alternative, branch.replicate, seed) as going:
            result = _trained(going, branch)
            if result.diverged is None:
                going.finish()
        if result.diverged is not None:
            return result
        readouts = dict(source.readouts(going.model))
    for name, readout in readouts.items():
        if not math.isfinite(readout.mean):
            return replace(result, diverged=f"{name} is {readout.mean}")
    return replace(result, readouts=readouts)


@contextmanager
def changed(source: Source, alternative: Alternative, replicate: int, seed: int) -> Iterator[Continuation]:
    """How training continues with an alternative. What its functions use besides the model is afterwards as before."""
    going = source.continuation(replicate)
    # What is found before the change is not of this branch alone.
    with Surroundings((*going.calls, alternative), going.model).untouched(seed):
        alternative.change(going)
        yield going


def _trained(going: Continuation, branch: Branch) -> BranchResult:
    """Train up to the horizon."""
    began = time.perf_counter()
    horizon = max(round(going.share * branch.horizon), 1)
    tail = partial(tail_factor, branch.tail, horizon=horizon, hold=going.hold)
    curve: list[tuple[int, float]] = []
    losses: list[Tensor | float] = []
    highest, updates, diverged = math.nan, 0, None
    fewest = 1
    while horizon - going.stream.examples >= fewest and diverged is None:
        try:
            update = going.update(tail, horizon - going.stream.examples)
        except UserCodeFailed as error:
            if _is_finite(going.model):
                raise
            diverged = f"the parameters are not finite ({error})"
            break
        fewest = min(update.examples, FEWEST) if going.stream.examples == update.examples else fewest
        if update.loss is not None:
            losses.append(update.loss)
            updates += 1
        due = going.stream.examples * PIECES // horizon > len(curve)
        if losses and (due or horizon - going.stream.examples < fewest):
            mean, most = _mean_and_most(losses)
            highest = most if math.isnan(highest) else max(highest, most)
            curve.append((going.stream.examples, mean))
            losses.clear()
            if not math.isfinite(mean):
                diverged = f"the loss is {mean} after {updates:,} update{'s' if updates > 1 else ''}"
    return BranchResult(
        branch.alternative.name,
        branch.replicate,
        branch.horizon,
        updates,
        going.stream.examples,
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


def _is_finite(model: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())
