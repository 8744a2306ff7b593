"""S5: exploration: deep losses are not convex, so one has to search, and SGD can."""

from functools import cache, partial

import torch

from gradiometer.convergence.schedules.shapes import Linear
from gradiometer.drift.curvature import Curvature
from gradiometer.measurement.estimate import Estimate
from gradiometer.problems.images.digits import load
from gradiometer_lab.closed_forms.double_well import DoubleWell
from gradiometer_lab.lecture.network import (
    DECAY,
    MLP,
    RUNS,
    Network,
    Regressions,
    Weights,
    digits_network,
)
from gradiometer_lab.lecture.statement import (
    LEVEL,
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)

NUMBERS = settings("S5")
WELL = DoubleWell(variance=NUMBERS.variance)


def _crossing(batch_size: int) -> Estimate:
    """Mean steps from one minimum to the other, over many walkers, each long enough for many
    crossings."""
    enough = NUMBERS.crossings * WELL.exact_steps(NUMBERS.rate, batch_size)
    return WELL.crossing_steps(
        NUMBERS.rate,
        batch_size,
        walkers=NUMBERS.walkers,
        steps=int(min(enough, NUMBERS.most_steps)),
        level=LEVEL,
        seed=batch_size,
    )


@cache
def _weights_of(seed: int) -> dict[int, Weights]:
    """The weights of a network with its own start and batches, after each of `NUMBERS.steps`."""
    network = digits_network()
    torch.manual_seed(seed)
    model = load("mlp").model()
    optimizer = torch.optim.SGD(model.parameters(), lr=NUMBERS.network_rate)
    return {
        step: [parameter.detach().clone() for parameter in model.parameters()]
        for step in network.sgd(model, optimizer, NUMBERS.batch, NUMBERS.steps[-1], seed=100 + seed)
        if step in NUMBERS.steps
    }


def permutation(weights: Weights, seed: int) -> Weights:
    """The same network with its hidden units in another order: the same function of the images,
    elsewhere."""
    first, bias, last, output = weights
    order = torch.randperm(len(bias), generator=torch.Generator().manual_seed(seed))
    return [first[order], bias[order], last[:, order], output]


def by_symmetry(step: int, first: int = 0) -> Estimate:
    """The barrier between a network and itself with its hidden units in another order, over
    networks."""
    ends = [
        (_weights_of(seed)[step], permutation(_weights_of(seed)[step], seed))
        for seed in range(first, first + 2 * NUMBERS.pairs)
    ]
    return mean_estimate([digits_network().barrier(*pair) for pair in ends])


def between_runs(step: int, first: int = 0) -> Estimate:
    """L halfway between two runs less the mean of L at both, over independent pairs."""
    pairs = [
        (_weights_of(seed)[step], _weights_of(seed + 1)[step])
        for seed in range(first, first + 2 * NUMBERS.pairs, 2)
    ]
    return mean_estimate([digits_network().barrier(*pair) for pair in pairs])


def spread_of_walks(network: Network, steps: int, seed: int = 0) -> Estimate:
    """2η² Σ_j E‖(I − ηH)^j ξ‖², with ξ the noise of a batch: tr Σ exactly, the rest from Hessian
    products."""
    batches = network.batches(NUMBERS.batch, NUMBERS.pushes, seed=700 + seed)
    pushes = torch.stack(
        [network.batch_gradient(chosen) - network.gradient for chosen in batches]
    ).float()
    curvature = Curvature.of(network.objective, network.everything)
    first = pushes.square().sum(dim=1)
    total = torch.zeros(len(pushes))
    for step in range(steps):
        # The first push has not been pulled back yet.
        pushes = pushes - NUMBERS.walk_rate * curvature.products(pushes) if step else pushes
        total += pushes.square().sum(dim=1)
    one_step = 2 * NUMBERS.walk_rate**2 * network.noise_of_batch(NUMBERS.batch)
    if steps == 1:
        return Estimate.exact(one_step)
    # A ratio of means: its error is that of the residuals.
    kept = total.sum() / first.sum()
    return mean_estimate(
        (one_step * (kept + (total - kept * first) / first.mean())).double().numpy()
    )


def separation(network: Network, steps: int, seed: int = 0) -> Estimate:
    """‖Φ_a − Φ_b‖² of two runs of torch's SGD from the same network on different batches, over
    pairs of runs."""
    apart = []
    for pair in range(NUMBERS.walks):
        ends = [
            network.after(
                steps, NUMBERS.batch, NUMBERS.walk_rate, seed=10_000 * (seed + 1) + 2 * pair + end
            )
            for end in (0, 1)
        ]
        apart.append(float((ends[0] - ends[1]).square().sum()))
    return mean_estimate(apart)


@cache
def _runs_at_rest(spread: float) -> Regressions:
    """Convex regressions from random starts, after a run whose rate goes to zero."""
    runs = Regressions(seed=int(10 * spread), start=spread)
    runs.train(Linear(NUMBERS.convex_rate, NUMBERS.convex_steps), NUMBERS.convex_steps)
    return runs


def _valley(spread: float) -> Estimate:
    """−μ‖δ‖²/8 is the highest and −λ‖δ‖²/8 the lowest middle of a loss whose curvatures lie between
    μ and λ."""
    runs = _runs_at_rest(spread)
    squared = float((runs.weights[::2] - runs.weights[1::2]).square().sum(dim=(1, 2)).mean())
    low, high = -runs.largest_curvature * squared / 8, -DECAY * squared / 8
    return Estimate.bound(
        high, low=low, high=high, method="curvature between μ and λ", samples=RUNS // 2
    )


def _middle(spread: float) -> Estimate:
    """L halfway between two regressions less the mean of L at both."""
    runs = _runs_at_rest(spread)
    # Every run is in one pair only, so that the pairs are independent.
    one, other = runs.weights[::2], runs.weights[1::2]
    return mean_estimate(
        runs.losses((one + other) / 2) - (runs.losses(one) + runs.losses(other)) / 2
    )


middle = partial(
    Experiment, quantity="loss halfway between two runs, less the mean at both", log=False
)


S5 = Statement(
    name="S5",
    title="Exploration",
    claim=(
        "Deep losses are not convex: one has to search, and SGD can, as its noise carries it over "
        "barriers."
    ),
    experiments=(
        Experiment(
            name="double_well",
            setting=Circumstance.KNOWN,
            where="a double well of barrier 1, η = 0.05, examples of variance 16",
            quantity="steps from one minimum to the other",
            dial="batch size, B",
            points=NUMBERS.batches,
            predict=lambda size: WELL.exact_steps(NUMBERS.rate, size),
            measure=_crossing,
            says=(
                "The noise of batches carries SGD over a barrier. The time grows exponentially "
                "with B; here it comes from the exact law of a first passage."
            ),
            log_dial=False,
        ),
        middle(
            name="digits",
            setting=Circumstance.REAL,
            where=f"{MLP}, pairs of runs from different starts",
            dial="step, t",
            points=NUMBERS.steps,
            predict=by_symmetry,
            measure=between_runs,
            rival=Rival("a convex loss: no barrier", lambda _: 0.0),
            says=(
                "As high as between one run and the same network with its hidden units in another "
                "order. These two compute the same function, so the loss has as many valleys as "
                "orders, and another start ends in another one."
            ),
        ),
        Experiment(
            name="walk",
            setting=Circumstance.REAL,
            where=f"{MLP}, pairs of runs from the same point on different batches, η = {NUMBERS.walk_rate}",
            quantity="E‖Φ_a − Φ_b‖²",
            dial="steps, K",
            points=NUMBERS.lengths,
            predict=lambda steps: spread_of_walks(digits_network(), steps),
            measure=lambda steps: separation(digits_network(), steps),
            rival=Rival(
                "a steady push apart: K² of one step",
                lambda steps: (
                    2
                    * (NUMBERS.walk_rate * steps) ** 2
                    * digits_network().noise_of_batch(NUMBERS.batch)
                ),
            ),
            says=(
                "SGD searches as a random walk: 2η²K tr Σ/B, less what the curvature pulls back, "
                "with Σ from the gradients of all examples."
            ),
        ),
        middle(
            name="convex",
            setting=Circumstance.FAILS,
            where="softmax regression with weight decay, from random starts",
            dial="spread of the starts",
            points=NUMBERS.spreads,
            predict=_valley,
            measure=_middle,
            claim=lambda _: 0.0,
            says=(
                "Below zero, by ⅛‖δ‖² times a curvature: at least that of the weight decay, at "
                "most half the largest one of the inputs. A convex loss has no barrier, from any "
                "start: there is nothing to search for."
            ),
        ),
    ),
    limits=(
        "A barrier on the straight line between two networks does not mean that every path between "
        "them has one. At the temperatures that training uses, SGD hardly ever crosses a barrier."
    ),
)
