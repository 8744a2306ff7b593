"""Mixing of chains: R-hat and effective sample size of functions of the model, never of its
weights.

The weights of a network have symmetries: chains may predict the same and differ in all of their
weights. So only losses and predictions can show if chains have mixed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh
from scipy.special import fdtri, ndtri
from scipy.stats import rankdata
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate, significant
from gradiometer.measurement.uncertainty.means import student_quantile


def rank_rhat(draws: Float[np.ndarray, "draws chains"], level: float = LEVEL) -> Estimate:
    """The larger R-hat of ranks and of folded ranks, over half chains, with the interval of an F
    ratio.

    The interval is for the R-hat that infinitely many chains of this length would have, √((k − 1)/k
    + v/w): k draws in half a chain, v the variance of the means of halves, w the mean variance
    within a half. v̂ is the mean of the variance between chains, with m − 1 degrees of freedom, and
    that between the halves of each chain, with m. If the first is not larger, the two are pooled,
    with 2m − 1; otherwise the degrees of freedom are Satterthwaite's. Those of ŵ come from its
    scatter over halves. v̂w/(ŵv) is treated as an F of both, as if means of halves were Gaussian.
    Each end is the larger one of ranks and folded ranks, since R-hat is the larger of the two.

    Simulated at nominal 90 %, it covers in 89 to 97 % at each of eleven settings (2 to 8 chains of
    20 to 1,000 draws, independent or autoregressive with autocorrelation times up to 39, levels of
    chains that differ by up to a standard deviation), 93 % on average. The lower end, which shows
    that chains have not mixed, is too high in 5 %. The upper end is too low less often if the R-hat
    of folded ranks is not far below. With 2 chains whose levels differ, it covers in only 83 to 86
    %.

    Args:
        draws: At least 4 draws of at least 2 chains.
        level: Confidence level of the interval.

    Returns:
        R-hat, with an interval that includes 1 or lies above it. If no half chain varies: infinite
        if they differ, unknown if they do not.

    Example:
        >>> import numpy as np
        >>> from gradiometer_lab.chains.mixing import rank_rhat
        >>> draws = np.random.default_rng(0).standard_normal((500, 4))
        >>> print(rank_rhat(draws))
        1.00 [0.999, 1.01]
        >>> print(rank_rhat(draws + [0, 0, 0, 1]))  # the last chain is elsewhere
        1.12 [1.05, 1.86]

    Source: Vehtari et al. (2021), Rank-Normalization, Folding, and Localization: An Improved R-hat;
        the F ratio: Gelman & Rubin (1992), Inference from Iterative Simulation Using Multiple
        Sequences; the degrees of freedom: Satterthwaite (1946), An Approximate Distribution of
        Estimates of Variance Components.
    """
    split = halves(draws)
    # Ranks of distances from the median see chains that differ in their spread alone.
    folded = np.abs(split - np.median(split))
    found = [_rhat(normal_scores(each), level) for each in (split, folded) if np.ptp(each) > 0]
    if not found:
        return Estimate.unknown(level=level, method="the halves never vary", samples=draws.size)
    value, low, high = (max(ends) for ends in zip(*found, strict=True))
    return Estimate.interval(
        value,
        min(low, value),
        max(high, value, 1.0),
        level=level,
        method="F of the half chains' means",
        samples=draws.size,
    )


def halves(draws: Float[np.ndarray, "draws chains"]) -> Float[np.ndarray, "size 2 chains"]:
    """The first and the last half of every chain, without the middle draw if the number of draws is
    odd."""
    size = len(draws) // 2
    return np.stack([draws[:size], draws[-size:]], axis=1)


def normal_scores(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Φ⁻¹((rank − 3/8)/(S + 1/4)) among all S values."""
    ranks = rankdata(values, method="average").reshape(values.shape)
    return np.asarray(ndtri((ranks - 0.375) / (values.size + 0.25)))


def _rhat(scores: Float[np.ndarray, "size 2 chains"], level: float) -> tuple[float, float, float]:
    """R-hat and the ends of its interval."""
    size, _, chains = scores.shape
    if not np.ptp(scores, axis=0).any():
        return math.inf, 1.0, math.inf
    means, variances = scores.mean(axis=0), scores.var(axis=0, ddof=1)
    within, floor = float(variances.mean()), (size - 1) / size
    value = math.sqrt(floor + float(means.var(ddof=1)) / within)
    # Variance of the mean of half a chain, from the scatter between chains and halves, and its
    # degrees of freedom.
    between = 2 * float(means.mean(axis=0).var(ddof=1))
    across = float(((means[0] - means[1]) ** 2).mean()) / 2
    if between <= across:
        variance, freedom = float(means.var(ddof=1)), 2.0 * chains - 1
    else:
        variance = (between + across) / 2
        freedom = (between + across) ** 2 / (between**2 / (chains - 1) + across**2 / chains)
    scatter = float(variances.var(ddof=1)) / (2 * chains)
    # Without scatter the variance within is known, as from endless draws.
    freedom_within = 2 * within**2 / scatter if scatter > 1e-9 * within**2 else 2e9
    quantiles = fdtri(freedom, freedom_within, [(1 + level) / 2, (1 - level) / 2])
    low, high = (math.sqrt(floor + variance / within / quantile) for quantile in quantiles)
    return value, low, high


Draws = Float[np.ndarray, "draws chains"]


def bulk_size(draws: Draws, level: float = LEVEL) -> Estimate:
    """Effective sample size of the ranks, in draws of all chains.

    The variance of its logarithm is the mean of two variances: that of a sum of autocorrelations up
    to a window, and the jackknife's over chains, since a size is a sum over chains. Student's
    degrees of freedom are Satterthwaite's.

    Simulated at nominal 90 %, with 2 to 8 autoregressive chains of 300 to 2,000 draws, the interval
    covers in 88 to 94 %, and in 97 % for independent draws. If the levels of the chains differ, a
    few chains cannot show by how much, and it covers in 60 to 85 %.

    Args:
        draws: At least 8 draws of at least 2 chains.
        level: Confidence level of the interval.

    Example:
        >>> import numpy as np
        >>> from gradiometer_lab.chains.mixing import bulk_size
        >>> noise = np.random.default_rng(0).standard_normal((500, 4))
        >>> print(bulk_size(noise))
        1,830 [1,500, 2,240]
        >>> print(bulk_size(noise.cumsum(axis=0)))  # random walks
        4.92 [3.13, 7.72]

    Source: Vehtari et al. (2021), Rank-Normalization, Folding, and Localization: An Improved R-hat,
        computed by arviz-stats; the window: Geyer (1992), Practical Markov Chain Monte Carlo; the
        variance of a windowed sum: Wolff (2004), Monte Carlo Errors with Less Errors, equation 42.
    """
    return _size_estimate(partial(_size, method="bulk"), draws, normal_scores(halves(draws)), level)


def tail_size(draws: Draws, level: float = LEVEL) -> Estimate:
    """The smaller effective sample size of the 5 % and the 95 % quantile, estimated as in
    `bulk_size`.

    The ends of its interval are also the smaller ones of the two. The smaller size of two similar
    tails is too low by half a standard error, so its own interval would be too low more often.
    """
    first, second = (
        _size_estimate(
            partial(_size, method="quantile", prob=tail),
            draws,
            halves((draws <= np.quantile(draws, tail)).astype(float)),
            level,
        )
        for tail in (0.05, 0.95)
    )
    ends = {
        name: min(getattr(first, name), getattr(second, name)) for name in ("value", "low", "high")
    }
    return replace(first, **ends)


def size_of_one(draws: Float[np.ndarray, " draws"]) -> float:
    """Effective sample size of the draws of one chain for their mean, from its two halves; NaN of
    fewer than 4 draws.

    It is too large for a chain that is shorter than about 20 autocorrelation times: 8 on average
    for five of them.

    Source: Vehtari et al. (2021), as in `bulk_size`, without ranks.
    """
    return _size(draws[:, None], method="mean")


def size_of_slowest(path: Sequence[Float[Tensor, " params"]]) -> float:
    """Effective sample size along the direction in which neighbouring positions of one chain are
    most alike.

    Infinite, as nothing is known, with fewer than ten positions per parameter.
    """
    # Fewer positions per parameter look alike along some direction by chance.
    if len(path) < 10 * max(len(path[0]) if path else 1, 1):
        return math.inf
    positions = torch.stack(list(path)).double().cpu().numpy()
    away = positions - positions.mean(axis=0)
    # A parameter that never moves has no correlation.
    away = away[:, np.ptp(away, axis=0) > 0]
    if not away.size:
        return math.inf
    alike, scatter = away[1:].T @ away[:-1], away.T @ away
    # Parameters that move together make it singular.
    scatter += 1e-9 * np.eye(len(scatter)) * scatter.diagonal()
    slowest = eigh(alike + alike.T, scatter)[1][:, -1]
    return size_of_one(away @ slowest)


def autocorrelations(draws: Draws, lags: int) -> Float[np.ndarray, "lags chains"]:
    """Autocorrelation of each chain at lags 0, 1, …, about the chain's own mean, with n in the
    denominator."""
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 (half a second, only for this)

    # A chain that never moves has no correlation.
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nan_to_num(array_stats.autocorr(draws.T).T[:lags]))


def _size(draws: Draws, **method: object) -> float:
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 (half a second, only for this)

    return float(array_stats.ess(draws.T, **method))


def _size_estimate(
    size: Callable[[Draws], float],
    draws: Draws,
    split: Float[np.ndarray, "size 2 chains"],
    level: float,
) -> Estimate:
    """The size of `draws` and its interval; `split` are the half chains whose correlations are
    summed."""
    value, chains = size(draws), draws.shape[1]
    # A size is a sum over chains, so leaving one out shows how much they differ.
    without = np.array([size(np.delete(draws, chain, axis=1)) for chain in range(chains)])
    by_chain = (chains - 1) ** 2 / chains * float(np.log(without).var(ddof=1))
    # Lags before the first two neighbours whose summed correlation, over all half chains, is
    # negative.
    size_of_half = len(split)
    parts = split.reshape(size_of_half, -1)
    between = float(parts.mean(axis=0).var(ddof=1))
    correlations = autocorrelations(parts, size_of_half) * parts.var(axis=0)
    covariances = correlations.mean(axis=1) + between
    pairs = covariances[: size_of_half // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs < 0)
    window = 2 * int(negative[0]) if len(negative) else size_of_half
    by_window = 4 * max(window + 0.5 - draws.size / value / 2, 0.5) / draws.size
    freedom = (by_chain + by_window) ** 2 / max(by_chain**2 / (chains - 1), 1e-9 * by_window**2)
    factor = math.exp(student_quantile(level, freedom) * math.sqrt((by_chain + by_window) / 2))
    return Estimate.interval(
        value,
        value / factor,
        value * factor,
        level=level,
        method="windowed autocorrelations, and a jackknife over chains",
        samples=draws.size,
    )


# Largest R-hat of chains that count as mixed.
STEADY = 1.01


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


def mixing(draws: Mapping[str, Draws], level: float = LEVEL) -> list[Mixing]:
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
        checked = np.asarray(values, dtype=np.float64)
        # A half chain of fewer than four draws has no autocorrelation.
        if not (checked.ndim == 2 and checked.shape[1] >= 2 and checked.shape[0] >= 8):
            raise BadArgument(
                f"`{name}` must be at least 8 draws of 2 chains, [draws, chains], got shape "
                f"{list(checked.shape)}."
            )
        if not np.isfinite(checked).all():
            raise BadArgument(f"`{name}` must be finite: leave out chains that diverged.")
        if not np.ptp(checked) > 0:
            raise BadArgument(
                f"`{name}` must vary, got {checked[0, 0]:g} in every draw: a constant cannot show "
                "mixing."
            )
        bulk, tail = bulk_size(checked, level), tail_size(checked, level)
        mean = _mean(checked, bulk.value, level)
        found.append(Mixing(name, rank_rhat(checked, level), bulk, tail, mean, checked.shape[1]))
    return found


def rank_counts(draws: Draws, bins: int = 20) -> Float[np.ndarray, "bins chains"]:
    """Number of draws of each chain in each band of ranks among all draws. Chains that mix have
    equal counts."""
    ranks = rankdata(draws, method="average").reshape(draws.shape)
    # The largest rank belongs to the last band.
    place = np.minimum((ranks - 0.5) * bins / draws.size, bins - 1e-9).astype(int)
    return np.stack([np.bincount(column, minlength=bins) for column in place.T], axis=1).astype(
        float
    )


def _mean(draws: Draws, size: float, level: float) -> Estimate:
    """With Student's interval, from the Monte Carlo error, or from the chains' means if their error
    is larger."""
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 (half a second, only for this)

    def margin(error: float, freedom: float) -> float:
        return student_quantile(level, freedom) * error

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
