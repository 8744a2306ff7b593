"""S9: the physicist's proof: at a small rate a move rests on many gradients, whose mean is the full
gradient."""

from functools import cache, partial

import torch

from gradiometer.lab.closed_forms.quadratic import Quadratic
from gradiometer.lab.lecture.averaged_gradient import Ground, Move, moves
from gradiometer.lab.lecture.network import MLP, digits_network
from gradiometer.lab.lecture.statement import LEVEL, Circumstance, Experiment, Rival, Statement
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.objective import Objective
from gradiometer.problems.examples import Examples

SHORT, LONG = 0.01, 0.4
"""η at which one step makes the whole of a short move, and of a long one."""
RATES, LONG_RATES = tuple(SHORT / steps for steps in (100, 10, 1)), (LONG / 400,)

QUADRATIC = Quadratic([1.0, 0.3, 0.1], [4.0, 4.0, 4.0])


def _moves(
    objective: Objective, examples: Examples, whole: float, rates: tuple[float, ...]
) -> dict[float, Move]:
    """Moves of one length from the model's parameters, by their learning rate."""

    def draw(generator: torch.Generator) -> Batch:
        return examples.batch(torch.randint(len(examples), (16,), generator=generator))

    everything = [examples.batch(torch.arange(len(examples)))]
    ground = Ground.of(objective, everything, draw, batches=400, level=LEVEL)
    distance = whole * ground.norm
    made = moves(
        objective,
        ground,
        draw,
        distance=distance,
        learning_rates=rates,
        repeats=24,
        level=LEVEL,
        seed=9,
    )
    return {move.learning_rate: move for move in made}


@cache
def _on_the_quadratic() -> dict[float, Move]:
    problem = QUADRATIC.problem(examples=2000, seed=9, start=[2.0, -1.0, 1.0])
    return _moves(Objective(problem.model(), problem.loss), problem.train, SHORT, RATES)


@cache
def _on_the_digits(whole: float, rates: tuple[float, ...]) -> dict[float, Move]:
    network = digits_network()
    return _moves(network.objective, network.train, whole, rates)


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


def _experiments() -> tuple[Experiment, ...]:
    error = partial(
        Experiment, quantity="squared error of the mean gradient, relative", dial="learning rate, η"
    )
    return (
        error(
            name="quadratic",
            setting=Circumstance.KNOWN,
            where="a quadratic of three parameters, moves of one length",
            points=RATES,
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
            points=RATES,
            predict=lambda rate: _prediction(_on_the_digits(SHORT, RATES)[rate]),
            measure=lambda rate: _on_the_digits(SHORT, RATES)[rate].seen,
            rival=Rival(
                "one gradient is as good as many",
                lambda _: _on_the_digits(SHORT, RATES)[SHORT].predicted,
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
            points=LONG_RATES,
            predict=lambda rate: _prediction(_on_the_digits(LONG, LONG_RATES)[rate]),
            measure=lambda rate: _on_the_digits(LONG, LONG_RATES)[rate].seen,
            claim=lambda rate: _on_the_digits(LONG, LONG_RATES)[rate].noise.value,
            says=(
                "“At practically the same Φ” no longer holds. Over a long move the full gradient "
                "itself changes, and no small rate averages that away. The change is computed "
                "beforehand from Hessian products."
            ),
        ),
    )


S9 = Statement(
    name="S9",
    title="The physicist's proof",
    claim=(
        "At a small enough rate any meaningful move rests on arbitrarily many gradients at "
        "practically the same Φ, which average to the full gradient."
    ),
    experiments=_experiments,
    limits=(
        "It holds for one move at a time: the gradient is the one at the start of the move. And it "
        "costs time: a hundredth of the rate takes a hundred times the steps."
    ),
)
