"""A quantity that drifts as a power of time and of the learning rate: its value at the newest
reading."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtr

from gradiometer.arguments import check_number
from gradiometer.errors import BadArgument
from gradiometer.measurement.uncertainty.batch_means import MOST_BATCHES

# Longer series are averaged down to this many stretches.
MOST_READINGS = 96

# Age of the oldest reading, as a share of the span. With the newest 70 % of a run it is about the
# true age.
OFFSET = 0.4

# Share of the Gaussian likelihood in the weight of a pair of exponents; the rest is the score
# test's.
#
# The score test is right for noise of any size, which changes along a run, but does not see how
# small the residuals are.
FIT = 0.2

# What does not drift wanders less: share of the prior's wander.
STILL_WANDER = 1 / 3

TIME_POWERS = np.linspace(-3.6, 2.4, 21)
RATE_POWERS = np.linspace(-0.5, 2.0, 9)

# Where Student's distribution is tabulated: its function is called some ten thousand times for one
# estimate.
PLACES = np.sinh(np.linspace(-7.0, 7.0, 2_001))

LARGEST_LOG = 60.0


@dataclass(frozen=True)
class Drift:
    """How fast a quantity is expected to drift before it is measured: as age^β · η^γ.

    Args:
        time: Expected β and its standard deviation.
        rate: Expected γ and its standard deviation. It is used only if the learning rate varied.
        still: Prior probability of no drift at all, from 0 to below 1.
        share: Share of the readings that is used, the newest ones, above 0 and at most 1.
        wander: Standard deviation of what no power law follows, relative to the quantity.

    >>> from gradiometer.measurement.uncertainty.power_law import Drift
    >>> Drift(time=(0.0, 0.5), rate=(1.0, 0.5)).share
    0.7
    """

    time: tuple[float, float]
    rate: tuple[float, float]
    still: float = 0.3
    share: float = 0.7
    wander: float = 0.22

    def __post_init__(self) -> None:
        for name in ("time", "rate"):
            center, spread = getattr(self, name)
            if not math.isfinite(center):
                raise BadArgument(f"`{name}` must have a finite center, got {center}.")
            check_number(name, spread, positive=True)
        if not 0 <= self.still < 1:
            raise BadArgument(f"`still` must be at least 0 and below 1, got {self.still}.")
        if not 0 < self.share <= 1:
            raise BadArgument(f"`share` must be above 0 and at most 1, got {self.share}.")
        check_number("wander", self.wander)

    def log_density(
        self, time: Float[np.ndarray, " powers"], rate: Float[np.ndarray, " powers"]
    ) -> Float[np.ndarray, " powers"]:
        """Log prior of the exponents. A fifth of the prior of β is 2.5 times as wide, for what is
        seldom seen."""
        place = (time - self.time[0]) / self.time[1]
        narrow, wide = 0.8 * np.exp(-(place**2) / 2), 0.08 * np.exp(-((place / 2.5) ** 2) / 2)
        density: np.ndarray = (
            np.log(narrow + wide) - ((rate - self.rate[0]) / self.rate[1]) ** 2 / 2
        )
        return density


@dataclass(frozen=True)
class Mixture:
    """A weighted mixture of Student's t distributions: what is known of a value."""

    centers: Float[np.ndarray, " powers"]
    errors: Float[np.ndarray, " powers"]
    weights: Float[np.ndarray, " powers"]
    freedom: int

    def below(self, values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
        """Probability of a smaller value."""
        places = (values[:, None] - self.centers) / self.errors
        probability: np.ndarray = np.interp(places, PLACES, _student(self.freedom)) @ self.weights
        return probability

    def quantiles(
        self, shares: Float[np.ndarray, " values"], positive: bool
    ) -> Float[np.ndarray, " values"]:
        """The values below which these shares lie; with `positive`, of the part above zero (NaN if
        there is none)."""
        if positive:
            none = float(self.below(np.zeros(1))[0])
            if not none < 1 - 1e-9:
                return np.full(len(shares), math.nan)
            shares = none + (1 - none) * shares
        reach = 10 * self.errors
        low = np.full(len(shares), float((self.centers - reach).min()))
        high = np.full(len(shares), float((self.centers + reach).max()))
        for _ in range(40):
            middle = (low + high) / 2
            under = self.below(middle) < shares
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        result: np.ndarray = (low + high) / 2
        return np.maximum(result, 0.0) if positive else result

    def center_and_error(self, level: float) -> tuple[float, float]:
        """The median, and the standard error of a normal with the same upper end at this level."""
        middle, high = (
            float(end) for end in self.quantiles(np.array([0.5, (1 + level) / 2]), positive=False)
        )
        return middle, (high - middle) / float(ndtri((1 + level) / 2))


def power_law(
    values: Float[np.ndarray, " steps"],
    units: Float[np.ndarray, " steps"],
    steps: Float[np.ndarray, " steps"],
    learning_rate: Float[np.ndarray, " steps"] | None,
    prior: Drift,
    *,
    inverse: bool = False,
) -> Mixture | None:
    """The factor u at the newest reading if E values = u · units · (age^β · η^γ, relative to now),
    over all β and γ.

    For each pair of exponents u = Σ values / Σ expected: an estimating equation, unbiased also if
    single values are negative. Its standard error comes from at most 24 batch sums of the residuals
    with their lag-one correlation, and from the `wander`. A pair is weighted by its prior, by a
    score test of the residuals against log age and log η, and, a little, by their size. With
    `inverse` the prior is that of one over u, which then follows the law.

    Returns:
        The mixture over all pairs, or None if no pair gives a positive sum.
    """
    values, units, steps = _thin(values), _thin(units), _thin(steps)
    rate = _log_rate(None if learning_rate is None else _thin(learning_rate))
    clocks = [_log_age(steps)] if rate is None else [_log_age(steps), rate]
    powers, log_prior, wander = _grid(prior, varied=rate is not None)
    logs = sum(np.outer(power, clock) for power, clock in zip(powers, clocks, strict=False))
    logs = -logs if inverse else logs
    expected = np.exp(np.clip(logs, -LARGEST_LOG, LARGEST_LOG)) * units
    total = expected.sum(axis=1)
    if not (possible := total > 0).any():
        return None
    expected, total, log_prior, wander = (
        each[possible] for each in (expected, total, log_prior, wander)
    )
    centers = values.sum() / total
    residuals = values - centers[:, None] * expected
    count = min(MOST_BATCHES, len(values) // 2)
    squares, correlation = _spread(_batch_sums(residuals, count))
    noise = squares * (1 + 2 * correlation) * count / (count - 1) / total**2
    # What wanders shows in the batches, so it is not larger than their spread.
    wandered = np.minimum((wander * centers) ** 2, squares * count / total**2)
    scores = [
        _batch_sums((clock - (expected @ clock / total)[:, None]) * residuals, count)
        for clock in clocks
    ]
    fit = FIT * np.log(squares + 1e-24 * squares.max() + np.finfo(float).tiny)
    log_weights = log_prior - count / 2 * (
        fit + (1 - FIT) * np.log1p(_chi_square(np.stack(scores)) / count)
    )
    weights = np.exp(log_weights - log_weights.max())
    errors = np.maximum(np.sqrt(noise + wandered), 1e-12 * np.abs(centers) + np.finfo(float).tiny)
    heavy = weights > 1e-7
    return Mixture(centers[heavy], errors[heavy], weights[heavy] / weights[heavy].sum(), count - 1)


@lru_cache
def _student(freedom: int) -> Float[np.ndarray, " places"]:
    table: np.ndarray = stdtr(freedom, PLACES)
    return table


def _grid(
    prior: Drift, varied: bool
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """β and γ at each point of the grid, then without drift; the log prior and the wander there."""
    time, rate = (
        each.ravel()
        for each in np.meshgrid(TIME_POWERS, RATE_POWERS if varied else [prior.rate[0]])
    )
    log_prior = prior.log_density(time, rate)
    log_prior = log_prior - np.logaddexp.reduce(log_prior) + math.log1p(-prior.still)
    wander = np.full(len(time), prior.wander)
    if not prior.still:
        return (time, rate), log_prior, wander
    powers = np.append(time, 0.0), np.append(rate, 0.0)
    return (
        powers,
        np.append(log_prior, math.log(prior.still)),
        np.append(wander, STILL_WANDER * prior.wander),
    )


def _log_age(steps: np.ndarray) -> np.ndarray:
    """Log of the age of each reading, relative to the newest."""
    span = steps[-1] - steps[0]
    age: np.ndarray = np.log((steps - steps[0] + OFFSET * span) / ((1 + OFFSET) * span))
    return age


def _log_rate(learning_rate: np.ndarray | None) -> np.ndarray | None:
    """log η_i/η_now, or None if the rate hardly varied."""
    if learning_rate is None or not learning_rate.max() > 0:
        return None
    # 1e-3: smallest learning rate that counts, as a share of the largest. Schedules start and end
    # at zero.
    rate = np.maximum(learning_rate, 1e-3 * learning_rate.max())
    # 1.05: ratio of the largest rate to the smallest above which the rate counts as varied.
    return np.log(rate / rate[-1]) if rate.max() > 1.05 * rate.min() else None


def _thin(series: np.ndarray) -> np.ndarray:
    """The means of equal stretches of a long series; the oldest remainder is dropped."""
    if len(series) <= MOST_READINGS:
        return series
    length = math.ceil(len(series) / MOST_READINGS)
    means: np.ndarray = series[len(series) % length :].reshape(-1, length).mean(axis=1)
    return means


def _batch_sums(
    readings: Float[np.ndarray, "powers steps"], count: int
) -> Float[np.ndarray, "powers batches"]:
    starts = np.linspace(0, readings.shape[1], count, endpoint=False).astype(int)
    return np.add.reduceat(readings, starts, axis=1)


def _spread(sums: Float[np.ndarray, "powers batches"]) -> tuple[np.ndarray, np.ndarray]:
    """The sum of squares of the batch sums, and their lag-one correlation if it is positive."""
    squares = (sums**2).sum(axis=1)
    products = (sums[:, 1:] * sums[:, :-1]).sum(axis=1)
    return squares, np.maximum(
        np.divide(products, squares, out=np.zeros(len(sums)), where=squares > 0), 0.0
    )


def _chi_square(scores: Float[np.ndarray, "clocks powers batches"]) -> Float[np.ndarray, " powers"]:
    """The score test's χ² (Hotelling's T²): the square of the mean score over its variance, around
    its mean."""
    batches = scores.shape[-1]
    size = np.sqrt((scores**2).sum(axis=-1, keepdims=True))
    scores = np.divide(scores, size, out=np.zeros_like(scores), where=size > 0)
    sums = scores.sum(axis=-1)
    if len(scores) == 1:
        plain = sums[0] ** 2
    else:
        # Both clocks may run alike; the ridge keeps the determinant above zero.
        cross = (scores[0] * scores[1]).sum(axis=-1)
        ridge = 1 + 1e-6
        plain = ridge * (sums**2).sum(axis=0) - 2 * sums[0] * sums[1] * cross
        plain /= ridge**2 - cross**2
    result: np.ndarray = plain / np.maximum(1 - plain / batches, 1e-3)
    return result
