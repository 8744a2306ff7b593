"""What a race can afford: horizons and replicates for a budget."""

import math
from dataclasses import dataclass

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument

# Each horizon is this many times the one before.
GROWTH = 2

# Most horizons, and the replicates that are planned for, at most and at least.
MOST_RUNGS, REPLICATES, FEWEST_REPLICATES = 3, 4, 2

# Share of what is left of the training, below which a horizon leans to small rates.
SHORT = 0.2


@dataclass(frozen=True)
class Rung:
    """A stage of a race: all alternatives that are left, at this horizon, in this many replicates.

    Args:
        horizon: Length of the branches in examples.
        replicates: Replicates of each alternative.
    """

    horizon: int
    replicates: int

    def __post_init__(self) -> None:
        check_whole("horizon", self.horizon, 1)
        check_whole("replicates", self.replicates, 2)


def rungs_for(
    alternatives: int, budget: int, *, left: int | None = None, shortest: int = 1
) -> tuple[Rung, ...]:
    """The stages of a race that this budget pays for even if no alternative is stopped.

    Three horizons, each twice the one before, with four replicates. If the last horizon would be
    below 20 % of what is left of the training, first replicates and then early stages are given up
    for a longer one.

    Args:
        alternatives: Number of alternatives, with the baseline.
        budget: Examples that all branches together may train on.
        left: Examples that are left of the training: no horizon is longer.
        shortest: Fewest examples of a horizon, such as those of 16 updates.

    Raises:
        BadArgument: The budget does not pay for two replicates of the shortest horizon.

    >>> from gradiometer.loop.comparison.rungs import rungs_for
    >>> rungs_for(alternatives=5, budget=70_000, left=10_000)
    (Rung(horizon=500, replicates=4), Rung(horizon=1000, replicates=4), Rung(horizon=2000, replicates=4))
    """
    check_whole("alternatives", alternatives, 2)
    check_whole("budget", budget, 1)
    check_whole("shortest", shortest, 1)
    most = math.inf if left is None else left
    wanted = shortest if left is None else max(SHORT * left, shortest)
    plans = [
        (REPLICATES, MOST_RUNGS),
        (3, MOST_RUNGS),
        (3, 2),
        (FEWEST_REPLICATES, 2),
        (FEWEST_REPLICATES, 1),
    ]
    for replicates, rungs in plans:
        shares = [GROWTH**-back for back in reversed(range(rungs))]
        last = int(min(budget / (alternatives * replicates * sum(shares)), most))
        if last >= wanted or (replicates, rungs) == plans[-1]:
            break
    if not last >= shortest:
        needed = shortest * alternatives * FEWEST_REPLICATES
        raise BadArgument(
            f"`budget` pays for branches of {last:,} examples, fewer than {shortest:,}: give at "
            f"least {needed:,} examples, or fewer alternatives."
        )
    return tuple(
        Rung(int(last * share), replicates) for share in shares if last * share >= shortest
    )
