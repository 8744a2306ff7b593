"""S9: the physicist's proof: at a small rate a move rests on many gradients, whose mean is the full
gradient."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

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
from gradiometer.measurement.gradient_graph import flat, unflat
from gradiometer.measurement.objective import Gradients, Objective
from gradiometer.measurement.parts import squared_distance
from gradiometer.measurement.uncertainty import mean, transform
from gradiometer.problems.examples import Examples
from gradiometer_lab.closed_forms.quadratic import Quadratic
from gradiometer_lab.lecture.network import MLP, digits_network
from gradiometer_lab.lecture.statement import (
    LEVEL,
    Circumstance,
    Experiment,
    Rival,
    Statement,
    settings,
)

NUMBERS = settings("S9")

# Draws a batch, independently each time, so that its mean gradient is g.
BatchDraw = Callable[[torch.Generator], Batch]


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
        # The backward graphs of the examples are kept in memory for the products.
        curvature = Curvature(objective, everything, kept=NUMBERS.graphs, seed=seed)
        g = curvature.gradient.double()
        norm_squared = float(g @ g)
        if not norm_squared > 0:
            raise BadArgument(
                "`objective` must have a gradient at the start, got zero: there is no direction to "
                "move."
            )
        unit = curvature.gradient / curvature.gradient.norm()
        most = min(products, curvature.dimension)
        found = curvature.eigenvalues(start=unit[None], tolerance=NEVER, most_products=most)
        # Ritz values from the Krylov space of g, and the share of ‖g‖² along the vector of each.
        curvatures, vectors = np.linalg.eigh(found.projected)
        along = vectors.T @ (found.basis.double() @ unit.double()).cpu().numpy()
        generator, size, squares = torch.Generator().manual_seed(seed), 0, []
        for place in range(batches):
            batch = draw(generator)
            size = batch_size(batch)
            away = flat(objective.gradient(batch, seed=seed + place)).double() - g
            squares.append(size * float(away @ away))
        noise = mean(np.array(squares), level=level, batches=batches, unit="(loss / parameter)²")
        gradient = unflat(curvature.gradient, objective.parameters)
        return cls(gradient, norm_squared, noise, size, curvatures, np.square(along))

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
        # The formula divides 0 by 0 there, and the change of g is linear.
        short = np.abs(reach) * steps < 1e-6
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
        # A whole number of steps is not rounded up to the next.
        steps = max(math.ceil(distance / (rate * ground.norm) * (1 - 1e-12)), 1)
        ends = [
            _move(objective, ground, draw, float(rate), steps, generator) for _ in range(repeats)
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


def _move(
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
        # The loss draws new random numbers at every step, as in training.
        seed = int(torch.randint(2**31, (1,), generator=generator))
        gradient = objective.gradient(draw(generator), at=point, seed=seed)
        torch._foreach_add_(total, gradient)
        torch._foreach_add_(point, gradient, alpha=-rate)
    torch._foreach_div_(total, steps)
    error = squared_distance(total, ground.gradient)
    return error / ground.norm_squared, math.sqrt(squared_distance(point, start))


def _moves(
    objective: Objective, examples: Examples, whole: float, rates: list[float]
) -> dict[float, Move]:
    """Moves of one length from the model's parameters, by their learning rate."""

    def draw(generator: torch.Generator) -> Batch:
        return examples.batch(torch.randint(len(examples), (NUMBERS.batch,), generator=generator))

    ground = Ground.of(
        objective,
        [examples.batch(torch.arange(len(examples)))],
        draw,
        batches=NUMBERS.batches,
        level=LEVEL,
    )
    made = moves(
        objective,
        ground,
        draw,
        distance=whole * ground.norm,
        learning_rates=rates,
        repeats=NUMBERS.repeats,
        level=LEVEL,
        seed=9,
    )
    return {move.learning_rate: move for move in made}


@cache
def _on_the_quadratic() -> dict[float, Move]:
    problem = Quadratic(NUMBERS.curvature, NUMBERS.noise).problem(
        examples=NUMBERS.examples, seed=9, start=NUMBERS.start
    )
    return _moves(
        Objective(problem.model(), problem.loss), problem.train, NUMBERS.short, NUMBERS.rates
    )


@cache
def _on_the_digits(*, far: bool) -> dict[float, Move]:
    network = digits_network()
    if far:
        return _moves(network.objective, network.train, NUMBERS.long, NUMBERS.long_rates)
    return _moves(network.objective, network.train, NUMBERS.short, NUMBERS.rates)


def _prediction(move: Move) -> Estimate:
    """Noise and drift together; the noise within its interval."""
    return Estimate.interval(
        move.predicted,
        move.noise.low + move.drift,
        move.noise.high + move.drift,
        level=LEVEL,
        method="tr Σ/(BK‖g‖²) and the drift of g",
        samples=move.noise.samples,
    )


error = partial(
    Experiment, quantity="squared error of the mean gradient, relative", dial="learning rate, η"
)


S9 = Statement(
    name="S9",
    title="The physicist's proof",
    claim=(
        "At a small enough rate any meaningful move rests on arbitrarily many gradients at "
        "practically the same Φ, which average to the full gradient."
    ),
    experiments=(
        error(
            name="quadratic",
            setting=Circumstance.KNOWN,
            where="a quadratic of three parameters, moves of one length",
            points=NUMBERS.rates,
            predict=lambda rate: _prediction(_on_the_quadratic()[rate]),
            measure=lambda rate: _on_the_quadratic()[rate].seen,
            says=(
                "A move takes K ∝ 1/η steps, and the mean of K gradients has the squared error tr "
                "Σ/(BK‖g‖²): it goes to zero with η."
            ),
        ),
        error(
            name="digits",
            setting=Circumstance.REAL,
            where=f"{MLP}, a hundred steps into training",
            points=NUMBERS.rates,
            predict=lambda rate: _prediction(_on_the_digits(far=False)[rate]),
            measure=lambda rate: _on_the_digits(far=False)[rate].seen,
            rival=Rival(
                "one gradient is as good as many",
                lambda _: _on_the_digits(far=False)[NUMBERS.short].predicted,
            ),
            says=(
                "The same from a point of a real run: at a hundredth of the rate, the mean of the "
                "gradients of the same move has a hundredth of the squared error, and is ten times "
                "nearer to the full gradient."
            ),
        ),
        error(
            name="long_move",
            setting=Circumstance.FAILS,
            where="the same network, a move forty times as long",
            points=NUMBERS.long_rates,
            predict=lambda rate: _prediction(_on_the_digits(far=True)[rate]),
            measure=lambda rate: _on_the_digits(far=True)[rate].seen,
            claim=lambda rate: _on_the_digits(far=True)[rate].noise.value,
            says=(
                "“At practically the same Φ” no longer holds. Over a long move the full gradient "
                "itself changes, and no small rate averages that away. The change is computed "
                "beforehand from Hessian products."
            ),
        ),
    ),
    limits=(
        "It holds for one move at a time: the gradient is the one at the start of the move. And it "
        "costs time: a hundredth of the rate takes a hundred times the steps."
    ),
)
