"""`fork`: what would have happened, for a training loop that a user wrote."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import nn

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument
from gradiometer.forks.alternatives.alternative import Alternative, GoOn
from gradiometer.forks.alternatives.text import alternative_of
from gradiometer.forks.branch import Branch, BranchResult, Tail, check_tail
from gradiometer.forks.branches import Fork
from gradiometer.forks.continuation import Step
from gradiometer.forks.data import Data, data_of
from gradiometer.forks.engine import grown
from gradiometer.forks.horizon import Horizon
from gradiometer.forks.loop_state import LoopState, check_functions, parts_of
from gradiometer.forks.untouched import untouched
from gradiometer.jobs import Job, Outcome, Pool, pool_of
from gradiometer.measurement.batch import batch_size as size_of
from gradiometer.measurement.loss import Loss

TIMED = 8
"""Number of updates that are timed for a horizon in seconds."""

Progress = Callable[[BranchResult, int, int], None]
"""Called with a result, and the numbers of finished branches and of all branches."""


def fork(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss: Loss | None = None,
    step: Step | None = None,
    batches: Any,
    batch_size: int | None = None,
    evaluate: Any = None,
    alternatives: Sequence[Alternative | str],
    horizon: str,
    replicates: int = 4,
    tail: Tail = "linear",
    scheduler: Any = None,
    scheduler_each: Literal["update", "epoch"] = "update",
    scaler: Any = None,
    accumulation: int = 1,
    left: str | None = None,
    index: int = 0,
    seed: int = 0,
    pool: str | Pool = "here",
    progress: Progress | None = None,
) -> Fork:
    """Train several continuations of a training, each on the same data, and compare where they end.

    Call it between two updates, in training mode. The training itself is not touched: every branch trains copies, and
    parameters, optimizer, schedulers, hooks, modes and random states are afterwards the same, bit for bit. Under DDP
    call it on rank 0 only, while the other processes wait.

    Args:
        model: The model. DDP and torch.compile are unwrapped.
        optimizer: Any optimizer of torch that trains this model.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example. May use autocast.
        step: In place of `loss`: called as `step(model, optimizer, batch)`, makes one whole update, returns the loss.
        batches: The training data: a DataLoader that shuffles; tensors or a data set, with `batch_size`; a list of
            batches; or a function of a seed that returns an iterable of batches.
        batch_size: Size of a batch, if `batches` are examples.
        evaluate: A test set (tensors, data set, DataLoader), for the readouts "test_loss" and, with labels of classes,
            "test_accuracy"; or a function of the model that returns a number, or a mapping from names to numbers, to
            one value per example, or to `Readout`s. The model is in eval mode, without gradients.
        alternatives: Alternatives or their texts, such as "rate 2x". They are compared with going on as it is.
        horizon: Length of a branch: "500 updates", "2 epochs", "64_000 examples", "10 s", or "25%" of what is left.
        replicates: Number of data orders, each common to all alternatives.
        tail: How the rate of every branch ends: "linear" to zero over the whole horizon, "half" over its last half,
            "none" not at all. Without a tail the comparison leans to small rates.
        scheduler: A scheduler of torch for `optimizer`, or a list of them. It is stepped in units of the original
            batch, so that a batch of 2x advances it by two.
        scheduler_each: "update" if training steps it after every update, "epoch" if after every epoch.
        scaler: The GradScaler of training, for `loss`.
        accumulation: Number of batches whose gradients are added up in one update.
        left: What is left of the training, such as "4000 updates"; needed for a horizon in percent.
        index: Number of updates so far, from which `Skip` counts.
        seed: Seed of the data orders and of the random draws.
        pool: Where branches are trained: "here", "processes", "processes:4", or a `Pool`. The numbers are the same. In
            processes nothing in the functions may depend on what they change elsewhere.
        progress: Called after every branch with its result, the number of finished branches and of all.

    Raises:
        BadArgument: An argument cannot be used, an alternative does not fit the training, or the data end too early.
        Unsupported: The training cannot be copied.
        UserCodeFailed: The loss, the step, the optimizer or the evaluation raised.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gradiometer import supervised
        >>> from gradiometer.forks import fork
        >>> inputs = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
        >>> model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> found = fork(
        ...     model,
        ...     optimizer,
        ...     loss=supervised(nn.MSELoss(reduction="none")),
        ...     batches=(inputs, inputs.sum(dim=1)),
        ...     batch_size=32,
        ...     alternatives=["rate 4x"],
        ...     horizon="20 updates",
        ... )
        >>> before, after = (found.of(name)[0].readouts["train_loss"].mean for name in found.names)
        >>> after < before
        True
    """
    baseline, chosen = GoOn(), _alternatives(alternatives)
    check_tail(tail)
    for name, number, least in (("replicates", replicates, 1), ("index", index, 0), ("seed", seed, 0)):
        check_whole(name, number, least)
    length, rest = Horizon.parse(horizon), None if left is None else Horizon.parse(left, "left")
    data = data_of(batches, batch_size)
    original = parts_of(model, optimizer, scheduler, scaler)
    check_functions(original.model, loss=loss, step=step, evaluate=evaluate, scaler=scaler, accumulation=accumulation)
    size = _first_size(data, seed) * accumulation * data.shards
    copies = original.copied()
    state = LoopState(
        copies,
        data,
        loss=loss,
        step=step,
        evaluate=evaluate,
        accumulation=accumulation * data.shards,
        epoch=_updates_per_step(scheduler_each, data, size),
        seed=seed,
        index=index,
    )
    with untouched(original, copies):
        grown(state, Branch(baseline, 0, size, tail))
        for alternative in chosen:
            alternative.change(state.continuation(0))
        remaining = None if rest is None else rest.examples(batch=size, epoch=data.epoch, name="left")
        examples = length.examples(
            batch=size,
            epoch=data.epoch,
            left=remaining,
            seconds_per_update=lambda: grown(state, Branch(baseline, 0, TIMED * size)).seconds / TIMED,
        )
        if remaining is not None and examples > remaining:
            raise BadArgument(f"`horizon` is {examples:,} examples, and only {remaining:,} are `left` of the training.")
        branches = [Branch(one, place, examples, tail) for place in range(replicates) for one in (baseline, *chosen)]
        results = _grown_in(pool, state, branches, progress)
    return Fork(index, chosen, replicates, examples, results, baseline, tail, seed, remaining)


def _grown_in(
    pool: str | Pool, state: LoopState, branches: Sequence[Branch], progress: Progress | None
) -> tuple[BranchResult, ...]:
    """The results of branches, in their order. Processes that were started for them are ended."""

    def tell(outcome: Outcome, done: int, total: int) -> None:
        if progress is not None and outcome.error is None:
            progress(outcome.result, done, total)

    jobs = [Job(branch.name, grown, (branch,)) for branch in branches]
    place = pool_of(pool)
    with nullcontext() if place is pool else place:
        return tuple(place.results(jobs, shared=state, progress=tell))


def _alternatives(given: Any) -> tuple[Alternative, ...]:
    """The alternatives, each with a name of its own."""
    if not isinstance(given, list | tuple) or not given:
        raise BadArgument("`alternatives` must be a list of at least one alternative, such as ['rate 2x'].")
    chosen = tuple(map(alternative_of, given))
    names = [GoOn().name, *(one.name for one in chosen)]
    for name in names:
        if names.count(name) > 1:
            raise BadArgument(f"`alternatives` has {name!r} twice; the baseline, 'go on', is always included.")
    return chosen


def _first_size(data: Data, seed: int) -> int:
    """The number of examples in a batch of training."""
    if data.size is not None:
        return data.size
    first = next(data.batches(seed), None)
    if first is None:
        raise BadArgument("`batches` returned no batch.")
    return size_of(first, "batches")


def _updates_per_step(each: str, data: Data, size: int) -> int:
    """The number of updates between two steps of the scheduler."""
    if each not in ("update", "epoch"):
        raise BadArgument(f"`scheduler_each` must be 'update' or 'epoch', got {each!r}.")
    if each == "update":
        return 1
    if data.epoch is None:
        raise BadArgument("`scheduler_each` is 'epoch', and the size of an epoch is not known: give a DataLoader.")
    return -(-data.epoch // size)
