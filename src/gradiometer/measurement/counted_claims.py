"""How often a claim was right, on trainings that it was counted on."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Record:
    """How often following such a claim helped, on trainings that it was counted on.

    Following helps if it gains at least 2 % of the loss above its floor. A claim that names no
    change, such as "healthy", is right if no listed change gains 5 %.

    Args:
        probability: That following this claim helps. Few counts lean towards similar claims.
        counts: How often it helped, and how often it was counted, by population.
        gain: The median gain, a share of the loss above its floor; NaN for a claim without a change.
        harmed: How often the training ended worse.

    >>> Record(0.9, {"published recipes": (8, 8), "small trainings": (20, 24)}, 0.12).total
    (28, 32)
    """

    probability: float
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    gain: float = float("nan")
    harmed: int = 0

    @property
    def total(self) -> tuple[int, int]:
        """How often it helped and how often it was counted, in all populations."""
        return sum(one for one, _ in self.counts.values()), sum(n for _, n in self.counts.values())
