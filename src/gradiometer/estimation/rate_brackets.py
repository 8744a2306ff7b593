"""The learning rates to try at another batch size, for optimizers for which trials are known."""

from collections.abc import Sequence
from dataclasses import dataclass

POWERS = {"sgd": (0.5, 0.9), "adaptive": (-0.03, 0.63)}
"""Range of the power p of the best learning rate ∝ B^p below the critical batch size, by family of
optimizers.

Measured with SGD with momentum and with AdamW, on a character transformer and a small convolutional
network, with tuned rates. The range is of these trials, not a confidence interval.
"""

PRECONDITIONED = "preconditioned_noise"
"""Name of the gauge of the noise scale under an adaptive optimizer."""


@dataclass(frozen=True)
class RateBracket:
    """The learning rates to try at one batch size.

    Args:
        batch_size: B.
        low, high: The smallest and the largest η.
    """

    batch_size: int
    low: float
    high: float


def rate_brackets(
    family: str, rate: float, present: int, sizes: Sequence[int]
) -> tuple[RateBracket, ...]:
    """Learning rates to try at other batch sizes, from η at the present one, for optimizers with
    known `POWERS`.

    >>> rate_brackets("adaptive", 1e-3, present=32, sizes=(32, 64))[1]
    RateBracket(batch_size=64, low=0.00097..., high=0.00154...)
    """
    found = []
    for size in sizes:
        ends = sorted(rate * (size / present) ** power for power in POWERS[family])
        found.append(RateBracket(size, *ends))
    return tuple(found)
