"""S1: vanilla SGD moves against the batch gradient, which on average is the gradient."""

import math
from functools import partial

import numpy as np

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer_lab.closed_forms.one_dimensional import OneDimensional
from gradiometer_lab.lecture.network import MLP, digits_network
from gradiometer_lab.lecture.statement import (
    LEVEL,
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)

NUMBERS = settings("S1")
EXAMPLE = OneDimensional(NUMBERS.mean, NUMBERS.variance)


def _one_step(rate: float) -> Estimate:
    """How far β moves towards E y in its first step, over many runs."""
    chains = EXAMPLE.simulate(
        [rate],
        chains=NUMBERS.chains,
        batch_size=NUMBERS.batch,
        start=NUMBERS.start,
        seed=NUMBERS.rates.index(rate),
    )
    return mean_estimate(chains[0] - chains[1])


def _along_gradient(rate: float, momentum: float = 0.0) -> Estimate:
    """−⟨ΔΦ, g⟩/‖g‖ of torch's own optimizer, with the network put back after every step."""
    network = digits_network()
    direction = network.gradient / network.gradient.norm()
    seed = NUMBERS.rates.index(rate)
    moves = network.moves(NUMBERS.batch, NUMBERS.moves, seed, rate, momentum)
    along = np.array([-float(move @ direction) for move in moves])
    return mean(along[NUMBERS.forgotten :], level=LEVEL)


def _norm() -> float:
    """‖g‖ of the network."""
    return float(digits_network().gradient.norm())


experiment = partial(Experiment, dial="learning rate, η", points=NUMBERS.rates)
real = partial(experiment, where=MLP, quantity="move along −g, per step")


S1 = Statement(
    name="S1",
    title="A step against the batch gradient",
    claim="Vanilla SGD moves against the gradient of a batch, which on average is the gradient.",
    experiments=(
        experiment(
            name="one_step",
            setting=Circumstance.KNOWN,
            where="the one-dimensional example, β = 3, E y = 1",
            quantity="mean move towards E y, per step",
            predict=lambda rate: rate * EXAMPLE.gradient(NUMBERS.start),
            measure=_one_step,
            says="On average a step is −η(β − E y), for every batch size.",
        ),
        real(
            name="digits",
            setting=Circumstance.REAL,
            predict=lambda rate: rate * _norm(),
            measure=_along_gradient,
            rival=Rival(
                "all of the step is along −g, η √E‖ĝ‖²",
                lambda rate: (
                    rate * math.sqrt(_norm() ** 2 + digits_network().noise_of_batch(NUMBERS.batch))
                ),
            ),
            says=(
                "On average over batches of 32, torch's SGD moves η‖g‖ along −g, with g the exact "
                "Train gradient."
            ),
        ),
        real(
            name="momentum",
            setting=Circumstance.FAILS,
            predict=lambda rate: rate * _norm() / (1 - NUMBERS.momentum),
            measure=lambda rate: _along_gradient(rate, NUMBERS.momentum),
            claim=lambda rate: rate * _norm(),
            says=(
                "With momentum 0.9 a step follows an average of past batch gradients. If the "
                "gradient stays the same, the step is 1/(1 − μ) = 10 times as long."
            ),
        ),
    ),
    limits=(
        "With momentum, clipping or preconditioning the step is no longer against the batch "
        "gradient, so measurements of ĝ do not describe the move of Φ."
    ),
)
