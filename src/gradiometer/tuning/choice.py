"""The choice of a rate: rounds of branches at growing lengths, each around the best rate of the round before."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from gradiometer.convergence.formulas.number import Amount
from gradiometer.loop.branch import Tail

STEP = 0.5
"""Rates are tried on a grid: one step is half an octave, a factor of √2."""

TIE, TIE_ON_PLATEAU, FALL = 0.003, 0.01, 0.002
"""Scores that differ by less are equal. Of two equal rates the higher one counts as better: short branches lean to
small rates, and low rates do not get off a plateau. In the last round, off a plateau, it is the lower one.
Losses that fall with every higher rate, by more than the last of these in all, are no plateau."""

PLATEAU, LEFT, RISE = 0.03, 0.1, 0.25
"""Shares of the loss at the start. A loss that fell by less than the first has not left the start, and one that fell by
more than the second has. If it rose by more than the third, the branch failed. Between the first and the second only
the simplest thing may have been learnt, such as how frequent the classes are."""

CLIFF = 0.4
"""A rate above the best one whose score is worse by this much has collapsed: the loss is half as high again."""

MOST = 0.06
"""A score that is worse by more counts as this much worse, so that a rate that diverged has a finite weight."""

BELOW, LOWER = 1, 1
"""The last round starts so many steps of the grid below the minimum of the round before, and the choice is so many
below that of the last round: the longer a branch, the lower the rates at which it collapses, and the best one."""

BACK, FAR_BACK = 2, 4
"""Steps of the grid that the choice stays below a rate that diverged or collapsed, and below one at which nothing is
learnt while lower rates learn: short branches survive at rates at which long ones do not."""

GAIN, ABOVE_SLOW = 0.02, 1
"""Where the best branch of the last round has left a plateau, by more than this share of the loss at the start, and
branches at lower rates have not, the choice is this many steps of the grid above the highest rate of those. What a
branch reaches there tells how soon it leaves: a whole training leaves at lower rates, too, and at the highest ones it
collapses."""

LONGER = 2
"""If the first two branches of the last round are on a plateau, one that is so many times as long takes the place of
the others, just above the home. If it does not leave the plateau either, the choice is an octave below the lower one:
parts of some networks stop learning at high rates."""


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
        home: The exponent that is taken where no branch has learnt anything.
    """

    updates: int
    losses: Mapping[int, float]
    before: float = math.inf
    last: bool = False
    home: int = 0

    @property
    def best(self) -> int:
        """The middle of the exponents whose loss is equal to the lowest one.

        Of two in the middle the upper one, or the lower one in the last round. The lowest if all branches failed. While
        none has left the plateau at the start, but the loss falls with every higher rate: the one that it falls to.
        """
        if self.failed:
            return min(self.losses)
        if self.last and self._none_has_left and self._falls:
            return min(self.losses, key=lambda one: self.losses[one])
        equal = self.equal(TIE_ON_PLATEAU if self.unmoved else TIE)
        return equal[(len(equal) - (self.last and not self.unmoved)) // 2]

    def equal(self, tie: float) -> list[int]:
        """The exponents whose score is within this of the lowest loss, the lowest exponent first."""
        return sorted(one for one in self.losses if self.score(one) <= tie)

    @property
    def unmoved(self) -> bool:
        """True if no branch has lowered the loss by much."""
        return min(self.losses.values()) >= self.before - PLATEAU * abs(self.before)

    @property
    def on_plateau(self) -> bool:
        """True if no branch has left the plateau at the start, and losses do not tell which rate leaves it first."""
        if self.failed or not self._none_has_left:
            return False
        return len(self.equal(TIE_ON_PLATEAU)) > 1 and not self._falls

    @property
    def _falls(self) -> bool:
        """True if the loss falls with every higher rate up to the lowest loss, by more than a tie."""
        by_rate = [self.score(one) for one in sorted(self.losses)]
        up_to = by_rate[: by_rate.index(min(by_rate)) + 1]
        return (up_to[0] > FALL if self.last else len(up_to) == len(by_rate)) and all(
            low > high for low, high in pairwise(up_to)
        )

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
        """The exponent where a parabola through the best score and its neighbours is lowest.

        In the last round on a plateau it is the home, or the nearest one that was tried, if the home is worse.
        """
        if self.last and self.on_plateau:
            return float(max(min(self.losses), min(self.home, max(self.equal(TIE_ON_PLATEAU)))))
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
        if not self._has_left(self.best):
            return math.inf
        return min((one for one in self.losses if one > self.best and self.losses[one] >= least), default=math.inf)

    @property
    def slow(self) -> Amount:
        """The highest exponent that has not left a plateau which a higher one has left; −inf if there is none.

        More than half of what the best has gained on the lowest one then lies between it and the next one.
        """
        tried = [one for one in sorted(self.losses) if one <= self.best]
        gain = self.losses[tried[0]] - self.losses[self.best]
        if self._has_left(tried[0]) or not gain > GAIN * abs(self.before):
            return -math.inf
        return max(
            (low for low, high in pairwise(tried) if self.losses[low] - self.losses[high] > gain / 2), default=-math.inf
        )

    @property
    def safe(self) -> Amount:
        """The highest exponent that stays below those that collapsed or are stuck."""
        return min(self.cliff - BACK, self.stuck - FAR_BACK)

    @property
    def limit(self) -> Amount:
        """The highest exponent that these branches allow, wherever their minimum is."""
        return min(self.safe, self.slow + ABOVE_SLOW) if self.last and self.slow > -math.inf else self.safe

    def left_for(self, stage: "Stage") -> int:
        """How many more branches a stage pays for."""
        return stage.most - len(self.losses)

    def has_left(self, shorter: "Round") -> bool:
        """True if a branch has left the plateau on which all of a shorter round are."""
        return min(self.losses.values()) < min(shorter.losses.values()) - GAIN * abs(self.before)

    @property
    def _none_has_left(self) -> bool:
        return min(self.losses.values()) >= self.before - LEFT * abs(self.before)

    def _has_left(self, exponent: int) -> bool:
        """True if the loss has left the plateau at the start."""
        return self.losses[exponent] < self.before - LEFT * abs(self.before)

    def score(self, exponent: int) -> float:
        """How much higher the loss is than the lowest one, as a logarithm if losses are positive."""
        loss, lowest = self.losses[exponent], min(self.losses.values())
        if not math.isfinite(loss):
            return math.inf
        return math.log(loss / lowest) if lowest > 0 else (loss - lowest) / max(abs(lowest), math.ulp(1.0))

    def _from_best(self) -> float:
        """How far the minimum of the parabola is from the best exponent."""
        best, tried = self.best, sorted(self.losses)
        if self.edge or self.failed or self.unmoved:
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
    then: Callable[[bool], Sequence[Stage]],
    *,
    start: int,
    lowest: int,
    highest: int,
    before: float = math.inf,
    lower: int = LOWER,
) -> Choice:
    """Choose a rate by rounds of growing length.

    The first round trains three rates, and continues on the side of the best one until it is between two others. A
    later one trains a rate just below the best one of the round before and one beside it, and continues downhill in the
    loss. The choice is half an octave below the minimum of a parabola through the last round, or at it if all losses
    are equal. It stays an octave below each rate that diverged or collapsed, and two below one at which nothing was
    learnt.

    On a plateau, where no branch has learnt much and their losses are equal, the last round is near the lowest rate of
    the first three, the home. Lower rates leave a plateau later, and at higher ones many trainings never leave it.

    Args:
        train: Trains branches.
        first: The first round.
        then: Called after it, returns the others, for what is left of the budget. Its argument is true on a plateau.
        start: Exponent of the first round's centre.
        lowest: No rate below this exponent is tried.
        highest: No rate above this exponent is tried.
        before: The loss at the start; inf if it is not known.
        lower: Steps of the grid that the choice is below the minimum of the last round.
    """
    rounds = [_climb(train, start, first, lowest, highest, before)]
    stages = [first, *then(rounds[0].on_plateau)]
    for stage in stages[1:]:
        rounds.append(_downhill(train, rounds[-1], stage, lowest, highest))
    place = rounds[-1].minimum
    if len(rounds) > 1 and not rounds[-1].on_plateau:
        is_flat = len(rounds[-1].equal(TIE_ON_PLATEAU)) == len(rounds[-1].losses)
        place = place if is_flat else max(place - lower, float(lowest))
    elif len(rounds) > 1 and rounds[-1].left_for(stages[-1]) >= LONGER:
        below = max(min(rounds[-1].losses) - stages[-1].spacing, lowest)
        rounds.append(_longer(train, rounds[-1], stages[-1]))
        place = float(rounds[-1].best if rounds[-1].has_left(rounds[-2]) else below)
    limit, safe = (min(getattr(one, name) for one in rounds[-2:]) for name in ("limit", "safe"))
    return Choice(min(place, limit), tuple(rounds), place > safe)


def _climb(train: Train, centre: int, stage: Stage, lowest: int, highest: int, before: float) -> Round:
    """Three rates around a centre, and more on the side of the best one until it is between two others."""
    spacing = stage.spacing
    home = centre - spacing
    losses = dict(train(stage, centre, [centre - spacing, centre, centre + spacing]))
    while (made := Round(stage.updates, losses, before, home=home)).edge and (len(losses) < stage.most or made.failed):
        further = max(losses) + spacing if made.edge > 0 else min(losses) - spacing
        if not lowest <= further <= highest:
            break
        losses |= train(stage, centre, [further])
    return made


def below_best(made: Round, lowest: int, highest: int) -> int:
    """The first rate of the round after this one; on a plateau it is just above the home."""
    place = made.home + 1 if made.on_plateau else round(made.minimum - BELOW)
    return int(max(lowest, min(place, highest)))


def _downhill(train: Train, earlier: Round, stage: Stage, lowest: int, highest: int) -> Round:
    """A rate and the one below it, and further ones on the side of the better one until it is between two others.

    While nothing is learnt, it goes on with the rate that is nearest to the home, or below if the highest is worse.
    """
    centre, spacing = below_best(earlier, lowest, highest), stage.spacing
    second = centre - spacing if centre - spacing >= lowest else centre + spacing
    losses = dict(train(stage, centre, [centre, second]))
    while True:
        made = Round(stage.updates, losses, earlier.before, last=True, home=earlier.home)
        further = _further(made, spacing)
        waits = made.on_plateau and made.left_for(stage) == LONGER
        if further is None or waits or len(losses) >= stage.most or not lowest <= further <= highest:
            return made
        losses |= train(stage, centre, [further])


def _longer(train: Train, earlier: Round, stage: Stage) -> Round:
    """One longer branch, at the rate of the round before that is nearest to just above the home."""
    tried = earlier.equal(TIE_ON_PLATEAU)
    exponent = max(tried[0], min(earlier.home + 1, tried[-1]))
    stage = replace(stage, updates=LONGER * stage.updates, most=1)
    return Round(stage.updates, train(stage, exponent, [exponent]), earlier.before, last=True, home=earlier.home)


def _further(made: Round, spacing: int) -> int | None:
    """The exponent to try next; None if the best one is between two others."""
    above, below = max(made.losses) + spacing, min(made.losses) - spacing
    if made.on_plateau or (made.unmoved and not made.edge):
        nearer = abs(above - made.home) <= abs(below - made.home)
        return above if nearer and max(made.losses) in made.equal(TIE_ON_PLATEAU) else below
    return {1: above, -1: below, 0: None}[made.edge]
