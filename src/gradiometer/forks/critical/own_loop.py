"""`critical_batch`: the critical batch of a training loop that a user wrote, by branching."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gradiometer.convergence.formulas.number import Amount
from gradiometer.forks.branch import Branch, BranchResult
from gradiometer.forks.continuation import Step
from gradiometer.forks.critical.batch import CriticalBatch, critical_batch_by
from gradiometer.forks.critical.lengths import FACTORS, REPLICATES, TOLERANCE, horizons_up_to
from gradiometer.forks.own_loop import own_loop
from gradiometer.forks.recorded.growing import grown_in
from gradiometer.jobs.choice import opened
from gradiometer.jobs.ledger import Ledger
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.loss import Loss
from gradiometer.storage.disk import writing


def critical_batch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss: Loss | None = None,
    step: Step | None = None,
    batches: Any,
    batch_size: int | None = None,
    evaluate: Any = None,
    horizon: str,
    factors: Sequence[Amount] = FACTORS,
    replicates: int = REPLICATES,
    tolerance: Amount = TOLERANCE,
    forecast: Estimate | None = None,
    readout: str | None = None,
    level: float = 0.9,
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
    progress: Callable[[BranchResult], None] | None = None,
) -> CriticalBatch:
    """Measure the critical batch of your own training loop, by branches from its present state.

    Call it as `fork`, between two updates. The training itself is not touched. Every batch is trained at a quarter, a
    half and all of `horizon`, each at its own best rate, which is searched for: see `critical_batch_by`. With the
    defaults that takes about 100 branches, which cost about 70 times the longest horizon.

    Args:
        model, optimizer, loss, step, batches, batch_size, evaluate: See `fork`.
        horizon: The longest branch: "500 updates", "2 epochs", "64_000 examples", "10 s", or "25%" of what is left.
        factors: Batches as multiples of the present one, at least two.
        replicates: Number of data orders, at least 2.
        tolerance: Share of examples that a larger batch may cost: see `CriticalBatch`.
        forecast: The noise scale now, in examples, to compare with: the preconditioned one under Adam and its kind.
        readout: Name of the readout; by default "test_loss" if there is one, else the first.
        level: Confidence level.
        scheduler, scheduler_each, scaler, accumulation, left, index, seed, pool, threads: See `fork`.
        out: A folder. Finished branches are kept in its sub-folder `forks`, and are not trained again if this is asked
            again for the same state of model and optimizer, with the same functions and data.
        progress: Called after every branch.

    Raises:
        BadArgument: An argument cannot be used, or the horizon is too short for two batches.
        Unsupported: The training cannot be copied.
        UserCodeFailed: The loss, the step, the optimizer or the evaluation raised.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gradiometer import supervised
        >>> from gradiometer.forks import critical_batch
        >>> inputs = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
        >>> model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        >>> found = critical_batch(
        ...     model,
        ...     torch.optim.SGD(model.parameters(), lr=0.1),
        ...     loss=supervised(nn.MSELoss(reduction="none")),
        ...     batches=(inputs, inputs.sum(dim=1) + torch.randn(256, generator=torch.Generator().manual_seed(1))),
        ...     batch_size=4,
        ...     factors=[0.5, 1],
        ...     horizon="24 updates",
        ...     replicates=2,
        ... )
        >>> sorted(found.best_rates)
        [2, 4]
    """
    loop = own_loop(
        model, optimizer, loss=loss, step=step, batches=batches, batch_size=batch_size, evaluate=evaluate,
        scheduler=scheduler, scheduler_each=scheduler_each, scaler=scaler, accumulation=accumulation, left=left,
        index=index, seed=seed,
    )  # fmt: skip
    with opened(pool) as where, loop.untouched():
        lengths = horizons_up_to(loop.length(horizon), loop.size, factors)
        loop.check("linear")
        ledger = None if out is None else _ledger(out, f"critical-{loop.copies.digest()}-{seed}.jsonl")

        def grow(branches: Sequence[Branch]) -> Iterator[BranchResult]:
            for result in grown_in(where, loop.state, branches, ledger=ledger, threads=threads):
                if progress is not None:
                    progress(result)
                yield result

        return critical_batch_by(
            grow, loop.size, lengths, factors=factors, replicates=replicates, tolerance=tolerance, forecast=forecast,
            readout=readout, level=level,
        )  # fmt: skip


def _ledger(out: Path, name: str) -> Ledger:
    folder = out / "forks"
    with writing(out):
        folder.mkdir(parents=True, exist_ok=True)
    return Ledger(folder / name, BranchResult.to_dict, BranchResult.from_dict)
