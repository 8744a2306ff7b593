"""The physicist's proof: at a small enough η the many gradients of a move average to the full
gradient.

A move of length Δ takes K = ⌈Δ/(η‖g‖)⌉ steps, all at practically the same Φ. Their gradients
average to g. The relative
squared error of the mean has two parts: tr Σ/(BK‖g‖²), which goes to zero with η, and the change of
g during the move, which goes to zero with Δ. And if Σ η_t = ∞, moves of any length remain possible,
however small η_t has become.

Source: McAllester (2020), TTIC 31230, Stochastic Gradient Descent: the classical convergence
theorem.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.arguments import check_whole
from gradiometer.convergence.certificate.lowest_curvature import NEVER
from gradiometer.convergence.formulas.number import Amount
from gradiometer.drift.curvature import Curvature
from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Gradients, Objective
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.measurement.uncertainty.means import mean

BatchDraw = Callable[[torch.Generator], Batch]
"""Draws a batch, independently each time, so that its mean gradient is g."""

SHORT = 1e-6
"""Below this ηλK, the change of g is linear in it."""


@dataclass(frozen=True)
class Ground:
    """The gradient at the point from which all moves start.

    Args:
        gradient: g, of all examples.
        norm_squared: ‖g‖².
        noise: tr Σ, the noise of a single example.
        batch_size: B.
        curvatures: λ of the directions that g lies in, by Lanczos' quadrature from g.
        weights: The share of ‖g‖² in each.
    """

    gradient: Gradients
    norm_squared: float
    noise: Estimate
    batch_size: int
    curvatures: Float[np.ndarray, " basis"]
    weights: Float[np.ndarray, " basis"]

    @property
    def norm(self) -> float:
        """‖g‖."""
        return math.sqrt(self.norm_squared)

    @classmethod
    def of(
        cls,
        objective: Objective,
        everything: Sequence[Batch],
        draw: BatchDraw,
        *,
        batches: int = 200,
        products: int = 12,
        level: float = 0.9,
        seed: int = 0,
    ) -> "Ground":
        """Measure g in a full pass, its curvatures by Hessian products, and tr Σ = B E‖ĝ − g‖² on
        batches.

        Args:
            objective: The model and its loss, at the start.
            everything: All training examples, in parts.
            draw: Draws a batch, independently each time.
            batches: Number of batches for tr Σ; no move uses them.
            products: Number of Hessian products.
            level: Confidence level of tr Σ.
            seed: Seed of everything random.
        """
        # 20_000: examples whose backward graphs are kept in memory for the products.
        curvature = Curvature(objective, everything, kept=20_000, seed=seed)
        g = curvature.gradient.double()
        norm_squared = float(g @ g)
        if not norm_squared > 0:
            raise BadArgument(
                "`objective` must have a gradient at the start, got zero: there is no direction to "
                "move."
            )
        curvatures, weights = _quadrature(curvature, min(products, curvature.dimension))
        generator, size, squares = torch.Generator().manual_seed(seed), 0, []
        for place in range(batches):
            batch = draw(generator)
            size = batch_size(batch)
            away = flat(objective.gradient(batch, seed=seed + place)).double() - g
            squares.append(size * float(away @ away))
        noise = mean(np.array(squares), level=level, batches=batches, unit="(loss / parameter)²")
        shapes = [parameter.shape for parameter in objective.parameters]
        sizes = [shape.numel() for shape in shapes]
        parts = [
            part.view(shape)
            for part, shape in zip(curvature.gradient.split(sizes), shapes, strict=True)
        ]
        return cls(parts, norm_squared, noise, size, curvatures, weights)

    def noise_of_mean(self, steps: int) -> Estimate:
        """tr Σ/(BK‖g‖²), the relative squared error of the mean of K batch gradients
        at one point."""
        return transform(
            self.noise, lambda noise: noise / (self.batch_size * steps * self.norm_squared)
        )

    def drift(self, learning_rate: Amount, steps: int) -> float:
        """‖mean of g(Φ_k) − g‖²/‖g‖² over K noiseless steps, to first order of g in Φ: exact on a
        quadratic.

        g(Φ_k) = (I − ηH)^k g, so every direction keeps (1 − (1 − ηλ)^K)/(Kηλ) of its part. About
        (Δ/2)²‖Hg‖²/‖g‖⁴ for a short move of many steps.
        """
        if steps == 1:
            return 0.0
        reach = float(learning_rate) * self.curvatures
        short = np.abs(reach) * steps < SHORT
        safe = np.where(short, 1.0, reach)
        kept = np.where(
            short, 1 - reach * (steps - 1) / 2, (1 - (1 - safe) ** steps) / (steps * safe)
        )
        return float(self.weights @ np.square(1 - kept))


@dataclass(frozen=True)
class Move:
    """A move of one length at one learning rate, repeated several times.

    Args:
        learning_rate: η.
        distance: Δ.
        steps: K.
        seen: ‖mean of ĝ − g‖²/‖g‖² as measured, g the full gradient at the start of the move; mean
            over the repeats.
        noise: tr Σ/(BK‖g‖²), predicted.
        drift: The part from the change of g during the move, predicted by `Ground.drift`.
        moved: ‖Φ − Φ₀‖ at the end, mean over the repeats.
    """

    learning_rate: float
    distance: float
    steps: int
    seen: Estimate
    noise: Estimate
    drift: float
    moved: float

    @property
    def predicted(self) -> float:
        """The sum of noise and drift."""
        return self.noise.value + self.drift


def moves(
    objective: Objective,
    ground: Ground,
    draw: BatchDraw,
    *,
    distance: Amount,
    learning_rates: Sequence[Amount],
    repeats: int = 8,
    level: float = 0.9,
    seed: int = 0,
) -> list[Move]:
    """Make a move of the same length at each learning rate by plain SGD, and compare the mean of
    its gradients with g.

    Every repeat starts at the model's parameters, which do not change, and draws new batches. Costs
    repeats × Σ K gradients.

    Args:
        objective: The model and its loss, at the start of every move.
        ground: The gradient there.
        draw: Draws a batch, independently each time.
        distance: Δ, in parameter units: long enough to matter, and short enough for g to stay the
            same. K counts the length along g; the noise of the steps leads away from that line,
            less at a smaller η.
        learning_rates: η of each move.
        repeats: Number of repeats of each move, at least 4.
        level: Confidence level of the measured errors.
        seed: Seed of everything random.
    """
    if not 0 < distance < math.inf:
        raise BadArgument(f"`distance` must be positive, got {distance}.")
    check_whole("repeats", repeats, 4)
    for rate in learning_rates:
        if not 0 < rate < math.inf:
            raise BadArgument(f"`learning_rates` must be positive, got {rate}.")
    generator = torch.Generator().manual_seed(seed)
    made = []
    for rate in learning_rates:
        steps = steps_of(distance, rate, ground.norm)
        ends = [
            _gone(objective, ground, draw, float(rate), steps, generator) for _ in range(repeats)
        ]
        seen, moved = np.array(ends).T
        made.append(
            Move(
                learning_rate=float(rate),
                distance=float(distance),
                steps=steps,
                seen=mean(seen, level=level, batches=repeats),
                noise=ground.noise_of_mean(steps),
                drift=ground.drift(rate, steps),
                moved=float(moved.mean()),
            )
        )
    return made


def steps_of(distance: Amount, learning_rate: Amount, gradient_norm: float) -> int:
    """K = ⌈Δ/(η‖g‖)⌉; a whole number is not rounded up to the next."""
    return max(math.ceil(distance / (learning_rate * gradient_norm) * (1 - 1e-12)), 1)


def _quadrature(
    curvature: Curvature, products: int
) -> tuple[Float[np.ndarray, " basis"], Float[np.ndarray, " basis"]]:
    """Ritz values from the Krylov space of g, and the share of ‖g‖² along the vector of each."""
    g = curvature.gradient / curvature.gradient.norm()
    found = curvature.eigenvalues(largest=1, start=g[None], tolerance=NEVER, most_products=products)
    values, vectors = np.linalg.eigh(found.projected)
    along = vectors.T @ (found.basis.double() @ g.double()).cpu().numpy()
    return values, np.square(along)


def _gone(
    objective: Objective,
    ground: Ground,
    draw: BatchDraw,
    rate: float,
    steps: int,
    generator: torch.Generator,
) -> tuple[float, float]:
    """The relative squared error of the mean gradient of one move, and ‖Φ − Φ₀‖ at its end."""
    start = [parameter.detach() for parameter in objective.parameters]
    point, total = [part.clone() for part in start], [torch.zeros_like(part) for part in start]
    for _ in range(steps):
        seed = int(torch.randint(2**31, (1,), generator=generator))
        gradient = objective.gradient(draw(generator), at=point, seed=seed)
        torch._foreach_add_(total, gradient)
        torch._foreach_add_(point, gradient, alpha=-rate)
    torch._foreach_div_(total, steps)
    error = _squared_norm(torch._foreach_sub(total, ground.gradient)) / ground.norm_squared
    return error, math.sqrt(_squared_norm(torch._foreach_sub(point, start)))


def _squared_norm(parts: Gradients | tuple[torch.Tensor, ...]) -> float:
    norms = torch._foreach_norm(list(parts), dtype=torch.float64)
    return float(torch.stack(norms).square().sum())
