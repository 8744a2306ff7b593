"""S1: vanilla SGD moves against the batch gradient, on average against the gradient."""

import copy
from functools import partial

import numpy as np
import torch

from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.problems.closed_forms.one_dimensional import OneDimensional

RATES = (0.01, 0.1, 1.0)
BATCH, BATCHES = 32, 300
MOMENTUM, WARM = 0.9, 100
"""After so many steps the momentum buffer has forgotten its start to 3e-5."""
EXAMPLE, START = OneDimensional(mean=1.0, variance=4.0), 3.0


def _one_step(rate: float) -> Estimate:
    """How far β goes towards E y, over many first steps."""
    chains = EXAMPLE.simulate([rate], chains=4000, batch_size=BATCH, start=START, seed=RATES.index(rate))
    return mean(chains[0] - chains[1], level=LEVEL, batches=len(chains[0]))


def _along_gradient(rate: float, momentum: float = 0.0) -> Estimate:
    """−⟨ΔΦ, g⟩/‖g‖ of torch's own optimizer, the network put back after every step."""
    network = digits_network()
    direction = network.gradient / network.gradient.norm()
    model = copy.deepcopy(network.objective.model)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    moves = []
    for chosen in network.batches(BATCH, BATCHES + WARM, seed=RATES.index(rate)):
        optimizer.zero_grad()
        network.objective.loss(model, network.train.batch(chosen)).mean().backward()
        optimizer.step()
        move = flat([after.detach() - before for after, before in zip(model.parameters(), start, strict=True)])
        moves.append(-float(move.double() @ direction))
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), start)
    return mean(np.array(moves[WARM:]), level=LEVEL)


def _experiments() -> tuple[Experiment, ...]:
    gradient = EXAMPLE.gradient(START)
    norm = float(digits_network().gradient.norm())
    claimed = tuple(rate * norm for rate in RATES)
    real = partial(
        Experiment, where="the digits' MLP, 64-64-10", quantity="move along −g, per step", dial="learning rate, η",
        points=RATES,
    )  # fmt: skip
    return (
        Experiment(
            name="one_step",
            setting=Setting.KNOWN,
            where="the one-dimensional example, β = 3, E y = 1",
            quantity="mean move towards E y, per step",
            dial="learning rate, η",
            points=RATES,
            predict=lambda: [Estimate.exact(rate * gradient) for rate in RATES],
            measure=lambda: [_one_step(rate) for rate in RATES],
            says="On average a step is −η(β − E y), whatever the batch.",
        ),
        real(
            name="digits",
            setting=Setting.REAL,
            predict=lambda: [Estimate.exact(move) for move in claimed],
            measure=lambda: [_along_gradient(rate) for rate in RATES],
            says="On average over batches of 32, torch's SGD moves η‖g‖ along −g, with g the exact Train gradient.",
        ),
        real(
            name="momentum",
            setting=Setting.FAILS,
            predict=lambda: [Estimate.exact(move / (1 - MOMENTUM)) for move in claimed],
            measure=lambda: [_along_gradient(rate, MOMENTUM) for rate in RATES],
            claimed=claimed,
            says="With momentum 0.9 a step is against an average of past batch gradients: on a gradient that stays it "
            "is 1/(1 − μ) = 10 times as long.",
        ),
    )


S1 = Statement(
    name="S1",
    title="A step against the batch gradient",
    claim="Vanilla SGD moves against the gradient of a batch, which on average is the gradient.",
    experiments=_experiments,
    limits="With momentum, clipping or preconditioning the step is not against the batch gradient any more, and what "
    "is measured of ĝ is not what moves Φ.",
)
