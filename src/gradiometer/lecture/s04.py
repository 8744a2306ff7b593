"""S4: to reach a local optimum the learning rate must go gradually to zero."""

from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.convergence.schedules.shapes import Constant, Linear
from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import geometric
from gradiometer.lecture.regressions import RUNS, Regressions
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.problems.closed_forms.one_dimensional import OneDimensional

EXAMPLE, BATCH, CHAINS = OneDimensional(variance=4.0), 4, 4000
TIMES = tuple(int(time) for time in geometric(1.0, 1000.0, 7))
RATE = 0.5

RATES = (0.05, 0.1, 0.2)
WARM, TAIL, COOLING = 600, 600, 800
"""Steps to forget the start, steps averaged, and steps of a linear way to zero."""
SLOPES, LATE = np.array([0.5, 1.5]), (4, 6)
"""Curvatures of the two examples that agree on where the minimum is."""


def _chains(rates: Float[np.ndarray, " steps"], seed: int) -> Float[np.ndarray, "times chains"]:
    return EXAMPLE.simulate(rates, chains=CHAINS, batch_size=BATCH, start=2.0, seed=seed)


def _excess(positions: Float[np.ndarray, " chains"]) -> Estimate:
    """Mean of ½(β − E y)², what the loss is above its floor."""
    return mean(positions**2 / 2, level=LEVEL, batches=len(positions))


@cache
def _floor(rate: float) -> tuple[Regressions, Float[np.ndarray, " runs"], Estimate]:
    """Runs that have settled at a constant rate: their loss, and what averaging their iterates gains."""
    runs = Regressions(seed=int(1000 * rate))
    runs.train(Constant(rate), WARM)
    looks = []
    for _ in range(4):
        part = runs.train(Constant(rate), TAIL // 4)
        looks.append((runs.losses(runs.weights), part))
    hot = np.mean([loss for loss, _ in looks], axis=0)
    cold = runs.losses(torch.stack([part for _, part in looks]).mean(dim=0))
    return runs, hot, mean(hot - cold, level=LEVEL, batches=RUNS)


def _gain(rate: float) -> Estimate:
    """What the loss loses when the same runs then go linearly to zero."""
    runs, hot, _ = _floor(rate)
    runs.train(Linear(rate, steps=COOLING), COOLING)
    return mean(hot - runs.losses(runs.weights), level=LEVEL, batches=RUNS)


def _agreeing(seed: int) -> Float[np.ndarray, "times chains"]:
    """β of runs on two examples ½aβ² of different curvature and the same minimum, at B = 1."""
    drawn = np.random.default_rng(seed).integers(2, size=(LATE[-1], 40 * CHAINS))
    return np.cumprod(np.vstack([np.ones(40 * CHAINS), 1 - RATE * SLOPES[drawn]]), axis=0)


def _experiments() -> tuple[Experiment, ...]:
    constant, decaying = np.full(TIMES[-1], RATE), 1 / np.arange(1, TIMES[-1] + 1)
    known = partial(
        Experiment, setting=Setting.KNOWN, quantity="excess loss", dial="step, t", points=TIMES,
    )  # fmt: skip

    def exact(rates: Float[np.ndarray, " steps"]) -> list[Estimate]:
        means, variances = EXAMPLE.law(rates, BATCH, start=2.0)
        return [Estimate.exact(float(means[time] ** 2 + variances[time]) / 2) for time in TIMES]

    shrinks = float(np.mean((1 - RATE * SLOPES) ** 2))
    return (
        known(
            name="constant",
            where="the one-dimensional example at η = 0.5",
            predict=lambda: exact(constant),
            measure=lambda: [_excess(_chains(constant, 1)[time]) for time in TIMES],
            says="At a constant rate the loss stays ½·ησ²/(B(2 − η)) above its floor.",
        ),
        known(
            name="decaying",
            where="the one-dimensional example at η = 1/t",
            predict=lambda: exact(decaying),
            measure=lambda: [_excess(_chains(decaying, 2)[time]) for time in TIMES],
            says="At a rate that goes to zero the spread goes with it, here as 1/t.",
        ),
        Experiment(
            name="digits",
            setting=Setting.REAL,
            where="softmax regression on the digits, 64 runs at B = 8",
            quantity="loss gained by going to zero",
            dial="learning rate before, η",
            points=RATES,
            predict=lambda: [_floor(rate)[2] for rate in RATES],
            measure=lambda: [_gain(rate) for rate in RATES],
            says="As much as averaging gains before the cut: L at the iterates less L at their mean.",
        ),
        Experiment(
            name="agreeing",
            setting=Setting.FAILS,
            where="two examples, ½·0.5β² and ½·1.5β², at η = 0.5 and B = 1",
            quantity="E β²",
            dial="step, t",
            points=LATE,
            predict=lambda: [Estimate.exact(shrinks**time) for time in LATE],
            measure=lambda: [mean(_agreeing(3)[time] ** 2, level=LEVEL, batches=40 * CHAINS) for time in LATE],
            claimed=tuple(RATE * float(SLOPES.var()) / (2 - RATE) for _ in LATE),
            says="Where all examples agree on the minimum there is no noise at it: a constant rate gets there, "
            "geometrically. A network that learns its training set by heart comes close to this.",
        ),
    )


S4 = Statement(
    name="S4",
    title="Convergence",
    claim="To reach a local optimum the learning rate must go gradually to zero.",
    experiments=_experiments,
    limits="Only the noise at the optimum keeps the iterates apart. Where every example's gradient is zero there (a "
    "network that fits its training set exactly) a constant rate below the edge converges as well.",
)
