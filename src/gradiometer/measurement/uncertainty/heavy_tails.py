"""What a window of readings does not show if few examples carry the gradient or its noise.

‖g‖² is read from products of the gradients of different examples. If 1 % of the examples have large
gradients that agree, most of ‖g‖² comes from pairs of two such examples. A window has few or none
of these pairs, though it has many of the examples, which show in tr Σ. Then the estimate of ‖g‖²
and its standard error are both too small.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Tails:
    """How unevenly readings of tr Σ contribute to their sum. What drifts slowly does not count.

    Attributes:
        excess: The part above the running median, as a share of the sum: the noise of rare
            examples, if it is large.
        variation: CV² of the readings over their running median.
    """

    excess: float
    variation: float

    @classmethod
    def of(cls, variance: Float[np.ndarray, " steps"]) -> "Tails":
        """The tails of readings of tr Σ, oldest first.

        >>> import numpy as np
        >>> from gradiometer.measurement.uncertainty.heavy_tails import Tails
        >>> Tails.of(np.array([1.0] * 19 + [20.0]))
        Tails(excess=0.487..., variation=4.5...)
        """
        relative = variance / _running_medians(np.abs(variance))
        total, squares = float(relative.sum()), float((relative**2).sum())
        if not total > 0:
            return cls(0.0, 0.0)
        excess = float(np.maximum(relative - 1, 0.0).sum()) / total
        return cls(excess, max(len(variance) * squares / total**2 - 1, 0.0))


def with_unseen_pairs(
    value: float, high: float, spread: float, excess: float, rare_noise: float
) -> float:
    """The upper end of r = ‖g‖²/tr Σ, with room for the pairs of rare examples that the window does
    not contain.

    Let rare examples have the share e of tr Σ. If all their gradients agree, they give a reading of
    r the variance (ρe)² + 2ρe·r, which is ρ²e² for pairs of their noise and the rest for pairs of
    noise and g. If that is more than what was seen, the window has missed pairs. The interval
    contains every r with (r − value)² ≤ k · variance(r), where k is the square of the margin over
    the variance that was seen.

    Args:
        value: The estimate of r.
        high: Its upper end from the variance that was seen.
        spread: Standard deviation of one reading of r.
        excess: e.
        rare_noise: ρ, 2/B for a batch of B examples in two halves.

    Source: Hoeffding (1948), A Class of Statistics with Asymptotically Normal Distribution, for the
    variance; inverted as Wilson (1927) does.
    """
    if not (spread > 0 and high > value):
        return high
    part = rare_noise * excess
    margin = (high - value) / spread
    # 0.6: excess of Gaussian noise, in standard deviations of a reading of ‖g‖², as shares of the
    # noise in half a batch.
    half = margin * margin * max(part - 0.6 * spread, 0.0)
    return value + half + math.hypot(margin * max(spread, part), half)


def _running_medians(sizes: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """The median of the neighbours of each reading, above zero."""
    # 15: readings in the running median that a reading is compared with.
    room = min(15 // 2, len(sizes) - 1)
    padded = np.pad(sizes, room, mode="reflect")
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * room + 1), axis=1)
    result: np.ndarray = np.maximum(medians, 1e-6 * float(sizes.mean()) or 1.0)
    return result
