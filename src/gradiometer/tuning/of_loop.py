"""`tune`: choose the learning rate of a training before it starts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import bounded
from gradiometer.jobs.choice import opened
from gradiometer.jobs.pool import Pool
from gradiometer.loop.branches import Fork
from gradiometer.loop.recorded.growing import Progress
from gradiometer.measurement.loss import Loss
from gradiometer.tuning.aim import Aim
from gradiometer.tuning.choice import Choice, rate_of
from gradiometer.tuning.lane import Lane, lanes_of
from gradiometer.tuning.optimizers import SCHEDULE_FREE
from gradiometer.tuning.race import Part, as_fork, finish, raced
from gradiometer.tuning.task import (
    ADAPTIVE,
    BUDGET,
    Measured,
    Task,
    data_for,
    measured,
    rounds_of,
    steps_without_length,
)
from gradiometer.tuning.tuned import Tuned
from gradiometer.tuning.variants import Amounts, Optimizers, variants

CLIP = 2.0
"""Default of `clip`."""


@bounded
def tune(
    model: nn.Module,
    *,
    loss: Loss,
    batches: Any,
    steps: int | None = None,
    batch_size: int | Sequence[int] | None = None,
    aim: Aim | None = None,
    budget: Amount = BUDGET,
    optimizer: Optimizers | None = None,
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
    """Choose the learning rate of a training of this length, which keeps it for its first half and then goes to zero.

    A probe brackets the rate at any scale of inputs and loss. Within the bracket, branches are trained from the start,
    in two rounds. In short ones the rate falls linearly to zero. Three longer ones around the best of these keep it for
    two thirds of their length, to show where a training collapses. The choice is half an octave below the best of
    these, unless they are equal: the longer a training, the lower its best rate. Where no short branch learns much, one
    that is twice as long tells whether a rate near that of the probe leaves the plateau. The model is not touched.

    Args:
        model: The model at its start, in training mode.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example.
        batches: The training data: a DataLoader that shuffles; tensors or a data set, with `batch_size`; a list of
            batches; or a function of a seed that returns an iterable of batches.
        steps: Number of updates of the training, at the first batch size. None: no length is given. Schedule-free SGD
            is then tuned, which can be stopped at any step, on branches for a training of ten epochs.
        batch_size: Size of a batch, if `batches` are examples. Of several, the one is chosen that ends at the lowest
            training loss for the aim.
        aim: With several batch sizes, "examples": the same number of examples for all; or "time": the same time on this
            machine, by measured step times.
        budget: The most that tuning may cost, in units of the training. With twice the default, every rate is tried on
            two data orders, which gives intervals.
        optimizer: "sgd", "adamw", "schedulefree" (schedule-free SGD, whose rate stays), or a function of (parameters,
            learning_rate) that returns one. Default: "sgd", or "schedulefree" without `steps`. Of several, as a list or
            as "sgd,adamw", the one is chosen that ends at the lowest training loss.
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
    if optimizer is None:
        optimizer = "sgd" if steps is not None else SCHEDULE_FREE
    kinds = variants(optimizer, momentum, nesterov, weight_decay)
    data, has_length = data_for(batches, batch_size, aim), steps is not None
    if steps is None:
        steps = steps_without_length(next(iter(data.values())), kinds, seed)
    task = Task(model, loss, data, kinds, steps, budget, clip, aim, seed, threads, out, progress)
    before = measured(task)
    with opened(pool) as where:
        lanes = lanes_of(task, before, where)
        lane, choice, parts = raced(lanes, rounds_of(task, before))
    races = tuple(as_fork(part, seed=seed, left=steps * before.size) for part in parts)
    if out is not None:
        finish(out, lanes, races)
    spent = before.spent + sum(one.spent for one in lanes)
    found = _tuned(task, before, lane, choice, spent / steps, parts, tuple(fork for _, fork in races))
    return replace(found, has_length=has_length)


def _tuned(
    task: Task, before: Measured, lane: Lane, choice: Choice, cost: float, parts: tuple[Part, ...],
    races: tuple[Fork, ...],
) -> Tuned:  # fmt: skip
    rate, probed = rate_of(lane.bracket.rate, choice.exponent), None if lane.bracket is ADAPTIVE else lane.bracket
    return Tuned(
        rate, lane.steps, lane.size, lane.made, probed, choice, lane.bracket.rate, lane.forks, cost,
        task.budget, task.replicates, parts, races, task.aim, before.paces.times,
    )  # fmt: skip
