"""Whether chains have forgotten where they started: R-hat and effective sample size of functions, never of weights.

The weights of a network have symmetries, so that chains that agree in everything they predict may differ in all of
them. What can be asked is whether losses and predictions have mixed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit
from scipy.stats import rankdata

from gradiometer.errors import BadInput
from gradiometer.exploration.rhat import rank_rhat
from gradiometer.measurement.reading import Estimate, significant

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
        verdict = "no sign that they have not mixed" if self.mixed else "they have not mixed"
        return (
            f"{self.name}: R-hat {significant(self.rhat.value, 4)} over {self.chains} chains, "
            f"{significant(self.bulk.value)} effective draws ({significant(self.tail.value)} in the tails): {verdict}."
        )

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        names = ("rhat", "bulk", "tail", "mean")
        return {"name": self.name, "mixed": self.mixed, **{name: getattr(self, name).to_dict() for name in names}}


def mixing(draws: Mapping[str, Draws], level: float = 0.9) -> list[Mixing]:
    """R-hat, effective sample sizes and the mean of every function, rank-normalised and split.

    R-hat is that of chains of this length over ever more chains, its interval that of `rank_rhat`. The intervals of
    the effective sample sizes are the jackknife's over chains, on a logarithmic scale: simulated at nominal 90 %, with
    4 to 8 autoregressive chains, the bulk's covers in 82 to 88 %. With two chains there are none to leave out, and they
    are not bounded. The mean's is Student's, with the Monte Carlo standard error. Where chains have not mixed, those of
    sizes and mean are too narrow.

    Args:
        draws: Of every function, its draws in each chain.
        level: Of the intervals.

    Raises:
        BadInput: There is one chain, or few draws, or one is not finite.

    Source: Vehtari et al. (2021), Rank-Normalization, Folding, and Localization: An Improved R-hat; effective sizes
        computed by arviz-stats.
    """
    return [_of(name, _checked(name, values), level) for name, values in draws.items()]


def autocorrelations(draws: Draws, lags: int) -> Float[np.ndarray, "lags chains"]:
    """Of each chain at lags from 0 on, about the chain's own mean, with n in the denominator."""
    away = draws - draws.mean(axis=0)
    size, padded = len(away), 2 ** math.ceil(math.log2(2 * len(away)))
    power = np.abs(np.fft.rfft(away, padded, axis=0)) ** 2
    covariances = np.fft.irfft(power, padded, axis=0)[: min(lags, size)]
    correlations: np.ndarray = covariances / np.where(covariances[0] > 0, covariances[0], 1.0)
    return correlations


def rank_counts(draws: Draws, bins: int = 20) -> Float[np.ndarray, "bins chains"]:
    """How many draws of each chain fall into each band of ranks among all draws; the same in all, where they mix."""
    ranks = rankdata(draws, method="average").reshape(draws.shape)
    place = np.minimum((ranks - 0.5) * bins / draws.size, bins - 1e-9).astype(int)
    return np.stack([np.bincount(column, minlength=bins) for column in place.T], axis=1).astype(float)


def _of(name: str, draws: Draws, level: float) -> Mixing:
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 (half a second, for this alone)

    bulk = _jackknife(lambda part: float(array_stats.ess(part, method="bulk")), draws, level)
    tail = _jackknife(lambda part: float(array_stats.ess(part, method="tail", prob=0.9)), draws, level)
    error = float(array_stats.mcse(draws.T, method="mean"))
    freedom = max(bulk.value - 1, 1.0) if math.isfinite(bulk.value) else 1.0
    margin = float(stdtrit(freedom, (1 + level) / 2)) * error
    middle = float(draws.mean())
    mean = Estimate.interval(
        middle, middle - margin, middle + margin, level=level, method="Monte Carlo error", samples=draws.size
    )
    return Mixing(name, rank_rhat(draws, level), bulk, tail, mean, draws.shape[1])


def _jackknife(size: Callable[[np.ndarray], float], draws: Draws, level: float) -> Estimate:
    """Leaves out one chain at a time. An effective size is a sum over chains, so it is scaled up again."""
    chains, by_chain = draws.shape[1], draws.T
    value = size(by_chain)
    if chains < 3:
        return Estimate.interval(
            value, -math.inf, math.inf, level=level, method="too few chains for an interval", samples=draws.size
        )
    without = np.array([size(np.delete(by_chain, place, axis=0)) for place in range(chains)])
    logs = np.log(without * chains / (chains - 1))
    error = math.sqrt((chains - 1) / chains * float(((logs - logs.mean()) ** 2).sum()))
    margin = float(stdtrit(chains - 1, (1 + level) / 2)) * error
    return Estimate.interval(
        value,
        value * math.exp(-margin),
        value * math.exp(margin),
        level=level,
        method="jackknife over chains",
        samples=draws.size,
    )


def _checked(name: str, draws: Draws) -> Draws:
    values = np.asarray(draws, dtype=np.float64)
    if not (values.ndim == 2 and values.shape[1] >= FEWEST_CHAINS and values.shape[0] >= FEWEST_DRAWS):
        raise BadInput(
            f"`{name}` is of shape {list(values.shape)}: at least {FEWEST_DRAWS} draws of {FEWEST_CHAINS} chains are "
            "needed, [draws, chains]."
        )
    if not np.isfinite(values).all():
        raise BadInput(f"`{name}` must be finite: leave chains out that diverged.")
    if not np.ptp(values) > 0:
        raise BadInput(f"`{name}` never varies, so there is nothing that could mix.")
    return values
