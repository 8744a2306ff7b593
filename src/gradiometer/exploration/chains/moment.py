"""The mean and the spread of a function of the draws of one chain, if the chain is long enough to
tell."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gradiometer.exploration.chains.mixing import size_of_one
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.uncertainty.means import mean

ENOUGH = 30
"""Effective draws, at least: a chain that seems to have fewer has not shown how far its draws
depend on each other."""

Known = float | tuple[float, float] | None
"""The exact mean of a function, or its exact mean and standard deviation, if they are known."""


@dataclass(frozen=True)
class Moment:
    """The mean and the spread of a function of the draws.

    Args:
        mean: Its mean over the posterior.
        spread: Its standard deviation over the posterior.
        effective: Effective number of draws, of the function or of what it may depend on; NaN of
            fewer than 4 draws.
        known: Its exact mean, if the posterior is known.
        known_spread: Its exact standard deviation, if the posterior is known.
    """

    mean: Estimate
    spread: Estimate
    effective: float
    known: float | None = None
    known_spread: float | None = None

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, " draws"],
        known: Known = None,
        level: float = 0.9,
        every: int = 1,
        slowest: float = math.inf,
    ) -> "Moment":
        """Mean and spread of correlated draws, with intervals that account for the correlation.

        Both are unknown with fewer than 30 effective draws. In simulation with 48 to 2,000 draws of
        autoregressive chains of any correlation, nominal 90 %, at most 12 % of the intervals of
        means then miss, and 15 % of those of spreads; without this rule 33 and 53 % of the chains
        of 2.5 autocorrelation times.

        Args:
            values: The draws, in order.
            known: What is known of the function.
            level: Confidence level.
            every: Steps between two draws.
            slowest: Effective draws of something slower on which the function may depend.
        """
        middle, square = mean(values, level=level), mean((values - values.mean()) ** 2, level=level)
        low, value, high = (
            math.sqrt(max(end, 0.0)) for end in (square.low, square.value, square.high)
        )
        method = f"root of the mean square: {square.method}"
        spread = Estimate.interval(
            value, low, high, level=level, method=method, samples=square.samples
        )
        # A function may depend on what moves more slowly than itself.
        effective = min(size_of_one(values), slowest)
        if not effective >= ENOUGH:
            further = (
                math.ceil(every * len(values) * (ENOUGH / effective - 1)) if effective > 0 else None
            )
            words = f"fewer than {ENOUGH} effective draws"
            middle = spread = Estimate.unknown(
                level=level, method=words, samples=len(values), needed=further
            )
        exact = known if isinstance(known, tuple) else (known, None)
        return cls(middle, spread, effective, *exact)

    def __str__(self) -> str:
        if self.mean.tells:
            return f"mean {self.mean}, spread {self.spread}"
        if math.isnan(self.effective):
            return "cannot tell: fewer than 4 draws"
        return f"cannot tell: {significant(self.effective)} effective draws, fewer than {ENOUGH}"
