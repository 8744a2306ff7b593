"""Mixing of chains: R-hat and effective sample size of functions of the model, never of its
weights.

The weights of a network have symmetries: chains may predict the same and differ in all of their
weights. So only losses and predictions can show if chains have mixed.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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

STEADY = 1.01
"""Largest R-hat of chains that count as mixed."""


@dataclass(frozen=True)
class Mixing:
    """How well the chains of one function have mixed.

    Args:
        name: Name of the function.
        rhat: The larger split R-hat of ranks and of folded ranks; 1 if the chains agree.
        bulk: Effective sample size of the ranks, in draws of all chains.
        tail: The smaller effective sample size of the 5 % and the 95 % quantile.
        mean: Mean of the function over all chains.
        chains: Number of chains.
    """

    name: str
    rhat: Estimate
    bulk: Estimate
    tail: Estimate
    mean: Estimate
    chains: int

    @property
    def mixed(self) -> bool:
        """True if R-hat is at most 1.01 and there are 100 effective draws per chain."""
        # With fewer effective draws per chain, R-hat and the tails are not reliable.
        enough = min(self.bulk.value, self.tail.value) >= 100 * self.chains
        return self.rhat.value <= STEADY and enough

    def __str__(self) -> str:
        rhat, low, high = (
            significant(each, 4) for each in (self.rhat.value, self.rhat.low, self.rhat.high)
        )
        unmixed = (
            "the chains have not mixed"
            if self.rhat.low > STEADY
            else "too few draws to tell if the chains mixed"
        )
        return (
            f"{self.name}: R-hat {rhat} [{low}, {high}] over {self.chains} chains, {self.bulk} "
            f"effective draws, {self.tail} in the tails: "
            f"{'no sign that the chains have not mixed' if self.mixed else unmixed}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name and `mixed`, as `--json` prints them."""
        return {**asdict(self), "mixed": self.mixed}


def mixing(draws: Mapping[str, Draws], level: float = 0.9) -> list[Mixing]:
    """R-hat, effective sample sizes and the mean of every function, from rank-normalised half
    chains.

    R-hat is `rank_rhat`, the effective sample sizes are `bulk_size` and `tail_size`. The interval
    of the mean is for
    the mean over infinitely many chains: Student's, with the Monte Carlo standard error, or with
    that of the chains' own means if they scatter more. Simulated at nominal 90 %, it covers in 88
    to 94 %, with chains that have mixed and with chains whose levels differ, and in 84 % with two
    chains whose levels differ a little.

    Args:
        draws: For every function, its draws in each chain.
        level: Confidence level of the intervals.

    Raises:
        BadArgument: There are fewer than 8 draws of 2 chains, or a draw is not finite, or the draws
            never vary.

    Example:
        >>> import numpy as np
        >>> from gradiometer.exploration.chains import mixing
        >>> draws = np.random.default_rng(0).standard_normal((500, 4))
        >>> for found in mixing({"loss": draws, "apart": draws + [0, 0, 0, 1]}):
        ...     print(found.name, found.mixed, found.rhat)
        loss True 1.00 [0.999, 1.01]
        apart False 1.12 [1.05, 1.86]

    Source: Vehtari et al. (2021), Rank-Normalization, Folding, and Localization: An Improved R-hat.
        arviz-stats computes the effective sizes.
    """
    found = []
    for name, values in draws.items():
        checked = _valid_draws(name, values)
        bulk, tail = bulk_size(checked, level), tail_size(checked, level)
        mean = _mean(checked, bulk.value, level)
        found.append(Mixing(name, rank_rhat(checked, level), bulk, tail, mean, checked.shape[1]))
    return found


def rank_counts(draws: Draws, bins: int = 20) -> Float[np.ndarray, "bins chains"]:
    """Number of draws of each chain in each band of ranks among all draws. Chains that mix have
    equal counts."""
    ranks = rankdata(draws, method="average").reshape(draws.shape)
    place = np.minimum((ranks - 0.5) * bins / draws.size, bins - 1e-9).astype(int)
    return np.stack([np.bincount(column, minlength=bins) for column in place.T], axis=1).astype(
        float
    )


def _mean(draws: Draws, size: float, level: float) -> Estimate:
    """With Student's interval, from the Monte Carlo error, or from the chains' means if their error
    is larger."""
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 (half a second, only for this)

    def margin(error: float, freedom: float) -> float:
        return float(stdtrit(freedom, (1 + level) / 2)) * error

    error, chains = float(array_stats.mcse(draws.T, method="mean")), draws.shape[1]
    by_chain = math.sqrt(float(draws.mean(axis=0).var(ddof=1)) / chains)
    away = margin(error, max(size - 1, 1.0) if math.isfinite(size) else 1.0)
    method = "Monte Carlo error"
    # Chains whose levels differ have not mixed, and their own means show it.
    if by_chain > error and margin(by_chain, chains - 1.0) > away:
        away = margin(by_chain, chains - 1.0)
        method = "Student over chains"
    middle = float(draws.mean())
    return Estimate.interval(
        middle, middle - away, middle + away, level=level, method=method, samples=draws.size
    )


def _valid_draws(name: str, draws: Draws) -> Draws:
    values = np.asarray(draws, dtype=np.float64)
    # A half chain of fewer than four draws has no autocorrelation.
    if not (values.ndim == 2 and values.shape[1] >= 2 and values.shape[0] >= 8):
        raise BadArgument(
            f"`{name}` must be at least 8 draws of 2 chains, [draws, chains], got shape "
            f"{list(values.shape)}."
        )
    if not np.isfinite(values).all():
        raise BadArgument(f"`{name}` must be finite: leave out chains that diverged.")
    if not np.ptp(values) > 0:
        raise BadArgument(
            f"`{name}` must vary, got {values[0, 0]:g} in every draw: a constant cannot show "
            "mixing."
        )
    return values
