"""Successive halving: contestants are trained to growing lengths, and after each stage a rule picks
who is trained further. Races of forks and of learning rates are rules on it."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Contestant = TypeVar("Contestant", bound=Hashable)
End = TypeVar("End")


@dataclass(frozen=True)
class Stage(Generic[Contestant]):
    """What is trained next.

    Args:
        contestants: Who is trained.
        length: To what length, in the unit of the budget.
    """

    contestants: Sequence[Contestant]
    length: float


@dataclass(frozen=True)
class Round(Generic[Contestant, End]):
    """The ends of all contestants that were trained to one length.

    Args:
        length: Their length, in the unit of the budget.
        ends: What each of them has come to.
    """

    length: float
    ends: dict[Contestant, End]


@dataclass(eq=False)
class Halving(Generic[Contestant, End]):
    """Trains the stages that a rule names, and keeps the account: rounds, costs, lengths.

    A rule is a generator of stages. It sees the rounds so far each time before it names the next
    stage, so that it can stop contestants, add new ones, or end.

    Args:
        train: Trains contestants to a length, and returns what each of them has come to. One that
            has no end, since the training was interrupted, may be missing.
        budget: The most that may be spent. The rule is the one that keeps to it.
        continues: True if a contestant continues from the length that it has reached; False if it
            is trained from the start to every length.
        readout: The cost of reading out one contestant.
        spent: The cost so far.
        rounds: The rounds so far, by growing length.
        reached: The length that each contestant has reached.

    Source: Jamieson & Talwalkar (2016), Non-stochastic Best Arm Identification and Hyperparameter
        Optimization.

    >>> from gradiometer.loop.comparison.halving import Halving, Stage
    >>> def stages():
    ...     yield Stage("abcd", 1.0)
    ...     ends = halving.rounds[-1].ends
    ...     yield Stage(sorted(ends, key=ends.get)[:2], 2.0)
    >>> losses = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0}
    >>> halving = Halving(lambda names, length: {name: losses[name] for name in names}, budget=8.0)
    >>> halving.run(stages())
    >>> halving.rounds[-1].ends, halving.spent
    ({'b': 1.0, 'c': 2.0}, 6.0)
    """

    train: Callable[[Sequence[Contestant], float], Mapping[Contestant, End]] = field(repr=False)
    budget: float
    continues: bool = True
    readout: float = 0.0
    spent: float = 0.0
    rounds: list[Round[Contestant, End]] = field(default_factory=list)
    reached: dict[Contestant, float] = field(default_factory=dict)

    @property
    def rest(self) -> float:
        """The rest of the budget."""
        return self.budget - self.spent

    def cost(self, stage: Stage[Contestant]) -> float:
        """What it costs to train a stage, and to read it out."""
        return math.fsum(
            stage.length - (self.reached.get(each, 0.0) if self.continues else 0.0) + self.readout
            for each in stage.contestants
        )

    def run(self, rule: Iterable[Stage[Contestant]]) -> None:
        """Train every stage of a rule. Stages of the same length in a row are one round."""
        for stage in rule:
            # spent before it is trained, so that a forecast of the rest can be made meanwhile
            self.spent += self.cost(stage)
            ends = self.train(stage.contestants, stage.length)
            self.reached |= dict.fromkeys(stage.contestants, stage.length)
            if not self.rounds or self.rounds[-1].length != stage.length:
                self.rounds.append(Round(stage.length, {}))
            self.rounds[-1].ends.update(ends)
