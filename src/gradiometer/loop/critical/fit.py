"""The fit of losses at the best rate against batch and examples, whose scale is the
critical batch."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument

# The critical batch is sought this many times below and above the batches that were tried.
BEYOND = 16.0

# Places tried along each axis, and how often their range is narrowed to a fifth.
POINTS, ZOOMS = 33, 4

Cells = Float[np.ndarray, " cells"]


@dataclass(frozen=True)
class BatchFit:
    """loss = floor + scale·(D/(1 + B/B_c))^-power for D examples in batches of B.

    Args:
        critical: B_c. A batch of B_c needs twice the examples of a tiny one.
        power: The exponent.
        floor: The loss after infinitely many examples.
        scale: The rest of the loss for one example.
        misfit: Root of the mean squared difference from the losses, relative to their standard
            deviation.
    """

    critical: float
    power: float
    floor: float
    scale: float
    misfit: float

    def loss(self, batch: Amount, examples: Amount) -> float:
        """The loss after this many examples in batches of this size."""
        enough = examples / (1 + batch / self.critical)
        return self.floor + self.scale * math.exp(-self.power * math.log(enough))


def batch_fit(batches: Cells, examples: Cells, losses: Cells) -> BatchFit:
    """Fit losses by least squares. Floor and scale follow from power and B_c, which are sought on a
    grid that narrows.

    Args:
        batches: B of every loss.
        examples: D of every loss.
        losses: The losses, at the best rate for each B and D, all finite; at least four, with two
            batches and two D.

    Raises:
        BadArgument: There are too few losses.

    Source: Merrill et al. (2025), Critical Batch Size Revisited; the form: McCandlish et al.
        (2018), eq. 5, in a power law of the loss.

    >>> import numpy as np
    >>> from gradiometer.loop.critical.fit import batch_fit
    >>> batches, examples = np.array([8, 32, 128, 8, 32, 128.0]), np.array([1e3, 1e3, 1e3, 4e3, 4e3, 4e3])
    >>> losses = 0.2 + 9 * (examples / (1 + batches / 50)) ** -0.5
    >>> fit = batch_fit(batches, examples, losses)
    >>> round(fit.critical), round(fit.power, 2), round(fit.floor, 2)
    (50, 0.5, 0.2)
    """
    if len(losses) < 4 or len(set(batches.tolist())) < 2 or len(set(examples.tolist())) < 2:
        raise BadArgument(
            "`losses` must be at least four, of at least two batches and two numbers of examples."
        )
    middle, center, size = (
        float(np.exp(np.log(examples).mean())),
        float(losses.mean()),
        float(losses.std()) or 1.0,
    )
    targets = (losses - center) / size
    low, high = math.log(batches.min() / BEYOND), math.log(batches.max() * BEYOND)
    # the exponents that are tried
    flattest, steepest = math.log(0.05), math.log(4.0)
    powers, criticals = np.linspace(flattest, steepest, POINTS), np.linspace(low, high, POINTS)
    for zoom in range(ZOOMS + 1):
        misses = _misses(np.exp(powers), np.exp(criticals), batches, examples / middle, targets)
        row, column = np.unravel_index(misses.argmin(), misses.shape)
        best_power, best_critical = float(powers[row]), float(criticals[column])
        if zoom < ZOOMS:
            powers = _around(powers, best_power, flattest, steepest)
            criticals = _around(criticals, best_critical, low, high)
    power, critical = math.exp(best_power), math.exp(best_critical)
    terms = (examples / middle / (1 + batches / critical)) ** -power
    slope = float(_slopes(terms[None], targets)[0])
    floor = center + size * (targets.mean() - slope * terms.mean())
    return BatchFit(
        critical,
        power,
        float(floor),
        float(slope * size * middle**power),
        float(np.sqrt(misses.min())),
    )


def _misses(
    powers: np.ndarray, criticals: np.ndarray, batches: Cells, examples: Cells, targets: Cells
) -> np.ndarray:
    """The mean squared misfit for every power and critical batch, at the best floor and scale."""
    enough = examples / (1 + batches / criticals[:, None])
    terms = enough ** -powers[:, None, None]
    slopes = _slopes(terms, targets)
    rest = (
        targets - targets.mean() - slopes[..., None] * (terms - terms.mean(axis=-1, keepdims=True))
    )
    misses: np.ndarray = (rest**2).mean(axis=-1)
    return misses


def _slopes(terms: np.ndarray, targets: Cells) -> np.ndarray:
    """The best scale, which is not negative: more examples never raise the loss."""
    moved = terms - terms.mean(axis=-1, keepdims=True)
    slopes: np.ndarray = np.maximum(
        (moved * targets).sum(axis=-1) / np.maximum((moved**2).sum(axis=-1), 1e-300), 0.0
    )
    return slopes


def _around(places: np.ndarray, best: float, low: float, high: float) -> np.ndarray:
    """A fifth of the range of places, around the best one."""
    reach = (places[-1] - places[0]) / 10
    return np.linspace(max(best - reach, low), min(best + reach, high), POINTS)
