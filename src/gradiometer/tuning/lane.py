"""`Lane`: a training at one rate, which a race stops and lets go on. It is judged by a branch that
cools it."""

import math
import zlib
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gradiometer.errors import UserCodeFailed
from gradiometer.loop.branch import Branch, BranchResult, Tail
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.engine import train_branch
from gradiometer.loop.loop import Loop
from gradiometer.loop.readout import Readout
from gradiometer.loop.stream import Stream
from gradiometer.measurement.optimizer.averaged import averages_itself
from gradiometer.measurement.untouched import Surroundings
from gradiometer.problems.examples import Examples
from gradiometer.randomness import untouched_randomness
from gradiometer.tuning.optimizers import Made

# The loss that lanes are compared by, and that if examples are held out.
READOUT = "train_loss"
HELD_OUT_READOUT = "test_loss"


class MeanLoss:
    """The mean of the parameters over the last quarter of a short lane, in which most of the noise
    is gone.

    Args:
        updates: Length of the lane.
    """

    def __init__(self, updates: int) -> None:
        self.since = updates - max(updates // 4, 1)
        self.sums: list[Tensor] = []
        self.count = 0

    @torch.no_grad()
    def take(self, model: nn.Module, updates: int) -> None:
        """Take in the parameters after so many updates, if they are in the last quarter."""
        if updates <= self.since:
            return
        parameters = [parameter.detach() for parameter in model.parameters()]
        if not self.count:
            self.sums = [torch.zeros_like(parameter) for parameter in parameters]
        for total, parameter in zip(self.sums, parameters, strict=True):
            total.add_(parameter)
        self.count += 1

    @torch.no_grad()
    def into(self, model: nn.Module) -> None:
        """Put the mean into a model."""
        for parameter, total in zip(model.parameters(), self.sums, strict=True):
            parameter.copy_(total / self.count)


@runtime_checkable
class Lane(Protocol):
    """A training at one rate.

    Attributes:
        made: The optimizer.
        rate: Its rate.
        size: Examples of an update.
        steps: Updates of the whole training.
        name: The lane in a few words, different for every lane.
        stops: The numbers of updates at which the race has stopped it, in order.
    """

    made: Made
    rate: float
    size: int
    steps: int
    name: str
    stops: list[int]

    def advance(self, mean: MeanLoss | None = None) -> Loop | None:
        """Train to the last stop. Returns the training there, or None if it diverged.

        Args:
            mean: Takes in the parameters on the way to the first stop.
        """


class LoopLane:
    """A lane of a person's loop, in memory. Attributes as of `Lane`.

    Args:
        start: The training at its start, with the optimizer at this rate. It is copied.
        made: The optimizer.
        rate: Its rate.
        size: Examples of an update.
        steps: Updates of the whole training.
    """

    def __init__(self, start: Loop, made: Made, rate: float, size: int, steps: int) -> None:
        self.made = made
        self.rate = rate
        self.size = size
        self.steps = steps
        self.loop = start.copy()
        self.name = f"{made.words} at {rate:.4g}, batch {size}, {steps} updates, {start.digest()}"
        self.stops: list[int] = []
        self.stream: Stream | None = None

    def advance(self, mean: MeanLoss | None = None) -> Loop | None:
        """Train to the last stop. In a new process it is trained again from the start, with the
        same bits."""
        for stop in self.stops:
            if not self._train(stop, mean):
                return None
        return self.loop

    def _train(self, stop: int, mean: MeanLoss | None) -> bool:
        """Train until so many updates are made. False if it diverged. Random states are afterwards
        as before."""
        loop = self.loop
        seed = zlib.crc32(f"{loop.seed}/{loop.index}/lane".encode())
        with (
            untouched_randomness(seed, loop.devices),
            Surroundings(loop.calls, loop.model).untouched(seed),
        ):
            stream = self.batches()
            try:
                while loop.index < stop:
                    loop.update(*stream.take().pieces)
                    if mean is not None:
                        mean.take(loop.model, loop.index)
            # A loss may refuse NaN, which is a rate that is too high and no fault of the loss.
            except UserCodeFailed:
                if self._is_finite:
                    raise
        return self._is_finite

    @property
    def _is_finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.loop.model.parameters())

    def batches(self) -> Stream:
        """The batches from here on. In a new process they are drawn again."""
        if self.stream is None:
            loop = self.loop
            device = next(loop.model.parameters()).device
            batches = loop.data.replicate(loop.seed, 0)
            self.stream = Stream(batches, accumulation=loop.accumulation, device=device)
            for _ in range(loop.index):
                self.stream.take()
        return self.stream

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "stream": None}


def tail_of(made: Made) -> Tail:
    """How the rate ends in the branch that judges a lane. An optimizer that averages its iterates
    keeps its rate."""
    return "none" if made.is_schedule_free else "linear"


def readout_of(end: BranchResult, name: str) -> Readout:
    """The loss of a lane; inf if it diverged."""
    return Readout(math.inf) if end.diverged is not None else end.readouts[name]


def judge(
    lane: Lane, cooled: float, examples: int, held_out: Examples | None
) -> tuple[BranchResult, Lane]:
    """Train a lane to its last stop, and read out its loss.

    Args:
        lane: The lane.
        cooled: Length of a branch from there whose rate goes to zero, as a share of the training,
            which is read out; 0 to read out the mean of the parameters over the last quarter of the
            lane.
        examples: Number of training examples on which the loss is read out, the same for all lanes.
        held_out: Examples that are read out as well; None for none.
    """
    name, stop = GoOn().name, lane.stops[-1]
    horizon = int(cooled * lane.steps) * lane.size
    mean = None if horizon else MeanLoss(stop)
    loop = lane.advance(mean)
    if loop is None:
        return BranchResult(
            name, 1, max(horizon, 1), 0, 0, 0.0, (), diverged="the parameters are not finite"
        ), lane
    loop.readout_examples = examples
    loop.evaluate = held_out
    if mean is None:
        return train_branch(loop, Branch(GoOn(), 1, horizon, tail_of(lane.made))), lane
    # The lane itself goes on from its last parameters.
    copy = loop.copy()
    if averages_itself(copy.optimizer):
        copy.finish()
    else:
        mean.into(copy.model)
    readouts = copy.readouts(copy.model)
    loss = readouts[READOUT if held_out is None else HELD_OUT_READOUT].mean
    diverged = None if math.isfinite(loss) else f"the loss is {loss}"
    return BranchResult(
        name, 1, stop * lane.size, stop, stop * lane.size, 0.0, (), readouts, diverged
    ), lane
