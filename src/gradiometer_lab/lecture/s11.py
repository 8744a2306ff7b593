"""S11: the learning rate is a temperature."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.measurement.estimate import Estimate
from gradiometer_lab.closed_forms.quadratic import Quadratic
from gradiometer_lab.lecture.network import MLP, RUNS, SIZE, Regressions, digits_network, minimum
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)
from gradiometer_lab.temperature.stationary_law import (
    SGDRule,
    configurational_temperature,
    small_rate_temperature,
    stationary_covariance,
    without_replacement,
)

NUMBERS = settings("S11")
CURVATURES = np.array(NUMBERS.curvatures)
ISOTROPIC = np.array(NUMBERS.isotropic)
UNEVEN = np.array(NUMBERS.uneven)


def _stationary_iterates(
    noise: Float[np.ndarray, " params"], rate: float, size: int
) -> Float[np.ndarray, "chains params"]:
    """Iterates after they have forgotten that they started at the minimum."""
    steps = int(NUMBERS.settling / (rate * CURVATURES.min()))
    seed = int(1000 * rate) + size
    quadratic = Quadratic(CURVATURES, noise)
    return np.asarray(
        quadratic.simulate([rate] * steps, chains=NUMBERS.chains, batch_size=size, seed=seed)[-1]
    )


def _temperature(rate: float, size: int) -> Estimate:
    """⟨Φ − Φ*, g⟩/d, which equipartition calls the temperature."""
    return mean_estimate(
        (_stationary_iterates(ISOTROPIC, rate, size) ** 2 @ CURVATURES) / len(CURVATURES)
    )


def _exact(rate: float, size: int) -> float:
    curvature = np.diag(CURVATURES)
    covariance = stationary_covariance(curvature, np.diag(ISOTROPIC), SGDRule(rate, size))
    return configurational_temperature(curvature, covariance)


def _heat(rate: float, size: int) -> Estimate:
    """‖ΔΦ‖²/(2ηd) of torch's own optimizer, with the network put back after every step."""
    moves = digits_network().moves(size, NUMBERS.moves, 300 + size, rate)
    return mean_estimate([float(move.square().sum()) / (2 * rate * len(move)) for move in moves])


def _put_in(rate: float, size: int) -> float:
    """T_minibatch + T_step, from the gradients of all examples."""
    network = digits_network()
    # The examples of a batch differ, so its mean is less noisy than of independent draws.
    share = without_replacement(size, len(network.train))
    parameters = len(network.gradient)
    minibatch = small_rate_temperature(
        share * network.gradient_variance, parameters, SGDRule(rate, size)
    )
    return minibatch + rate * float(network.gradient.square().sum()) / (2 * parameters)


def _law_of_regressions(size: int) -> float:
    return configurational_temperature(
        minimum().curvature, minimum().stationary_covariance(size / NUMBERS.same, size)
    )


def _temperature_of_regressions(size: int) -> Estimate:
    """⟨Φ − Φ*, g⟩/d of the regressions."""
    runs = Regressions(seed=1100 + size, batch_size=size)
    everything = torch.arange(len(runs.labels)).expand(RUNS, -1)

    def temperature() -> Float[np.ndarray, " runs"]:
        slopes = runs.gradient(runs.weights, everything).flatten(1).numpy()
        return np.asarray(((runs.positions - minimum().minimum) * slopes).mean(axis=1))

    return runs.stationary_mean(
        size / NUMBERS.same,
        temperature,
        forgetting=NUMBERS.forgetting,
        looks=NUMBERS.looks,
        between=NUMBERS.between_looks,
    )


known = partial(
    Experiment,
    setting=Circumstance.KNOWN,
    where="a quadratic of three parameters, the same noise in all directions",
    quantity="temperature, E⟨Φ − Φ*, g⟩/d",
)
real = partial(
    Experiment,
    setting=Circumstance.REAL,
    where=f"{MLP}, with fixed parameters",
    quantity="heat of a step, E‖ΔΦ‖²/(2ηd)",
)
ONE = small_rate_temperature(float(UNEVEN.sum()), len(UNEVEN), SGDRule(NUMBERS.rate, NUMBERS.batch))


S11 = Statement(
    name="S11",
    title="The learning rate as a temperature",
    claim=(
        "The learning rate is a temperature: for noise alike in all directions the law of SGD is "
        "close to exp(−L/T), T = η tr Σ/(2dB)."
    ),
    experiments=(
        known(
            name="rate",
            dial="learning rate, η",
            points=NUMBERS.rates,
            predict=lambda rate: _exact(rate, NUMBERS.batch),
            measure=lambda rate: _temperature(rate, NUMBERS.batch),
            says=(
                "Proportional to η while η is small, T = η tr Σ/(2dB); above that the length of "
                "the steps adds to it."
            ),
        ),
        known(
            name="batch",
            dial="batch size, B",
            points=NUMBERS.sizes,
            predict=lambda size: _exact(NUMBERS.rate, size),
            measure=lambda size: _temperature(NUMBERS.rate, size),
            says=(
                "And proportional to 1/B: for a temperature, doubling the batch is the same as "
                "halving the rate."
            ),
        ),
        real(
            name="digits_rate",
            dial="learning rate, η",
            points=NUMBERS.real_rates,
            predict=lambda rate: _put_in(rate, NUMBERS.real_batch),
            measure=lambda rate: _heat(rate, NUMBERS.real_batch),
            rival=Rival(
                "twice the temperature", lambda rate: 2 * _put_in(rate, NUMBERS.real_batch)
            ),
            says=(
                "The steps of torch's SGD add η(tr Σ/B + ‖g‖²)/(2d), the heat of the noise and "
                "that of the steps themselves, with Σ and g from the gradients of all examples."
            ),
        ),
        real(
            name="digits_batch",
            dial="batch size, B",
            points=NUMBERS.real_sizes,
            predict=lambda size: _put_in(NUMBERS.real_rate, size),
            measure=lambda size: _heat(NUMBERS.real_rate, size),
            rival=Rival(
                "steps without noise, η‖g‖²/(2d)",
                lambda _: _put_in(NUMBERS.real_rate, len(digits_network().train)),
            ),
            says=(
                "As B grows, the heat of the noise falls as 1/B, and the heat of the steps "
                "themselves stays."
            ),
        ),
        Experiment(
            name="same_temperature",
            setting=Circumstance.REAL,
            where="softmax regression on the digits, 64 stationary runs at η = B/160",
            quantity="temperature, E⟨Φ − Φ*, g⟩/d",
            dial="batch size, B, with the rate in proportion",
            points=NUMBERS.same_sizes,
            predict=_law_of_regressions,
            measure=_temperature_of_regressions,
            rival=Rival(
                "the rate alone counts", lambda size: size / SIZE * _law_of_regressions(SIZE)
            ),
            says=(
                "T = η tr Σ/(2dB): the rate and the batch grow together, so the temperature stays, "
                "up to what longer steps add. From H and Σ at the minimum; measured by full "
                "gradients where the runs are."
            ),
        ),
        Experiment(
            name="uneven",
            setting=Circumstance.FAILS,
            where="the same quadratic with most of its noise in one direction",
            quantity="temperature of one direction, h Var Φ",
            dial="direction",
            points=NUMBERS.modes,
            predict=lambda mode: (
                CURVATURES[mode - 1]
                * Quadratic(CURVATURES, UNEVEN).stationary_covariance(NUMBERS.rate, NUMBERS.batch)[
                    mode - 1, mode - 1
                ]
            ),
            measure=lambda mode: mean_estimate(
                CURVATURES[mode - 1]
                * _stationary_iterates(UNEVEN, NUMBERS.rate, NUMBERS.batch)[:, mode - 1] ** 2
            ),
            claim=lambda _: ONE,
            says=(
                "Every direction has its own temperature, ηc/(B(2 − ηh)) with the noise c along "
                "it: there is no single T, and exp(−L/T) is not the law."
            ),
            log_dial=False,
        ),
    ),
    limits=(
        "It needs a small rate, a stationary run and the same noise in all directions. In a "
        "network none of these holds exactly: the thermometer gives one temperature per layer, and "
        "calls it effective."
    ),
    interactive="temperature",
)
