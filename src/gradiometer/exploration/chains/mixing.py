"""Whether chains have forgotten where they started: R-hat and effective sample size of functions, never of weights.

The weights of a network have symmetries, so that chains that agree in everything they predict may differ in all of
them. What can be asked is whether losses and predictions have mixed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit
from scipy.stats import rankdata

from gradiometer.errors import BadArgument
from gradiometer.exploration.chains.effective_size import bulk_size, tail_size
from gradiometer.exploration.chains.rhat import rank_rhat
from gradiometer.measurement.estimate import Estimate, significant

Draws = Float[np.ndarray, "draws chains"]

FEWEST_CHAINS, FEWEST_DRAWS = 2, 8
STEADY = 1.01
"""R-hat above which chains are not taken to have mixed."""

ENOUGH = 100
"""Effective draws a chain below which R-hat and the tails are not to be trusted."""


@dataclass(frozen=True)
class Mixing:
    """How well the chains of one function have mixed.

    Args:
        name: Of the function.
        rhat: The larger of the split R-hat of ranks and of folded ranks; 1 where chains agree.
        bulk: Effective sample size of the ranks, in draws of all chains.
        tail: The smaller one of the 5 % and the 95 % quantile.
        mean: Of the function over all chains.
        chains: How many.
    """

    name: str
    rhat: Estimate
    bulk: Estimate
    tail: Estimate
    mean: Estimate
    chains: int

    @property
    def mixed(self) -> bool:
        """Whether R-hat is at most 1.01, and there are 100 effective draws a chain."""
        enough = min(self.bulk.value, self.tail.value) >= ENOUGH * self.chains
        return self.rhat.value <= STEADY and enough

    def __str__(self) -> str:
        rhat, low, high = (significant(each, 4) for each in (self.rhat.value, self.rhat.low, self.rhat.high))
        return (
            f"{self.name}: R-hat {rhat} [{low}, {high}] over {self.chains} chains, {self.bulk} effective draws, "
            f"{self.tail} in the tails: {self._verdict}."
        )

    @property
    def _verdict(self) -> str:
        if self.mixed:
            return "no sign that they have not mixed"
        if self.rhat.low > STEADY:
            return "they have not mixed"
        return "too few draws to tell whether they have mixed"

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        names = ("rhat", "bulk", "tail", "mean")
        return {"name": self.name, "mixed": self.mixed, **{name: getattr(self, name).to_dict() for name in names}}


def mixing(draws: Mapping[str, Draws], level: float = 0.9) -> list[Mixing]:
    """R-hat, effective sample sizes and the mean of every function, rank-normalised and split.

    R-hat is that of chains of this length over ever more chains, its interval that of `rank_rhat`; those of the
    effective sample sizes are of `bulk_size` and `tail_size`. The mean is that over ever more chains: its interval is
    Student's, with the Monte Carlo standard error, or with that of the chains' own means where they scatter by more.
    Simulated at nominal 90 %, it covers in 88 to 94 %, with chains that have mixed as with chains whose levels differ;
    in 84 % with two chains whose levels differ a little.

    Args:
        draws: Of every function, its draws in each chain.
        level: Of the intervals.

    Raises:
        BadArgument: There is one chain, or few draws, or one is not finite.

    Source: Vehtari et al. (2021), Rank-Normalization, Folding, and Localization: An Improved R-hat; effective sizes
        computed by arviz-stats.
    """
    found = []
    for name, values in draws.items():
        checked = _checked(name, values)
        bulk, tail = bulk_size(checked, level), tail_size(checked, level)
        mean = _mean(checked, bulk.value, level)
        found.append(Mixing(name, rank_rhat(checked, level), bulk, tail, mean, checked.shape[1]))
    return found


def rank_counts(draws: Draws, bins: int = 20) -> Float[np.ndarray, "bins chains"]:
    """How many draws of each chain fall into each band of ranks among all draws; the same in all, where they mix."""
    ranks = rankdata(draws, method="average").reshape(draws.shape)
    place = np.minimum((ranks - 0.5) * bins / draws.size, bins - 1e-9).astype(int)
    return np.stack([np.bincount(column, minlength=bins) for column in place.T], axis=1).astype(float)


def _mean(draws: Draws, size: float, level: float) -> Estimate:
    """Student's, of the Monte Carlo error, or of the chains' means where those tell of a larger one."""
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 (half a second, for this alone)

    def margin(error: float, freedom: float) -> float:
        return float(stdtrit(freedom, (1 + level) / 2)) * error

    error, chains = float(array_stats.mcse(draws.T, method="mean")), draws.shape[1]
    by_chain = math.sqrt(float(draws.mean(axis=0).var(ddof=1)) / chains)
    away, method = margin(error, max(size - 1, 1.0) if math.isfinite(size) else 1.0), "Monte Carlo error"
    if by_chain > error and (further := margin(by_chain, chains - 1.0)) > away:
        away, method = further, "Student over chains"
    middle = float(draws.mean())
    return Estimate.interval(middle, middle - away, middle + away, level=level, method=method, samples=draws.size)


def _checked(name: str, draws: Draws) -> Draws:
    values = np.asarray(draws, dtype=np.float64)
    if not (values.ndim == 2 and values.shape[1] >= FEWEST_CHAINS and values.shape[0] >= FEWEST_DRAWS):
        raise BadArgument(
            f"`{name}` is of shape {list(values.shape)}: at least {FEWEST_DRAWS} draws of {FEWEST_CHAINS} chains are "
            "needed, [draws, chains]."
        )
    if not np.isfinite(values).all():
        raise BadArgument(f"`{name}` must be finite: leave chains out that diverged.")
    if not np.ptp(values) > 0:
        raise BadArgument(f"`{name}` never varies, so there is nothing that could mix.")
    return values
