"""`Lane`: a training at one rate, which a race stops and lets go on. It is judged at the mean of
its last parameters. Here it is in memory; in `of_problem` it is a run."""

import math
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor, nn

from gradiometer.convergence.averaging import refresh_batch_norm, tracking_layers
from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.integrations.gradients import gradients_of
from gradiometer.integrations.watch.observers.triage.exact import together
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.engine import is_finite
from gradiometer.loop.loop import Loop
from gradiometer.loop.readout import Readout
from gradiometer.loop.stream import Stream
from gradiometer.measurement.batch import mapped
from gradiometer.measurement.optimizer.steps import averages_itself
from gradiometer.measurement.untouched import Surroundings
from gradiometer.problems import Examples
from gradiometer.randomness import untouched_randomness
from gradiometer.run.recorder import Recorder
from gradiometer.train.loop import Watcher
from gradiometer.train.training import Training
from gradiometer.tuning.optimizers import Made

# The loss that lanes are compared by, and that if examples are held out.
READOUT = "train_loss"
HELD_OUT_READOUT = "test_loss"

# How much the training loss may still fall: a limit, from the gradient that a lane has at its end.
LIMIT = "limit_of_gain"


class MeanParameters(Watcher):
    """The mean of the parameters over the last quarter of a lane, in which most of the noise is
    gone, what an update gains there at most, and the time of its updates. It watches a lane that is
    a run.

    Args:
        stop: Length of the lane.
        before: Updates that it has made when this stretch of it begins.
    """

    def __init__(self, stop: int, before: int) -> None:
        self.since = max(stop - max(stop // 4, 1), before)
        self.sums: list[Tensor] = []
        self.newest: list[Tensor] = []
        self.count = 0
        self.gains: list[Tensor] = []
        self.times = (time.perf_counter(),) * 2
        self.timed = 0

    @torch.no_grad()
    def take(self, model: nn.Module, updates: int) -> None:
        """Take in the time, and the parameters after so many updates, if they are in the last
        quarter."""
        now = time.perf_counter()
        # The first update is left out, in which a run and an optimizer begin.
        self.times = (self.times[0] if self.timed else now, now)
        self.timed += 1
        if updates <= self.since:
            return
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        parameters = [parameter.detach() for parameter in trained]
        if not self.count:
            self.sums = [torch.zeros_like(parameter) for parameter in parameters]
        else:
            distance = norm_of(torch._foreach_sub(parameters, self.newest))
            self.gains.append(distance * norm_of(gradients_of(trained)))
        torch._foreach_add_(self.sums, parameters)
        self.newest = [parameter.clone() for parameter in parameters]
        self.count += 1

    @property
    def gain(self) -> float:
        """The most that an update gains to first order: the norm of the gradient, after clipping,
        times the distance that the parameters go, in the mean. NaN if the last quarter is a single
        update."""
        return float(torch.stack(self.gains).mean()) if self.gains else math.nan

    @property
    def seconds(self) -> float:
        """The mean time of an update."""
        first, last = self.times
        return (last - first) / max(self.timed - 1, 1)

    def update(self, training: Training, recorder: Recorder, loss: float) -> None:
        """Take in the parameters after a step of a run."""
        self.take(training.model, training.step)

    @torch.no_grad()
    def into(self, model: nn.Module) -> None:
        """Put the mean into a model. In a training of a few updates it may have none."""
        if not self.count:
            return
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        for parameter, total in zip(trained, self.sums, strict=True):
            parameter.copy_(total / self.count)


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all these numbers together, in single precision."""
    norms = torch._foreach_norm([tensor.to_dense() for tensor in tensors])
    norm: Tensor = together(norms).norm()
    return norm


class Lane(ABC):
    """A training at one rate.

    Args:
        made: The optimizer.
        rate: Its rate.
        size: Examples of an update.
        steps: Updates of the whole training.

    Attributes:
        name: The lane in a few words, different for every lane.
        stops: The numbers of updates at which the race has stopped it, in order.
    """

    name: str

    def __init__(self, made: Made, rate: float, size: int, steps: int) -> None:
        self.made = made
        self.rate = rate
        self.size = size
        self.steps = steps
        self.stops: list[int] = []

    @abstractmethod
    def advance(self, mean: MeanParameters | None = None) -> Loop | None:
        """Train to the last stop. Returns the training there, or None if it diverged.

        Args:
            mean: Takes in the parameters on the way.
        """


class LoopLane(Lane):
    """A lane of a person's loop, in memory.

    Args:
        start: The training at its start, with the optimizer at this rate. It is copied.
        made: The optimizer.
        rate: Its rate.
        size: Examples of an update.
        steps: Updates of the whole training.
    """

    def __init__(self, start: Loop, made: Made, rate: float, size: int, steps: int) -> None:
        super().__init__(made, rate, size, steps)
        self.loop = start.copy()
        self.name = f"{made.words} at {rate:.4g}, batch {size}, {steps} updates, {start.digest()}"

    def advance(self, mean: MeanParameters | None = None) -> Loop | None:
        """Train to the last stop. In a new process it is trained again from the start, with the
        same bits."""
        loop = self.loop
        for stop in self.stops:
            seed = zlib.crc32(f"{loop.seed}/{loop.index}/lane".encode())
            # Random states are afterwards as before.
            with (
                untouched_randomness(seed, loop.devices),
                Surroundings(loop.calls, loop.model).untouched(seed),
            ):
                stream = self.batches()
                try:
                    while loop.index < stop:
                        loop.update(*stream.take())
                        if mean is not None:
                            mean.take(loop.model, loop.index)
                # A loss may refuse NaN, which is a rate that is too high and no fault of the loss.
                except UserCodeFailed:
                    if is_finite(loop.model):
                        raise
            if not is_finite(loop.model):
                return None
        return loop

    def batches(self) -> Stream:
        """The batches from here on. In a new process they are drawn again."""
        loop = self.loop
        if loop.stream.updates < loop.index or not loop.index:
            loop.begin(0)
            for _ in range(loop.index):
                loop.stream.take()
        return loop.stream


def refresh_statistics(loop: Loop) -> None:
    """Measure the statistics of BatchNorm again, from as many examples as are read out: they are
    those of the last parameters, and the model has the mean. On a residual network the race of SGD
    ended 15 % above a grid with the old ones, and 5 % with new ones."""
    layers = tracking_layers(loop.model)
    # Statistics that training keeps as they are stay so.
    if loop.loss is None or not layers or not all(layer.training for layer in layers):
        return
    seed = zlib.crc32(f"{loop.seed}/statistics".encode())
    device = next(loop.model.parameters()).device
    with untouched_randomness(seed, loop.devices):
        batches = [
            mapped(batch, lambda tensor: tensor.to(device))
            for batch in loop.data.some(loop.readout_examples, seed, whole=True)
        ]
    with suppress(BadArgument):  # no layer is called
        refresh_batch_norm(loop.model, batches, loop.loss, seed=seed)


def judge(lane: Lane, examples: int, held_out: Examples | None) -> tuple[BranchResult, Lane]:
    """Train a lane to its last stop, and read out its loss at the mean of its last parameters, from
    which it does not go on.

    Args:
        lane: The lane.
        examples: Number of training examples on which the loss is read out, the same for all lanes.
        held_out: Examples that are read out as well; None for none.
    """
    *before, stop = [0, *lane.stops]
    mean = MeanParameters(stop, before[-1])
    examples_so_far = stop * lane.size
    end = partial(BranchResult, GoOn().name, 1, examples_so_far)
    loop = lane.advance(mean)
    seconds = mean.seconds * (stop - before[-1])
    if loop is None:
        return end(0, 0, seconds, (), diverged="the parameters are not finite"), lane
    loop.readout_examples = examples
    # all lanes are compared on the same examples; to find it out would cost batches of every lane
    loop.couples = False
    loop.evaluate = held_out
    copy = loop.copy()
    if averages_itself(copy.optimizer):
        copy.finish()
    else:
        mean.into(copy.model)
    refresh_statistics(copy)
    readouts = {
        **copy.readouts(copy.model),
        LIMIT: Readout(mean.gain * (lane.steps - stop)),
    }
    loss = readouts[READOUT if held_out is None else HELD_OUT_READOUT].mean
    diverged = None if math.isfinite(loss) else f"the loss is {loss}"
    return end(stop, examples_so_far, seconds, (), readouts, diverged), lane
