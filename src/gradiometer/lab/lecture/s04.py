"""S4: to reach a local optimum the learning rate must go gradually to zero."""

from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.convergence.schedules.shapes import Constant, Linear
from gradiometer.lab.closed_forms.one_dimensional import OneDimensional
from gradiometer.lab.lecture.network import Regressions, spaced_steps
from gradiometer.lab.lecture.statement import (
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
)
from gradiometer.measurement.estimate import Estimate

EXAMPLE = OneDimensional(variance=4.0)
BATCH = 4
CHAINS = 4000
TIMES = spaced_steps(1000, 7)
RATE = 0.5

RATES = (0.05, 0.1, 0.2)
SLOPES = np.array([0.5, 1.5])
"""Curvatures of two examples with the same minimum."""
LATE = (4, 6)


def _exact_excess(rates: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " times"]:
    """E ½(β − E y)², the excess loss, after every step."""
    means, variances = EXAMPLE.law(rates, BATCH, start=2.0)
    excess: np.ndarray = (means**2 + variances) / 2
    return excess


def _excess(rates: Float[np.ndarray, " steps"], time: int, seed: int) -> Estimate:
    """The same, from simulated runs, at one time."""
    chains = EXAMPLE.simulate(rates, chains=CHAINS, batch_size=BATCH, start=2.0, seed=seed)
    return mean_estimate(chains[time] ** 2 / 2)


@cache
def _floor(rate: float) -> tuple[Regressions, Float[np.ndarray, " runs"], Estimate]:
    """Runs that have settled at a constant rate: their losses, and how much averaging their
    iterates gains."""
    runs = Regressions(seed=int(1000 * rate))
    # At the lowest rate the start is forgotten after 1/(0.05 · 0.1) = 200 steps in the flattest
    # direction, which has the curvature of the decay.
    runs.train(Constant(rate), 600)
    looks = []
    # Looks a quarter of the tail apart: losses of neighboring iterates are too alike to add
    # anything.
    for _ in range(4):
        part = runs.train(Constant(rate), 150)
        looks.append((runs.losses(runs.weights), part))
    hot = np.mean([loss for loss, _ in looks], axis=0)
    cold = runs.losses(torch.stack([part for _, part in looks]).mean(dim=0))
    return runs, hot, mean_estimate(hot - cold)


def _gain(rate: float) -> Estimate:
    """By how much the loss falls when the rate of the same runs then goes linearly to zero."""
    runs, hot, _ = _floor(rate)
    runs.train(Linear(rate, steps=800), 800)
    return mean_estimate(hot - runs.losses(runs.weights))


def _agreeing(time: int) -> Estimate:
    """E β² on two examples ½aβ² of different curvature and the same minimum, at B = 1."""
    # Products of random factors are skewed, so there are forty times as many chains.
    drawn = np.random.default_rng(3).integers(2, size=(LATE[-1], 40 * CHAINS))
    return mean_estimate(np.prod(1 - RATE * SLOPES[drawn[:time]], axis=0) ** 2)


def _experiments() -> tuple[Experiment, ...]:
    constant, decaying = np.full(TIMES[-1], RATE), 1 / np.arange(1, TIMES[-1] + 1)
    known = partial(
        Experiment, setting=Circumstance.KNOWN, quantity="excess loss", dial="step, t", points=TIMES
    )
    shrinks = float(np.mean((1 - RATE * SLOPES) ** 2))
    return (
        known(
            name="constant",
            where="the one-dimensional example at η = 0.5",
            predict=lambda time: _exact_excess(constant)[time],
            measure=lambda time: _excess(constant, time, 1),
            says="At a constant rate the loss stays ½·ησ²/(B(2 − η)) above its floor.",
        ),
        known(
            name="decaying",
            where="the one-dimensional example at η = 1/t",
            predict=lambda time: _exact_excess(decaying)[time],
            measure=lambda time: _excess(decaying, time, 2),
            says="If the rate goes to zero the spread does too, here as 1/t.",
        ),
        Experiment(
            name="digits",
            setting=Circumstance.REAL,
            where="softmax regression on the digits, 64 runs at B = 8",
            quantity="loss gained by going to zero",
            dial="learning rate before, η",
            points=RATES,
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
            points=LATE,
            predict=lambda time: shrinks**time,
            measure=_agreeing,
            claim=lambda _: RATE * float(SLOPES.var()) / (2 - RATE),
            says=(
                "If all examples have the same minimum, there is no noise at it: a constant rate "
                "reaches it, at a geometric speed. A network that fits its training set exactly "
                "comes close to this."
            ),
        ),
    )


S4 = Statement(
    name="S4",
    title="Convergence",
    claim="To reach a local optimum the learning rate must go gradually to zero.",
    experiments=_experiments,
    limits=(
        "Only noise at the optimum keeps the iterates apart. If every example's gradient is zero "
        "there (a network that fits its training set exactly), a constant rate below the edge of "
        "stability converges too."
    ),
)
