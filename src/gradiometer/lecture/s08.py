"""S8: the rigor police: runs that the convergence theorem allows, without a minimum at their end."""

from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from gradiometer.lecture.experiment import Experiment, Setting, averaged
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.problems.counterexamples.line import Arctangent, LogCosh
from gradiometer.problems.counterexamples.plane import Saddle

TIMES = (10, 100, 1000, 10_000)
RUNAWAY, RATE = Arctangent(), 1.0

NOISY, RUNS = Saddle(deviation=(0.5,)), 4000
CYCLE, CYCLE_RATES, SETTLED = LogCosh(), (2.2, 2.5, 3.0, 4.0), 2000

TWIN_STEPS, ROUNDING = (10, 100, 1000), 1e-5
"""Largest relative difference between single-precision sums in different orders."""

LEAVES, LEAVING_RATE, KICK = (2, 4, 6), 0.1, 1e-3


@cache
def _runaway() -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " times"]]:
    """η_t = 1/t, and x after each of `TIMES`."""
    rates = RATE / np.arange(1, TIMES[-1] + 1)
    return rates, RUNAWAY.simulate(rates, kept=TIMES)[:, 0, 0]


def _how_far(time: int) -> Estimate:
    """x + x³/3 lies between Σ η and Σ η with the most that a step adds."""
    rates = _runaway()[0][:time]
    low = float(rates.sum())
    return Estimate.bound(low, low=low, high=low + RUNAWAY.most_excess(rates), method="per step", samples=time)


@cache
def _heights() -> Float[np.ndarray, "times runs"]:
    """y of runs with noise along y, from (0, 1)."""
    rates = 1 / (np.arange(1, TIMES[2] + 1) + 1)
    return NOISY.simulate(rates, runs=RUNS, seed=3, kept=TIMES[:3])[:, :, 1]


@cache
def _twins() -> dict[int, float]:
    """Relative distance of two hidden units that begin equal, in a network that is trained on the digits."""
    network = digits_network()
    torch.manual_seed(4)
    hidden, last = nn.Linear(64, 32), nn.Linear(32, 10)
    with torch.no_grad():
        for tensor in (hidden.weight, hidden.bias):
            tensor[1] = tensor[0]
        last.weight[:, 1] = last.weight[:, 0]
    model = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {
        step: float((hidden.weight[1] - hidden.weight[0]).detach().norm() / hidden.weight[0].detach().norm())
        for step in network.sgd(model, optimizer, 32, TWIN_STEPS[-1], seed=5)
        if step in TWIN_STEPS
    }


def _leaving(time: int) -> Estimate:
    """E x² near the saddle, with a part of the noise along x."""
    generator = np.random.default_rng(6)
    x, y = np.zeros(RUNS), np.ones(RUNS)
    for _ in range(time):
        slope = NOISY.gradient((x, y), (np.zeros(RUNS),))
        x = x - LEAVING_RATE * (slope[0] + KICK * generator.standard_normal(RUNS))
        y = y - LEAVING_RATE * slope[1]
    return averaged(x**2)


def _grown(time: int) -> float:
    """E x² at a time, to first order in x: the saddle pushes away, and each step adds (ηc)²."""
    growth = (1 - LEAVING_RATE * NOISY.smallest_curvature) ** 2
    return (LEAVING_RATE * KICK) ** 2 * (growth**time - 1) / (growth - 1)


def _experiments() -> tuple[Experiment, ...]:
    known = partial(Experiment, setting=Setting.KNOWN)
    return (
        known(
            name="runaway",
            where="π/2 − atan x at η_t = 1/t",
            quantity="x + x³/3",
            dial="step, t",
            points=TIMES,
            predict=_how_far,
            measure=lambda time: RUNAWAY.clock(_runaway()[1][TIMES.index(time)]),
            says="All three conditions hold, the loss converges, the gradient goes to zero, and x goes to infinity as "
            "(3 Σ η)^⅓: there is no minimum.",
        ),
        known(
            name="saddle",
            where="(1 + cos πx)/2 + y²/2 from (0, 1) at η_t = 1/(t + 1), noise along y",
            quantity="E y², with x = 0",
            dial="step, t",
            points=TIMES[:3],
            predict=lambda time: NOISY.height(time) ** 2 + NOISY.height_variance(time),
            measure=lambda time: averaged(_heights()[TIMES.index(time)] ** 2),
            says="Every run ends at the saddle (0, 0): the theorem promises a stationary point, not a minimum.",
        ),
        known(
            name="cycle",
            where="log cosh x, gradient descent at a constant rate",
            quantity="|x| after 2,000 steps",
            dial="learning rate, η",
            points=CYCLE_RATES,
            predict=CYCLE.orbit,
            measure=lambda rate: abs(CYCLE.simulate([rate] * SETTLED, kept=[SETTLED])[0, 0, 0]),
            says="Above η = 2 it ends in a cycle of two points ±x with 2x = η tanh x, and never at the minimum.",
            log_dial=False,
            log=False,
        ),
        Experiment(
            name="twins",
            setting=Setting.REAL,
            where="a network 64-32-10 on the digits, two of its hidden units equal at the start",
            quantity="distance of the two units, relative",
            dial="step, t",
            points=TWIN_STEPS,
            predict=lambda time: Estimate.bound(0.0, low=0.0, high=ROUNDING, method="symmetry", samples=time),
            measure=lambda time: _twins()[time],
            says="The noise of batches cannot separate two equal units: they get the same gradients, and stay one unit "
            "for ever. The set in which they are equal is a saddle that SGD does not leave.",
            log=False,
        ),
        Experiment(
            name="leaving",
            setting=Setting.FAILS,
            where="the same saddle at η = 0.1 with a little noise along x",
            quantity="E x²",
            dial="step, t",
            points=LEAVES,
            predict=_grown,
            measure=_leaving,
            claim=lambda _: 0.0,
            says="A little noise along the falling direction is enough: it grows by (1 + ηπ²/2)² per step, and the run "
            "leaves. A saddle holds SGD only if the noise has no part in the way out.",
        ),
    )


S8 = Statement(
    name="S8",
    title="Rigor police",
    claim="One can build cases in which Φ runs to infinity, ends at a saddle, or ends in a limit cycle.",
    experiments=_experiments,
    limits="These cases are constructed: a direction without noise, a symmetry, a rate above the edge, a loss without "
    "a minimum. Noise in all directions leaves a saddle. A network that fits its training set exactly does run to "
    "infinity, slowly.",
    interactive="counterexamples",
)
