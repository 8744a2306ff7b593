"""S9: the physicist's proof: at a small rate a move rests on many gradients, whose mean is the full gradient."""

from functools import cache, partial

import torch

from gradiometer.lecture.averaged_gradient import BatchDraw, Ground, Move, moves
from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.objective import Objective
from gradiometer.problems.closed_forms.quadratic import Quadratic
from gradiometer.problems.examples import Examples

BATCH, REPEATS, NOISE_BATCHES = 16, 24, 400
STEPS, LONG_STEPS = (100, 10, 1), (400,)
"""K of a short move, at the smallest rate first, and of a long one."""
SHORT, LONG = 0.01, 0.4
"""η at which one step goes the whole of a short move, and of a long one."""

QUADRATIC = Quadratic([1.0, 0.3, 0.1], [4.0, 4.0, 4.0])


def _draw(examples: Examples) -> BatchDraw:
    """Independent draws from the training set."""

    def draw(generator: torch.Generator) -> Batch:
        return examples.batch(torch.randint(len(examples), (BATCH,), generator=generator))

    return draw


def _gone(objective: Objective, examples: Examples, whole: float, counts: tuple[int, ...]) -> tuple[Move, ...]:
    """Moves of one length from where the model is, at smaller and smaller rates."""
    draw, everything = _draw(examples), [examples.batch(torch.arange(len(examples)))]
    ground = Ground.of(objective, everything, draw, batches=NOISE_BATCHES, level=LEVEL)
    rates = [whole / steps for steps in counts]
    return tuple(
        moves(
            objective,
            ground,
            draw,
            distance=whole * ground.norm,
            learning_rates=rates,
            repeats=REPEATS,
            level=LEVEL,
            seed=9,
        )
    )


@cache
def _on_the_quadratic() -> tuple[Move, ...]:
    problem = QUADRATIC.problem(examples=2000, seed=9, start=[2.0, -1.0, 1.0])
    return _gone(Objective(problem.model(), problem.loss), problem.train, SHORT, STEPS)


@cache
def _on_the_digits(whole: float, counts: tuple[int, ...]) -> tuple[Move, ...]:
    network = digits_network()
    return _gone(network.objective, network.train, whole, counts)


def _predicted(move: Move) -> Estimate:
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
    error = partial(Experiment, quantity="squared error of the mean gradient, relative", dial="learning rate, η")
    short = tuple(SHORT / steps for steps in STEPS)
    return (
        error(
            name="quadratic",
            setting=Setting.KNOWN,
            where="a quadratic of three parameters, moves of one length",
            points=short,
            predict=lambda: [_predicted(move) for move in _on_the_quadratic()],
            measure=lambda: [move.seen for move in _on_the_quadratic()],
            says="A move takes K ∝ 1/η steps, and the mean of K gradients errs by tr Σ/(BK‖g‖²): it goes to zero with "
            "η.",
        ),
        error(
            name="digits",
            setting=Setting.REAL,
            where="the digits' MLP, 64-64-10, a hundred steps into training",
            points=short,
            predict=lambda: [_predicted(move) for move in _on_the_digits(SHORT, STEPS)],
            measure=lambda: [move.seen for move in _on_the_digits(SHORT, STEPS)],
            says="The same from a point of a real run: at a hundredth of the rate the mean of the gradients of the "
            "same move errs by a hundredth in square, and is ten times nearer to the full gradient.",
        ),
        error(
            name="long_move",
            setting=Setting.FAILS,
            where="the same network, a move forty times as long",
            points=tuple(LONG / steps for steps in LONG_STEPS),
            predict=lambda: [_predicted(move) for move in _on_the_digits(LONG, LONG_STEPS)],
            measure=lambda: [move.seen for move in _on_the_digits(LONG, LONG_STEPS)],
            claimed=tuple(move.noise.value for move in _on_the_digits(LONG, LONG_STEPS)),
            says="“At practically the same Φ” ends: over a long move the full gradient itself changes, by an amount "
            "that no small rate averages away. It is computed beforehand from Hessian products.",
        ),
    )


S9 = Statement(
    name="S9",
    title="The physicist's proof",
    claim="At a small enough rate any meaningful move rests on arbitrarily many gradients at practically the same Φ, "
    "which average to the full gradient.",
    experiments=_experiments,
    limits="It holds for one move at a time: the gradient is that of where the move begins. And the time is paid for: "
    "a hundredth of the rate takes a hundred times the steps.",
)
