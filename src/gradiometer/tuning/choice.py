"""The choice of a rate: rounds of branches at growing lengths, each around the best rate of the round before."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradiometer.convergence.formulas.number import Amount
from gradiometer.forks.branch import Tail

STEP = 0.5
"""Rates are tried on a grid: one step is half an octave, a factor of √2."""

TIE, TIE_ON_PLATEAU = 0.003, 0.01
"""Scores that differ by less are equal. Of two equal rates the higher one counts as better: short branches lean to
small rates, and low rates do not get off a plateau. In the last round, off a plateau, it is the lower one."""

PLATEAU, LEFT, RISE = 0.03, 0.1, 0.25
"""Shares of the loss at the start. A loss that fell by less than the first has not left the start, and one that fell by
more than the second has. If it rose by more than the third, the branch failed."""

CLIFF = 0.4
"""A rate above the best one whose score is worse by this much has collapsed: the loss is half as high again."""

MOST = 0.06
"""A score that is worse by more counts as this much worse, so that a rate that diverged has a finite weight."""

BELOW = 1
"""The last round starts this many steps of the grid below the minimum of the round before: the longer a branch, the
lower the rates at which it collapses."""

BACK, FAR_BACK = 2, 4
"""Steps of the grid that the choice stays below a rate that diverged or collapsed, and below one at which nothing is
learnt while lower rates learn: short branches survive at rates at which long ones do not."""


def rate_of(anchor: Amount, exponent: Amount) -> float:
    """The rate so many steps of the grid above the anchor."""
    return float(anchor * 2 ** (STEP * exponent))


@dataclass(frozen=True)
class Round:
    """Branches of one length at several rates.

    Args:
        updates: Length of a branch.
        losses: The training loss at the end by exponent, inf if the branch diverged.
        before: The loss at the start.
        last: True for the last round.
    """

    updates: int
    losses: Mapping[int, float]
    before: float = math.inf
    last: bool = False

    @property
    def best(self) -> int:
        """The middle of the exponents whose loss is equal to the lowest one.

        Of two in the middle the upper one, or the lower one in the last round. The lowest if all branches failed, and
        of equal ones on a plateau in the last round if the highest rate is worse.
        """
        if self.failed:
            return min(self.losses)
        equal = sorted(one for one in self.losses if self.score(one) <= (TIE_ON_PLATEAU if self.on_plateau else TIE))
        if self.last and self.on_plateau and max(self.losses) not in equal:
            return equal[0]
        return equal[(len(equal) - (self.last and not self.on_plateau)) // 2]

    @property
    def on_plateau(self) -> bool:
        """True if no branch has lowered the loss by much."""
        return min(self.losses.values()) >= self.before - PLATEAU * abs(self.before)

    @property
    def failed(self) -> bool:
        """True if all branches diverged, or ended far above the loss at the start, the lowest rate the least so.

        If the loss falls towards higher rates, the rates are not too high: the loss at the start is that of a few
        batches, and may be far below that of the others.
        """
        lowest = min(self.losses.values())
        if lowest <= self.before + RISE * abs(self.before) and lowest < math.inf:
            return False
        return not lowest < math.inf or self.losses[min(self.losses)] == lowest

    @property
    def edge(self) -> int:
        """1 if the best is the highest of those tried, −1 if it is the lowest, 0 if it is between others."""
        return (self.best == max(self.losses)) - (self.best == min(self.losses))

    @property
    def minimum(self) -> float:
        """The exponent where a parabola through the best score and its neighbours is lowest."""
        return self.best + self._from_best()

    @property
    def cliff(self) -> Amount:
        """The lowest exponent above the best that diverged or collapsed; inf if none did."""
        above = (one for one in self.losses if one > self.best and not self.score(one) <= CLIFF)
        return min(above, default=math.inf)

    @property
    def stuck(self) -> Amount:
        """The lowest exponent above the best that has not lowered the loss at the start, if the best has; else inf."""
        least = self.before - PLATEAU * abs(self.before)
        if not self.losses[self.best] < self.before - LEFT * abs(self.before):
            return math.inf
        return min((one for one in self.losses if one > self.best and self.losses[one] >= least), default=math.inf)

    def score(self, exponent: int) -> float:
        """How much higher the loss is than the lowest one, as a logarithm if losses are positive."""
        loss, lowest = self.losses[exponent], min(self.losses.values())
        if not math.isfinite(loss):
            return math.inf
        return math.log(loss / lowest) if lowest > 0 else (loss - lowest) / max(abs(lowest), math.ulp(1.0))

    def _from_best(self) -> float:
        """How far the minimum of the parabola is from the best exponent."""
        best, tried = self.best, sorted(self.losses)
        if self.edge or self.failed or self.on_plateau:
            return 0.0
        place = tried.index(best)
        below, above = tried[place - 1], tried[place + 1]
        left, right = (max(min(self.score(one) - self.score(best), MOST), 0.0) for one in (below, above))
        back, forth = best - below, above - best
        both = left * forth + right * back
        lowest = (left * forth**2 - right * back**2) / (2 * both) if both > 0 else 0.0
        return max(-back / 2, min(lowest, forth / 2))


@dataclass(frozen=True)
class Stage:
    """What a round may cost.

    Args:
        updates: Length of a branch.
        most: Most branches, at least 3.
        spacing: Steps of the grid between neighbouring rates.
        tail: How the rate of a branch ends.
    """

    updates: int
    most: int
    spacing: int
    tail: Tail = "linear"


Train = Callable[[Stage, int, Sequence[int]], Mapping[int, float]]
"""Trains branches: called with the round, the exponent of its centre, and the exponents to train. Returns the training
loss at the end for each, inf if the branch diverged."""


@dataclass(frozen=True)
class Choice:
    """The rate that was chosen.

    Args:
        exponent: The exponent of the chosen rate, which need not be on the grid.
        rounds: What was tried.
        held: True if the rate was lowered because a rate close above it diverged or collapsed.
    """

    exponent: Amount
    rounds: tuple[Round, ...]
    held: bool


def choose(
    train: Train,
    first: Stage,
    then: Callable[[], Sequence[Stage]],
    *,
    start: int,
    lowest: int,
    highest: int,
    before: float = math.inf,
) -> Choice:
    """Choose a rate by rounds of growing length.

    The first round trains three rates, and continues on the side of the best one until it is between two others. A
    later one trains a rate just below the best one of the round before and one beside it, and continues downhill in the
    loss. The choice is the minimum of a parabola through the last round. It stays an octave below each rate that
    diverged or collapsed, and two below one at which nothing was learnt.

    Args:
        train: Trains branches.
        first: The first round.
        then: Called after it, returns the others, for what is left of the budget.
        start: Exponent of the first round's centre.
        lowest: No rate below this exponent is tried.
        highest: No rate above this exponent is tried.
        before: The loss at the start; inf if it is not known.
    """
    rounds = [_climb(train, float(start), first, lowest, highest, before)]
    stages = [first, *then()]
    for stage in stages[1:]:
        rounds.append(_downhill(train, rounds[-1], stage, lowest, highest))
    place = rounds[-1].minimum
    limit = min(min(one.cliff - BACK, one.stuck - FAR_BACK) for one in rounds[-2:])
    return Choice(min(place, limit), tuple(rounds), place > limit)


def _climb(train: Train, place: float, stage: Stage, lowest: int, highest: int, before: float) -> Round:
    """Three rates around a place, and more on the side of the best one until it is between two others."""
    centre, spacing = round(place), stage.spacing
    losses = dict(train(stage, centre, [centre - spacing, centre, centre + spacing]))
    while (made := Round(stage.updates, losses, before)).edge and (len(losses) < stage.most or made.failed):
        further = max(losses) + spacing if made.edge > 0 else min(losses) - spacing
        if not lowest <= further <= highest:
            break
        losses |= train(stage, centre, [further])
    return made


def below_best(made: Round, lowest: int, highest: int) -> int:
    """The first rate of the round after this one."""
    return int(max(lowest, min(round(made.minimum - BELOW), highest)))


def _downhill(train: Train, earlier: Round, stage: Stage, lowest: int, highest: int) -> Round:
    """A rate and the one below it, and further ones on the side of the better one until it is between two others.

    While nothing is learnt, it goes on below.
    """
    centre, spacing = below_best(earlier, lowest, highest), stage.spacing
    second = centre - spacing if centre - spacing >= lowest else centre + spacing
    losses = dict(train(stage, centre, [centre, second]))
    while (made := Round(stage.updates, losses, earlier.before, last=True)).edge or made.on_plateau or made.failed:
        goes_up = made.edge > 0 and not made.on_plateau
        further = max(losses) + spacing if goes_up else min(losses) - spacing
        if len(losses) >= stage.most or not lowest <= further <= highest:
            break
        losses |= train(stage, centre, [further])
    return made
