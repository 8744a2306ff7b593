"""S5: exploration: deep losses are not convex, so one has to search, and SGD can."""

from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.convergence.schedules.shapes import Linear
from gradiometer.lecture.experiment import LEVEL, Experiment, Setting, averaged
from gradiometer.lecture.network import MLP, digits_network
from gradiometer.lecture.regressions import RUNS, Regressions
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
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
    """Mean steps from one minimum to the other, over many walkers, each long enough for many crossings."""
    steps = int(min(CROSSINGS * WELL.exact_steps(RATE, batch_size), 60_000))
    return WELL.crossing_steps(RATE, batch_size, walkers=WALKERS, steps=steps, level=LEVEL, seed=batch_size)


@cache
def _trained(seed: int) -> dict[int, list[torch.Tensor]]:
    """The weights of a network with its own start and batches, after each of `STEPS`."""
    network = digits_network()
    torch.manual_seed(seed)
    model = load("mlp").model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {
        step: [parameter.detach().clone() for parameter in model.parameters()]
        for step in network.sgd(model, optimizer, 32, STEPS[-1], seed=100 + seed)
        if step in STEPS
    }


def _barrier(step: int) -> Estimate:
    """L halfway between two runs less the mean of L at both, over independent pairs."""
    pairs = [(_trained(2 * pair)[step], _trained(2 * pair + 1)[step]) for pair in range(PAIRS)]
    return averaged([digits_network().barrier(one, other) for one, other in pairs])


@cache
def _apart(spread: float) -> Float[np.ndarray, " pairs"]:
    """The same for convex regressions from random starts, after a run whose rate goes to zero."""
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
            predict=lambda size: WELL.exact_steps(RATE, size),
            measure=_crossing,
            says="The noise of batches carries SGD over a barrier. The time grows exponentially with B; here it comes "
            "from the exact law of a first passage.",
            log_dial=False,
        ),
        middle(
            name="digits",
            setting=Setting.REAL,
            where=f"{MLP}, pairs of runs from different starts",
            dial="step, t",
            points=STEPS,
            predict=lambda _: Estimate.bound(np.inf, low=0.0, high=np.inf, method="not convex", samples=PAIRS),
            measure=_barrier,
            claim=lambda _: 0.0,
            says="Above zero: two runs end in places with a barrier between them. A convex loss has none (dotted: the "
            "most that it can have).",
        ),
        middle(
            name="convex",
            setting=Setting.FAILS,
            where="softmax regression with weight decay, from random starts",
            dial="spread of the starts",
            points=SPREADS,
            predict=lambda _: Estimate.bound(-np.inf, low=-np.inf, high=0.0, method="convex", samples=RUNS // 2),
            measure=lambda spread: averaged(_apart(spread)),
            says="A convex loss has no barrier, from any start: there is nothing to search for.",
        ),
    )


S5 = Statement(
    name="S5",
    title="Exploration",
    claim="Deep losses are not convex: one has to search, and SGD can, as its noise carries it over barriers.",
    experiments=_experiments,
    limits="A barrier on the straight line between two networks does not mean that every path between them has one. At "
    "the temperatures that training uses, SGD hardly ever crosses a barrier.",
)
