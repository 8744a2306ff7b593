"""Readings of the learning rate, and the claim that it is too low.

Three readings are independent of each other. The *edge* is how near the steps come to where they
would overshoot, by the curvature along them: where it is measured, it decides. The *reach* is how
far the layer that moved most has come. The *direction* is how much the updates of one part of the
run point where those of a later part do: at a good rate the path turns again and again, while a
rate that is far too low goes straight on.
"""

import numpy as np
from jaxtyping import Float

from gradiometer.drift.batch_sharpness import FAR_BELOW
from gradiometer.measurement.estimate import Estimate
from gradiometer.verdict.claims import Claim, Claimed, Sign
from gradiometer.verdict.triage.course import ended_at, late_fall
from gradiometer.verdict.triage.length import generalises_worse
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.schedule import is_constant
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import (
    APART,
    FAR,
    FAR_TOO_LOW,
    FEWEST_PARTS,
    HALF_OF_THE_EDGE,
    LEARNT,
    LEFT_BEFORE_THE_END,
    LITTLE_LEFT,
    LONG_ENOUGH,
    NEXT_TO_NOTHING,
    PERHAPS_FAR_ENOUGH,
    RISING,
    SAME_DIRECTION,
    SEEN_OF_PLAN,
    SOME_DIRECTION,
    STOPPED_ON_THE_WAY,
    TWICE_THE_EDGE,
)


def rate_low(signs: Signs, level: Level) -> Claimed | None:
    """All steps are far below the edge of stability; or no layer has gone as far as one does at a
    good rate; or the path goes straight on while the loss falls."""
    late = ended_at(signs, level)
    # 5 % of its first loss left a physics-informed network 57 times more to gain
    if signs.is_short or not late > LITTLE_LEFT:
        return None
    # A higher rate would fit the training examples alone: with four times the rate the test loss of
    # a network that was best on fresh rows at a fifth of its steps rose from 0.75 to 1.31.
    if generalises_worse(signs):
        return None
    is_below, has_no_room = is_far_below_the_edge(signs, level), reaches_the_edge(signs)
    direction = direction_of(signs)
    is_straight = not has_no_room and goes_straight_on(signs, direction)
    if not (is_straight or late > LEARNT):
        return None
    too_low = is_below or is_straight
    if not has_no_room:
        too_low |= came_not_far(signs, direction) if signs.has_ended else comes_nowhere(signs)
    if not too_low or not (signs.has_ended or shows_its_rate(signs)):
        return None
    share = signs.reach / signs.usual_reach()
    numbers: dict[str, Estimate | float] = {
        "reach": signs.reach,
        "share": share,
        "steps": float(signs.steps),
    }
    sign = Sign.USUAL
    if is_below:
        numbers["edge"], sign = signs.edge, Sign.EDGE
    elif is_straight and direction is not None:
        numbers["direction"], sign = direction, Sign.DIRECTION
    is_sure = is_below or is_straight
    factor = 2 if not is_sure else 8 if share < NEXT_TO_NOTHING else 4
    is_steep = is_straight and is_plain(signs) and not is_below
    doubts = ("fine_tuning", "steep") if is_steep else ("fine_tuning",)
    factor = min(factor, room_of(signs))
    return Claimed(Claim.RATE_LOW, numbers, (f"rate {factor}x",), doubts, sign=sign)


def is_far_below_the_edge(signs: Signs, level: Level) -> bool:
    """True if all steps were far below the edge of stability, and no layer went far in spite of it.

    The loss must be one that is curved in the outputs. That of quantiles or of absolute errors is
    not, so its batch sharpness is that of the network alone: 0.03 to 0.09 at three good rates.
    """
    is_curved = level.known_by in (Known.LABELS, Known.TARGETS)
    came_far = signs.reach >= FAR * signs.usual_reach()
    return is_curved and 0 < signs.edge < FAR_BELOW and not came_far


def reaches_the_edge(signs: Signs) -> bool:
    """True if a higher rate has no room: under plain SGD steps at twice the rate would overshoot.

    With a momentum the edge of small batches is the lowest of all, and good rates pass it.
    """
    return signs.edge >= (HALF_OF_THE_EDGE if is_plain(signs) else TWICE_THE_EDGE)


def room_of(signs: Signs) -> int:
    """By how much the rate may rise before steps reach the edge of stability, as a power of two
    from 2 to 8.

    Before the end a quarter of the edge has to be left, since curvature rises on the way: twice the
    rate of two slow starters gained 36 to 90 %, and four times of it diverged.
    """
    if not signs.edge > 0:
        return 8
    room = (1 if signs.has_ended else LEFT_BEFORE_THE_END) / signs.edge
    return 8 if room >= 8 else 4 if room >= 4 else 2


def is_mild(low: Claimed) -> bool:
    """True if a rate that is too low brought the network to some distance, its path turns, and its
    steps are not far below the edge: the cure of a small batch raises it by 2.8."""
    share = low.numbers["share"]
    is_far = isinstance(share, float) and share >= NEXT_TO_NOTHING
    return is_far and not {"direction", "edge"} & low.numbers.keys()


def came_not_far(signs: Signs, direction: Estimate | None) -> bool:
    """True if no layer of a training that has ended went as far as at a good rate; at a constant
    rate, as one that was stopped early does: a third of that.

    Not with Adam and its kind if the path is not sure to have kept any direction: no training at a
    rate that was too low turned like that, and five of eight good ones that came not far did.
    """
    limit = STOPPED_ON_THE_WAY if is_constant(signs) else 1
    if not signs.reach < limit * signs.usual_reach():
        return False
    return signs.family == "sgd" or direction is None or bool(direction.low > 0)


def comes_nowhere(signs: Signs) -> bool:
    """True if a training that goes on will not have come far at its planned end, or has come next
    to nowhere if that is unknown."""
    planned = signs.facts.get("steps")
    if planned is None:
        return bool(signs.reach < NEXT_TO_NOTHING * signs.usual_reach())
    forecast = signs.reach * planned / signs.steps
    return bool(forecast < FAR_TOO_LOW * signs.usual_reach(planned))


def is_plain(signs: Signs) -> bool:
    """True under SGD without momentum."""
    return signs.family == "sgd" and not signs.momentum


def goes_straight_on(signs: Signs, direction: Estimate | None) -> bool:
    """True if the path has surely kept its direction, and the loss fell on it beyond its error."""
    fell, error = late_fall(signs)
    keeps = direction is not None and direction.low > SAME_DIRECTION
    return bool(keeps and fell > 1.645 * error)


def doubt_of(signs: Signs, late: float) -> str:
    """Why a training without a claim may still have a rate that is too low; empty if nothing says
    so.

    Args:
        signs: A training that has ended.
        late: Its loss at the end, in units of a guess.
    """
    if not late > LITTLE_LEFT:
        return ""
    if signs.reach < PERHAPS_FAR_ENOUGH * signs.usual_reach() and late > LEARNT:
        return "rate_not_tried"
    direction = direction_of(signs)
    if direction is None:
        # a training without any look has no path
        return "few_looks" if len(signs.distances) else ""
    return "rate_not_tried" if direction.value > SOME_DIRECTION else ""


def shows_its_rate(signs: Signs) -> bool:
    """True if a training that goes on has been at its rate for long enough to judge it: not in a
    warm-up, and not at the beginning of what is planned."""
    rates = signs.rates
    if signs.steps < LONG_ENOUGH or not len(rates):
        return False
    is_rising = rates[-1] > RISING * rates[len(rates) // 2]
    planned = signs.facts.get("steps")
    return not is_rising and (planned is None or signs.steps >= SEEN_OF_PLAN * planned)


def is_near(signs: Signs) -> bool:
    """True if the network has come less far than a good rate brings it at least."""
    return bool(signs.reach < signs.usual_reach())


def direction_of(signs: Signs) -> Estimate | None:
    """The mean cosine between the updates of parts of the path that are far apart in time, while
    the rate is high and after its first third.

    In so many directions, steps that have nothing to do with each other have a cosine of nearly
    zero. None if too few parts were seen.
    """
    high = np.flatnonzero(signs.rates >= np.nanmax(signs.rates, initial=0.0) / 2)
    if not len(high):
        return None
    length = float(high[-1] - high[0])
    steps, squares = points_of(signs, first=float(high[0]) + length / 3, last=float(high[-1]))
    if len(steps) < FEWEST_PARTS + 1:
        return None
    before, after = squares[:-1, :], squares[1:, :]
    # ⟨b − a, d − c⟩ from the squared distances between all four points
    products = (before[:, 1:] + after[:, :-1] - before[:, :-1] - after[:, 1:]) / 2
    lengths = np.sqrt(np.diagonal(squares, 1))
    cosines = products / np.outer(lengths, lengths)
    # a momentum carries each gradient on over 1 / (1 − μ) steps
    least = max(length / APART, 2 / (1 - min(signs.momentum, 0.999)))
    apart = steps[:-1] - steps[:-1, None] >= least
    return _mean_of_pairs(cosines, apart & np.isfinite(cosines))


def _mean_of_pairs(values: np.ndarray, counted: np.ndarray) -> Estimate | None:
    """The mean over pairs of parts, with an interval by leaving out one part at a time."""
    parts = np.flatnonzero(counted.any(axis=0) | counted.any(axis=1))
    if len(parts) < FEWEST_PARTS:
        return None
    means = []
    for part in parts:
        others = counted.copy()
        others[part, :] = False
        others[:, part] = False
        if not others.any():
            return None
        means.append(values[others].mean())
    count = len(parts)
    error = np.sqrt((count - 1) / count * np.square(means - np.mean(means)).sum())
    mean = float(values[counted].mean())
    return Estimate.interval(
        mean,
        mean - 1.645 * error,
        mean + 1.645 * error,
        level=0.9,
        method="jackknife",
        samples=count,
    )


def points_of(
    signs: Signs, first: float, last: float
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points points"]]:
    """The steps of the points of the path between two steps, and the squared distances between all
    of them: of the points that were kept at the later step, when there were more."""
    rows = signs.distances[signs.distances[:, 0] <= last]
    if not len(rows):
        return np.empty(0), np.empty((0, 0))
    newest = rows[-1, 0]
    kept = np.append(rows[rows[:, 0] == newest, 1], newest)
    steps = kept[kept >= first]
    places = {step: place for place, step in enumerate(steps)}
    squares = np.zeros((len(steps), len(steps)))
    for step, earlier, square in rows:
        if step in places and earlier in places:
            squares[places[step], places[earlier]] = square
            squares[places[earlier], places[step]] = square
    return steps, squares
