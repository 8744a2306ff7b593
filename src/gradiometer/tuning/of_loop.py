"""`tune`: choose the learning rate of a training before it starts."""

import itertools
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.forks.branches import Fork
from gradiometer.forks.data import Data, Ordered, data_of, first_size
from gradiometer.forks.loop_state import check_functions, parts_of
from gradiometer.forks.recorded.growing import Progress
from gradiometer.jobs.choice import opened
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.loss import Loss
from gradiometer.tuning.aim import Aim, check_aim, paces_for
from gradiometer.tuning.choice import rate_of
from gradiometer.tuning.optimizers import Made
from gradiometer.tuning.probe import Bracket, bracket
from gradiometer.tuning.race import LEAN, Lane, as_fork, finish, raced
from gradiometer.tuning.stages import FEWEST, Plan
from gradiometer.tuning.start import BATCHES, start_of
from gradiometer.tuning.trials import FORWARD, Trials
from gradiometer.tuning.tuned import Tuned
from gradiometer.tuning.variants import Amounts, Optimizers, several_of, variants

BUDGET = 1.3
"""Default budget, in units of the training."""

CLIP = 2.0
"""Default of `clip`."""

ADAPTIVE = Bracket(1e-5, 1.0, 3e-3, ())
"""Bracket of optimizers whose rate does not depend on the scale of the loss."""

ABOVE = 5
"""The first round is centred this many steps of the grid above the rate of the probe."""

SHARE_PROBED, MOST_PROBED = 1 / 20, 60
"""The probe's share of the training, and its most updates."""


def tune(
    model: nn.Module,
    *,
    loss: Loss,
    batches: Any,
    steps: int,
    batch_size: int | Sequence[int] | None = None,
    aim: Aim | None = None,
    budget: Amount = BUDGET,
    optimizer: Optimizers = "sgd",
    momentum: Amounts = 0.9,
    nesterov: bool = True,
    weight_decay: Amounts = 0.0,
    clip: Amount | None = CLIP,
    seed: int = 0,
    pool: str | Pool = "here",
    threads: int = 1,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Choose the learning rate of a training of this length, whose rate falls linearly to zero.

    A probe brackets the rate at any scale of inputs and loss. Within the bracket, branches are trained from the start,
    each with its rate linear to zero over its own length, in rounds of growing length around the best rate so far. The
    model is not touched.

    Args:
        model: The model at its start, in training mode.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example.
        batches: The training data: a DataLoader that shuffles; tensors or a data set, with `batch_size`; a list of
            batches; or a function of a seed that returns an iterable of batches.
        steps: Number of updates of the training, at the first batch size.
        batch_size: Size of a batch, if `batches` are examples. Of several, the one is chosen that ends at the lowest
            training loss for the aim.
        aim: With several batch sizes, "examples": the same number of examples for all; or "time": the same time on this
            machine, by measured step times.
        budget: The most that tuning may cost, in units of the training. With twice the default, every rate is tried on
            two data orders, which gives intervals.
        optimizer: "sgd", "adamw", or a function of (parameters, learning_rate) that returns an optimizer. Of several,
            as a list or as "sgd,adamw", the one is chosen that ends at the lowest training loss.
        momentum: Momentum of SGD; one of several, such as (0, 0.9), is chosen in the same way.
        nesterov: True for Nesterov momentum, False for the heavy ball.
        weight_decay: Weight decay of "sgd" or "adamw"; one of several is chosen in the same way, by training loss.
        clip: Gradients are clipped at this many times the norm that they have at the start; None: not at all. It keeps
            a rate that is too high from ending the training.
        seed: Seed of the data orders and of the random draws.
        pool: Where branches are trained: "here", "processes", "processes:4", "ray", or a `Pool`. Same numbers.
        threads: Number of threads of torch in every branch.
        out: A folder. The branches are kept in its sub-folder `forks`, and a tuning that was stopped continues if it is
            asked again for the same model and data.
        progress: Called after every branch with its result and the number of finished branches, twice.

    Raises:
        BadArgument: An argument cannot be used, the budget is too small, or the data end too early.
        Unsupported: The training cannot be copied.
        UserCodeFailed: The loss or the optimizer raised, or the loss is not finite at the start.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gradiometer import supervised
        >>> from gradiometer.tuning import tune
        >>> inputs = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        >>> tuned = tune(
        ...     model,
        ...     loss=supervised(nn.MSELoss(reduction="none")),
        ...     batches=(inputs, inputs.sum(dim=1)),
        ...     batch_size=32,
        ...     steps=200,
        ... )
        >>> 0.005 < tuned.learning_rate < 0.5, tuned.cost <= 1.3
        (True, True)
    """
    for name, number, least in (("steps", steps, 8), ("seed", seed, 0), ("threads", threads, 1)):
        check_whole(name, number, least)
    check_number("budget", budget, positive=True)
    kinds = variants(optimizer, momentum, nesterov, weight_decay)
    data = _data(batches, batch_size, aim)
    [present, *others] = data
    if others and len(kinds) > 1:
        raise BadArgument("`batch_size` has several values, and so has the optimizer: choose one after the other.")
    first = kinds[0](model.parameters() if isinstance(model, nn.Module) else [], 1.0)
    check_functions(
        parts_of(model, first, None, None), loss=loss, step=None, evaluate=None, scaler=None, accumulation=1
    )
    if clip is not None:
        check_number("clip", clip, positive=True)
    start = start_of(model, first, data[present], loss=loss, seed=seed)
    kinds = kinds if clip is None else tuple(kind.clipped(clip * start.norm) for kind in kinds)
    probes = _brackets(model, kinds, data[present], loss=loss, steps=steps, seed=seed)
    paces = paces_for(aim, model, kinds[0], data, loss=loss, seed=seed, out=out)
    size = first_size(data[present], seed) * data[present].shards
    readout = max(steps * size // 48, 1)
    replicates = max(int(budget / BUDGET), 1)
    spent = sum(probed + found.forwards / FORWARD for probed, found in probes.values())
    spent += BATCHES + paces.cost
    decays, slowest = len(kinds) // len(probes), min(paces.updates.values())
    looks = max(readout / (each if others else size) / FORWARD / pace for each, pace in paces.updates.items())
    plan = Plan(steps, float(budget), spent, looks, len(probes) + len(others), decays, replicates, slowest)
    with opened(pool) as where:
        lanes, short = [], dict[Any, Trials]()
        for kind, each in itertools.product(kinds, data):
            found, pace = probes[kind.family][1], paces.updates[each]
            trials = Trials(
                model, kind, data[each], loss, each if others else size, max(round(steps * pace), 1), readout,
                replicates, found.rate, where, seed=seed, threads=threads, out=out, progress=progress,
                label=f" batch {each}" if others else "",
            )  # fmt: skip
            first_round = short.setdefault((kind.family, each), trials)
            centre = 0 if found is ADAPTIVE else ABOVE
            lean = LEAN if aim == "time" else 0.0
            lanes.append(Lane(kind, found, trials, first_round, centre, start.loss, pace, bool(others), lean))
        lane, choice, parts = raced(lanes, plan)
    races = tuple(as_fork(part, seed=seed, left=steps * size) for part in parts)
    if out is not None:
        finish(out, lanes, races)
    cost = (spent + sum(one.spent for one in lanes)) / steps
    rate, probed = rate_of(lane.bracket.rate, choice.exponent), None if lane.bracket is ADAPTIVE else lane.bracket
    return Tuned(
        rate, lane.trials.steps, lane.trials.size, lane.made, probed, choice, lane.bracket.rate, _forks(lane), cost,
        budget, replicates, parts, tuple(fork for _, fork in races), aim, paces.times,
    )  # fmt: skip


def _data(batches: Any, sizes: int | Sequence[int] | None, aim: Aim | None) -> dict[int, Data]:
    """The data in batches of each size; under the key 1 if the batches are given as such."""
    several = several_of("batch_size", sizes)
    check_aim(aim, [size or 1 for size in several])
    if not isinstance(sizes, list | tuple):
        return {1: data_of(batches, several[0])}
    found = {size: data_of(batches, size) for size in several}
    if len(found) > 1 and not all(isinstance(data, Ordered) for data in found.values()):
        raise BadArgument("`batch_size` has several values, so `batches` must be examples: tensors or a data set.")
    return found


def _forks(lane: Lane) -> tuple[Fork, ...]:
    """The rounds of its rates."""
    return lane.trials.forks if lane.trials is lane.short else (*lane.short.forks[:1], *lane.trials.forks)


def _brackets(
    model: nn.Module, kinds: Sequence[Made], data: Data, *, loss: Loss, steps: int, seed: int
) -> dict[tuple[Any, ...], tuple[int, Bracket]]:
    """For every kind of optimizer the number of updates of its probe, 0 if it needs none, and its bracket."""
    digits = zlib.crc32(f"{seed}/tuning".encode())
    updates = max(min(math.ceil(steps * SHARE_PROBED), MOST_PROBED), min(FEWEST, steps // 4))
    found = {}
    for kind in kinds:
        optimizer = kind(model.parameters(), 1.0)
        if not isinstance(optimizer, torch.optim.SGD):
            found[kind.family] = 0, ADAPTIVE
        elif kind.family not in found:  # weight decay does not move the bracket
            found[kind.family] = (
                updates,
                bracket(model, optimizer, loss=loss, batches=data, updates=updates, seed=digits),
            )
    return found
