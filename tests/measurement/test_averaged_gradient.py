"""The physicist's proof on a quadratic, where every number is known, and the steps a schedule needs
for a move."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from gradiometer import BadArgument
from gradiometer.measurement import Objective
from gradiometer_lab.closed_forms import Quadratic
from gradiometer_lab.lecture import Ground, moves

CURVATURES = np.array([0.05, 0.2, 1.0, 2.0])
NOISE = np.array([0.1, 0.4, 1.0, 3.0])
BATCH_SIZE = 4


@dataclass(frozen=True)
class Known:
    objective: Objective
    quadratic: Quadratic
    gradient: np.ndarray
    ground: Ground
    examples: Tensor

    def draw(self, generator: torch.Generator) -> Tensor:
        return self.examples[torch.randint(len(self.examples), (BATCH_SIZE,), generator=generator)]


@pytest.fixture(scope="module")
def known() -> Known:
    problem = Quadratic(CURVATURES, NOISE).problem(
        examples=400, start=np.array([3.0, 2.0, 1.0, 0.5])
    )
    quadratic = Quadratic(CURVATURES, NOISE).on(problem.train)
    objective, examples = Objective(problem.model(), problem.loss), problem.train.data
    made = Known(
        objective, quadratic, quadratic.gradient(np.array([3.0, 2.0, 1.0, 0.5])), None, examples
    )  # type: ignore[arg-type]
    ground = Ground.of(
        objective, [examples[:300], examples[300:]], made.draw, batches=400, level=0.99
    )
    return Known(objective, quadratic, made.gradient, ground, examples)


def test_the_ground_has_the_closed_form_numbers_of_the_quadratic(known: Known) -> None:
    assert known.ground.norm == pytest.approx(float(np.linalg.norm(known.gradient)))
    assert known.ground.noise.low < known.quadratic.gradient_variance < known.ground.noise.high
    assert known.ground.curvatures == pytest.approx(CURVATURES)
    assert known.ground.weights.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("steps", [1, 5, pytest.param(25, marks=pytest.mark.nightly)])
def test_the_error_of_the_mean_gradient_is_the_exact_one_of_the_quadratic(
    known: Known, steps: int
) -> None:
    """mean ĝ = (Φ₀ − Φ_K)/(ηK), and the mean and covariance of Φ_K are known; seen over 120 moves,
    in standard errors."""
    distance = 0.5
    rate = distance / (known.ground.norm * steps)
    (move,) = moves(
        known.objective,
        known.ground,
        known.draw,
        distance=distance,
        learning_rates=[rate],
        repeats=120,
        seed=steps,
    )
    decay = 1 - rate * CURVATURES
    drift = known.gradient * ((1 - decay**steps) / (steps * rate * CURVATURES) - 1)
    spread = (
        np.diag(known.quadratic.noise)
        / BATCH_SIZE
        * (1 - decay ** (2 * steps))
        / (CURVATURES * (1 + decay) * rate)
    )
    exact = (np.square(drift).sum() + spread.sum() / steps**2) / np.square(known.gradient).sum()
    assert move.steps == steps
    error = (move.seen.high - move.seen.low) / 2 / 1.65
    assert abs(move.seen.value - exact) < 3.5 * error
    assert move.drift == pytest.approx(
        float(np.square(drift / np.linalg.norm(known.gradient)).sum()), rel=1e-3
    )
    assert move.noise.low < spread.sum() / steps**2 / np.square(known.gradient).sum() * 1.4


def test_the_error_goes_to_zero_with_the_learning_rate_as_predicted(known: Known) -> None:
    distance = 0.02
    rates = [distance / known.ground.norm / steps for steps in (1, 8, 60)]
    made = moves(
        known.objective,
        known.ground,
        known.draw,
        distance=distance,
        learning_rates=rates,
        repeats=12,
    )
    assert [move.steps for move in made] == [1, 8, 60]
    for move in made:
        assert 0.6 * move.seen.low < move.predicted < 1.6 * move.seen.high
        assert move.drift < 1e-4
    assert made[2].seen.high < made[1].seen.low and made[1].seen.high < made[0].seen.value
    assert made[2].moved == pytest.approx(distance, rel=0.1), (
        "at a small η the way is nearly straight along g"
    )


def test_moves_do_not_change_the_model(known: Known) -> None:
    before = known.objective.parameters[0].detach().clone()
    moves(known.objective, known.ground, known.draw, distance=0.1, learning_rates=[0.01], repeats=4)
    assert torch.equal(known.objective.parameters[0], before)
    assert known.objective.parameters[0].grad is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance": math.nan, "learning_rates": [0.1]}, "`distance` must be positive, got nan"),
        ({"distance": 0.1, "learning_rates": [0.0]}, "`learning_rates` must be positive, got 0.0"),
        (
            {"distance": 0.1, "learning_rates": [0.1], "repeats": 3},
            "`repeats` must be at least 4, got 3",
        ),
    ],
)
def test_bad_arguments_raise_and_are_named(
    known: Known, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(BadArgument, match=message):
        moves(known.objective, known.ground, known.draw, **settings)  # type: ignore[arg-type]


def test_a_start_without_a_gradient_raises() -> None:
    problem = Quadratic(CURVATURES, NOISE).problem(examples=40, start=np.zeros(4))
    problem.train.data -= problem.train.data.mean(0)
    with pytest.raises(BadArgument, match="must have a gradient at the start"):
        Ground.of(
            Objective(problem.model(), problem.loss),
            [problem.train.data * 0],
            lambda _: problem.train.data,
        )
