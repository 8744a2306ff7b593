"""`critical_batch`: the critical batch of a training, by branching."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gradiometer.arguments import check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument, bounded
from gradiometer.jobs.choice import opened
from gradiometer.jobs.ledger import Ledger
from gradiometer.jobs.pool import Pool
from gradiometer.loop.branch import Branch, BranchResult
from gradiometer.loop.critical.batch import FEWEST_UPDATES, CriticalBatch, critical_batch_by
from gradiometer.loop.forking import HORIZON, REPLICATES, check_loop, check_start, length_of
from gradiometer.loop.loop import Loop
from gradiometer.loop.recorded.growing import train_branches
from gradiometer.loop.recorded.record import FOLDER
from gradiometer.loop.untouched import guarded_copy
from gradiometer.measurement.estimate import Estimate

# Defaults: batches as multiples of the present one, and the tolerance.
FACTORS, TOLERANCE = (0.25, 1, 4), 0.2

# Horizons as shares of the longest.
SHARES = (0.25, 0.5, 1)


@bounded
def critical_batch(
    loop: Loop,
    *,
    horizon: str = HORIZON,
    factors: Sequence[Amount] = FACTORS,
    replicates: int = REPLICATES,
    tolerance: Amount = TOLERANCE,
    forecast: Estimate | None = None,
    readout: str | None = None,
    level: float = 0.9,
    seed: int = 0,
    pool: str | Pool = "here",
    threads: int = 1,
    out: Path | None = None,
    progress: Callable[[BranchResult], None] | None = None,
) -> CriticalBatch:
    """Measure the critical batch of a training, by branches from its present state.

    Call it as `fork`, between two updates. The training itself is not touched. Every batch is
    trained at a quarter, a half and all of `horizon`, each at its own best rate, which is searched
    for: see `critical_batch_by`. With the defaults that takes about 100 branches, which cost about
    70 times the longest horizon.

    Args:
        loop: The training: one of your own, or that of a run at one of its steps, from
            `gradiometer.train.loop_at`.
        horizon: The longest branch: "500 updates", "2 epochs", "64_000 examples", "10 s", or "25%"
            of what is left.
        factors: Batches as multiples of the present one, at least two.
        replicates: Number of data orders, at least 2.
        tolerance: Share of examples that a larger batch may cost: see `CriticalBatch`.
        forecast: The noise scale now, in examples, to compare with: the preconditioned one under
            Adam and its kind.
        readout: Name of the readout; by default "test_loss" if there is one, else the first.
        level: Confidence level.
        seed, pool, threads: See `fork`.
        out: A folder. Finished branches are kept in its sub-folder `forks`, and are not trained
            again if this is asked again for the same state of model and optimizer, with the same
            functions and data.
        progress: Called after every branch.

    Raises:
        BadArgument: An argument cannot be used, or the horizon is too short for two batches.
        Unsupported: The training cannot be copied.
        UserCodeFailed: The loss, the step, the optimizer or the evaluation raised.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gradiometer import supervised
        >>> from gradiometer.loop import Loop, critical_batch
        >>> inputs = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
        >>> model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        >>> loop = Loop(
        ...     model,
        ...     torch.optim.SGD(model.parameters(), lr=0.1),
        ...     loss=supervised(nn.MSELoss(reduction="none")),
        ...     batches=(inputs, inputs.sum(dim=1) + torch.randn(256, generator=torch.Generator().manual_seed(1))),
        ...     batch_size=4,
        ... )
        >>> found = critical_batch(loop, factors=[0.5, 1], horizon="24 updates", replicates=2)
        >>> sorted(found.best_rates)
        [2, 4]
    """
    check_loop(loop)
    check_whole("seed", seed, 0)
    lengths = _lengths(length_of(loop, horizon, seed), loop.size, factors)
    ledger = None
    if out is not None:
        state = loop.digest() if loop.source is None else loop.index
        path = out / FOLDER / f"critical-{state}-{seed}.jsonl"
        ledger = Ledger(path, BranchResult.to_dict, BranchResult.from_dict)
    with opened(pool) as where, guarded_copy(loop, seed) as start:
        check_start(start, "linear")

        def train(branches: Sequence[Branch]) -> Iterator[BranchResult]:
            for result in train_branches(where, start, branches, ledger=ledger, threads=threads):
                if progress is not None:
                    progress(result)
                yield result

        return critical_batch_by(
            train,
            loop.size,
            lengths,
            factors=factors,
            replicates=replicates,
            tolerance=tolerance,
            forecast=forecast,
            readout=readout,
            level=level,
        )


def _lengths(longest: int, batch_size: int, factors: Sequence[Amount]) -> list[int]:
    """The horizons in examples, if two of them have enough updates with the two
    smallest batches."""
    found = [max(int(share * longest), 1) for share in SHARES]
    second = max(sorted(factors)[:2], default=0) * batch_size
    if not found[-2] >= FEWEST_UPDATES * second:
        raise BadArgument(
            f"`horizon` is {longest:,} examples, too few for two lengths of {FEWEST_UPDATES} "
            f"updates with two batches: give at least {2 * FEWEST_UPDATES * second:,.0f}, or an "
            "earlier step."
        )
    return found
