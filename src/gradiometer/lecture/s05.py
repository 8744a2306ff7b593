"""S5: exploration: deep losses are not convex, one has to search, and SGD can."""

from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.convergence.schedules.shapes import Linear
from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.regressions import RUNS, Regressions
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.problems.closed_forms.double_well import DoubleWell
from gradiometer.problems.images.digits import load

WELL, RATE = DoubleWell(variance=16.0), 0.05
BATCHES = (1, 2, 3)
"""T = ησ²/(2B): 0.4, 0.2 and 0.13 of the barrier."""
WALKERS, CROSSINGS = 400, 40

PAIRS, STEPS = 12, (100, 300, 1000)
SPREADS = (0.1, 1.0, 3.0)
"""Standard deviation of the weights at the start of the convex regressions."""


def _crossing(batch_size: int) -> Estimate:
    """Mean steps from one minimum to the other, seen in walkers watched for many crossings or many walkers."""
    steps = int(min(CROSSINGS * WELL.exact_steps(RATE, batch_size), 60_000))
    return WELL.crossing_steps(RATE, batch_size, walkers=WALKERS, steps=steps, level=LEVEL, seed=batch_size)


@cache
def _trained(seed: int) -> list[list[torch.Tensor]]:
    """A network of its own start and batches, kept after so many steps each."""
    torch.manual_seed(seed)
    problem, network, kept = load("mlp"), digits_network(), []
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step, chosen in enumerate(network.batches(32, STEPS[-1], seed=100 + seed), start=1):
        optimizer.zero_grad()
        problem.loss(model, network.train.batch(chosen)).mean().backward()
        optimizer.step()
        if step in STEPS:
            kept.append([parameter.detach().clone() for parameter in model.parameters()])
    return kept


def _barrier(place: int) -> Estimate:
    """L halfway between two runs less the mean of L at both, over independent pairs."""
    network = digits_network()
    found = [network.barrier(*(_trained(2 * pair + k)[place] for k in (0, 1))) for pair in range(PAIRS)]
    return mean(np.array(found), level=LEVEL, batches=PAIRS)


@cache
def _apart(spread: float) -> Float[np.ndarray, " pairs"]:
    """The same for convex regressions from random starts, after a run that goes to zero."""
    runs = Regressions(seed=int(10 * spread), start=spread)
    runs.train(Linear(0.2, steps=100), 100)
    one, other = runs.weights[::2], runs.weights[1::2]
    ends = (runs.losses(one) + runs.losses(other)) / 2
    barriers: np.ndarray = runs.losses((one + other) / 2) - ends
    return barriers


def _experiments() -> tuple[Experiment, ...]:
    middle = partial(Experiment, quantity="loss halfway between two runs, less the mean at both", log=False)
    return (
        Experiment(
            name="double_well",
            setting=Setting.KNOWN,
            where="a double well of barrier 1, η = 0.05, examples of variance 16",
            quantity="steps from one minimum to the other",
            dial="batch size, B",
            points=BATCHES,
            predict=lambda: [Estimate.exact(WELL.exact_steps(RATE, batch)) for batch in BATCHES],
            measure=lambda: [_crossing(batch) for batch in BATCHES],
            says="The noise of batches carries SGD over a barrier: in a time exponential in B, here from the exact law "
            "of a first passage.",
            log_dial=False,
        ),
        middle(
            name="digits",
            setting=Setting.REAL,
            where="the digits' MLP, 64-64-10, pairs of runs from their own starts",
            dial="step, t",
            points=STEPS,
            predict=lambda: [
                Estimate.bound(np.inf, low=0.0, high=np.inf, method="not convex", samples=PAIRS) for _ in STEPS
            ],
            measure=lambda: [_barrier(place) for place in range(len(STEPS))],
            claimed=tuple(0.0 for _ in STEPS),
            says="Above zero: two runs end in places with a barrier between them, which no convex loss has (dotted: "
            "the most that one has).",
        ),
        middle(
            name="convex",
            setting=Setting.FAILS,
            where="softmax regression with weight decay, from random starts",
            dial="spread of the starts",
            points=SPREADS,
            predict=lambda: [
                Estimate.bound(-np.inf, low=-np.inf, high=0.0, method="convex", samples=RUNS // 2) for _ in SPREADS
            ],
            measure=lambda: [mean(_apart(spread), level=LEVEL, batches=RUNS // 2) for spread in SPREADS],
            says="A convex loss has no barrier, from anywhere: there is nothing to search.",
        ),
    )


S5 = Statement(
    name="S5",
    title="Exploration",
    claim="Deep losses are not convex: one has to search, and SGD can, as its noise carries it over barriers.",
    experiments=_experiments,
    limits="That there is a barrier on the straight line between two networks does not say that there is one on every "
    "way between them. At the temperatures that training runs at, SGD hardly ever crosses one.",
)
