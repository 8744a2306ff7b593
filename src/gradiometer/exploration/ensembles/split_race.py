"""The race between splits of one budget: a pair of members each, the rest only of the one that is best."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.calibration import Labels, LogProbabilities
from gradiometer.exploration.ensembles.ensemble_forecast import ensemble_forecast, member_losses
from gradiometer.exploration.ensembles.scores import UNITS
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.measurement.uncertainty.skewed import skewed_mean

PAIR = 2
"""Members of a split that is not known to be the best."""

DOUBT = 1.0
"""Standard errors by which the forecast of a split must be worse than the best, for the split to be left out."""

Train = Callable[[int, int, Sequence[int]], Sequence[LogProbabilities]]
"""Trains members: called with the number of members of a split, the steps of each, and the numbers of those to train.
Returns the log-probabilities that each gives to all held-out examples."""


@dataclass
class Lane:
    """A split in the race.

    Args:
        members: Number of members that the budget pays for.
        steps: Steps of each.
        said: Log-probabilities of all held-out examples, for every member that is trained so far.
    """

    members: int
    steps: int
    said: list[LogProbabilities] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True if all its members are trained."""
        return len(self.said) == self.members


class Race:
    """Lanes that are compared on the examples that choose.

    Args:
        labels: Classes of all held-out examples.
        choosing: True for those that choose.
        score: The score that is compared, such as "brier".
        level: Confidence level of every interval.

    Attributes:
        lanes: The lanes so far.
    """

    def __init__(self, labels: Labels, choosing: Bool[np.ndarray, " examples"], score: str, level: float) -> None:
        self.labels, self.choosing, self.score, self.level = labels, choosing, score, level
        self.lanes: list[Lane] = []

    def run(self, train: Train, counts: Sequence[int], steps: int) -> Lane:
        """Race splits of a budget. Returns the best one, with all its members.

        The split with the fewest members and the one in the middle come first, each with a pair of members at most.
        Another one gets its pair only if it may be better than the best so far, see `may_win`. The split with the
        lowest forecast gets the rest of its members. If it is then above the forecast of another one, that one gets the
        rest, too.

        Args:
            train: Trains members.
            counts: Numbers of members of the splits.
            steps: The budget, in steps of training.
        """
        waiting = [Lane(members, round(steps / members)) for members in sorted(counts)]
        entering = [waiting[0], waiting[len(waiting) // 2]]
        while entering:
            for lane in entering:
                waiting.remove(lane)
                self._grow(lane, train, min(lane.members, PAIR))
                self.lanes.append(lane)
            entering = [lane for lane in waiting if self.may_win(lane)][-1:]  # the one that costs least
        while not (best := self.best(self.lanes)).complete:
            self._grow(best, train, best.members)
        return best

    def may_win(self, lane: Lane) -> bool:
        """True if a split without members may be better than the best one.

        Between two lengths that were tried, the score of one member is at least what it is if it falls as 1/steps, and
        a pair gains at most what it gains at the shorter length. Such a forecast must be above the best by more than
        `DOUBT` standard errors, over examples and over members. Shorter members than all that were tried may win if
        the shortest of these are not shown to be worse than the best. So may those between two lengths of which the
        longer is the worse.
        """
        best = self.best(self.lanes)
        longer = max((one for one in self.lanes if one.steps > lane.steps), key=lambda one: one.members)
        shorter = min((one for one in self.lanes if one.steps < lane.steps), key=lambda one: one.members, default=None)
        if shorter is None:
            return longer is best or self.difference(longer, best).low <= 0
        long, short = (self._alone(one).mean(axis=0) for one in (longer, shorter))
        if short.mean() <= long.mean():
            return True
        share = (lane.members - longer.members) / (shorter.members - longer.members)
        gain = (short - self._losses(shorter)) * (1 - 1 / lane.members) / (1 - 1 / shorter.members)
        gap = long + share * (short - long) - gain - self._losses(best)
        parts = ((long, (1 - share) ** 2 / len(longer.said)), (short, share**2 / len(shorter.said)))
        variance = self._spread()[0] * sum(part * float(each.mean()) ** 2 for each, part in parts)
        variance += float(gap.var()) / len(gap) + self._variance(best)
        return float(gap.mean()) < DOUBT * math.sqrt(variance)

    def best(self, lanes: Sequence[Lane]) -> Lane:
        """The lane with the lowest forecast."""
        return min(lanes, key=lambda lane: float(self._losses(lane).mean()))

    def forecast(self, lane: Lane) -> Estimate:
        """The score of a lane's ensemble when all its members are trained, on other examples of the kind."""
        plain = skewed_mean(self._losses(lane), level=self.level, unit=UNITS[self.score])
        return self._widened(plain, self._variance(lane), "skewness removed")

    def difference(self, lane: Lane, other: Lane) -> Estimate:
        """The forecast of a lane less that of another, paired by example. Below zero, the lane is better."""
        gap = self._losses(lane) - self._losses(other)
        plain = mean(gap, level=self.level, unit=UNITS[self.score], batches=len(gap))
        return self._widened(plain, self._variance(lane) + self._variance(other), "paired by example")

    def _grow(self, lane: Lane, train: Train, count: int) -> None:
        """Train the members of a lane up to this number."""
        lane.said += train(lane.members, lane.steps, range(len(lane.said), count))

    def _losses(self, lane: Lane) -> Float[np.ndarray, " choosing"]:
        members = [said[self.choosing] for said in lane.said]
        return ensemble_forecast(members, self.labels[self.choosing], lane.members, score=self.score)

    def _alone(self, lane: Lane) -> Float[np.ndarray, "members choosing"]:
        """The loss of every member alone."""
        members = [said[self.choosing] for said in lane.said]
        return member_losses(members, self.labels[self.choosing], self.score)

    def _spread(self) -> tuple[float, int]:
        """Variance of a member's score over its square, pooled over the lanes, and its degrees of freedom."""
        total, freedom = 0.0, 0
        for alone in (self._alone(lane).mean(axis=1) for lane in self.lanes):
            total += float(((alone / alone.mean() - 1) ** 2).sum())
            freedom += len(alone) - 1
        return (total / freedom if freedom else 0.0), freedom

    def _variance(self, lane: Lane) -> float:
        """Variance of a forecast from the members that are not trained yet. The trained ones are in the ensemble."""
        share = 1 / len(lane.said) - 1 / lane.members
        return share * self._spread()[0] * float(self._alone(lane).mean()) ** 2 if share > 0 else 0.0

    def _widened(self, plain: Estimate, variance: float, words: str) -> Estimate:
        """The interval over examples, wider by the part of the members."""
        freedom = max(self._spread()[1], 1)
        margin = float(stdtrit(freedom, (1 + self.level) / 2)) * math.sqrt(variance)
        return Estimate.interval(
            plain.value,
            plain.value - math.hypot(plain.value - plain.low, margin),
            plain.value + math.hypot(plain.high - plain.value, margin),
            level=self.level,
            method=f"Student over examples and over members, {words}",
            samples=plain.samples,
            unit=plain.unit,
        )


def check_counts(counts: Sequence[int], steps: int) -> tuple[int, ...]:
    """The numbers of members of the splits, each once, if a budget can be split so.

    Raises:
        BadArgument: There are fewer than two, a member would have no step, or those of two splits equally many.
    """
    check_whole("steps", steps, 1)
    for count in counts:
        check_whole("members", count, 1)
    different = tuple(sorted(set(counts)))
    if not len(different) >= 2:
        raise BadArgument(f"`members` must be at least two different numbers to choose from, got {list(counts)}.")
    if not different[-1] <= steps:
        raise BadArgument(f"`members` must be at most the {steps:,} steps of the budget, got {different[-1]}.")
    lengths = [round(steps / count) for count in different]
    if len(set(lengths)) < len(lengths):
        raise BadArgument(
            f"`members` must give runs of different lengths, got {list(counts)}: of {steps:,} steps, runs of "
            f"{', '.join(map(str, lengths))}. Leave some out."
        )
    return different
