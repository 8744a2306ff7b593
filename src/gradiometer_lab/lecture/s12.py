"""S12: snapshot ensembles: heat and cool the learning rate in cycles, keep the model at the end of
each, average."""

from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import combinations, product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.convergence.schedules.shapes import SnapshotCycle
from gradiometer.exploration.ensembles.snapshots import Snapshot, SnapshotCollector
from gradiometer.measurement.estimate import Estimate
from gradiometer.problems.images.digits import load
from gradiometer_lab.closed_forms.one_dimensional import OneDimensional
from gradiometer_lab.closed_forms.quadratic import Matrix
from gradiometer_lab.lecture.network import DECAY, SIZE, Regressions, digits_network, minimum
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)

NUMBERS = settings("S12")
SNAPSHOTS = NUMBERS.snapshots
COUNTS = range(1, SNAPSHOTS + 1)
EXAMPLE = OneDimensional(variance=NUMBERS.variance)
CYCLE = SnapshotCycle(NUMBERS.rate, SNAPSHOTS * NUMBERS.cycle, SNAPSHOTS)
REAL_CYCLE = SnapshotCycle(NUMBERS.real_rate, SNAPSHOTS * NUMBERS.real_cycle, SNAPSHOTS)


def _loss_of_average(count: int) -> float:
    """E ½(mean of the last snapshots)², exactly: a snapshot is a linear function of the one before,
    plus noise."""
    rates = [CYCLE(step) for step in range(CYCLE.steps)]
    variances = EXAMPLE.law(rates, NUMBERS.batch)[1][CYCLE.length :: CYCLE.length]
    kept = float(np.prod(1 - np.array(rates[: CYCLE.length])))
    last = range(SNAPSHOTS - count, SNAPSHOTS)
    return (
        float(np.mean([variances[min(i, j)] * kept ** abs(i - j) for i in last for j in last])) / 2
    )


@cache
def _ends() -> Float[np.ndarray, "snapshots chains"]:
    chains = EXAMPLE.simulate(
        [CYCLE(step) for step in range(CYCLE.steps)],
        chains=NUMBERS.chains,
        batch_size=NUMBERS.batch,
        seed=12,
    )
    return chains[CYCLE.length :: CYCLE.length]


@cache
def _snapshots_of(seed: int) -> tuple[Snapshot, ...]:
    """The snapshots of a run of the digits' MLP."""
    network, collector = digits_network(), SnapshotCollector(REAL_CYCLE)
    torch.manual_seed(seed)
    model = load("mlp").model()
    optimizer = torch.optim.SGD(model.parameters(), lr=REAL_CYCLE(0))
    scheduler = REAL_CYCLE.scheduler(optimizer)
    for steps in network.sgd(
        model, optimizer, NUMBERS.real_batch, REAL_CYCLE.steps, seed=200 + seed
    ):
        scheduler.step()
        collector.after(steps - 1, model)
    return tuple(collector.snapshots)


@dataclass(frozen=True)
class RegressionCycles:
    """Softmax regressions from their minimum through five cycles: predicted from H and Σ there, and
    trained.

    Args:
        cycle: The schedule.
        size: B.
        seed: Seed of the batches.
    """

    cycle: SnapshotCycle
    size: int
    seed: int

    @cached_property
    def runs(self) -> Regressions:
        """The runs."""
        return Regressions(seed=self.seed, batch_size=self.size)

    @cached_property
    def covariances(self) -> tuple[Matrix, list[Matrix], Float[np.ndarray, " params"]]:
        """F, the second moment of an example's gradient of the cross-entropy; the covariance of
        each snapshot; and
        what remains of a snapshot one cycle later: all in the axes of H.
        """
        quadratic = minimum()
        axes, curvatures = quadratic.axes, quadratic.eigenvalues
        noise, mean = axes.T @ quadratic.noise @ axes, DECAY * (axes.T @ quadratic.minimum)
        covariance, kept, ends = np.zeros_like(noise), np.ones_like(curvatures), []
        for step in range(self.cycle.steps):
            keeps = 1 - self.cycle(step) * curvatures
            covariance = (
                np.outer(keeps, keeps) * covariance + self.cycle(step) ** 2 * noise / self.size
            )
            # What remains of a snapshot after one cycle, which is the same for every cycle.
            kept = kept * keeps if step < self.cycle.length else kept
            if (step + 1) % self.cycle.length == 0:
                ends.append(covariance)
        return noise + np.outer(mean, mean), ends, kept

    def gain(self, count: int, *, memory: bool = True) -> float:
        """½ tr(F V), with V the expected covariance among the last snapshots: how much their
        average gains.

        −log of a mean of probabilities is the mean of −log p less half the variance of log p, to
        second order.
        """
        fisher, ends, kept = self.covariances
        last, own = range(SNAPSHOTS - count, SNAPSHOTS), 0.0
        for one, other in product(last, last):
            both = ends[min(one, other)] * (kept ** abs(one - other))[:, None]
            # The covariance among members is that of each less that of their mean.
            share = (one == other) / count - (1 / count**2 if memory or one == other else 0)
            own += share * float((fisher * both).sum())
        return own / 2

    @cached_property
    def snapshots(self) -> list[Float[Tensor, "runs examples classes"]]:
        """The probabilities of every run at the end of every cycle."""
        self.runs.put(minimum().minimum)
        found = []
        for _ in range(SNAPSHOTS):
            self.runs.train(self.cycle, self.cycle.length)
            found.append(torch.softmax(self.runs.inputs @ self.runs.weights, dim=-1))
        return found

    def measured_gain(self, count: int) -> Estimate:
        """The mean cross-entropy of the last snapshots less that of their average, over runs."""
        last = self.snapshots[-count:]
        each = np.mean([self.runs.entropies(one) for one in last], axis=0)
        return mean_estimate(each - self.runs.entropies(torch.stack(last).mean(dim=0)))


@cache
def _cycles() -> RegressionCycles:
    cycle = SnapshotCycle(NUMBERS.short_rate, SNAPSHOTS * NUMBERS.short_cycle, SNAPSHOTS)
    return RegressionCycles(cycle, SIZE, seed=1200)


def _weights(snapshot: Snapshot) -> list[torch.Tensor]:
    model = load("mlp").model()
    snapshot.load_into(model)
    return [parameter.detach() for parameter in model.parameters()]


def _one_basin(apart: int) -> Estimate:
    """Above less the mean loss of the ends, as no loss is below zero, and below a share of the
    barrier between runs."""
    ends = [
        _snapshots_of(seed)[place] for seed in range(NUMBERS.runs) for place in (-1 - apart, -1)
    ]
    least = -float(np.mean([digits_network().loss(_weights(end)) for end in ends]))
    return Estimate.bound(
        0.0,
        low=least,
        high=NUMBERS.none * _between_runs(),
        method="one basin",
        samples=NUMBERS.runs,
    )


@cache
def _between_runs() -> float:
    """The mean barrier between the last snapshots of runs from different starts."""
    # All pairs of runs: only their mean is used, so they need not be independent.
    ends = [_weights(_snapshots_of(seed)[-1]) for seed in range(NUMBERS.runs)]
    return float(
        np.mean([digits_network().barrier(one, other) for one, other in combinations(ends, 2)])
    )


def _between_cycles(apart: int) -> Estimate:
    """The barrier between the last snapshot and one a number of cycles before, over runs."""
    pairs = [
        (_snapshots_of(seed)[-1 - apart], _snapshots_of(seed)[-1]) for seed in range(NUMBERS.runs)
    ]
    return mean_estimate([digits_network().barrier(*map(_weights, pair)) for pair in pairs])


linear = partial(Experiment, log_dial=False, log=False)


S12 = Statement(
    name="S12",
    title="Snapshot ensembles",
    claim=(
        "Heat and cool the learning rate in cycles, keep the model at the end of each, and average "
        "their predictions: train one, get M for free."
    ),
    experiments=(
        linear(
            name="one_dimensional",
            setting=Circumstance.KNOWN,
            where="the one-dimensional example in five cycles of 30 steps, η₀ = 0.1",
            quantity="excess loss of the average",
            dial="snapshots averaged, m",
            points=COUNTS,
            predict=_loss_of_average,
            measure=lambda count: mean_estimate(_ends()[-count:].mean(axis=0) ** 2 / 2),
            says=(
                "Averaging m snapshots divides the variance, but by less than m: a snapshot "
                "remembers ∏(1 − η_t) of the one before."
            ),
        ),
        linear(
            name="digits",
            setting=Circumstance.REAL,
            where="softmax regression on the digits, 64 runs of five cycles at B = 8",
            quantity="cross-entropy gained by averaging",
            dial="snapshots averaged, m",
            points=COUNTS[1:],
            predict=lambda count: _cycles().gain(count),
            measure=lambda count: _cycles().measured_gain(count),
            rival=Rival(
                "snapshots that forget each other",
                lambda count: _cycles().gain(count, memory=False),
            ),
            says=(
                "Half the variance of log p among the snapshots, from H and Σ at the minimum and "
                "the schedule alone. A snapshot that remembers the one before gains less."
            ),
        ),
        linear(
            name="basin",
            setting=Circumstance.FAILS,
            where="the digits' MLP, eight runs of five cycles",
            quantity="loss halfway between two snapshots, less the mean at both",
            dial="cycles apart",
            points=COUNTS[:-1],
            predict=_one_basin,
            measure=_between_cycles,
            claim=lambda _: _between_runs(),
            says=(
                "Below a tenth of the barrier between runs from different starts (dotted): the "
                "snapshots stay in one basin, and are not M different models. M for free is a "
                "cheap ensemble, not a deep one."
            ),
        ),
    ),
    limits=(
        "The gain is the disagreement of the members, and snapshots from one basin disagree less "
        "than independent runs. Early snapshots are worse models and can hurt: choose on "
        "validation data how many of the last to average."
    ),
)
