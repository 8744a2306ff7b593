"""`Plan`: what a fork is asked to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument
from gradiometer.loop.branch import Branch, BranchResult, Tail, check_tail
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import Alternative, GoOn
from gradiometer.loop.changes.text import alternative_of
from gradiometer.loop.comparison.rungs import Rung

# More would fill the memory before the first branch is trained.
MOST_REPLICATES = 10_000


@dataclass(frozen=True)
class Plan:
    """What a fork is asked to do. The same plan from the same state gives the same numbers.

    Args:
        step: Index of the first update of the branches.
        alternatives: What is compared with going on as it is.
        replicates: Number of data orders, each common to all alternatives; at most 10,000.
        horizon: Length of a branch in examples.
        tail: How the rate of every branch ends.
        seed: Seed of the data orders and random draws.
        left: Examples that are left in the training; None if that is not known.
        own_until: Step up to which all branches see the batches of the run itself.
        rungs: The stages of a race, whose last horizon is `horizon`; empty if all branches are
            trained.
        state: Digits that identify the state, if it is not that of a run at `step`.

    Raises:
        BadArgument: A number or the tail cannot be used, or an alternative is given twice.

    >>> from gradiometer.loop import Rate
    >>> from gradiometer.loop.recorded.plan import Plan
    >>> plan = Plan(step=100, alternatives=(Rate(2),), replicates=2, horizon=6_400)
    >>> [branch.alternative.name for branch in plan.branches]
    ['go on', 'rate 2x', 'go on', 'rate 2x']
    """

    step: int
    alternatives: tuple[Alternative, ...]
    replicates: int
    horizon: int
    tail: Tail = "linear"
    seed: int = 0
    left: int | None = None
    own_until: int = 0
    rungs: tuple[Rung, ...] = ()
    state: str = ""

    def __post_init__(self) -> None:
        for name, least in (
            ("step", 0),
            ("replicates", 1),
            ("horizon", 1),
            ("seed", 0),
            ("own_until", 0),
        ):
            check_whole(name, getattr(self, name), least)
        if self.replicates > MOST_REPLICATES:
            raise BadArgument(
                f"`replicates` must be at most {MOST_REPLICATES:,}, got {self.replicates:,}."
            )
        check_tail(self.tail)
        if not self.alternatives:
            raise BadArgument(
                "`alternatives` must be a list of at least one alternative, such as ['rate 2x']."
            )
        for name in self.names:
            if self.names.count(name) > 1:
                raise BadArgument(
                    f"`alternatives` has {name!r} twice; the baseline, 'go on', is always included."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the baseline and of the alternatives."""
        return (GoOn().name, *(one.name for one in self.alternatives))

    @property
    def horizons(self) -> tuple[int, ...]:
        """The lengths of branches in examples; several in a race."""
        return tuple(rung.horizon for rung in self.rungs) or (self.horizon,)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """All branches, one replicate after another. In a race, those that are trained if nothing
        is stopped."""
        stages = [(rung.horizon, rung.replicates) for rung in self.rungs] or [
            (self.horizon, self.replicates)
        ]
        return tuple(
            Branch(alternative, replicate, horizon, self.tail)
            for horizon, replicates in stages
            for replicate in range(replicates)
            for alternative in (GoOn(), *self.alternatives)
        )

    def fork(self, results: Sequence[BranchResult]) -> Fork:
        """The fork with the longest of these branches, and with the alternatives that have any of
        them."""
        longest = max((result.horizon for result in results), default=self.horizon)
        chosen = [result for result in results if result.horizon == longest]
        others = tuple(result for result in results if result.horizon != longest)
        chosen.sort(key=lambda result: (result.replicate, self.names.index(result.alternative)))
        tried = {result.alternative for result in chosen}
        return Fork(
            step=self.step,
            alternatives=tuple(one for one in self.alternatives if one.name in tried),
            replicates=len({result.replicate for result in chosen}),
            horizon=longest,
            results=tuple(chosen),
            tail=self.tail,
            seed=self.seed,
            left=self.left,
            shorter=others,
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types."""
        rungs = [[rung.horizon, rung.replicates] for rung in self.rungs]
        return {
            **vars(self),
            "alternatives": [one.to_dict() for one in self.alternatives],
            "rungs": rungs,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Plan":
        """The plan from the result of `to_dict`.

        Raises:
            BadArgument: It is not one.
        """
        try:
            alternatives = tuple(map(alternative_of, stored["alternatives"]))
            rungs = tuple(Rung(horizon, replicates) for horizon, replicates in stored["rungs"])
            return cls(**{**stored, "alternatives": alternatives, "rungs": rungs})
        except (KeyError, TypeError, ValueError) as error:
            raise BadArgument(f"`plan` is damaged: {error}.") from error
