"""S11: the learning rate is a temperature."""

import copy
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.exploration.temperature.stationary_law import (
    Rule,
    configurational_temperature,
    mode_variance,
    small_rate_temperature,
    stationary_covariance,
    without_replacement,
)
from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.problems.closed_forms.quadratic import Quadratic

CURVATURES, ISOTROPIC = np.array([0.5, 1.0, 2.0]), np.array([4.0, 4.0, 4.0])
RATES, SIZES = (0.02, 0.05, 0.1, 0.2, 0.4), (1, 4, 16, 64)
BATCH, CHAINS, RATE = 4, 8000, 0.05
FORGOTTEN = 6.0
"""ηh·steps in the flattest direction: the variance is within e⁻¹² of its law."""

UNEVEN, MODES = np.array([8.0, 1.0, 0.25]), (1, 2, 3)

REAL_RATES, REAL_SIZES, BATCHES = (0.01, 0.1, 1.0), (8, 32, 128), 300


def _settled(noise: Float[np.ndarray, " params"], rate: float, size: int) -> Float[np.ndarray, "chains params"]:
    """Iterates after they have forgotten that they started at the minimum."""
    quadratic = Quadratic(CURVATURES, noise)
    seed = int(1000 * rate) + size
    settled: np.ndarray = quadratic.simulate(
        [rate] * int(FORGOTTEN / (rate * CURVATURES.min())), chains=CHAINS, batch_size=size, seed=seed
    )[-1]
    return settled


def _temperature(rate: float, size: int) -> Estimate:
    """⟨Φ − Φ*, g⟩/d, which equipartition calls the temperature."""
    products = (_settled(ISOTROPIC, rate, size) ** 2 @ CURVATURES) / len(CURVATURES)
    return mean(products, level=LEVEL, batches=CHAINS)


def _exact(rate: float, size: int) -> Estimate:
    curvature = np.diag(CURVATURES)
    covariance = stationary_covariance(curvature, np.diag(ISOTROPIC), Rule(rate, size))
    return Estimate.exact(configurational_temperature(curvature, covariance))


def _of_mode(mode: int) -> Estimate:
    """h·Var of one direction."""
    squares = _settled(UNEVEN, RATE, BATCH)[:, mode - 1] ** 2
    return mean(CURVATURES[mode - 1] * squares, level=LEVEL, batches=CHAINS)


def _heat(rate: float, size: int) -> Estimate:
    """‖ΔΦ‖²/(2ηd) of torch's own optimizer, the network put back after every step."""
    network = digits_network()
    model = copy.deepcopy(network.objective.model)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    heats = []
    for chosen in network.batches(size, BATCHES, seed=300 + size):
        optimizer.zero_grad()
        network.objective.loss(model, network.train.batch(chosen)).mean().backward()
        optimizer.step()
        move = flat([after.detach() - before for after, before in zip(model.parameters(), start, strict=True)])
        heats.append(float(move.double().square().sum()) / (2 * rate * len(move)))
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), start)
    return mean(np.array(heats), level=LEVEL, batches=BATCHES)


def _put_in(rate: float, size: int) -> Estimate:
    """T_minibatch + T_step, from the gradients of all examples."""
    network = digits_network()
    share = without_replacement(size, len(network.train))
    parameters = len(network.gradient)
    minibatch = small_rate_temperature(share * network.gradient_variance, parameters, Rule(rate, size))
    return Estimate.exact(minibatch + rate * float(network.gradient.square().sum()) / (2 * parameters))


def _experiments() -> tuple[Experiment, ...]:
    known = partial(
        Experiment, setting=Setting.KNOWN, where="a quadratic of three parameters, noise alike in all directions",
        quantity="temperature, E⟨Φ − Φ*, g⟩/d",
    )  # fmt: skip
    real = partial(
        Experiment, setting=Setting.REAL, where="the digits' MLP, 64-64-10, held still",
        quantity="heat of a step, E‖ΔΦ‖²/(2ηd)",
    )  # fmt: skip
    one = small_rate_temperature(float(UNEVEN.sum()), len(UNEVEN), Rule(RATE, BATCH))
    return (
        known(
            name="rate",
            dial="learning rate, η",
            points=RATES,
            predict=lambda: [_exact(rate, BATCH) for rate in RATES],
            measure=lambda: [_temperature(rate, BATCH) for rate in RATES],
            says="Proportional to η while η is small, T = η tr Σ/(2dB); above that by the length of the steps.",
        ),
        known(
            name="batch",
            dial="batch size, B",
            points=SIZES,
            predict=lambda: [_exact(RATE, size) for size in SIZES],
            measure=lambda: [_temperature(RATE, size) for size in SIZES],
            says="And to 1/B: doubling the batch and halving the rate are the same to a temperature.",
        ),
        real(
            name="digits_rate",
            dial="learning rate, η",
            points=REAL_RATES,
            predict=lambda: [_put_in(rate, 32) for rate in REAL_RATES],
            measure=lambda: [_heat(rate, 32) for rate in REAL_RATES],
            says="What the steps of torch's SGD put in is η(tr Σ/B + ‖g‖²)/(2d), the noise's heat and the steps' own, "
            "with Σ and g from the gradients of all examples.",
        ),
        real(
            name="digits_batch",
            dial="batch size, B",
            points=REAL_SIZES,
            predict=lambda: [_put_in(0.1, size) for size in REAL_SIZES],
            measure=lambda: [_heat(0.1, size) for size in REAL_SIZES],
            says="Along B the noise's heat falls as 1/B, and the heat of the steps themselves stays.",
        ),
        Experiment(
            name="uneven",
            setting=Setting.FAILS,
            where="the same quadratic with most of its noise in one direction",
            quantity="temperature of one direction, h Var Φ",
            dial="direction",
            points=MODES,
            predict=lambda: [
                Estimate.exact(h * mode_variance(h, c, Rule(RATE, BATCH)))
                for h, c in zip(CURVATURES.tolist(), UNEVEN.tolist(), strict=True)
            ],
            measure=lambda: [_of_mode(mode) for mode in MODES],
            claimed=tuple(one for _ in MODES),
            says="Every direction has a temperature of its own, ηc/(B(2 − ηh)) with the noise c along it: there is no "
            "one T, and exp(−L/T) is not the law.",
            log_dial=False,
        ),
    )


S11 = Statement(
    name="S11",
    title="The learning rate as a temperature",
    claim="The learning rate is a temperature: for noise alike in all directions the law of SGD is close to exp(−L/T), "
    "T = η tr Σ/(2dB).",
    experiments=_experiments,
    limits="It takes a small rate, a stationary run and noise alike in all directions. In a network none of these "
    "holds exactly: the thermometer reads a temperature by layer, and calls it effective.",
    interactive="temperature",
)
