"""S3: how the gradient drifts as the parameters move."""

from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.drift.curvature import Curvature
from gradiometer.drift.step_drift import StepDrift
from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.reading import Draw, Reading, Sampling, Series
from gradiometer.measurement.step import TrainingStep
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.problems.closed_forms.quadratic import Quadratic

LENGTHS = (0.01, 1.0, 100.0)
RATES = (0.003, 0.01, 0.03)
BATCH, STEPS = 32, 300
DISTANCES = (1.0, 2.0, 4.0)
CURVATURE = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
DIRECTION = np.array([1.0, -1.0, 1.0]) / np.sqrt(3)


def _quadratic_drift(length: float) -> Estimate:
    """‖g(Φ + Δ) − g(Φ)‖ by torch's own backward, on a training set of the quadratic."""
    problem = Quadratic(CURVATURE, np.eye(3)).problem(examples=200, start=np.zeros(3))
    model = problem.model()
    objective, everything = Objective(model, problem.loss), problem.train.batch(torch.arange(200))
    here = [parameter.detach() for parameter in objective.parameters]
    there = [here[0] + torch.from_numpy(length * DIRECTION)]
    moved = [flat(objective.gradient(everything, at=at)).double() for at in (here, there)]
    return Estimate.exact(float((moved[1] - moved[0]).norm()))


@cache
def _products() -> Float[np.ndarray, " batches"]:
    """‖Hĝ‖² of the Train loss for many batch gradients ĝ."""
    network = digits_network()
    curvature = Curvature.of(network.objective, network.everything)
    gradients = torch.stack([network.batch_gradient(chosen) for chosen in network.batches(BATCH, STEPS // 3, seed=4)])
    images: np.ndarray = curvature.products(gradients.float()).double().square().sum(dim=1).numpy()
    return images


def _expected_drift(rate: float) -> Estimate:
    return mean(rate**2 * _products(), level=LEVEL, batches=len(_products()))


def _seen_drift(rate: float) -> Estimate:
    """The instrument's step drift, on batches of its own and judged by examples of their own."""
    network, gauge, readings = digits_network(), StepDrift(), []
    sampling, draw = Sampling(Draw.RESHUFFLED, len(network.train)), torch.Generator().manual_seed(5)

    def probe() -> object:
        return network.train.batch(torch.randint(len(network.train), (8 * BATCH,), generator=draw))

    for index, chosen in enumerate(network.batches(BATCH, STEPS, seed=6)):
        step = TrainingStep(
            network.objective,
            network.train.batch(chosen),
            index=index,
            learning_rate=rate,
            sampling=sampling,
            probe=probe,
        )
        readings.append(Reading(gauge.name, index, BATCH, rate, gauge.measure(step)))
    return gauge.estimate(Series.of(readings, sampling), LEVEL)["drift_squared"]


def _far_away(distance: float) -> Estimate:
    """g(x + Δ) − g(x) of log cosh x from its minimum, by torch."""
    position = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
    torch.log(torch.cosh(position)).backward()
    return Estimate.exact(float(position.grad if position.grad is not None else np.nan))


def _experiments() -> tuple[Experiment, ...]:
    image = float(np.linalg.norm(CURVATURE @ DIRECTION))
    drift = partial(Experiment, dial="length of the move, ‖Δ‖", quantity="change of the gradient, ‖g(Φ + Δ) − g(Φ)‖")
    return (
        drift(
            name="quadratic",
            setting=Setting.KNOWN,
            where="a quadratic of three parameters",
            points=LENGTHS,
            predict=lambda: [Estimate.exact(length * image) for length in LENGTHS],
            measure=lambda: [_quadratic_drift(length) for length in LENGTHS],
            says="‖HΔ‖, however long the move: a quadratic has no third derivative.",
        ),
        Experiment(
            name="digits",
            setting=Setting.REAL,
            where="the digits' MLP, 64-64-10, steps of B = 32",
            quantity="E‖g(Φ − ηĝ) − g(Φ)‖²",
            dial="learning rate, η",
            points=RATES,
            predict=lambda: [_expected_drift(rate) for rate in RATES],
            measure=lambda: [_seen_drift(rate) for rate in RATES],
            says="η² E‖Hĝ‖², from Hessian products with the gradients of 100 batches; the instrument sees it without a "
            "Hessian, by halves of other examples at both ends of a step.",
        ),
        drift(
            name="far_away",
            setting=Setting.FAILS,
            where="log cosh x, from its minimum",
            points=DISTANCES,
            predict=lambda: [Estimate.exact(float(np.tanh(distance))) for distance in DISTANCES],
            measure=lambda: [_far_away(distance) for distance in DISTANCES],
            claimed=DISTANCES,
            says="A long move leaves the region where the loss is a quadratic: HΔ = Δ promises ever more, the gradient "
            "is tanh Δ and stops at 1.",
        ),
    )


S3 = Statement(
    name="S3",
    title="Gradient drift",
    claim="As the parameters move the gradient changes, to first order by the Hessian times the move.",
    experiments=_experiments,
    limits="It is a statement about short moves. Over long ones, and across the kinks of a ReLU network, the Hessian "
    "where the move begins says little about the gradient where it ends.",
)
