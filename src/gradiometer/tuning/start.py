"""What is measured before a race: the size of the gradient, the rate at which an optimizer
overshoots, and for the aim of a tuning the times of a step."""

import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import torch
from torch import nn

from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.estimation.batch_table import StepTimes, step_times
from gradiometer.jobs.job import Job
from gradiometer.jobs.pool import Here, Ledger
from gradiometer.loop.data import Data
from gradiometer.loop.loop import Loop
from gradiometer.measurement.batch import Batch, mapped
from gradiometer.measurement.objective import Loss, checked_loss
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness
from gradiometer.run.clock import clock_for
from gradiometer.tuning.optimizers import Made


@dataclass(frozen=True)
class Start:
    """The start of a training.

    Args:
        norm: The norm of the gradient of a batch, as the mean over some batches.
        batches: The two batches on which rates are probed.
        seed: Seed of the random draws.
        loss: The mean loss of these batches.
    """

    norm: float
    batches: tuple[Batch, ...]
    seed: int
    loss: float


def start_of(loop: Loop, *, seed: int) -> Start:
    """The norm of the gradient at the start. The loop is not touched.

    Args:
        loop: The training.
        seed: Seed of the data order and of the random draws.

    Raises:
        BadArgument: The data end before.
        UserCodeFailed: The loss raised or reaches no parameter, or its gradient is zero or not
            finite.
    """
    digits = zlib.crc32(f"{seed}/start".encode())
    source = loop.data.batches(digits)
    device = next(iter(loop.devices))
    batches = [mapped(batch, lambda tensor: tensor.to(device)) for batch in islice(source, 2)]
    if len(batches) < 2:
        raise BadArgument("`batches` ended before 2 batches: give more.")
    norm, mean = 0.0, 0.0
    for batch in batches:
        with _gradient(loop, batch, digits) as (copy, loss):
            gradients = [p.grad.double() for p in copy.model.parameters() if p.grad is not None]
            if not gradients:
                raise UserCodeFailed(
                    "`loss` has no gradient in any parameter of the model: compute it from the "
                    "outputs of the model that it is called with."
                )
            squares = torch.stack([gradient.square().sum() for gradient in gradients])
            norm += float(squares.sum().sqrt()) / 2
            mean += loss / 2
    if not math.isfinite(mean):
        raise UserCodeFailed(f"`loss` is {mean} before the first update: no rate can be chosen.")
    if not 0 < norm < math.inf:
        raise UserCodeFailed(
            f"`loss` has a gradient of norm {norm} at the start of training: no rate can be chosen."
        )
    return Start(norm, tuple(batches), digits, mean)


# A rate is probed along the last of so many updates of one gradient, which momentum has made nearly
# as long as they get. Along the first one, AdamW's rates were two octaves too low for a race with
# SGD, which ended 3.8 % ± 1.8 higher on 46 tasks.
REPEATED = 12


def overshooting_rate(loop: Loop, start: Start) -> tuple[float, float]:
    """The rate at which an update of an optimizer overshoots, and what it has cost in gradients of
    a batch.

    An update along d at the rate a is expected to lower the loss by a·s, where s is the slope. It
    overshoots where it lowers the loss of the same batch by half of that: at the minimum of a
    parabola. Only differences of losses count, and d is the update that the optimizer really makes
    after some of the same gradient, as long as momentum makes it. So the rate does not depend on a
    constant in the loss; a loss that is a times as large has 1/a of it under SGD, and the same
    under Adam.

    Args:
        loop: The training with an optimizer at the rate 1. It is not touched.
        start: Its start.

    Returns:
        The geometric mean over the batches, to a factor of √2.

    Raises:
        UserCodeFailed: The optimizer makes no update, or one that is not finite; or the loss falls
            at no rate, or at every rate.
    """
    rates, spent = list[float](), 0.0
    for batch in start.batches:
        with _gradient(loop, batch, start.seed) as (copy, loss):
            rate, forwards = _crossing(copy, batch, loss, start.seed)
            rates.append(rate)
            spent += 1 + forwards / 3
    # Logarithms would round, and a loss that is 8 times as large would not have exactly an eighth.
    first, second = rates
    return first * math.sqrt(second / first), spent


@contextmanager
def _gradient(loop: Loop, batch: Batch, seed: int) -> Iterator[tuple[Loop, float]]:
    """A copy of the loop with the gradient of a batch, and the loss."""
    copy = loop.copy()
    with untouched_randomness(seed, copy.devices):
        copy.optimizer.zero_grad(set_to_none=True)
        yield copy, float(copy.backward([batch]))


def _crossing(loop: Loop, batch: Batch, loss: float, seed: int) -> tuple[float, int]:
    """The rate at which the loss of a batch overshoots along the update that an optimizer makes of
    the gradients that are there; and the forward passes that it has taken."""
    moved = [p for p in loop.model.parameters() if p.grad is not None]
    start = [p.detach().clone() for p in moved]
    gradients = [p.grad.clone() for p in moved if p.grad is not None]
    for _ in range(REPEATED):
        with torch.no_grad():
            for p in moved:
                p.zero_()  # from zero, a small update is not lost in rounding
        with user_code("optimizer"):
            loop.optimizer.step()
    update = [p.detach().clone() for p in moved]
    # AdamW divides by √v + ε, and both round to zero in float16.
    if not all(bool(part.isfinite().all()) for part in update):
        raise UserCodeFailed(
            f"`optimizer` {type(loop.optimizer).__name__} makes a first update that is not finite, "
            f"in parameters of {moved[0].dtype}: no rate can be chosen. Leave it out, or train in "
            "a wider type."
        )
    pairs = zip(gradients, update, strict=True)
    slope = -float(torch.stack([(one.double() * two.double()).sum() for one, two in pairs]).sum())
    if not slope > 0:
        raise UserCodeFailed(
            "`optimizer` does not go down the gradient in its first update: no rate can be chosen."
        )
    forwards = 0

    @torch.no_grad()
    def overshoots(rate: float) -> bool:
        """True if the update lowers the loss by less than half of what the slope promises."""
        nonlocal forwards
        forwards += 1
        for p, origin, part in zip(moved, start, update, strict=True):
            p.copy_(origin + rate * part)
        with untouched_randomness(seed, loop.devices), user_code("loss"):
            assert loop.loss is not None
            after = float(checked_loss(loop.loss(loop.model, batch), batch).mean())
        return not loss - after > 0.5 * rate * slope

    squares = torch.stack([part.double().square().sum() for part in update])
    # By steps of four down or up from an update of length 1, and two halvings on the way back.
    low = high = 1 / float(squares.sum().sqrt())
    if overshoots(high):
        while overshoots(low := high / 4) and low > 0:
            high = low
    else:
        while not overshoots(high := low * 4) and high < math.inf:
            low = high
    # To a factor of √2, which is finer than the octaves between lanes.
    for _ in range(2):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if overshoots(middle) else (middle, high)
    rate = math.sqrt(low * high)
    if not 0 < rate < math.inf:
        where = "at no rate" if rate == 0 else "at every rate, however large,"
        raise UserCodeFailed(
            f"`loss` falls {where} along the first update of `optimizer` "
            f"{type(loop.optimizer).__name__}: no rate can be chosen. Check that the loss is finite "
            "beside the starting point, and has a minimum."
        )
    return rate, forwards


# The training loss or that on held-out examples, after the same number of examples for all batch
# sizes; or the training loss after the same time.
Aim = Literal["loss", "test", "time"]

FILE = "step_times.jsonl"


@dataclass(frozen=True)
class Paces:
    """How many updates of each batch size count as one of the first.

    Args:
        updates: Updates by batch size, 1 for the first.
        times: The measured step times; None unless the aim is time.
    """

    updates: Mapping[int, float]
    times: StepTimes | None = None

    @property
    def cost(self) -> float:
        """What timing has cost, in updates at the first batch size."""
        if self.times is None:
            return 0.0
        rounds = 1 + max(estimate.samples or 0 for estimate in self.times.seconds.values())
        return rounds * sum(1 / pace for pace in self.updates.values())


def check_aim(aim: Any, sizes: int, held_out: Any) -> None:
    """Raise unless the aim is known and fits the batch sizes and the held-out examples."""
    *others, last = map(repr, get_args(Aim))
    known = f"{', '.join(others)} or {last}"
    if aim is not None and not (isinstance(aim, str) and aim in get_args(Aim)):
        raise BadArgument(f"`aim` must be {known}, got {aim!r}.")
    if (aim == "test") != (held_out is not None):
        raise BadArgument(
            "`held_out` and aim='test' go together: give the examples, which training does not "
            "use, by whose loss trial runs are compared."
        )
    if sizes > 1 and aim is None:
        raise BadArgument(
            f"`aim` must be {known} for several batch sizes: they end at other losses for each."
        )
    if sizes == 1 and aim == "time":
        raise BadArgument(
            "`aim` time chooses between batch sizes: give several, such as 32,64,128."
        )


def paces_for(
    aim: Aim | None,
    model: nn.Module,
    made: Made,
    data: Mapping[int, Data],
    *,
    loss: Loss,
    seed: int,
    out: Path | None,
) -> Paces:
    """The paces of batch sizes for an aim. A tuning that continues uses the times that it has
    measured before.

    Args:
        aim: The aim; None for one batch size.
        model: The model. A copy is trained.
        made: The optimizer.
        data: The training data in batches of each size, the first of which is the present one.
        loss: The loss of training.
        seed: Seed of the data order.
        out: Folder in which the times are kept.
    """
    sizes = list(data)
    if aim != "time":
        return Paces({size: sizes[0] / size for size in sizes})
    # What times belong to: the shapes of the parameters and their device, the optimizer, threads.
    parameters = [[str(parameter.device), *parameter.shape] for parameter in model.parameters()]
    threads = torch.get_num_threads()
    job = Job(
        json.dumps([sizes, parameters, made.words, threads]),
        _step_times,
        (model, made, data, loss, seed),
        cpus=float(threads),
    )
    ledger = None
    if out is not None:
        encode = partial(msgspec.to_builtins, str_keys=True)
        decode = partial(msgspec.convert, type=StepTimes, str_keys=True)
        ledger = Ledger(out / FILE, encode, decode)
    [outcome] = Here().run([job], ledger=ledger)
    times = outcome.value()
    return Paces({size: 1 / times.relative[size].value for size in sizes}, times)


def _step_times(
    model: nn.Module, made: Made, data: Mapping[int, Data], loss: Loss, seed: int
) -> StepTimes:
    """Time steps of a copy, in turn. On one thread of the CPU, other processes do not count."""
    first = next(iter(data.values()))
    loop = Loop(model, made(model.parameters(), 1e-6), loss=loss, batches=first).copy()
    digits, device = zlib.crc32(f"{seed}/times".encode()), next(iter(loop.devices))
    batches = {size: each.batches(digits) for size, each in data.items()}

    def step(size: int) -> None:
        batch: Any = mapped(next(batches[size]), lambda tensor: tensor.to(device))
        float(loop.update(batch))  # waits for the device
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    sizes = list(data)
    with untouched_randomness(digits, loop.devices):
        clock = clock_for(device.type) if torch.get_num_threads() == 1 else time.perf_counter
        # No longer than the fewest rounds take, since timing counts as cost.
        return step_times(step, sizes, sizes[0], seconds=1e-9, clock=clock)


def times_to_dict(times: StepTimes) -> dict[str, Any]:
    """The times as JSON types."""
    return {
        name: [[size, estimate.to_dict()] for size, estimate in getattr(times, name).items()]
        for name in ("seconds", "relative")
    }
