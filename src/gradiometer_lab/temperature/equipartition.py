"""The temperature of a run about its mean position, in the mean, by direction, by parameter tensor
and in the tail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import Diverged
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.means import mean

# Blocks of a run. The spread of their temperatures gives the error.
BLOCKS = 48


class Virial:
    """Sums for ⟨(Φ − c)·∇U⟩/d of every block of a run. c is the mean Φ of the run, known only at
    its end.

    As c is the mean of the run and not the minimum, the temperature is biased low by about τ/steps
    of T, with the integrated autocorrelation time τ = 1 + 2Σ_k ρ_k.

    Args:
        like: Flat parameters, for their size, type and device.
        steps: The number of steps that will be added, at least one per block.
        sizes: Numbers of parameters of the parameter tensors, in order; default: one tensor.
    """

    def __init__(
        self, like: Float[Tensor, " params"], steps: int, sizes: Sequence[int] | None = None
    ) -> None:
        self.steps = steps
        self.added = 0
        self.sizes = [len(like)] if sizes is None else list(sizes)
        self.products = np.zeros((BLOCKS, len(self.sizes)))
        self.counts = np.zeros(BLOCKS)
        self.gradients = torch.zeros(BLOCKS, len(like), dtype=like.dtype, device=like.device)
        self.positions = torch.zeros(len(like), dtype=torch.float64, device=like.device)

    def add(self, position: Float[Tensor, " params"], gradient: Float[Tensor, " params"]) -> None:
        """Add a step: Φ, and at Φ the gradient of the mean loss and the prior, from an independent
        batch."""
        block = self.added * BLOCKS // self.steps
        pieces = zip(position.split(self.sizes), gradient.split(self.sizes), strict=True)
        products = np.array([float(here @ there) for here, there in pieces])
        if not np.isfinite(products).all():
            raise Diverged(
                f"the parameters or gradients are not finite at step {self.added:,}: use a smaller "
                "rate."
            )
        self.products[block] += products
        self.gradients[block] += gradient
        self.positions += position
        self.counts[block] += 1
        self.added += 1

    def temperature(self, examples: int, level: float = LEVEL) -> Estimate:
        """N⟨(Φ − c)·ĝ⟩/d, in posterior units, with its error from the blocks."""
        return mean(
            examples * self._virials().sum(axis=1) / (sum(self.sizes) * self.counts), level=level
        )

    def by_tensor(self, examples: int, level: float = LEVEL) -> list[Estimate]:
        """The same for each parameter tensor. All intervals cover together at this level
        (Bonferroni)."""
        virials = examples * self._virials() / (np.array(self.sizes) * self.counts[:, None])
        return [mean(each, level=1 - (1 - level) / len(self.sizes)) for each in virials.T]

    def _virials(self) -> Float[np.ndarray, "blocks tensors"]:
        """Σ (Φ − c)·ĝ over the steps of each block."""
        # The mean position is known at the end only, so its share is taken off here.
        center = (self.positions / self.steps).to(self.gradients.dtype)
        pieces = zip(self.gradients.split(self.sizes, dim=1), center.split(self.sizes), strict=True)
        shifts = torch.stack(
            [gradients @ mean_position for gradients, mean_position in pieces], dim=1
        )
        return np.asarray(self.products - shifts.double().cpu().numpy())


# Largest number of directions whose matrix of products is kept.
DIRECTIONS = 32

# Level of the intervals behind a verdict on a temperature: one run is judged by many of them.
SURE = 0.99


@dataclass(frozen=True)
class Shape:
    """The temperature by direction, by parameter tensor and in the tail, at 99 %. All are T if the
    law is exp(−U/T).

    Args:
        hottest: The temperature along the direction that is hottest in one half of the run,
            measured in the other half.
        coldest: The same for the coldest direction.
        tail: N E[(φ − c)³ ∂L/∂φ]/(3 E(φ − c)²), the mean over directions: a fourth moment, as a
            temperature.
        tensors: The temperature of each parameter tensor, at 99 % for all of them together.
    """

    hottest: Estimate
    coldest: Estimate
    tail: Estimate
    tensors: Mapping[str, Estimate]

    @property
    def named(self) -> dict[str, Estimate]:
        """Every estimate with its name."""
        tensors = {f"tensor {name}": each for name, each in self.tensors.items()}
        return {
            "hottest direction": self.hottest,
            "coldest direction": self.coldest,
            "tail": self.tail,
            **tensors,
        }

    def differing(self, temperature: float) -> list[str]:
        """What differs from a temperature by more than 5 %, with its interval: "tail 1.31 [1.20,
        1.42]".

        Args:
            temperature: T, positive.
        """
        return [
            f"{name} {each}"
            for name, each in self.named.items()
            if each.low > temperature * 1.05 or each.high < temperature * 0.95
        ]


class Equipartition:
    """Sums along a run for the matrix N E[(Φ − c)∇Lᵀ], which is T·I if the law is exp(−U/T),
    whatever the loss.

    In this matrix no direction is special, so its largest and smallest eigenvalue belong to the
    hottest and the coldest direction. They are found in one half of the run and measured in the
    other.

    Args:
        directions: Orthonormal directions to watch, at most 32.
        origin: Φ at the start of the run.
        steps: The number of steps that will be added, at least one per block.

    Source: integration by parts of exp(−U/T), as for the virial theorem.

    Example: draws of N(0, diag(1, 1.5)), of which the second should be N(0, 1).
        >>> import torch
        >>> from gradiometer_lab.temperature.equipartition import Equipartition
        >>> draws = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.5**0.5])
        >>> sums = Equipartition(torch.eye(2), torch.zeros(2), steps=4000)
        >>> for draw in draws:
        ...     sums.add(draw, draw)  # the gradient of Φ²/2
        >>> print(sums.shape(examples=1).hottest)
        1.55 [1.37, 1.73]
    """

    def __init__(
        self,
        directions: Float[Tensor, "directions params"],
        origin: Float[Tensor, " params"],
        steps: int,
    ) -> None:
        self.directions = directions
        self.origin = origin.detach().clone()
        self.steps = steps
        self.added = 0
        count = len(directions)
        self._products = np.zeros((BLOCKS, count, count))
        self._moments = np.zeros((5, BLOCKS, count))  # of x, g, x², x²g and x³g
        self._counts = np.zeros(BLOCKS)

    def add(self, position: Float[Tensor, " params"], gradient: Float[Tensor, " params"]) -> None:
        """Add a step: Φ, and at Φ the gradient of the mean loss and the prior, from an independent
        batch."""
        block = self.added * BLOCKS // self.steps
        # About the start, not zero: products of large positions would lose the small deviations.
        both = torch.stack([position - self.origin, gradient]) @ self.directions.T
        x, g = both.double().cpu().numpy()
        self._products[block] += np.outer(x, g)
        self._moments[:, block] += x, g, x**2, x**2 * g, x**3 * g
        self._counts[block] += 1
        self.added += 1

    def shape(self, examples: int, tensors: Mapping[str, Estimate] | None = None) -> Shape:
        """The temperatures, in posterior units.

        Args:
            examples: N.
            tensors: The temperatures of the parameter tensors, see `Virial.by_tensor`.
        """
        counts = self._counts[:, None]
        x, g, xx, xxg, xxxg = self._moments / counts
        center = x.T @ self._counts / self.added
        products = self._products / counts[..., None] - center[:, None] * g[:, None, :]
        matrices = examples * (products + products.swapaxes(1, 2)) / 2
        fourth = (
            xxxg
            - 3 * center * xxg
            + 3 * center**2 * (self._products.diagonal(axis1=1, axis2=2) / counts)
        )
        variance = (xx - 2 * center * x + center**2).T @ self._counts / self.added
        tails = (
            examples * (fourth - center**3 * g) / (3 * np.maximum(variance, np.finfo(float).tiny))
        )
        return Shape(
            hottest=_along(matrices, -1),
            coldest=_along(matrices, 0),
            tail=mean(tails.mean(axis=1), level=SURE),
            tensors=tensors or {},
        )


def watched_directions(
    hottest: Tensor, like: Float[Tensor, " params"]
) -> Float[Tensor, "directions params"]:
    """All directions of a small model, else the one in which the gradients are largest, or the
    first ones."""
    if len(like) <= DIRECTIONS or not len(hottest):
        return torch.eye(DIRECTIONS, len(like), dtype=like.dtype, device=like.device)[: len(like)]
    return hottest[None].to(like)


def _along(matrices: Float[np.ndarray, "blocks directions directions"], place: int) -> Estimate:
    """The mean along an eigenvector of the mean of the other half of the blocks, in the order of
    eigenvalues.

    The two halves are correlated, up to 0.4 if all directions have the same temperature, because
    each chooses the direction of the other. The mean of their intervals covers whatever the
    correlation is: the standard deviation of a mean of two numbers is at most the mean of their
    standard deviations.
    """
    half = len(matrices) // 2
    halves: Sequence[np.ndarray] = matrices[:half], matrices[half:]
    found = []
    for here, other in (halves, halves[::-1]):
        vector = np.linalg.eigh(other.mean(axis=0))[1][:, place]
        found.append(mean(here @ vector @ vector, level=SURE))
    value, low, high = (
        sum(getattr(each, name) for each in found) / 2 for name in ("value", "low", "high")
    )
    return Estimate.interval(
        value,
        low,
        high,
        level=SURE,
        method=f"mean of two halves: {found[0].method}",
        samples=len(matrices),
    )
