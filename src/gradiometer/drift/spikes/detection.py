"""Find the spikes in a record of losses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import ndtri, stdtrit

from gradiometer.errors import BadArgument
from gradiometer.measurement.uncertainty.means import OF_MEDIAN_DEVIATION

# Values per block. The level and the spread are medians over blocks.
BLOCK = 8

# Number of blocks on each side that give the level and the spread.
SIDE = 6

# The losses are searched one by one, and as medians of so many successive ones: these show spikes
# that last.
SCALES = (1, 4, 16, 64)

# The smallest rise that is reported, relative to the loss; in logs also the smallest fall.
SMALLEST = 0.05

# Number of blocks before a spike, at least.
FEWEST = 3

_Values = Float[np.ndarray, " values"]


@dataclass(frozen=True)
class Spike:
    """A rise of the loss that is too high for the noise of its surroundings, and comes down again.

    Args:
        first: Index of the first high loss.
        peak: Index of the highest loss.
        last: Index of the last high loss.
        level: The median loss before it.
        height: The highest loss.
        score: The rise in units of the local spread, on the scale on which the spike was found.
        limit: The score that noise exceeds in a share `false_alarms` of records.
        ended: False if the loss is still high at the end of the record.
    """

    first: int
    peak: int
    last: int
    level: float
    height: float
    score: float
    limit: float
    ended: bool

    @property
    def length(self) -> int:
        """Number of losses from the first high one to the last high one."""
        return self.last - self.first + 1

    def at(self, steps: Sequence[int] | Int[np.ndarray, " losses"]) -> "Spike":
        """The same spike with the steps of its losses as places."""
        first, peak, last = (int(steps[place]) for place in (self.first, self.peak, self.last))
        return replace(self, first=first, peak=peak, last=last)


def find_spikes(
    losses: Sequence[float] | Float[np.ndarray, " losses"],
    *,
    rates: Sequence[float] | Float[np.ndarray, " losses"] | None = None,
    sizes: Sequence[float] | Float[np.ndarray, " losses"] | None = None,
    false_alarms: float = 0.01,
) -> list[Spike]:
    """The spikes in the losses of successive batches, in their order.

    A loss is compared with the median level before it or after it, whichever is higher, in units of
    the spread around it. So neither a trend nor a rise that stays is a spike. How far noise reaches
    is estimated from the upper tail of
    this record: a heavy tail raises the limit. Spikes that last are found in medians of up to 64
    losses. Positive losses are compared by their logarithms; up to one in a hundred may be zero,
    and counts as the smallest other one.

    Args:
        losses: The mean loss of each batch, in order. NaN, inf and numbers above 1e150 are left
            out.
        rates: The learning rate of each step; NaN if unknown. A rise of the loss after a rise of
            the rate (a warm restart) is no spike. Without `rates`, only spikes up to about a
            hundred steps are found.
        sizes: The number of examples of each batch, if they differ: a small last batch of an epoch
            is noisier.
        false_alarms: The share of records without a spike in which one may be reported. It is
            nominal: for 0.01, up to 0.02 were seen for tails up to Student's t with 3 degrees of
            freedom, and 0.055 for 2.

    Raises:
        BadArgument: `false_alarms` is not between 0 and 1, or `rates` or `sizes` has another length
            than `losses`.

    >>> import numpy as np
    >>> from gradiometer.drift.spikes import find_spikes
    >>> losses = 2 + 0.1 * np.random.default_rng(0).standard_normal(1000)
    >>> losses[500:503] = 4.0
    >>> [(spike.first, spike.length, spike.height) for spike in find_spikes(losses)]
    [(500, 3, 4.0)]
    """
    if not 0 < false_alarms < 1:
        raise BadArgument(f"`false_alarms` must be between 0 and 1, got {false_alarms}.")
    values = np.asarray(losses, dtype=np.float64)
    # 1e150: larger numbers are left out: their squares are beyond a float.
    kept = np.flatnonzero(np.abs(values) < 1e150)
    rate, size = _alike(values, rates, "rates")[kept], _alike(values, sizes, "sizes")[kept]
    values = values[kept]
    if len(values) < (FEWEST + 2) * BLOCK:
        return []
    # 0.01: up to this share of the losses may be exactly zero, as a loss falls below the smallest
    # float.
    in_logs = bool((values >= 0).all() and (values == 0).mean() <= 0.01)
    heights = np.log(np.maximum(values, values[values > 0].min())) if in_logs else values
    smallest = float(np.log1p(SMALLEST)) if in_logs else SMALLEST * float(np.median(np.abs(values)))
    noise = (
        np.ones(len(values)) if sizes is None else np.sqrt(np.fmax(np.nanmedian(size) / size, 1))
    )
    found: list[Spike] = []
    # If the learning rate is not known, a warm restart looks like a longer spike.
    for scale in SCALES if rates is not None else SCALES[:2]:
        if len(heights) < scale * (FEWEST + 2) * BLOCK:
            break
        # A long spike takes the place of those within; a short one was seen better before.
        for spike in _spikes_at(
            scale, heights, noise, rate, false_alarms=false_alarms, smallest=smallest
        ):
            within = [
                each for each in found if each.first <= spike.last and spike.first <= each.last
            ]
            if not within or spike.length >= 4 * scale:
                found = [*(each for each in found if each not in within), spike]
    return [
        replace(
            spike,
            first=int(kept[spike.first]),
            peak=int(kept[spike.peak]),
            last=int(kept[spike.last]),
            level=float(np.exp(spike.level)) if in_logs else spike.level,
            height=float(values[spike.peak]),
        )
        for spike in sorted(found, key=lambda spike: spike.first)
    ]


def _alike(values: _Values, given: Sequence[float] | _Values | None, name: str) -> _Values:
    """The numbers that go with the losses; NaN if they are not given."""
    numbers = np.full(len(values), np.nan) if given is None else np.asarray(given, dtype=np.float64)
    if len(numbers) != len(values):
        raise BadArgument(
            f"`{name}` must have one number per loss, {len(values):,}, got {len(numbers):,}."
        )
    return numbers


def _spikes_at(
    scale: int,
    heights: _Values,
    noise: _Values,
    rate: _Values,
    *,
    false_alarms: float,
    smallest: float,
) -> Iterator[Spike]:
    """The spikes in medians of `scale` successive values, the last of which is complete, with
    first, peak, last and height in terms of the heights."""
    offset = len(heights) % scale
    series: _Values = np.median(heights[offset:].reshape(-1, scale), axis=1)
    before, after, spread = _surroundings(series)
    spread = np.maximum(spread, 1e-9) * (noise if scale == 1 else 1)
    after = np.where(np.isnan(after), before, after)
    rise = series - np.maximum(before, after)
    drop = np.minimum(before, after) - series
    scores, drops = rise / spread, drop / spread
    known = np.isfinite(scores)
    # 4.0: where the levels before and after differ by more spreads than this, noise is not
    # measured.
    steady = known & (np.abs(before - after) <= 4.0 * spread)
    ordinary = (series - (before + after) / 2) / spread  # without the trend
    # The heaviest tail that noise may have: 3 degrees of freedom, and 4 of its medians.
    limit = noise_limit(
        ordinary[steady if 2 * steady.sum() >= known.sum() else known],
        false_alarms / len(SCALES),
        together=BLOCK,
        gap=float(false_alarms ** (-1 / (3 if scale == 1 else 4))),
    )
    # Losses as far below the level show noise that is rare, such as that of small last batches.
    limit = max(limit, 1.5 * float(np.partition(drops[known], -2)[-2]))
    for stretch in groups_of((scores > limit) & (rise > smallest), BLOCK):
        top = int(stretch[scores[stretch].argmax()])
        level = float(before[stretch[0]])
        above = max((series[top] - level) / 4, min(limit, scores[top]) / 2 * spread[top])
        line = float(level + above)
        begin, end = _extent(series, top, line)
        first, last = _refine(heights > line, offset + begin * scale, offset + (end + 1) * scale)
        peak = first + int(heights[first : last + 1].argmax())
        # Did the learning rate rise just before or during the rise?
        back = BLOCK * scale * (1 if scale == 1 else SIDE)
        rates = rate[max(first - back, 0) : peak + 1]
        rates = rates[np.isfinite(rates)]
        # 1.3: A rise of the learning rate by this factor explains a rise of the loss.
        # Not as a ratio: a rate may be zero.
        if not (rates / 1.3 > np.minimum.accumulate(rates)).any():
            height, score, ended = float(heights[peak]), float(scores[top]), end < len(series) - 1
            yield Spike(first, peak, last, level, height, score, limit, ended)


def _surroundings(series: _Values) -> tuple[_Values, _Values, _Values]:
    """For each value the level before, the level after (NaN at the end), and the larger spread of
    the two sides."""
    count = len(series) // BLOCK
    start = len(series) - count * BLOCK
    blocks = series[start:].reshape(count, BLOCK)
    medians = np.median(blocks, axis=1)
    before, after = _sides(medians)
    before[:FEWEST] = np.nan
    spread = np.fmax(
        *_sides(OF_MEDIAN_DEVIATION * np.median(np.abs(blocks - medians[:, None]), axis=1))
    )
    block = np.maximum(np.arange(len(series)) - start, 0) // BLOCK
    return before[block], after[block], spread[block]


def _refine(high: Bool[np.ndarray, " values"], start: int, stop: int) -> tuple[int, int]:
    """The first and the last high value in this stretch, and of those next to them."""
    inside = start + np.flatnonzero(high[start:stop])
    if not len(inside):
        inside = np.array([stop - 1])
    low = np.flatnonzero(~high)
    before, after = low[low < inside[0]], low[low > inside[-1]]
    return (
        int(before[-1]) + 1 if len(before) else 0,
        int(after[0]) - 1 if len(after) else len(high) - 1,
    )


def _sides(
    values: Float[np.ndarray, " blocks"],
) -> tuple[Float[np.ndarray, " blocks"], Float[np.ndarray, " blocks"]]:
    """The medians over the blocks before and after each block; NaN where there are none."""
    count, empty = len(values), np.full(SIDE, np.nan)
    # NaN last
    ordered = np.sort(sliding_window_view(np.concatenate([empty, values, empty]), SIDE), axis=1)
    known = np.isfinite(ordered).sum(axis=1)
    rows = np.arange(len(ordered))
    low, high = (
        ordered[rows, np.maximum(known - 1, 0) // 2],
        ordered[rows, np.minimum(known // 2, SIDE - 1)],
    )
    medians = (low + high) / 2
    return medians[:count], medians[SIDE + 1 : SIDE + 1 + count]


def _extent(series: _Values, top: int, line: float) -> tuple[int, int]:
    """First and last place of the high values around the top. Two low ones in a row end it."""
    low = series <= line
    pairs = np.flatnonzero(low[:-1] & low[1:])
    before, after = pairs[pairs + 1 < top], pairs[pairs > top]
    begin = int(before[-1]) + 2 if len(before) else 0
    end = int(after[0]) - 1 if len(after) else len(series) - 1
    low[top] = False
    high = begin + np.flatnonzero(~low[begin : end + 1])
    return int(high[0]), int(high[-1])


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
    usual = centre + float(-ndtri(1 / len(scores))) * OF_MEDIAN_DEVIATION * float(
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
