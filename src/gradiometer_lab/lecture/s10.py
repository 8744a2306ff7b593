"""S10: at a constant learning rate SGD is a Markov chain with a stationary law."""

from functools import partial

import numpy as np

from gradiometer.measurement.estimate import Estimate
from gradiometer_lab.closed_forms.quadratic import Quadratic
from gradiometer_lab.lecture.network import SIZE, Regressions, minimum
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)
from gradiometer_lab.temperature.stationary_law import SGDRule, reshuffled_covariance

NUMBERS = settings("S10")
QUADRATIC = Quadratic(NUMBERS.curvature, NUMBERS.noise)


def _spread_of_chains(rate: float, start: float) -> Estimate:
    """tr S, the mean squared distance from the minimum."""
    seed = int(100 * rate) + int(start)
    begin = [start, -start]
    chains = QUADRATIC.simulate(
        [rate] * NUMBERS.steps,
        chains=NUMBERS.chains,
        batch_size=NUMBERS.batch,
        start=begin,
        seed=seed,
    )
    return mean_estimate(((chains[-1] - QUADRATIC.minimum) ** 2).sum(axis=1))


def _spread_of_law(rate: float) -> float:
    """tr S of the regressions."""
    return float(np.trace(minimum().stationary_covariance(rate, SIZE)))


def _on_digits(rate: float) -> Estimate:
    """tr S of the regressions."""
    runs = Regressions(seed=int(1000 * rate))
    return runs.stationary_mean(
        rate,
        lambda: ((runs.positions - minimum().minimum) ** 2).sum(axis=1),
        forgetting=NUMBERS.forgetting,
        looks=NUMBERS.looks,
        between=NUMBERS.between_looks,
    )


def _variance_at_ends(rate: float) -> Estimate:
    """Var β at the ends of epochs over 200 values of y in random order, B = 1, over chains."""
    generator = np.random.default_rng(int(1000 * rate))
    values = generator.standard_normal(NUMBERS.examples)
    values = (values - values.mean()) / values.std()
    position = np.zeros(NUMBERS.flat_chains)
    epochs = max(int(NUMBERS.epochs / (rate * NUMBERS.examples)), 1) + 1
    for _ in range(epochs):
        order = generator.permuted(np.tile(values, (len(position), 1)), axis=1)
        for step in range(NUMBERS.examples):
            position += rate * (order[:, step] - position)
    return mean_estimate(position**2)


def _cold(rate: float) -> float:
    law = reshuffled_covariance(
        [[1.0]], [[1.0]], SGDRule(rate, batch_size=1), NUMBERS.examples, batches=0
    )
    return float(np.trace(law))


spread = partial(Experiment, quantity="spread of the iterates, tr S", dial="learning rate, η")
known = partial(
    spread,
    setting=Circumstance.KNOWN,
    where="a quadratic of two parameters, correlated noise, B = 4",
    points=NUMBERS.rates,
    predict=lambda rate: float(np.trace(QUADRATIC.stationary_covariance(rate, NUMBERS.batch))),
)


S10 = Statement(
    name="S10",
    title="SGD as a form of MCMC",
    claim=(
        "At a constant learning rate the iterates of SGD are a Markov chain with a stationary law."
    ),
    experiments=(
        known(
            name="from_here",
            measure=lambda rate: _spread_of_chains(rate, 0.0),
            says="S solves S = (I − ηH) S (I − ηH) + η² Σ/B, exactly and for every stable η.",
        ),
        known(
            name="from_far_away",
            measure=lambda rate: _spread_of_chains(rate, NUMBERS.far),
            says="The same from another start: a Markov chain forgets its start.",
        ),
        spread(
            name="digits",
            setting=Circumstance.REAL,
            where="softmax regression on the digits, 650 parameters, 64 runs at B = 8",
            points=NUMBERS.real_rates,
            predict=_spread_of_law,
            measure=_on_digits,
            rival=Rival("twice the temperature", lambda rate: 2 * _spread_of_law(rate)),
            says=(
                "The same law, with H and Σ at the minimum: at small η the loss near the runs is "
                "quadratic."
            ),
        ),
        Experiment(
            name="reshuffled",
            setting=Circumstance.FAILS,
            where="the one-dimensional example on 200 values of y, reshuffled every epoch, B = 1",
            quantity="variance of β at the end of an epoch",
            dial="learning rate, η",
            points=NUMBERS.flat_rates,
            predict=_cold,
            measure=_variance_at_ends,
            claim=lambda rate: rate / (2 - rate),
            says=(
                "The batches of an epoch are not independent: if one is above the mean, the others "
                "are below it. The variance is smaller than for independent draws, by a factor of "
                "13 at η = 0.005."
            ),
        ),
    ),
    limits=(
        "The law is exact for a quadratic with noise that does not depend on Φ, and for batches of "
        "independent draws. A data loader that shuffles every epoch gives less noise in flat "
        "directions. A deep network may need longer than any run to forget its start."
    ),
)
