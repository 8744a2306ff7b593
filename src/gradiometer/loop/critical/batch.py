"""`critical_batch`: how many more examples a larger batch needs, each batch at its own best rate,
by branching."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from gradiometer.arguments import check_level, check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument, bounded
from gradiometer.jobs.choice import opened
from gradiometer.jobs.pool import Ledger, Pool
from gradiometer.loop.branch import Branch, BranchResult
from gradiometer.loop.changes.alternative import BatchSize
from gradiometer.loop.comparison.effects import readout_name
from gradiometer.loop.comparison.racing import REPLICATES, Grow
from gradiometer.loop.critical.fit import BatchFit, batch_fit
from gradiometer.loop.engine import guarded_copy
from gradiometer.loop.forking import (
    HORIZON,
    check_loop,
    check_start,
    length_of,
    train_branches,
)
from gradiometer.loop.loop import Loop
from gradiometer.loop.recorded.record import FOLDER
from gradiometer.measurement.estimate import LEVEL, Estimate, significant
from gradiometer.measurement.uncertainty.arithmetic import ratio_of_estimates
from gradiometer.measurement.uncertainty.means import student_quantile


@dataclass
class Cell:
    """The branches of one batch to one horizon.

    Args:
        factor: The batch as a multiple of the present one.
        batch_size: The batch.
        horizon: Length in examples.
        losses: Loss of every replicate, by the factor of the rate; infinite if a branch diverged.
    """

    factor: Amount
    batch_size: int
    horizon: int
    losses: dict[float, Float[np.ndarray, " replicates"]] = field(default_factory=dict)

    @property
    def best_rate(self) -> float:
        """The factor of the rate with the lowest mean loss."""
        return min(self.losses, key=lambda rate: float(self.losses[rate].mean()))

    @property
    def is_bracketed(self) -> bool:
        """True if a lower and a higher rate than the best were tried."""
        return min(self.losses) < self.best_rate < max(self.losses)

    def loss(self, chosen: Int[np.ndarray, " chosen"]) -> float:
        """The loss at the best rate, as a mean over these replicates: the lowest point of a
        parabola in log rate.

        Near the edge of stability the loss of the next rate may be huge, and is no part of a
        parabola: the higher of the two neighbours counts at most `LOPSIDED` times as high above the
        best as the lower one.
        """
        rates = sorted(self.losses)
        means = [float(self.losses[rate][chosen].mean()) for rate in rates]
        place = int(np.argmin(means))
        if not 0 < place < len(rates) - 1:
            return means[place]
        lower, higher = sorted(means[side] - means[place] for side in (place - 1, place + 1))
        if not 0 < lower < math.inf:
            return means[place]
        higher = min(higher, 3 * lower)
        return means[place] - (higher - lower) ** 2 / (8 * (higher + lower))


def grown_cells(
    grow: Grow,
    cells: Sequence[Cell],
    centers: Mapping[Amount, float],
    *,
    replicates: int,
    readout: str | None,
) -> list[BranchResult]:
    """Branches of every cell at three rates around its center, and at further ones until the best
    is between others."""
    results: list[BranchResult] = []
    wanted = {id(cell): [centers[cell.factor] * rate for rate in (0.5, 1, 2)] for cell in cells}
    while any(wanted.values()):
        branches = [
            Branch(BatchSize(cell.factor, rate=rate), replicate, cell.horizon)
            for cell in cells
            for rate in wanted[id(cell)]
            for replicate in range(replicates)
        ]
        found = list(grow(branches))
        results += found
        name = readout_name(results, readout)
        by_branch = {(each.alternative, each.replicate, each.horizon): each for each in found}
        for cell in cells:
            for rate in wanted[id(cell)]:
                text = BatchSize(cell.factor, rate=rate).name
                ends = [
                    by_branch.get((text, replicate, cell.horizon))
                    for replicate in range(replicates)
                ]
                # A branch that diverged has an infinite loss.
                readouts = [None if end is None else end.readouts.get(name) for end in ends]
                cell.losses[rate] = np.array(
                    [math.inf if end is None else end.cost for end in readouts]
                )
            wanted[id(cell)] = []
            low, high = min(cell.losses), max(cell.losses)
            # At most nine rates, each beyond the end at which the best one is.
            if not cell.is_bracketed and len(cell.losses) < 9:
                wanted[id(cell)] = [2 * high if low < cell.best_rate == high else low / 2]
    return results


# Fewest updates of a branch: with fewer the rate can hardly be chosen.
FEWEST_UPDATES = 12


@dataclass(frozen=True, eq=False)
class CriticalBatch:
    """The critical batch B_c: the batch that needs twice the examples of a tiny one, each at its
    own best rate.

    Args:
        estimate: B_c in examples. An end outside of what the batches that were tried can show is 0
            or infinite.
        largest: The largest batch that needs at most `tolerance` more examples than a tiny one:
            tolerance × B_c.
        tolerance: The share of examples that a larger batch may cost.
        fit: The fitted curve.
        cells: The losses by batch, horizon and rate.
        results: All branches.
        forecast: The noise scale that is compared with it, in examples; None if there is none.
    """

    estimate: Estimate
    largest: Estimate
    tolerance: Amount
    fit: BatchFit
    cells: tuple[Cell, ...] = field(repr=False)
    results: tuple[BranchResult, ...] = field(repr=False)
    forecast: Estimate | None = None

    @property
    def ratio(self) -> Estimate | None:
        """Forecast over B_c; None without a forecast, or if one of them is not positive."""
        if self.forecast is None or not (
            self.forecast.value > 0 and math.isfinite(self.forecast.value)
        ):
            return None
        return ratio_of_estimates(self.forecast, self.estimate)

    @property
    def held(self) -> Literal["held", "did not hold", "open"] | None:
        """Whether the forecast is within a factor of 2 of B_c: shown, excluded, or open; None
        without a forecast."""
        if self.forecast is None:
            return None
        ratio = self.ratio
        if ratio is None or ratio.low < 0.5 <= ratio.high or ratio.low <= 2 < ratio.high:
            return "open"
        return "held" if ratio.low >= 0.5 and ratio.high <= 2 else "did not hold"

    @property
    def sentences(self) -> tuple[str, ...]:
        """The result in sentences."""
        rates = ", ".join(
            f"B = {size:,}: {significant(rate, 2)}x" for size, rate in self.best_rates.items()
        )
        found = [
            f"Critical batch, measured by {len(self.results):,} branches: {self.estimate}. It "
            "needs twice the examples of a tiny batch, each at its own best rate.",
            f"At most {self.tolerance:.0%} more examples: batches up to {self.largest}.",
            f"Best rate relative to that of the run, in the longest branches: {rates}.",
        ]
        if self.forecast is not None:
            verb = "within" if self.held == "held" else "not within"
            judgement = f"{verb} a factor of 2 (forecast over measured {self.ratio})"
            if self.held == "open":
                judgement = "whether it is within a factor of 2 is open"
            found.append(f"The noise scale, {self.forecast}, is a forecast of it: {judgement}.")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types, without the single branches."""
        ratio = self.ratio
        return {
            "critical_batch": self.estimate.to_dict(),
            "tolerance": self.tolerance,
            "largest": self.largest.to_dict(),
            "forecast": None if self.forecast is None else self.forecast.to_dict(),
            "ratio": None if ratio is None else ratio.to_dict(),
            "held": self.held,
            "best_rates": {str(size): rate for size, rate in self.best_rates.items()},
            "branches": len(self.results),
        }

    @property
    def best_rates(self) -> dict[int, float]:
        """The best factor of the rate for every batch, at its longest horizon."""
        return {cell.batch_size: cell.best_rate for cell in self.cells}


def critical_batch_by(
    grow: Grow,
    batch_size: int,
    horizons: Sequence[int],
    *,
    factors: Sequence[Amount] = (0.5, 1, 2, 4, 8),
    replicates: int = 4,
    tolerance: Amount = 0.2,
    forecast: Estimate | None = None,
    readout: str | None = None,
    level: float = LEVEL,
) -> CriticalBatch:
    """Measure the critical batch from the present state, by branches of several batches, horizons
    and rates.

    Every batch has a search of its own for the best rate at every horizon: three rates a factor of
    2 apart, and further ones until the best is between two others. There is no rule such as √B. The
    losses at the best rates are fitted by L(D/(1 + B/B_c)). The interval is Student's over the
    jackknife of the replicates, in log B_c. It does not count the error of the formula.

    Args:
        grow: Trains branches: see `race`.
        batch_size: The present batch, in examples.
        horizons: At least two lengths in examples, such as 1, 2 and 4 times the shortest.
        factors: The batches as multiples of the present one. A batch is left out of horizons of
            fewer than 12 updates.
        replicates: Data orders, at least 2.
        tolerance: Share of examples that a larger batch may cost, for `largest`.
        forecast: The noise scale at this state, in examples: the preconditioned one under Adam and
            its kind.
        readout: Name of the readout; by default "test_loss" if there is one, else the first.
        level: Confidence level.

    Raises:
        BadArgument: An argument cannot be used, or fewer than two batches have two horizons.

    Source: Merrill et al. (2025), Critical Batch Size Revisited, who find the noise scale a poor
        proxy; the fit: `batch_fit`; the jackknife: Efron & Tibshirani (1993), An Introduction to
        the Bootstrap, section 11.5.
    """
    check_level(level)
    check_whole("replicates", replicates, 2)
    check_number("tolerance", tolerance, positive=True)
    cells = _cells(batch_size, sorted(set(horizons)), sorted(set(factors)))
    results: list[BranchResult] = []
    centers = {factor: math.sqrt(factor) for factor in factors}
    for horizon in sorted({cell.horizon for cell in cells}):
        same = [cell for cell in cells if cell.horizon == horizon]
        results += grown_cells(grow, same, centers, replicates=replicates, readout=readout)
        centers |= {cell.factor: cell.best_rate for cell in same}
    everyone = np.arange(replicates)
    fits = [_fit(cells, np.delete(everyone, left_out)) for left_out in range(replicates)]
    fit = _fit(cells, everyone)
    logs = np.log([each.critical for each in fits])
    pseudo = replicates * math.log(fit.critical) - (replicates - 1) * logs
    reach = float(
        student_quantile(level, replicates - 1) * pseudo.std(ddof=1) / math.sqrt(replicates)
    )
    sizes = [cell.batch_size for cell in cells]
    # An end outside of what these batches can show is 0 or infinite.
    low, high = (fit.critical * math.exp(min(max(sign * reach, -700), 700)) for sign in (-1, 1))
    if fit.critical < 2 * min(sizes):
        # it may be zero
        low, high = 0.0, max(high, 2.0 * min(sizes))
    estimate = Estimate.interval(
        fit.critical,
        low if low > min(sizes) else 0.0,
        # an upper end beyond four times the largest batch that was tried is not known
        high if high < 4 * max(sizes) else math.inf,
        level=level,
        method=f"branches, jackknife over {replicates} replicates",
        samples=replicates,
        unit="examples",
    )
    largest = Estimate.interval(
        *(tolerance * each for each in (estimate.value, estimate.low, estimate.high)),
        level=level,
        method=estimate.method,
        samples=replicates,
        unit="examples",
    )
    return CriticalBatch(estimate, largest, tolerance, fit, tuple(cells), tuple(results), forecast)


def _cells(batch_size: int, horizons: Sequence[int], factors: Sequence[Amount]) -> list[Cell]:
    cells = []
    for horizon in horizons:
        for factor in factors:
            # a product may be infinite, which has no size
            if factor * batch_size > horizon:
                continue
            size = round(factor * batch_size)
            if size >= 1 and horizon >= FEWEST_UPDATES * size:
                cells.append(Cell(factor, size, horizon))
    repeated = [cell.factor for cell in cells]
    if sum(repeated.count(factor) >= 2 for factor in set(repeated)) < 2:
        sizes = ", ".join(f"{factor * batch_size:,.0f}" for factor in factors)
        raise BadArgument(
            f"`horizons` must give two batches at least two lengths of {FEWEST_UPDATES} updates, "
            f"got {list(horizons)} examples for batches of {sizes}."
        )
    return cells


def _fit(cells: Sequence[Cell], chosen: np.ndarray) -> BatchFit:
    """The fit to the losses of these replicates; cells in which all rates diverged are left out."""
    losses = np.array([cell.loss(chosen) for cell in cells])
    there = np.isfinite(losses)
    sizes, horizons = (
        np.array([getattr(cell, name) for cell in cells], dtype=float)
        for name in ("batch_size", "horizon")
    )
    return batch_fit(sizes[there], horizons[there], losses[there])


@bounded
def critical_batch(
    loop: Loop,
    *,
    horizon: str = HORIZON,
    factors: Sequence[Amount] = (0.25, 1, 4),
    replicates: int = REPLICATES,
    tolerance: Amount = 0.2,
    forecast: Estimate | None = None,
    readout: str | None = None,
    level: float = LEVEL,
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
    check_factors(factors)
    longest = length_of(loop, horizon, seed)
    lengths = [max(int(share * longest), 1) for share in (0.25, 0.5, 1)]
    second = max(sorted(factors)[:2]) * loop.size
    if not lengths[1] >= FEWEST_UPDATES * second:
        raise BadArgument(
            f"`horizon` is {longest:,} examples, too few for two lengths of {FEWEST_UPDATES} "
            f"updates with two batches: give at least {2 * FEWEST_UPDATES * second:,.0f}, or an "
            "earlier step."
        )
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


def check_factors(factors: Sequence[Amount]) -> None:
    """Raise unless these are at least two different multiples of a batch."""
    for factor in factors:
        check_number("factors", factor, positive=True)
    if len(set(factors)) < 2:
        raise BadArgument(
            f"`factors` must be at least two different multiples of the batch, got {list(factors)}."
        )
