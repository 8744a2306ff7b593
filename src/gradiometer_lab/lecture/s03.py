"""S3: how the gradient drifts as the parameters move."""

from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.drift import Curvature, StepDrift
from gradiometer.measurement import Estimate, Objective
from gradiometer.measurement.gradient_graph import flat
from gradiometer_lab.closed_forms.quadratic import Quadratic
from gradiometer_lab.lecture.network import MLP, digits_network
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)

NUMBERS = settings("S3")
DIRECTION = np.array([1.0, -1.0, 1.0]) / np.sqrt(3)


def _quadratic_drift(length: float) -> float:
    """‖g(Φ + Δ) − g(Φ)‖ by torch's own backward, on a training set of the quadratic."""
    problem = Quadratic(NUMBERS.curvature, np.eye(3)).problem(NUMBERS.examples, start=np.zeros(3))
    objective = Objective(problem.model(), problem.loss)
    everything = problem.train.batch(torch.arange(NUMBERS.examples))
    here = [parameter.detach() for parameter in objective.parameters]
    there = [here[0] + torch.from_numpy(length * DIRECTION)]
    before, after = (flat(objective.gradient(everything, at=at)).double() for at in (here, there))
    return float((after - before).norm())


@cache
def _products() -> Float[np.ndarray, " batches"]:
    """‖Hĝ‖² of the Train loss for many batch gradients ĝ."""
    network = digits_network()
    curvature = Curvature.of(network.objective, network.everything)
    gradients = torch.stack(
        [
            network.batch_gradient(chosen)
            for chosen in network.batches(NUMBERS.batch, NUMBERS.products, seed=4)
        ]
    )
    return curvature.products(gradients.float()).double().square().sum(dim=1).numpy()


@cache
def _without_noise() -> float:
    """‖Hg‖² of the Train loss and its gradient."""
    network = digits_network()
    curvature = Curvature.of(network.objective, network.everything)
    return float(curvature.products(network.gradient.float()[None]).double().square().sum())


def _measured_drift(rate: float) -> Estimate:
    """The instrument's step drift, from independent batches and independent probe examples."""
    network, draw = digits_network(), torch.Generator().manual_seed(5)

    def probe() -> object:
        return network.train.batch(
            torch.randint(len(network.train), (NUMBERS.probe,), generator=draw)
        )

    return network.estimates(StepDrift(), NUMBERS.batch, NUMBERS.steps, 6, rate, probe)[
        "drift_squared"
    ]


def _far_away(distance: float) -> float:
    """g(x + Δ) − g(x) of log cosh x from its minimum, by torch."""
    position = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.log(torch.cosh(position)), position)
    return float(gradient)


IMAGE = float(np.linalg.norm(np.array(NUMBERS.curvature) @ DIRECTION))

drift = partial(
    Experiment,
    dial="length of the move, ‖Δ‖",
    quantity="change of the gradient, ‖g(Φ + Δ) − g(Φ)‖",
)


S3 = Statement(
    name="S3",
    title="Gradient drift",
    claim=(
        "As the parameters move the gradient changes, to first order by the Hessian times the move."
    ),
    experiments=(
        drift(
            name="quadratic",
            setting=Circumstance.KNOWN,
            where="a quadratic of three parameters",
            points=NUMBERS.lengths,
            predict=lambda length: length * IMAGE,
            measure=_quadratic_drift,
            says="‖HΔ‖, for moves of any length: a quadratic has no third derivative.",
        ),
        Experiment(
            name="digits",
            setting=Circumstance.REAL,
            where=f"{MLP}, steps of B = 32",
            quantity="E‖g(Φ − ηĝ) − g(Φ)‖²",
            dial="learning rate, η",
            points=NUMBERS.rates,
            predict=lambda rate: mean_estimate(rate**2 * _products()),
            measure=_measured_drift,
            rival=Rival("steps along g alone, η²‖Hg‖²", lambda rate: rate**2 * _without_noise()),
            says=(
                "η² E‖Hĝ‖², from Hessian products with the gradients of 100 batches. The "
                "instrument measures it without a Hessian, from halves of other examples at both "
                "ends of a step."
            ),
        ),
        drift(
            name="far_away",
            setting=Circumstance.FAILS,
            where="log cosh x, from its minimum",
            points=NUMBERS.distances,
            predict=np.tanh,
            measure=_far_away,
            claim=lambda distance: distance,
            says=(
                "A long move leaves the region in which the loss is a quadratic. HΔ = Δ grows "
                "without limit, but the gradient is tanh Δ, which stays below 1."
            ),
        ),
    ),
    limits=(
        "It is a statement about short moves. Over long ones, and across the kinks of a ReLU "
        "network, the Hessian at the start of the move says little about the gradient at its end."
    ),
)
