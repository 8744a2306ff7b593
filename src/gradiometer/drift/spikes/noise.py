"""How far the noise of a loss reaches: the score that only a spike exceeds."""

from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

FEWEST = 60
"""With fewer scores the tail is not extrapolated."""

MIDDLE, FAR, FEWEST_BEYOND = 0.15, 0.01, 12
"""The two upper quantiles that show the tail, and the fewest scores beyond the far one."""

SAFETY = 1.6
"""Standard errors by which the far quantile is raised."""

LOWEST = 2.0
"""The lowest peak of noise that a gap may begin at, in units of the spread."""

MOST = 20
"""The most peaks that may lie above a gap."""

_Scores = Float[np.ndarray, " scores"]


def noise_limit(scores: _Scores, false_alarms: float, *, together: int, heaviest: float) -> float:
    """The score that noise with the tail of these scores exceeds in a share of records.

    It is the smaller of two limits. One extrapolates Student's t, whose degrees of freedom follow from two upper
    quantiles of these scores. The other is a gap: if the tail is no heavier than that of Student's t with `heaviest`
    degrees of freedom, the ratio of the k-th highest peak to the next one is almost always smaller than
    `(2 / false_alarms) ** (1 / heaviest)`. The gap shows high spikes in short records.

    Args:
        scores: Losses above the local level, in units of the local spread.
        false_alarms: The share of records.
        together: High scores with at most this distance are one peak.
        heaviest: Degrees of freedom of the heaviest tail that the gap allows for.
    """
    centre = float(np.median(scores))
    usual = centre + float(stats.norm.isf(1 / len(scores))) * 1.4826 * float(np.median(np.abs(scores - centre)))
    stretches = grouped(scores > usual, together)
    if not stretches:
        return float("inf")
    tops = np.array([float(scores[stretch].max()) for stretch in stretches])
    order = np.argsort(-tops)
    # The highest peaks may be spikes: without them, a spike does not raise its own limit.
    usable = np.ones(len(scores), dtype=bool)
    for place in order[: max(round(0.1 * max(FAR * len(scores), FEWEST_BEYOND)), 1)]:
        usable[stretches[place]] = False
    peaks = np.append(tops[order[:MOST]], usual)
    gap = float((2 / false_alarms) ** (1 / heaviest))
    return min(_extrapolated(scores[usable], false_alarms), _after_a_gap(peaks, gap))


def grouped(high: Bool[np.ndarray, " _"], together: int) -> list[Int[np.ndarray, " _"]]:
    """The places that are true, in groups whose members are at most `together` apart."""
    places = np.flatnonzero(high)
    return np.split(places, np.flatnonzero(np.diff(places) > together) + 1) if len(places) else []


def _extrapolated(scores: _Scores, false_alarms: float) -> float:
    """The far quantile of Student's t, through two upper quantiles of the scores; infinite with too few scores."""
    count = len(scores)
    if count < FEWEST:
        return float("inf")
    far = max(FAR, FEWEST_BEYOND / count)
    beyond = count * far - SAFETY * float(np.sqrt(count * far))
    places = [count - 1 - count // 2, count - 1 - int(count * MIDDLE), count - 1 - int(beyond)]
    centre, *others = np.partition(scores, places)[places].tolist()
    middle, high = (other - centre for other in others)
    if not middle > 0:
        return float("inf")
    tails, ratios = _ratios(far)
    tail = float(np.interp(high / middle, ratios, tails))
    return float(centre + middle * _quantile(tail, false_alarms / count) / _quantile(tail, MIDDLE))


@cache
def _ratios(far: float) -> tuple[Float[np.ndarray, " tails"], Float[np.ndarray, " tails"]]:
    """1 / degrees of freedom, and the ratio of the two upper quantiles, which increases with it."""
    tails = np.linspace(0, 1, 41)
    return tails, np.array([_quantile(tail, far) / _quantile(tail, MIDDLE) for tail in tails])


def _quantile(tail: float, beyond: float) -> float:
    """The value that Student's t with 1 / `tail` degrees of freedom exceeds with a probability."""
    return float(stats.norm.isf(beyond) if tail <= 0 else stats.t.isf(beyond, 1 / tail))


def _after_a_gap(peaks: Float[np.ndarray, " peaks"], gap: float) -> float:
    """The lower peak of the last large gap, times the gap; infinite if there is no large gap."""
    lower = np.maximum(peaks[1:], LOWEST)
    large = np.flatnonzero(peaks[:-1] >= gap * lower)
    return gap * float(lower[large[-1]]) if len(large) else float("inf")
