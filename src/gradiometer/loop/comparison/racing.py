"""Racing: what a budget affords, and the rule of successive halving that stops alternatives which
are clearly worse, so that the rest goes to the close ones."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.loop.branch import Branch, BranchResult, Tail
from gradiometer.loop.changes.alternative import Alternative, GoOn
from gradiometer.loop.comparison.effects import Effect, effects_of, readout_name
from gradiometer.loop.comparison.halving import Halving, Stage
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.differences import simultaneous_means

# Replicates that are planned for, at most.
REPLICATES = 4

# Share of what is left of the training, below which a horizon leans to small rates.
SHORT = 0.2

# Fewest replicates of branches that go to the end of the training: simultaneous intervals of two
# pairs are three times as wide.
FEWEST_TO_END = 3


class Rung(msgspec.Struct, frozen=True, array_like=True):
    """A stage of a race: all alternatives that are left, at this horizon, in this many replicates.

    Args:
        horizon: Length of the branches in examples.
        replicates: Replicates of each alternative.
    """

    horizon: Annotated[int, msgspec.Meta(ge=1)]
    replicates: Annotated[int, msgspec.Meta(ge=2)]


def rungs_for(
    alternatives: int, budget: int, *, left: int | None = None, shortest: int = 1, unit: int = 1
) -> tuple[Rung, ...]:
    """The stages of a race that this budget pays for even if no alternative is stopped.

    One stage to the end of the training, with three replicates or four, if the budget pays for
    that; the race decides on the rest. Otherwise three horizons, each twice the one before, with
    four replicates. If the last one would be below 20 % of what is left, first replicates and then
    early stages are given up for a longer one.

    Args:
        alternatives: Number of alternatives, with the baseline.
        budget: Examples that all branches together may train on.
        left: Examples that are left of the training: no horizon is longer.
        shortest: Fewest examples of a horizon, such as those of 16 updates.
        unit: Examples of which a horizon has a whole number.

    Raises:
        BadArgument: The budget does not pay for two replicates of the shortest horizon.

    >>> from gradiometer.loop.comparison.racing import rungs_for
    >>> rungs_for(alternatives=5, budget=70_000, left=10_000)
    (Rung(horizon=500, replicates=4), Rung(horizon=1000, replicates=4), Rung(horizon=2000, replicates=4))
    """
    most = math.inf if left is None else left
    wanted = shortest if left is None else max(SHORT * left, shortest)
    if left is not None and budget >= FEWEST_TO_END * alternatives * left:
        return (Rung(left, min(budget // (alternatives * left), REPLICATES)),)
    # the first that the budget pays for, or the last; an interval needs two replicates
    for replicates, rungs in [(REPLICATES, 3), (3, 3), (3, 2), (2, 2), (2, 1)]:
        # Each horizon is this many times the one before.
        shares = [2**-back for back in reversed(range(rungs))]
        last = int(min(budget / (alternatives * replicates * sum(shares)), most))
        if last >= wanted:
            break
    if not last >= shortest:
        needed = shortest * alternatives * 2
        raise BadArgument(
            f"`budget` pays for branches of {last:,} examples, fewer than {shortest:,}: give at "
            f"least {needed:,} examples, or fewer alternatives."
        )
    return tuple(
        Rung(max(int(last * share) // unit, 1) * unit, replicates)
        for share in shares
        if last * share >= shortest
    )


# Trains branches and gives their results, in any order.
Grow = Callable[[Sequence[Branch]], Iterable[BranchResult]]

# Looks after the last rung, each with twice the replicates.
FURTHER_LOOKS = 2

GO_ON = GoOn().name


@dataclass(frozen=True)
class Stop:
    """An alternative that was stopped.

    Args:
        alternative: Its name.
        horizon: Length of its last branches in examples.
        replicates: Number of its last branches.
        reason: worse: clearly worse than the best. diverged: a branch diverged.
        behind: The alternative that was best then.
        gap: How much worse it was, as a positive number, with the interval that decided; None if it
            diverged.
    """

    alternative: str
    horizon: int
    replicates: int
    reason: Literal["worse", "diverged"]
    behind: str
    gap: Estimate | None


# A branch of a race: the name of its alternative, and its replicate.
Trial = tuple[str, int]


class Race:
    """A race, and what came of it. Made by `race`.

    Args:
        grow: Trains branches.
        live: The alternatives that are not stopped, with the baseline, by name.
        tail: How the rate of every branch ends.
        budget: Examples that all branches together may train on.
        end: The length in examples at which alternatives are compared, that of the last stage.

    Attributes:
        stops: The alternatives that were stopped, in order.
        horizon: Length of the last branches in examples.
    """

    def __init__(
        self, grow: Grow, live: dict[str, Alternative], tail: Tail, budget: int, end: int
    ) -> None:
        def train(trials: Sequence[Trial], horizon: float) -> dict[Trial, BranchResult]:
            branches = [
                Branch(self.live[name], replicate, int(horizon), tail) for name, replicate in trials
            ]
            return {(each.alternative, each.replicate): each for each in grow(branches)}

        self.live = live
        self.end = end
        self.stops = list[Stop]()
        self.horizon = 0
        # The tail depends on the horizon, so a longer branch begins anew.
        self._halving = Halving(train, float(budget), continues=False)

    @property
    def results(self) -> list[BranchResult]:
        """All branches, also those of alternatives that were stopped."""
        return [end for each in self._halving.rounds for end in each.ends.values()]

    @property
    def spent(self) -> int:
        """Examples that all branches trained on."""
        return int(self._halving.spent)

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the alternatives that are not stopped, best first."""
        means = {
            name: float(np.mean([*found.values()])) if found else math.inf
            for name, found in self.ends(self.horizon).items()
        }
        return tuple(sorted(self.live, key=lambda name: means[name]))

    @property
    def best(self) -> str:
        """Name of the alternative with the best mean at the last horizon."""
        return self.left[0]

    def effects(self) -> tuple[Effect, ...]:
        """The effects at the last horizon, of the alternatives that got there."""
        return effects_of(self.results, GO_ON, horizon=self.horizon)

    def run(self, rungs: Sequence[Rung]) -> None:
        """All stages, and more replicates at the last horizon."""
        self._halving.run(self._stages(rungs))

    def _stages(self, rungs: Sequence[Rung]) -> Iterator[Stage[Trial]]:
        before, decided = 0, False
        # the truly best alternative is stopped in at most 10 % of races
        error = 0.1 / (max(len(rungs) - 1, 1) + FURTHER_LOOKS)
        for rung in rungs:
            if len(self.live) > 1 or not self.horizon:
                before, self.horizon = self.horizon, rung.horizon
                yield self._stage(range(rung.replicates))
                decided = self.look(before, error, is_last=rung is rungs[-1])
        replicates = rungs[-1].replicates
        for _ in range(FURTHER_LOOKS):
            if decided or self.horizon < rungs[-1].horizon:
                break
            affordable = int(self._halving.rest // (len(self.live) * self.horizon))
            more = min(2 * replicates, replicates + affordable)
            if more <= replicates:
                break
            yield self._stage(range(replicates, more))
            replicates = more
            decided = self.look(before, error, is_last=True)

    def _stage(self, replicates: range) -> Stage[Trial]:
        """Branches of all alternatives that are left."""
        return Stage(
            [(name, place) for place in replicates for name in self.live], float(self.horizon)
        )

    def look(self, before: int, error: float, *, is_last: bool) -> bool:
        """Stop what is clearly worse than the best. True if nothing is left to decide.

        Args:
            before: The horizon before this one; 0 if there is none.
            error: The probability of an error that is left to this look.
            is_last: True at the last stage: what is worse at its only horizon is stopped.
        """
        ends = self.ends(self.horizon)
        means = {each: float(np.mean([*found.values()])) for each, found in ends.items() if found}
        best = min(means, key=lambda each: means[each], default=GO_ON)
        for result in self.results:
            if (
                result.horizon == self.horizon
                and result.diverged is not None
                and result.alternative in self.live
            ):
                ends.pop(result.alternative, None)
                self.stop(result.alternative, best, None)
        others = [each for each in ends if each != best and ends[each]]
        gaps = _gaps(ends, others, best)
        decisive = [gaps]
        if self.horizon < self.end and not before and not is_last:
            return len(self.live) == 1
        if self.horizon < self.end and before:
            earlier = _gaps(self.ends(before), others, best)
            common = min(len(gaps), len(earlier))
            steepness = math.log(self.end / self.horizon) / math.log(self.horizon / before)
            decisive.append(gaps[:common] + steepness * (gaps[:common] - earlier[:common]))
        if not others or min(map(len, decisive)) < 2:
            return not others
        here, *there = (simultaneous_means(each, level=1 - 2 * error) for each in decisive)
        worse = {
            other: gap
            for place, (other, gap) in enumerate(zip(others, here, strict=True))
            if gap.low > 0 and all(each[place].low > 0 for each in there)
        }
        for other, gap in worse.items():
            self.stop(other, best, gap)
        return set(worse) == set(others)

    def stop(self, name: str, best: str, gap: Estimate | None) -> None:
        """Note why an alternative is stopped. The baseline is trained further."""
        if name != GO_ON and self.live.pop(name, None) is not None:
            branches = sum(
                result.alternative == name and result.horizon == self.horizon
                for result in self.results
            )
            reason: Literal["worse", "diverged"] = "worse" if gap else "diverged"
            self.stops.append(Stop(name, self.horizon, branches, reason, best, gap))

    def ends(self, horizon: int) -> dict[str, dict[int, float]]:
        """The costs of the branches of each live alternative at a horizon, by replicate."""
        name = readout_name(self.results, None)
        found: dict[str, dict[int, float]] = {each: {} for each in self.live}
        for result in sorted(self.results, key=lambda result: result.replicate):
            if (
                result.horizon == horizon
                and result.alternative in found
                and name in result.readouts
            ):
                found[result.alternative][result.replicate] = result.readouts[name].cost
        return found


def race(
    grow: Grow,
    alternatives: Sequence[Alternative],
    rungs: Sequence[Rung],
    *,
    budget: int | None = None,
    tail: Tail = "linear",
) -> Race:
    """Race alternatives over growing horizons. Those that are clearly worse than the best are
    stopped.

    After every stage, each alternative is compared with the one that is best so far, paired by
    replicate. It is stopped
    if it is worse at the level that is left to this look: 10 % divided by the number of looks, with
    intervals that cover all alternatives together. Short horizons prefer small rates,
    so before the last horizon an alternative must also be worse at the last horizon, by a line
    through the last two horizons in the logarithm of their length; at the first horizon nothing is
    stopped for that reason. A branch that diverges stops its alternative. The baseline is never
    stopped.

    What the stages and stopped alternatives leave pays for more replicates at the last horizon;
    with a look after each, at most twice. A race ends when one alternative is left, or with its
    budget.

    Args:
        grow: Trains branches; called once for each look.
        alternatives: The alternatives, without the baseline.
        rungs: The stages, by growing horizon: see `rungs_for`.
        budget: Examples that all branches together may train on; by default what the rungs cost if
            nothing is stopped.
        tail: How the rate of every branch ends.

    Source: Maron & Moore (1994), Hoeffding Races; growing horizons: Jamieson & Talwalkar (2016),
        Non-stochastic Best Arm Identification and Hyperparameter Optimization.

    >>> from gradiometer.loop import Rate
    >>> from gradiometer.loop.branch import BranchResult
    >>> from gradiometer.loop.comparison.racing import race
    >>> from gradiometer.loop.comparison.racing import Rung
    >>> from gradiometer.loop.readout import Readout
    >>> def grow(branches):
    ...     for branch in branches:
    ...         loss = {"go on": 0.5, "rate 2x": 0.4, "rate 4x": 0.9}[branch.alternative.name] + 1 / branch.horizon
    ...         loss += 0.01 * (branch.replicate + len(branch.alternative.name)) % 0.013
    ...         readouts = {"test_loss": Readout(loss)}
    ...         size = branch.horizon
    ...         yield BranchResult(branch.alternative.name, branch.replicate, size, 1, size, 1.0, (), readouts)
    >>> found = race(grow, [Rate(2), Rate(4)], [Rung(100, 4), Rung(200, 4), Rung(400, 4)])
    >>> found.best, [(stop.alternative, stop.horizon) for stop in found.stops]
    ('rate 2x', [('rate 4x', 200)])
    """
    live = {one.name: one for one in (GoOn(), *alternatives)}
    if budget is None:
        budget = sum(rung.horizon * rung.replicates for rung in rungs) * len(live)
    found = Race(grow, live, tail, budget, rungs[-1].horizon)
    found.run(rungs)
    return found


def _gaps(
    ends: Mapping[str, Mapping[int, float]], others: Sequence[str], best: str
) -> Float[np.ndarray, "replicates alternatives"]:
    """How much worse than the best the others are, in each replicate that all have."""
    common = [each for each in ends.get(best, {}) if all(each in ends[other] for other in others)]
    return np.array(
        [[ends[other][each] - ends[best][each] for other in others] for each in common]
    ).reshape(len(common), len(others))
