"""Readings of the learning rate, and the claim that it is too low.

Three readings are independent of each other. The *edge* is how near the steps come to where they
would overshoot, by the curvature along them: where it is measured, it decides. The *reach* is how
far the network may have come. The *direction* is how much the updates of one part of the run point
where those of a later part do: at a good rate the path turns again and again, while a rate that is
far too low goes straight on.
"""

import numpy as np
from jaxtyping import Float

from gradiometer.drift.batch_sharpness import FAR_BELOW
from gradiometer.measurement.estimate import Estimate
from gradiometer.verdict.claims import Claim, Claimed
from gradiometer.verdict.triage.course import ended_at, late_fall
from gradiometer.verdict.triage.length import generalises_worse
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.schedule import is_constant
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import (
    AGREE,
    APART,
    AT_A_GUESS,
    FAR_TOO_LOW,
    FEWEST_PARTS,
    HALF_A_GUESS,
    HALF_OF_THE_EDGE,
    LEARNT,
    LEFT_BEFORE_THE_END,
    LITTLE_LEFT,
    LONG_ENOUGH,
    NEXT_TO_NOTHING,
    OPPOSED,
    REACH,
    REACH_OF_ADAM,
    RISING,
    SAME_DIRECTION,
    SEEN_OF_PLAN,
    SHORT_FOR_AGREEING,
    SOME_DIRECTION,
    STEPS_OF_REACH,
)


def rate_low(signs: Signs, level: Level) -> Claimed | None:
    """All steps are far below the edge of stability; or the network has come next to nowhere; or
    not far, and its loss is above half of a guess; or its path goes straight on while the loss
    falls."""
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
    is_straight = not has_no_room and goes_straight_on(signs, direction, late)
    if not (is_straight or late > LEARNT):
        return None
    too_low = is_below or is_straight
    if not has_no_room:
        too_low |= came_not_far(signs, late) if signs.has_ended else comes_nowhere(signs)
    may_be = not has_no_room and may_be_low(signs, direction, late)
    if not (too_low or may_be) or not (signs.has_ended or shows_its_rate(signs)):
        return None
    share = signs.reach / usual_reach(signs)
    numbers: dict[str, Estimate | float] = {
        "reach": signs.reach,
        "share": share,
        "steps": float(signs.steps),
    }
    if is_below:
        numbers["edge"] = signs.edge
    elif is_straight and direction is not None:
        numbers["direction"] = direction
    is_sure = is_below or (is_straight and keeps(direction, SAME_DIRECTION))
    factor = 2 if not is_sure else 8 if share < NEXT_TO_NOTHING else 4
    is_steep = is_straight and is_plain(signs) and not is_below
    doubts = ("fine_tuning", "steep") if is_steep else ("fine_tuning",)
    factor = min(factor, room_of(signs))
    return Claimed(Claim.RATE_LOW, numbers, (f"rate {factor}x",), doubts, is_certain=bool(too_low))


def is_far_below_the_edge(signs: Signs, level: Level) -> bool:
    """True if all steps were far below the edge of stability.

    The loss must be one that is curved in the outputs. That of quantiles or of absolute errors is
    not, so its batch sharpness is that of the network alone: 0.03 to 0.09 at three good rates.
    """
    return level.known_by in (Known.LABELS, Known.TARGETS) and 0 < signs.edge < FAR_BELOW


def reaches_the_edge(signs: Signs) -> bool:
    """True if steps at twice the rate would overshoot."""
    return signs.edge >= HALF_OF_THE_EDGE


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


def agrees(signs: Signs) -> bool:
    """True if successive gradients of a training under an adaptive optimizer have much in
    common."""
    return signs.family == "adaptive" and signs.cosine > AGREE


def is_mild(low: Claimed) -> bool:
    """True if a rate that is too low brought the network to some distance, its path turns, and its
    steps are not far below the edge: the cure of a small batch raises it by 2.8."""
    share = low.numbers["share"]
    is_far = isinstance(share, float) and share >= NEXT_TO_NOTHING
    return is_far and not {"direction", "edge"} & low.numbers.keys()


def came_not_far(signs: Signs, late: float) -> bool:
    """True if a training that has ended came next to nowhere; or not far, and its loss is above
    half of a guess."""
    share = signs.reach / usual_reach(signs)
    if stands_at_the_edge(signs, share):
        return False
    return bool(share < (1 if late > HALF_A_GUESS else NEXT_TO_NOTHING))


def comes_nowhere(signs: Signs) -> bool:
    """True if a training that goes on will not have come far at its planned end, or has come next
    to nowhere if that is unknown."""
    share = signs.reach / usual_reach(signs)
    planned = signs.facts.get("steps")
    if planned is None:
        limit = NEXT_TO_NOTHING
    else:
        limit = FAR_TOO_LOW * min(STEPS_OF_REACH / planned, 1.0)
    return bool(share < limit) and not stands_at_the_edge(signs, share)


def stands_at_the_edge(signs: Signs, share: float) -> bool:
    """True if gradients of plain SGD point against each other, although weights moved little."""
    return is_plain(signs) and signs.cosine < OPPOSED and share > NEXT_TO_NOTHING


def is_plain(signs: Signs) -> bool:
    """True under SGD without momentum."""
    return signs.family == "sgd" and not signs.momentum


def goes_straight_on(signs: Signs, direction: Estimate | None, late: float) -> bool:
    """True if the path has kept its direction, and the loss fell on it, beyond its error where that
    is at a guess although the network came far; some of its direction, if the loss is still
    high."""
    fell, error = late_fall(signs)
    is_lost = late > AT_A_GUESS and not is_near(signs)
    limit = SOME_DIRECTION if late > HALF_A_GUESS else SAME_DIRECTION
    return keeps(direction, limit) and bool(fell > (1.645 * error if is_lost else 0))


def keeps(direction: Estimate | None, limit: float) -> bool:
    """True if the lower end of the direction is above this."""
    return direction is not None and bool(direction.low > limit)


def may_be_low(signs: Signs, direction: Estimate | None, late: float) -> bool:
    """True if a training that has ended came not far at a rate that fell, and its path kept some of
    its direction: at a constant rate it may have stopped early as well."""
    is_short = signs.has_ended and is_near(signs) and not is_constant(signs)
    return bool(is_short and late > LEARNT) and keeps(direction, SOME_DIRECTION)


def doubt_of(signs: Signs, late: float) -> str:
    """Why a training without a claim may still have a rate that is too low; empty if nothing says
    so.

    Args:
        signs: A training that has ended.
        late: Its loss at the end, in units of a guess.
    """
    if not late > LITTLE_LEFT:
        return ""
    enough = usual_reach(signs) * (SHORT_FOR_AGREEING if agrees(signs) else 1)
    if signs.reach < enough and late > LEARNT:
        return "rate_not_tried"
    direction = direction_of(signs)
    if direction is None:
        # runs before version 0.3 have no path
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
    return bool(signs.reach < usual_reach(signs))


def usual_reach(signs: Signs) -> float:
    """The least reach of trainings at a good rate, of this length and under this optimizer.

    In a short training that is less, so that each step is short as well: one that was stopped early
    is none.
    """
    limit = REACH if signs.family == "sgd" else REACH_OF_ADAM
    return limit * min(signs.steps / STEPS_OF_REACH, 1.0)


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
    apart = steps[:-1] - steps[:-1, None] >= length / APART
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
