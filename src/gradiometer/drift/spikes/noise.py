"""How far the noise of a loss reaches: the score that only a spike exceeds."""

from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri, stdtrit

# The two upper quantiles that show the tail, and the fewest scores beyond the far one.
MIDDLE, FAR, FEWEST_BEYOND = 0.15, 0.01, 12

_Scores = Float[np.ndarray, " scores"]


def noise_limit(scores: _Scores, false_alarms: float, *, together: int, gap: float) -> float:
    """The score that noise with the tail of these scores exceeds in a share of records.

    It is the smaller of two limits. One extrapolates Student's t, whose degrees of freedom follow
    from two upper
    quantiles of these scores. The other is a gap: the k-th highest peak of noise is rarely `gap`
    times as high as the next one. For Student's t with ν degrees of freedom that has a probability
    of about `gap ** -ν`, whatever the number of scores. The gap shows high spikes in short records.

    Args:
        scores: Losses above the local level, in units of the local spread.
        false_alarms: The share of records.
        together: High scores with at most this distance are one peak.
        gap: Ratio of successive peaks.
    """
    centre = float(np.median(scores))
    usual = centre + float(-ndtri(1 / len(scores))) * 1.4826 * float(
        np.median(np.abs(scores - centre))
    )
    stretches = groups_of(scores > usual, together)
    if not stretches:
        return float("inf")
    tops = np.array([float(scores[stretch].max()) for stretch in stretches])
    order = np.argsort(-tops)
    # The highest peaks may be spikes: without them, a spike does not raise its own limit.
    usable = np.ones(len(scores), dtype=bool)
    for place in order[: max(round(0.1 * max(FAR * len(scores), FEWEST_BEYOND)), 1)]:
        usable[stretches[place]] = False
    # 20: the most peaks that may lie above a gap.
    peaks = np.append(tops[order[:20]], usual)
    # 2.0: the lowest peak of noise that a gap may begin at, in units of the spread.
    lower = np.maximum(peaks[1:], 2.0)
    large = np.flatnonzero(peaks[:-1] >= gap * lower)
    after_a_gap = gap * float(lower[large[-1]]) if len(large) else float("inf")
    return min(_far_quantile(scores[usable], false_alarms), after_a_gap)


def groups_of(high: Bool[np.ndarray, " _"], together: int) -> list[Int[np.ndarray, " _"]]:
    """The places that are true, in groups whose members are at most `together` apart."""
    places = np.flatnonzero(high)
    return np.split(places, np.flatnonzero(np.diff(places) > together) + 1) if len(places) else []


def _far_quantile(scores: _Scores, false_alarms: float) -> float:
    """The far quantile of Student's t, through two upper quantiles of the scores; infinite with too
    few scores.

    The heavier of two tails counts: that of the scores, and that of their distances from the
    centre. The latter has twice as many numbers beyond a quantile, and counts at the upper end of
    its confidence interval.
    """
    count = len(scores)
    # 60: with fewer scores the tail is not extrapolated.
    if count < 60:
        return float("inf")
    centre = float(np.median(scores))
    one = _middle_and_tail(scores - centre, 1, 0.0)
    # 1.0: standard errors by which the far quantile is raised.
    both = _middle_and_tail(np.abs(scores - centre), 2, 1.0)
    middle, tail = max(one[0], both[0]), max(one[1], both[1])
    return float(centre + middle * _quantile(tail, false_alarms / count) / _quantile(tail, MIDDLE))


def _middle_and_tail(distances: _Scores, sides: int, safety: float) -> tuple[float, float]:
    """The middle quantile, and 1 / degrees of freedom of Student's t with the ratio of the two
    quantiles.

    Args:
        distances: From the centre.
        sides: 2 for distances of both signs, which have twice the share beyond a quantile.
        safety: Standard errors by which the far quantile is raised.
    """
    total = sides * len(distances)
    far = max(FAR, FEWEST_BEYOND / total)
    beyond = total * far
    places = [
        len(distances) - 1 - int(each)
        for each in (total * MIDDLE, beyond - safety * np.sqrt(beyond))
    ]
    middle, high = np.partition(distances, places)[places].tolist()
    tails, ratios = _ratios(far)
    return middle, float(np.interp(high / middle, ratios, tails)) if middle > 0 else 1.0


@cache
def _ratios(far: float) -> tuple[Float[np.ndarray, " tails"], Float[np.ndarray, " tails"]]:
    """1 / degrees of freedom, and the ratio of the two upper quantiles, which increases with it."""
    tails = np.linspace(0, 1, 41)
    return tails, np.array([_quantile(tail, far) / _quantile(tail, MIDDLE) for tail in tails])


def _quantile(tail: float, beyond: float) -> float:
    """The value that Student's t with 1 / `tail` degrees of freedom exceeds with a probability."""
    return float(-ndtri(beyond) if tail <= 0 else -stdtrit(1 / tail, beyond))
