"""A quantity that drifts as a power of time and of the learning rate: its value at the newest
reading."""

import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

import msgspec
import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr, ndtr, ndtri, stdtr

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import MOST_BATCHES, steps_to_bound

# The numbers of the model and of the expected drifts, with what chose them.
TABLES = tomllib.loads((files(__package__) / "drifts.toml").read_text("utf-8"))
LAW = TABLES["law"]

# Ratio of the ends above which an interval of a positive quantity counts as open.
WIDEST = 30.0

# Where Student's distribution is tabulated: its function is called some ten thousand times for one
# estimate.
PLACES = np.sinh(np.linspace(*LAW["places"]))


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
    still: float = LAW["still"]
    share: float = LAW["share"]
    wander: float = LAW["wander"]

    @classmethod
    def of(cls, quantity: str) -> "Drift":
        """What is expected of a quantity of the table."""
        return msgspec.convert(TABLES["drifts"][quantity], cls)

    def log_density(
        self, time: Float[np.ndarray, " powers"], rate: Float[np.ndarray, " powers"]
    ) -> Float[np.ndarray, " powers"]:
        """Log prior of the exponents. A fifth of the prior of β is 2.5 times as wide, for what is
        seldom seen."""
        place = (time - self.time[0]) / self.time[1]
        wide, share = LAW["wide"], LAW["wide_share"]
        law = (1 - share) * np.exp(-(place**2) / 2)
        law = law + share / wide * np.exp(-((place / wide) ** 2) / 2)
        density: np.ndarray = np.log(law) - ((rate - self.rate[0]) / self.rate[1]) ** 2 / 2
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
    # e^±60 stands for zero and infinity, so that no product overflows.
    expected = np.exp(np.clip(logs, -60, 60)) * units
    total = expected.sum(axis=1)
    possible = total > 0
    if not possible.any():
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
    share = LAW["fit"]
    fit = share * np.log(squares + 1e-24 * squares.max() + np.finfo(float).tiny)
    log_weights = log_prior - count / 2 * (
        fit + (1 - share) * np.log1p(_chi_square(np.stack(scores)) / count)
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
        for each in np.meshgrid(
            np.linspace(*LAW["time_powers"]),
            np.linspace(*LAW["rate_powers"]) if varied else [prior.rate[0]],
        )
    )
    log_prior = prior.log_density(time, rate)
    log_prior = log_prior - np.logaddexp.reduce(log_prior) + math.log1p(-prior.still)
    wander = np.full(len(time), prior.wander)
    if not prior.still:
        return (time, rate), log_prior, wander
    return (
        (np.append(time, 0.0), np.append(rate, 0.0)),
        np.append(log_prior, math.log(prior.still)),
        np.append(wander, prior.wander / LAW["still_calmer"]),
    )


def _log_age(steps: np.ndarray) -> np.ndarray:
    """Log of the age of each reading, relative to the newest."""
    before = LAW["offset"] * (steps[-1] - steps[0])
    age: np.ndarray = np.log((steps - steps[0] + before) / (steps[-1] - steps[0] + before))
    return age


def _log_rate(learning_rate: np.ndarray | None) -> np.ndarray | None:
    """log η_i/η_now, or None if the rate hardly varied."""
    if learning_rate is None or not learning_rate.max() > 0:
        return None
    # 1e-3: smallest learning rate that counts, as a share of the largest. Schedules start and end
    # at zero.
    rate = np.maximum(learning_rate, 1e-3 * learning_rate.max())
    # A rate that differs by at most a twentieth counts as constant.
    return np.log(rate / rate[-1]) if rate.max() > 1.05 * rate.min() else None


def _thin(series: np.ndarray) -> np.ndarray:
    """The means of equal stretches of a long series; the oldest remainder is dropped."""
    if len(series) <= LAW["most_readings"]:
        return series
    length = math.ceil(len(series) / LAW["most_readings"])
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


def open_above(
    estimate: Estimate, mixture: Mixture, value: float, margin: float, span: float
) -> Estimate:
    """The estimate of a positive quantity, open above if its ends are more than 30 apart.

    "At least L" is only said if one over the quantity came out small, which happens more often by
    chance than a result of any size. So L is a limit for the results for which it is said.

    Args:
        estimate: The quantity.
        mixture: What is known of one over it, before it is cut at zero.
        value: One over the quantity.
        margin: How far the lower end of its interval is below the value.
        span: Training steps so far.
    """
    if estimate.high <= WIDEST * estimate.low:
        return estimate
    # The ends are 30 apart if value ± margin are, with margin = 29/31 of the value.
    most = value * (WIDEST - 1) / (WIDEST + 1)
    # None: widened for what was not seen
    needed = steps_to_bound(most, margin, span) if margin > most else None
    center, error = mixture.center_and_error(estimate.level)
    # 0.5: standard errors by which the mixture is open earlier than a normal, because of its longer
    # lower tail.
    cutoff, level = 0.5 + _cutoff(estimate.level), estimate.level
    if not error > 0:
        limit = 0.0
    elif center / error < cutoff:
        # The largest mean of a unit normal for which a result below the cutoff is at most the one
        # seen in a share 1 − level of cases: inference after a selection, Lee, Sun, Sun & Taylor
        # (2016), Exact Post-Selection Inference. 1e6: standard errors beyond which none is sought.
        seen = center / error
        least = math.log(1 - level)
        limit = error * _largest(
            lambda mean: log_ndtr(seen - mean) - log_ndtr(cutoff - mean) > least, seen, 1e6
        )
    else:  # open because the newest readings contradict the others, so that both are in doubt
        # 20.0: factor on the confidence of an end that the newest readings contradict.
        limit = center + error * float(ndtri(1 - (1 - level) / 20.0))
    return replace(
        estimate,
        low=min(estimate.low, 1 / limit) if limit > 0 else estimate.low,
        high=math.inf,
        needed=needed,
    )


@lru_cache
def _cutoff(level: float) -> float:
    """The mean, in standard errors, below which a normal's ends above zero are more
    than 30 apart."""

    def apart(mean: float) -> bool:
        none = ndtr(-mean)
        low, high = (
            mean + float(ndtri(none + (1 - none) * share))
            for share in ((1 - level) / 2, (1 + level) / 2)
        )
        return high > WIDEST * low

    return _largest(apart, -5.0, 5.0)


def _largest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number between two for which this holds, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
