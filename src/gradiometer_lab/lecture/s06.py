"""S6: the one-dimensional example, the whole lecture in two numbers."""

from functools import cache, partial

import numpy as np
from jaxtyping import Float

from gradiometer.measurement.estimate import Estimate
from gradiometer.problems.examples import Examples
from gradiometer_lab.closed_forms.one_dimensional import OneDimensional
from gradiometer_lab.lecture.network import digits_network
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)

NUMBERS = settings("S6")
EXAMPLE = OneDimensional(NUMBERS.mean, NUMBERS.variance)


def brightness() -> Float[np.ndarray, " examples"]:
    """Real y: the mean brightness of every training image of the digits, in percent."""
    images = digits_network().everything[0]
    return np.asarray(images.flatten(1).double().mean(dim=1).numpy() * 100)


def _spread(values: Float[np.ndarray, " chains"]) -> Estimate:
    """The variance over chains, as a mean of squared distances."""
    # The mean is of the same chains, so one degree of freedom is lost.
    return mean_estimate((values - values.mean()) ** 2 * len(values) / (len(values) - 1))


def _chains(rates: Float[np.ndarray, " steps"], seed: int) -> Float[np.ndarray, "times chains"]:
    return EXAMPLE.simulate(
        rates, chains=NUMBERS.chains, batch_size=NUMBERS.batch, start=NUMBERS.start, seed=seed
    )


def _on_brightness(rate: float) -> Estimate:
    """SGD on the real y, batches of independent draws: the spread of β over chains that have
    forgotten their start."""
    values, generator = brightness(), np.random.default_rng(30 + NUMBERS.rates.index(rate))
    position = np.full(NUMBERS.chains, values[0])
    for _ in range(NUMBERS.steps):
        batch = values[generator.integers(len(values), size=(NUMBERS.chains, NUMBERS.batch))]
        position = position - rate * (position - batch.mean(axis=1))
    return _spread(position)


@cache
def _real() -> OneDimensional:
    """The example with the real y as its population."""
    return EXAMPLE.on(Examples(brightness()))


GROWING = EXAMPLE.law([NUMBERS.beyond] * NUMBERS.late[-1], NUMBERS.batch)[1]

variance = partial(
    Experiment, quantity="variance of β", dial="learning rate, η", points=NUMBERS.rates
)
known = partial(variance, setting=Circumstance.KNOWN, where="Gaussian y of variance 4, B = 4")


S6 = Statement(
    name="S6",
    title="The one-dimensional example",
    claim=(
        "Even at the best β the batch gradient is not zero; at a constant rate β keeps a spread, "
        "at 1/t it loses it."
    ),
    experiments=(
        known(
            name="constant",
            predict=lambda rate: EXAMPLE.stationary_variance(rate, NUMBERS.batch),
            measure=lambda rate: _spread(
                _chains(np.full(NUMBERS.steps, rate), 10 + NUMBERS.rates.index(rate))[-1]
            ),
            says="At a constant rate β never comes to rest: its variance stays at ησ²/(B(2 − η)).",
            log_dial=False,
        ),
        known(
            name="running_mean",
            dial="step, t",
            points=NUMBERS.times,
            predict=lambda time: EXAMPLE.running_mean_variance(time, NUMBERS.batch),
            measure=lambda time: _spread(
                _chains(1 / np.arange(1, NUMBERS.times[-1] + 1), 20)[time]
            ),
            says=(
                "At η = 1/t, β is the mean of all y so far: its variance is σ²/(Bt), and goes to "
                "zero."
            ),
        ),
        variance(
            name="brightness",
            setting=Circumstance.REAL,
            where=(
                "the mean brightness of a digit's image as y, in percent; a model of one parameter"
            ),
            points=NUMBERS.real_rates,
            predict=lambda rate: _real().stationary_variance(rate, NUMBERS.batch),
            measure=_on_brightness,
            rival=Rival(
                "the law of a small rate, ησ²/(2B)",
                lambda rate: rate * _real().variance / (2 * NUMBERS.batch),
            ),
            says="The same, for every distribution of y: only its variance matters.",
            log_dial=False,
        ),
        variance(
            name="beyond_two",
            setting=Circumstance.FAILS,
            where="Gaussian y, η = 2.2",
            dial="step, t",
            points=NUMBERS.late,
            predict=lambda time: GROWING[time],
            measure=lambda time: _spread(
                _chains(np.full(NUMBERS.late[-1], NUMBERS.beyond), 40)[time]
            ),
            claim=lambda _: (
                NUMBERS.beyond * EXAMPLE.variance / (NUMBERS.batch * (2 - NUMBERS.beyond))
            ),
            says=(
                "Beyond η = 2 there is no stationary law (the formula becomes negative): the "
                "variance grows by a factor of (1 − η)² per step, without end."
            ),
        ),
    ),
    limits=(
        "The loss is a quadratic, its noise does not depend on β, and the batches are independent "
        "draws. Epochs in random order are colder; beyond η = 2 there is no stationary law."
    ),
    interactive="one_dimensional",
)
