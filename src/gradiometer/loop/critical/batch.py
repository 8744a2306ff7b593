"""The critical batch by branching: how many more examples a larger batch needs, each batch at its
own best rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from gradiometer.arguments import check_level, check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.loop.branch import BranchResult, Tail, check_tail
from gradiometer.loop.critical.cells import Cell, Grow, grown_cells
from gradiometer.loop.critical.fit import BatchFit, batch_fit
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.uncertainty.arithmetic import ratio_of_estimates

# Fewest updates of a branch: with fewer the rate can hardly be chosen.
FEWEST_UPDATES = 12

# The interval has an upper end up to this multiple of the largest batch that was tried.
KNOWN = 4.0

# Below this multiple of the smallest batch that was tried, the critical batch is not told from
# zero.
RESOLVED = 2.0

# A forecast within this factor has held.
HELD = 2.0


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
        if (
            ratio is None
            or (ratio.low < 1 / HELD <= ratio.high)
            or (ratio.low <= HELD < ratio.high)
        ):
            return "open"
        return "held" if ratio.low >= 1 / HELD and ratio.high <= HELD else "did not hold"

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
            found.append(
                f"The noise scale, {self.forecast}, is a forecast of it: {self._judgement}."
            )
        return tuple(found)

    @property
    def _judgement(self) -> str:
        if self.held == "open" or self.ratio is None:
            return "whether it is within a factor of 2 is open"
        verb = "within" if self.held == "held" else "not within"
        return f"{verb} a factor of 2 (forecast over measured {self.ratio})"

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
    tail: Tail = "linear",
    readout: str | None = None,
    level: float = 0.9,
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
        tail: How the rate ends. Without a tail the best rates are those of short branches.
        readout: Name of the readout; by default "test_loss" if there is one, else the first.
        level: Confidence level.

    Raises:
        BadArgument: An argument cannot be used, or fewer than two batches have two horizons.

    Source: Merrill et al. (2025), Critical Batch Size Revisited, who find the noise scale a poor
        proxy; the fit: `batch_fit`; the jackknife: Efron & Tibshirani (1993), An Introduction to
        the Bootstrap, section 11.5.
    """
    check_level(level)
    check_tail(tail)
    check_whole("batch_size", batch_size, 1)
    check_whole("replicates", replicates, 2)
    check_number("tolerance", tolerance, positive=True)
    if len(set(factors)) < 2:
        raise BadArgument(
            f"`factors` must be at least two different multiples of the batch, got {list(factors)}."
        )
    cells = _cells(batch_size, sorted(set(horizons)), sorted(set(factors)))
    results: list[BranchResult] = []
    centers = {factor: math.sqrt(factor) for factor in factors}
    for horizon in sorted({cell.horizon for cell in cells}):
        same = [cell for cell in cells if cell.horizon == horizon]
        results += grown_cells(
            grow, same, centers, replicates=replicates, tail=tail, readout=readout
        )
        centers |= {cell.factor: cell.best_rate for cell in same}
    everyone = np.arange(replicates)
    fits = [_fit(cells, np.delete(everyone, left_out)) for left_out in range(replicates)]
    fit = _fit(cells, everyone)
    logs = np.log([each.critical for each in fits])
    pseudo = replicates * math.log(fit.critical) - (replicates - 1) * logs
    reach = float(
        stdtrit(replicates - 1, (1 + level) / 2) * pseudo.std(ddof=1) / math.sqrt(replicates)
    )
    sizes = [cell.batch_size for cell in cells]
    estimate = _bounded(fit.critical, reach, min(sizes), max(sizes), level, replicates)
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
        check_whole("horizons", horizon, 1)
        for factor in factors:
            check_number("factors", factor, positive=True)
            size = round(factor * batch_size)
            if size >= 1 and horizon >= FEWEST_UPDATES * size:
                cells.append(Cell(factor, size, horizon))
    repeated = [cell.factor for cell in cells]
    if sum(repeated.count(factor) >= 2 for factor in set(repeated)) < 2:
        raise BadArgument(
            f"`horizons` must give two batches at least two lengths of {FEWEST_UPDATES} updates, "
            f"got {list(horizons)} examples for batches of "
            f"{[round(factor * batch_size) for factor in factors]}."
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


def _bounded(
    value: float, reach: float, smallest: int, largest: int, level: float, replicates: int
) -> Estimate:
    """The interval of B_c; an end outside of what these batches can show is 0 or infinite."""
    low, high = (value * math.exp(min(max(sign * reach, -700), 700)) for sign in (-1, 1))
    if value < RESOLVED * smallest:
        low, high = 0.0, max(high, RESOLVED * smallest)
    return Estimate.interval(
        value,
        low if low > smallest else 0.0,
        high if high < KNOWN * largest else math.inf,
        level=level,
        method=f"branches, jackknife over {replicates} replicates",
        samples=replicates,
        unit="examples",
    )
