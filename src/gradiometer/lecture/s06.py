"""S6: the one-dimensional example, the whole lecture in two numbers."""

from functools import partial

import numpy as np
from jaxtyping import Float

from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import digits_network, geometric
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.problems.closed_forms.one_dimensional import OneDimensional
from gradiometer.problems.examples import Examples

EXAMPLE = OneDimensional(mean=1.0, variance=4.0)
BATCH, CHAINS, STEPS = 4, 8000, 200
RATES = (0.05, 0.2, 0.5, 1.0, 1.5, 1.8)
TIMES = tuple(int(time) for time in geometric(1.0, 1000.0, 7))
BEYOND, LATE = 2.2, (5, 10, 20)


def brightness() -> Float[np.ndarray, " examples"]:
    """Real y: the mean brightness of every training image of the digits, in percent."""
    images = digits_network().everything[0]
    values: np.ndarray = images.flatten(1).double().mean(dim=1).numpy() * 100
    return values


def _spread(values: Float[np.ndarray, " chains"]) -> Estimate:
    """The variance over chains, as a mean of squared distances."""
    squares = (values - values.mean()) ** 2 * len(values) / (len(values) - 1)
    return mean(squares, level=LEVEL, batches=len(squares))


def _simulated(rates: Float[np.ndarray, " steps"], seed: int) -> Float[np.ndarray, "times chains"]:
    return EXAMPLE.simulate(rates, chains=CHAINS, batch_size=BATCH, start=3.0, seed=seed)


def _on_brightness(rate: float, seed: int) -> Estimate:
    """SGD on the real y, batches of independent draws: the spread of β over chains after it has forgotten its start."""
    values, generator = brightness(), np.random.default_rng(seed)
    position = np.full(CHAINS, values[0])
    for _ in range(STEPS):
        batch = values[generator.integers(len(values), size=(CHAINS, BATCH))]
        position = position - rate * (position - batch.mean(axis=1))
    return _spread(position)


def _experiments() -> tuple[Experiment, ...]:
    known = partial(
        Experiment, setting=Setting.KNOWN, where="Gaussian y of variance 4, B = 4", quantity="variance of β"
    )
    real = EXAMPLE.on(Examples(brightness()))
    running = 1 / np.arange(1, TIMES[-1] + 1)
    return (
        known(
            name="constant",
            dial="learning rate, η",
            points=RATES,
            predict=lambda: [Estimate.exact(EXAMPLE.stationary_variance(rate, BATCH)) for rate in RATES],
            measure=lambda: [_spread(_simulated(np.full(STEPS, rate), 10 + k)[-1]) for k, rate in enumerate(RATES)],
            says="At a constant rate β never rests: its variance stays at ησ²/(B(2 − η)).",
            log_dial=False,
        ),
        known(
            name="running_mean",
            dial="step, t",
            points=TIMES,
            predict=lambda: [Estimate.exact(EXAMPLE.running_mean_variance(time, BATCH)) for time in TIMES],
            measure=lambda: [_spread(_simulated(running, 20)[time]) for time in TIMES],
            says="At η = 1/t it is the mean of all y seen so far: its variance is σ²/(Bt), and goes to zero.",
        ),
        Experiment(
            name="brightness",
            setting=Setting.REAL,
            where="the mean brightness of a digit's image as y, in percent; a model of one parameter",
            quantity="variance of β",
            dial="learning rate, η",
            points=RATES[:4],
            predict=lambda: [Estimate.exact(real.stationary_variance(rate, BATCH)) for rate in RATES[:4]],
            measure=lambda: [_on_brightness(rate, 30 + k) for k, rate in enumerate(RATES[:4])],
            says="The same, whatever the law of y: only its variance counts.",
            log_dial=False,
        ),
        Experiment(
            name="beyond_two",
            setting=Setting.FAILS,
            where="Gaussian y, η = 2.2",
            quantity="variance of β",
            dial="step, t",
            points=LATE,
            predict=lambda: [Estimate.exact(float(EXAMPLE.law([BEYOND] * 20, BATCH)[1][time])) for time in LATE],
            measure=lambda: [_spread(_simulated(np.full(LATE[-1], BEYOND), 40)[time]) for time in LATE],
            claimed=tuple(BEYOND * EXAMPLE.variance / (BATCH * (2 - BEYOND)) for _ in LATE),
            says="Beyond η = 2 there is no stationary law (the formula turns negative): the variance grows by (1 − η)² "
            "a step, for ever.",
        ),
    )


S6 = Statement(
    name="S6",
    title="The one-dimensional example",
    claim="Even at the best β the batch gradient is not zero; at a constant rate β keeps a spread, at 1/t it loses it.",
    experiments=_experiments,
    limits="It is a quadratic with noise that does not depend on β, and batches of independent draws. Epochs in random "
    "order are colder; beyond η = 2 there is no stationary law.",
    interactive="one_dimensional",
)
