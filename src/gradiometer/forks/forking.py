"""`fork`: what would have happened, for a training loop that a user wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gradiometer.errors import BadArgument, bounded
from gradiometer.forks.alternatives.alternative import Alternative
from gradiometer.forks.alternatives.text import alternative_of
from gradiometer.forks.branch import Tail
from gradiometer.forks.branches import Fork
from gradiometer.forks.continuation import Step
from gradiometer.forks.own_loop import own_loop
from gradiometer.forks.recorded.growing import Progress, check_fits, grow
from gradiometer.forks.recorded.plan import Plan
from gradiometer.forks.recorded.record import ForkRecord
from gradiometer.jobs.choice import opened
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.loss import Loss
from gradiometer.storage.disk import writing


@bounded
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
    horizon: str | None = None,
    budget: float | None = None,
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
    threads: int = 1,
    out: Path | None = None,
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
        budget: In place of `horizon` and `replicates`: the most that all branches may cost together, in units of the
            whole training (`index` and `left`). Alternatives race over growing horizons, and those that are clearly
            worse are stopped.
        replicates: Number of data orders, each common to all alternatives.
        tail: How the rate of every branch ends: "linear" to zero over the whole horizon, "half" or "third" over its
            last half or third, "none" not at all. Without a tail the comparison leans to small rates.
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
        threads: Number of threads of torch in every branch.
        out: A folder. The branches are kept in its sub-folder `forks`, and a fork that was stopped continues if it is
            asked again for the same state of model and optimizer, with the same functions and data.
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
    chosen = tuple(map(alternative_of, _listed(alternatives)))
    loop = own_loop(
        model, optimizer, loss=loss, step=step, batches=batches, batch_size=batch_size, evaluate=evaluate,
        scheduler=scheduler, scheduler_each=scheduler_each, scaler=scaler, accumulation=accumulation, left=left,
        index=index, seed=seed,
    )  # fmt: skip
    with opened(pool) as where, loop.untouched():
        rungs = loop.rungs(budget, horizon, 1 + len(chosen))
        length = rungs[-1].horizon if rungs else loop.length(horizon)
        many = rungs[-1].replicates if rungs else replicates
        digest = "" if out is None else loop.copies.digest()
        plan = Plan(index, chosen, many, length, tail, seed, loop.left, rungs=rungs, state=digest)
        loop.check(tail)
        check_fits(loop.state, chosen)
        record = None if out is None else _record(out, plan)
        ledger = None if record is None else record.ledger()
        results, stops = grow(loop.state, plan, where, ledger=ledger, progress=progress, threads=threads)
    if record is not None:
        record.finish(stops)
    return plan.fork(results)


def _record(out: Path, plan: Plan) -> ForkRecord:
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    return ForkRecord.keep(out, plan)


def _listed(alternatives: Any) -> Sequence[Alternative | str]:
    """The alternatives, if they are a list."""
    if not isinstance(alternatives, list | tuple):
        raise BadArgument("`alternatives` must be a list of at least one alternative, such as ['rate 2x'].")
    return alternatives
