"""The aim of a tuning: the training loss, the loss on held-out examples, or, between batch
sizes, the loss after the same time by measured step times."""

import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from gradiometer.errors import BadArgument
from gradiometer.estimation.batch_table import StepTimes, step_times
from gradiometer.loop.data import Data
from gradiometer.loop.loop import Loop
from gradiometer.measurement.batch import mapped
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.loss import Loss
from gradiometer.randomness import untouched_randomness
from gradiometer.run.budget import clock_for
from gradiometer.storage.disk import read_file, replace_file, writing
from gradiometer.tuning.optimizers import Made

# The training loss or that on held-out examples, after the same number of examples for all batch
# sizes; or the training loss after the same time.
Aim = Literal["loss", "test", "time"]

FILE = "step_times.json"


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
            "use, by whose loss lanes are judged."
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
    what = _what(model, made)
    times = _read_times(out, sizes, what)
    if times is None:
        times = _measure(model, made, data, loss=loss, seed=seed)
        if out is not None:
            with writing(out):
                out.mkdir(parents=True, exist_ok=True)
                replace_file(out / FILE, json.dumps({"of": what, **times_to_dict(times)}).encode())
    return Paces({size: 1 / times.relative[size].value for size in sizes}, times)


def _what(model: nn.Module, made: Made) -> list[Any]:
    """What times belong to, besides the batch sizes: the shapes of the parameters, their device,
    optimizer, threads."""
    parameters = [[str(parameter.device), *parameter.shape] for parameter in model.parameters()]
    return [parameters, made.words, torch.get_num_threads()]


def _measure(
    model: nn.Module, made: Made, data: Mapping[int, Data], *, loss: Loss, seed: int
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


def _read_times(out: Path | None, sizes: Sequence[int], what: list[Any]) -> StepTimes | None:
    """The times that were measured before, unless they are of something else or cannot be read."""
    if out is None or not (out / FILE).exists():
        return None
    try:
        stored = json.loads(read_file(out / FILE))
        if stored["of"] != what:
            return None
        found = {
            name: {int(size): Estimate(**estimate) for size, estimate in stored[name]}
            for name in ("seconds", "relative")
        }
    except (ValueError, KeyError, TypeError, OSError):
        return None
    times = StepTimes(**found)
    return times if list(times.relative) == list(sizes) else None
