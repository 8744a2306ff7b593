"""Racing: alternatives that are clearly worse are stopped early, and the rest of the budget goes to
the close ones."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from gradiometer.arguments import check_level, check_whole
from gradiometer.errors import BadArgument
from gradiometer.loop.branch import Branch, BranchResult, Tail, check_tail
from gradiometer.loop.changes.alternative import Alternative, GoOn
from gradiometer.loop.comparison.effects import Effect, effects_of, readout_name
from gradiometer.loop.comparison.rungs import Rung
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.differences import simultaneous_means

# Trains branches and gives their results, in any order.
Grow = Callable[[Sequence[Branch]], Iterable[BranchResult]]

# Looks after the last rung, each with twice the replicates.
FURTHER_LOOKS = 2

GO_ON = GoOn()


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


@dataclass(frozen=True, eq=False)
class Race:
    """What came of a race.

    Args:
        results: All branches, also those of alternatives that were stopped.
        stops: The alternatives that were stopped, in order.
        left: Names of the others, best first.
        horizon: Length of the last branches in examples.
        spent: Examples that all branches trained on.
        baseline: Name of the baseline.
        readout: Name of the readout that decided.
        level: Confidence level of the race and of `effects`.
    """

    results: tuple[BranchResult, ...] = field(repr=False)
    stops: tuple[Stop, ...]
    left: tuple[str, ...]
    horizon: int
    spent: int
    baseline: str
    readout: str
    level: float

    @property
    def best(self) -> str:
        """Name of the alternative with the best mean at the last horizon."""
        return self.left[0]

    def effects(self, readout: str | None = None) -> tuple[Effect, ...]:
        """The effects at the last horizon, of the alternatives that got there.

        Args:
            readout: Name of the readout; by default the one that decided.
        """
        return effects_of(
            self.results,
            self.baseline,
            readout or self.readout,
            level=self.level,
            horizon=self.horizon,
        )


def race(
    grow: Grow,
    alternatives: Sequence[Alternative],
    rungs: Sequence[Rung],
    *,
    baseline: Alternative = GO_ON,
    budget: int | None = None,
    tail: Tail = "linear",
    readout: str | None = None,
    level: float = 0.9,
) -> Race:
    """Race alternatives over growing horizons. Those that are clearly worse than the best are
    stopped.

    After every stage, each alternative is compared with the one that is best so far, paired by
    replicate. It is stopped
    if it is worse at the level that is left to this look: (1 − level) divided by the number of
    looks, with intervals that cover all alternatives together. Short horizons prefer small rates,
    so before the last horizon an alternative must also be worse at the last horizon, by a line
    through the last two horizons in the logarithm of their length; at the first horizon nothing is
    stopped for that reason. A branch that diverges stops its alternative. The baseline is never
    stopped.

    What stopped alternatives save pays for more replicates at the last horizon, with a look when
    their number has doubled, at most twice. A race ends when one alternative is left, or with its
    budget.

    Args:
        grow: Trains branches; called once for each look.
        alternatives: The alternatives, without the baseline.
        rungs: The stages, by growing horizon: see `rungs_for`.
        baseline: The baseline.
        budget: Examples that all branches together may train on; by default what the rungs cost if
            nothing is stopped.
        tail: How the rate of every branch ends.
        readout: Name of the readout that decides; by default "test_loss" if there is one, else the
            first.
        level: Probability that the truly best alternative is not stopped.

    Source: Maron & Moore (1994), Hoeffding Races; growing horizons: Jamieson & Talwalkar (2016),
        Non-stochastic Best Arm Identification and Hyperparameter Optimization.

    >>> from gradiometer.loop import Rate
    >>> from gradiometer.loop.branch import BranchResult
    >>> from gradiometer.loop.comparison.racing import race
    >>> from gradiometer.loop.comparison.rungs import Rung
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
    check_level(level)
    check_tail(tail)
    names = [one.name for one in (baseline, *alternatives)]
    if len(set(names)) < len(names) or len(names) < 2:
        raise BadArgument(
            "`alternatives` must be different alternatives, and none the baseline, got "
            f"{names[1:]}."
        )
    horizons = [rung.horizon for rung in rungs]
    if not horizons or sorted(set(horizons)) != horizons:
        raise BadArgument(f"`rungs` must have growing horizons, got {horizons}.")
    full = sum(rung.horizon * rung.replicates for rung in rungs) * len(names)
    if budget is not None:
        check_whole("budget", budget, 1)
    racing = _Racing(
        grow,
        {one.name: one for one in (baseline, *alternatives)},
        baseline.name,
        tail,
        readout,
        full if budget is None else budget,
    )
    return racing.run(list(rungs), level)


@dataclass
class _Racing:
    """A race that is going on."""

    grow: Grow
    live: dict[str, Alternative]
    baseline: str
    tail: Tail
    readout: str | None
    budget: int
    results: list[BranchResult] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    spent: int = 0

    def run(self, rungs: Sequence[Rung], level: float) -> Race:
        """All stages, and more replicates at the last horizon."""
        last, before, decided = rungs[-1].horizon, 0, False
        error = (1 - level) / (max(len(rungs) - 1, 1) + FURTHER_LOOKS)
        for rung in rungs:
            if len(self.live) > 1 or not before:
                self.train(rung.horizon, range(rung.replicates))
                decided = self.look(rung.horizon, before, last, error)
                before = rung.horizon
        replicates = rungs[-1].replicates
        for _ in range(FURTHER_LOOKS):
            affordable = replicates + int((self.budget - self.spent) // (len(self.live) * last))
            more = min(2 * replicates, affordable)
            if decided or before < last or more <= replicates:
                break
            self.train(last, range(replicates, more))
            decided, replicates = self.look(last, 0, last, error), more
        name = readout_name(self.results, self.readout)
        means = {each: self.ends(each, before, name).values() for each in self.live}
        left = sorted(
            self.live, key=lambda each: float(np.mean([*means[each]])) if means[each] else math.inf
        )
        return Race(
            tuple(self.results),
            tuple(self.stops),
            tuple(left),
            before,
            self.spent,
            self.baseline,
            name,
            level,
        )

    def train(self, horizon: int, replicates: range) -> None:
        """Branches of all alternatives that are left."""
        wanted = [
            Branch(one, place, horizon, self.tail)
            for place in replicates
            for one in self.live.values()
        ]
        self.spent += horizon * len(wanted)
        self.results += self.grow(wanted)

    def look(self, horizon: int, before: int, last: int, error: float) -> bool:
        """Stop what is clearly worse than the best. True if nothing is left to decide."""
        name = readout_name(self.results, self.readout)
        ends = {each: self.ends(each, horizon, name) for each in self.live}
        means = {each: float(np.mean([*found.values()])) for each, found in ends.items() if found}
        best = min(means, key=lambda each: means[each], default=self.baseline)
        for result in self.results:
            if (
                result.horizon == horizon
                and result.diverged is not None
                and result.alternative in self.live
            ):
                ends.pop(result.alternative, None)
                self.stop(result.alternative, horizon, best, None)
        others = [each for each in ends if each != best and ends[each]]
        gaps = _gaps(ends, others, best)
        decisive = [gaps]
        if horizon < last:
            if not before:
                return len(self.live) == 1
            earlier = _gaps({each: self.ends(each, before, name) for each in ends}, others, best)
            common = min(len(gaps), len(earlier))
            steepness = math.log(last / horizon) / math.log(horizon / before)
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
            self.stop(other, horizon, best, gap)
        return set(worse) == set(others)

    def stop(self, name: str, horizon: int, best: str, gap: Estimate | None) -> None:
        """Note why an alternative is stopped. The baseline is trained further."""
        if name != self.baseline and self.live.pop(name, None) is not None:
            branches = sum(
                result.alternative == name and result.horizon == horizon for result in self.results
            )
            self.stops.append(
                Stop(name, horizon, branches, "worse" if gap else "diverged", best, gap)
            )

    def ends(self, name: str, horizon: int, readout: str) -> dict[int, float]:
        """The readout by replicate, with the sign with which lower is better."""
        found = {
            result.replicate: result.readouts[readout]
            for result in self.results
            if (result.alternative, result.horizon) == (name, horizon)
            and readout in result.readouts
        }
        return {
            each: end.mean if end.lower_is_better else -end.mean
            for each, end in sorted(found.items())
        }


def _gaps(
    ends: Mapping[str, Mapping[int, float]], others: Sequence[str], best: str
) -> Float[np.ndarray, "replicates alternatives"]:
    """How much worse than the best the others are, in each replicate that all have."""
    common = [each for each in ends.get(best, {}) if all(each in ends[other] for other in others)]
    return np.array(
        [[ends[other][each] - ends[best][each] for other in others] for each in common]
    ).reshape(len(common), len(others))
