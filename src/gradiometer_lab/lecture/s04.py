"""S4: to reach a local optimum the learning rate must go gradually to zero."""

from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.convergence.schedules.shapes import Constant, Linear
from gradiometer.measurement.estimate import Estimate
from gradiometer_lab.closed_forms.one_dimensional import OneDimensional
from gradiometer_lab.lecture.network import Regressions
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)

NUMBERS = settings("S4")
EXAMPLE = OneDimensional(variance=NUMBERS.variance)
SLOPES = np.array(NUMBERS.slopes)


def _exact_excess(rates: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " times"]:
    """E ½(β − E y)², the excess loss, after every step."""
    means, variances = EXAMPLE.law(rates, NUMBERS.batch, start=NUMBERS.start)
    return np.asarray((means**2 + variances) / 2)


def _excess(rates: Float[np.ndarray, " steps"], time: int, seed: int) -> Estimate:
    """The same, from simulated runs, at one time."""
    chains = EXAMPLE.simulate(
        rates, chains=NUMBERS.chains, batch_size=NUMBERS.batch, start=NUMBERS.start, seed=seed
    )
    return mean_estimate(chains[time] ** 2 / 2)


@cache
def _floor(rate: float) -> tuple[Regressions, Float[np.ndarray, " runs"], Estimate]:
    """Runs that have settled at a constant rate: their losses, and how much averaging their
    iterates gains."""
    runs = Regressions(seed=int(1000 * rate))
    runs.train(Constant(rate), NUMBERS.settling)
    looks = []
    for _ in range(NUMBERS.looks):
        part = runs.train(Constant(rate), NUMBERS.between_looks)
        looks.append((runs.losses(runs.weights), part))
    hot = np.mean([loss for loss, _ in looks], axis=0)
    cold = runs.losses(torch.stack([part for _, part in looks]).mean(dim=0))
    return runs, hot, mean_estimate(hot - cold)


def _gain(rate: float) -> Estimate:
    """By how much the loss falls when the rate of the same runs then goes linearly to zero."""
    runs, hot, _ = _floor(rate)
    runs.train(Linear(rate, steps=NUMBERS.cooling), NUMBERS.cooling)
    return mean_estimate(hot - runs.losses(runs.weights))


def _agreeing(time: int) -> Estimate:
    """E β² on two examples ½aβ² of different curvature and the same minimum, at B = 1."""
    drawn = np.random.default_rng(3).integers(2, size=(NUMBERS.late[-1], NUMBERS.late_chains))
    return mean_estimate(np.prod(1 - NUMBERS.rate * SLOPES[drawn[:time]], axis=0) ** 2)


CONSTANT = np.full(NUMBERS.times[-1], NUMBERS.rate)
DECAYING = 1 / np.arange(1, NUMBERS.times[-1] + 1)

# By how much E β² shrinks in a step.
SHRINKS = float(np.mean((1 - NUMBERS.rate * SLOPES) ** 2))

known = partial(
    Experiment,
    setting=Circumstance.KNOWN,
    quantity="excess loss",
    dial="step, t",
    points=NUMBERS.times,
)


S4 = Statement(
    name="S4",
    title="Convergence",
    claim="To reach a local optimum the learning rate must go gradually to zero.",
    experiments=(
        known(
            name="constant",
            where="the one-dimensional example at η = 0.5",
            predict=lambda time: _exact_excess(CONSTANT)[time],
            measure=lambda time: _excess(CONSTANT, time, 1),
            says="At a constant rate the loss stays ½·ησ²/(B(2 − η)) above its floor.",
        ),
        known(
            name="decaying",
            where="the one-dimensional example at η = 1/t",
            predict=lambda time: _exact_excess(DECAYING)[time],
            measure=lambda time: _excess(DECAYING, time, 2),
            says="If the rate goes to zero the spread does too, here as 1/t.",
        ),
        Experiment(
            name="digits",
            setting=Circumstance.REAL,
            where="softmax regression on the digits, 64 runs at B = 8",
            quantity="loss gained by going to zero",
            dial="learning rate before, η",
            points=NUMBERS.rates,
            predict=lambda rate: _floor(rate)[2],
            measure=_gain,
            rival=Rival("twice the temperature", lambda rate: 2 * _floor(rate)[2].value),
            says=(
                "As much as averaging gains before the cut: mean L of the iterates less L at their "
                "mean."
            ),
        ),
        Experiment(
            name="agreeing",
            setting=Circumstance.FAILS,
            where="two examples, ½·0.5β² and ½·1.5β², at η = 0.5 and B = 1",
            quantity="E β²",
            dial="step, t",
            points=NUMBERS.late,
            predict=lambda time: SHRINKS**time,
            measure=_agreeing,
            claim=lambda _: NUMBERS.rate * float(SLOPES.var()) / (2 - NUMBERS.rate),
            says=(
                "If all examples have the same minimum, there is no noise at it: a constant rate "
                "reaches it, at a geometric speed. A network that fits its training set exactly "
                "comes close to this."
            ),
        ),
    ),
    limits=(
        "Only noise at the optimum keeps the iterates apart. If every example's gradient is zero "
        "there (a network that fits its training set exactly), a constant rate below the edge of "
        "stability converges too."
    ),
)
