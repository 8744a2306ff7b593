"""S8: the rigor police: what the convergence theorem leaves open, and where each case ends."""

from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.problems.counterexamples.line import Arctangent, LogCosh
from gradiometer.problems.counterexamples.plane import Saddle

TIMES = (10, 100, 1000, 10_000)
RUNAWAY, RATE = Arctangent(), 1.0

NOISY, RUNS = Saddle(deviation=(0.5,)), 4000
CYCLE_RATES, SETTLED = (2.2, 2.5, 3.0, 4.0), 2000

TWIN_STEPS, ROUNDING = (10, 100, 1000), 1e-5
"""In single precision: what sums in another order may differ by."""

LEAVES, LEAVING_RATE, KICK = (2, 4, 6), 0.1, 1e-3


@cache
def _runaway() -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " times"]]:
    """η_t = 1/t, and where x is after each of the times."""
    rates = RATE / np.arange(1, TIMES[-1] + 1)
    return rates, RUNAWAY.simulate(rates, kept=TIMES)[:, 0, 0]


def _how_far(time: int) -> Estimate:
    """x + x³/3 lies between Σ η and Σ η with the most that a step adds."""
    rates = _runaway()[0][:time]
    low = float(rates.sum())
    return Estimate.bound(low, low=low, high=low + RUNAWAY.most_excess(rates), method="per step", samples=time)


@cache
def _at_the_saddle() -> Float[np.ndarray, "times runs"]:
    """y² of runs with noise along y, from (0, 1)."""
    rates = 1 / (np.arange(1, TIMES[2] + 1) + 1)
    heights: np.ndarray = NOISY.simulate(rates, runs=RUNS, seed=3, kept=TIMES[:3])[:, :, 1]
    return heights**2


def _twins() -> list[Estimate]:
    """Relative distance of two hidden units that begin equal, in a network that is trained on the digits."""
    torch.manual_seed(4)
    network = digits_network()
    hidden, last = nn.Linear(64, 32), nn.Linear(32, 10)
    with torch.no_grad():
        for tensor in (hidden.weight, hidden.bias):
            tensor[1] = tensor[0]
        last.weight[:, 1] = last.weight[:, 0]
    model = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for step, chosen in enumerate(network.batches(32, TWIN_STEPS[-1], seed=5), start=1):
        optimizer.zero_grad()
        network.objective.loss(model, network.train.batch(chosen)).mean().backward()
        optimizer.step()
        if step in TWIN_STEPS:
            distance = (hidden.weight[1] - hidden.weight[0]).norm() / hidden.weight[0].norm()
            found.append(Estimate.exact(float(distance.detach())))
    return found


def _leaving() -> list[Estimate]:
    """E x² near the saddle where the noise has a part along x as well."""
    generator = np.random.default_rng(6)
    x, y, found = np.zeros(RUNS), np.ones(RUNS), []
    for step in range(1, LEAVES[-1] + 1):
        slope = NOISY.gradient((x, y), (np.zeros(RUNS),))
        x = x - LEAVING_RATE * (slope[0] + KICK * generator.standard_normal(RUNS))
        y = y - LEAVING_RATE * slope[1]
        if step in LEAVES:
            found.append(mean(x**2, level=LEVEL, batches=RUNS))
    return found


def _grown(time: int) -> float:
    """E x² after so many steps, to first order in x: the saddle pushes away, ηc a step feeds it."""
    growth = (1 - LEAVING_RATE * NOISY.smallest_curvature) ** 2
    return (LEAVING_RATE * KICK) ** 2 * (growth**time - 1) / (growth - 1)


def _experiments() -> tuple[Experiment, ...]:
    known = partial(Experiment, setting=Setting.KNOWN)
    cycle = LogCosh()
    orbits = [cycle.orbit(rate) for rate in CYCLE_RATES]
    return (
        known(
            name="runaway",
            where="π/2 − atan x at η_t = 1/t",
            quantity="x + x³/3",
            dial="step, t",
            points=TIMES,
            predict=lambda: [_how_far(time) for time in TIMES],
            measure=lambda: [Estimate.exact(float(RUNAWAY.clock(x))) for x in _runaway()[1]],
            says="All three conditions hold, the loss converges, the gradient goes to zero, and x goes to infinity, as "
            "(3 Σ η)^⅓: there is no minimum.",
        ),
        known(
            name="saddle",
            where="(1 + cos πx)/2 + y²/2 from (0, 1) at η_t = 1/(t + 1), noise along y",
            quantity="E y², with x = 0",
            dial="step, t",
            points=TIMES[:3],
            predict=lambda: [
                Estimate.exact(NOISY.height(time) ** 2 + NOISY.height_variance(time)) for time in TIMES[:3]
            ],
            measure=lambda: [mean(squares, level=LEVEL, batches=RUNS) for squares in _at_the_saddle()],
            says="Every run ends at the saddle (0, 0): the theorem promises a stationary point, not a minimum.",
        ),
        known(
            name="cycle",
            where="log cosh x, gradient descent at a constant rate",
            quantity="|x| after 2,000 steps",
            dial="learning rate, η",
            points=CYCLE_RATES,
            predict=lambda: [Estimate.exact(orbit) for orbit in orbits],
            measure=lambda: [
                Estimate.exact(float(abs(cycle.simulate([rate] * SETTLED, kept=[SETTLED])[0, 0, 0])))
                for rate in CYCLE_RATES
            ],
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
            predict=lambda: [
                Estimate.bound(0.0, low=0.0, high=ROUNDING, method="symmetry", samples=time) for time in TWIN_STEPS
            ],
            measure=_twins,
            says="The noise of batches cannot tell two equal units apart: they get the same gradients, and are one "
            "unit for ever. The set where they are equal is a saddle that SGD does not leave.",
            log=False,
        ),
        Experiment(
            name="leaving",
            setting=Setting.FAILS,
            where="the same saddle at η = 0.1 with a little noise along x",
            quantity="E x²",
            dial="step, t",
            points=LEAVES,
            predict=lambda: [Estimate.exact(_grown(time)) for time in LEAVES],
            measure=_leaving,
            claimed=tuple(0.0 for _ in LEAVES),
            says="Noise along the direction that falls is enough: what it puts there grows by (1 + ηπ²/2)² a step, and "
            "the run leaves. Saddles hold SGD where its noise is blind to the way out.",
        ),
    )


S8 = Statement(
    name="S8",
    title="Rigor police",
    claim="One can build cases where Φ runs to infinity, ends at a saddle, or in a limit cycle.",
    experiments=_experiments,
    limits="They are built: a direction the noise does not see, a symmetry, a rate above the edge, a loss without a "
    "minimum. Noise in all directions leaves a saddle; a network that has learnt its training set by heart does run to "
    "infinity, slowly.",
    interactive="counterexamples",
)
