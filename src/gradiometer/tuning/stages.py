"""What a budget pays for: the rounds of a tuning, and the lengths of their branches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradiometer.errors import BadArgument
from gradiometer.loop.branch import Tail
from gradiometer.tuning.choice import Stage

FEWEST = 16
"""Fewest updates of a branch and of the probe."""

MOST_SHORT, MOST_PACED = 6, 10
"""The fewest updates may take this part of the training, one in so many; the second with several batch sizes."""

FIRST_SHARE, FIRST_SPACING, FIRST_MOST = 1 / 18, 4, 7
"""Length of the branches of the first round, as a share of the training; steps of the grid between its rates, two
octaves; and the most branches, which it needs only if the best rate is far from where it started."""

LAST_SHARE, SPACING, LAST_MOST, MOST_ON_PLATEAU = 0.4, 2, 3, 4
"""The same of the last round; its branches are shorter if the budget does not pay for this length. Few long branches
are better than many short ones (docs/studies/tuning.md). If the first round is on a plateau it has one more, for two
short ones and a long one."""

LAST_TAIL: Tail = "third"
"""In the last round the rate is kept for most of a branch, as it is in the first half of a training: rates at which
a training collapses later look good in branches of this length whose rate falls from the start."""

LEAST_BRANCHES = 3
"""Fewest branches of a round."""

SHARE_FIRST = 0.6
"""Most of the budget that the first round of a race uses, if three branches of each optimizer cost less."""


@dataclass(frozen=True)
class Rounds:
    """The rounds that a budget pays for.

    Args:
        steps: Updates of the training.
        whole: The budget, in units of the training.
        spent: What the probes have cost, in updates.
        readout: What the readout of a branch costs, in updates.
        lanes: Number of batch sizes, or of optimizers without those that differ in weight decay only.
        decays: Number of weight decays.
        replicates: Data orders of every rate.
        slowest: The least pace of a batch size: it makes so many updates in those of the first one.
    """

    steps: int
    whole: float
    spent: float
    readout: float
    lanes: int = 1
    decays: int = 1
    replicates: int = 1
    slowest: float = 1.0

    @property
    def budget(self) -> float:
        """What is left of it for the branches of one data order, in units of the training."""
        return (self.whole - self.spent / self.steps) / self.replicates

    @property
    def first(self) -> Stage:
        """The first round.

        Raises:
            BadArgument: The budget does not pay for it.
        """
        most = self.steps // (MOST_SHORT if self.slowest == 1 else MOST_PACED)
        fewest = min(math.ceil(FEWEST / self.slowest), max(most, 1))
        updates = max(round(FIRST_SHARE * self.steps), fewest)
        each = self.budget * self.steps / (updates + self.readout) / self.lanes
        if not each >= LEAST_BRANCHES:
            total = self.replicates * self.lanes * LEAST_BRANCHES * (updates + self.readout)
            needed = math.ceil(100 * (total + self.spent) / self.steps + 1e-6) / 100
            whose = (
                f" of each of {self.lanes} {'optimizers' if self.slowest == 1 else 'batch sizes'}"
                if self.lanes > 1
                else ""
            )
            raise BadArgument(
                f"`budget` pays for no three branches of {updates} updates{whose} and the probe: give at least "
                f"{needed:g}."
            )
        alone = self.lanes == 1 and self.decays == 1
        branches = int(each) if alone else max(int(SHARE_FIRST * each), LEAST_BRANCHES)
        return Stage(updates, min(branches, FIRST_MOST), FIRST_SPACING)

    def then(self, spent: float, on_plateau: bool) -> Sequence[Stage]:
        """The last round, after so many updates, if its branches are longer than those of the first.

        Args:
            spent: What the branches have cost so far, in updates.
            on_plateau: True if those of the first round are on a plateau.
        """
        most = MOST_ON_PLATEAU if on_plateau else LAST_MOST
        length = int(min((self.budget * self.steps - spent) / most - self.readout, LAST_SHARE * self.steps))
        return [Stage(length, most, SPACING, LAST_TAIL)] if length > self.first.updates else []

    def final(self, spent: float) -> Stage | None:
        """The last round of a race, after so many updates; None if the budget does not pay for it.

        Two branches of each of two optimizers, one of each other weight decay, and those that the best one lacks.
        """
        raced = 4 if self.lanes > 1 else 1
        branches = raced + self.decays - 1 + (1 if self.decays == 1 else 2)
        left = self.budget * self.steps - spent
        updates = min(int(left / branches - self.readout), int(LAST_SHARE * self.steps))
        return Stage(updates, LEAST_BRANCHES, SPACING, LAST_TAIL) if updates > self.first.updates else None
