"""S12: snapshot ensembles: heat and cool the learning rate in cycles, keep the model at the end of each, average."""

from functools import cache, partial
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.convergence.schedules.cycles import SnapshotCycle
from gradiometer.exploration.ensembles.ensemble import Ensemble
from gradiometer.exploration.ensembles.snapshots import Snapshot, SnapshotCollector
from gradiometer.lecture.experiment import Experiment, Setting, averaged
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.problems.closed_forms.one_dimensional import OneDimensional
from gradiometer.problems.images.digits import load

SNAPSHOTS = 5
COUNTS = tuple(range(1, SNAPSHOTS + 1))
EXAMPLE, BATCH, CHAINS = OneDimensional(variance=4.0), 4, 8000
CYCLE = SnapshotCycle(0.1, steps=SNAPSHOTS * 30, snapshots=SNAPSHOTS)
"""Short enough for a snapshot to remember the one before: 0.22 of it."""

REAL_CYCLE = SnapshotCycle(0.2, steps=SNAPSHOTS * 90, snapshots=SNAPSHOTS)
RUNS = 8
ROUNDING = 1e-6
"""Rounding of single precision, in a Brier score."""
FEW = 0.1
"""A barrier counts as none if it is below this share of the one between runs from different starts."""


def _averaged(count: int) -> float:
    """E ½(mean of the last snapshots)², exactly: a snapshot is a linear function of the one before, plus noise."""
    rates = [CYCLE(step) for step in range(CYCLE.steps)]
    variances = EXAMPLE.law(rates, BATCH)[1][CYCLE.length :: CYCLE.length]
    kept = float(np.prod(1 - np.array(rates[: CYCLE.length])))
    last = range(SNAPSHOTS - count, SNAPSHOTS)
    return float(np.mean([variances[min(i, j)] * kept ** abs(i - j) for i in last for j in last])) / 2


@cache
def _ends() -> Float[np.ndarray, "snapshots chains"]:
    rates = [CYCLE(step) for step in range(CYCLE.steps)]
    chains = EXAMPLE.simulate(rates, chains=CHAINS, batch_size=BATCH, seed=12)
    found: np.ndarray = chains[CYCLE.length :: CYCLE.length]
    return found


@cache
def _trained(seed: int) -> tuple[Snapshot, ...]:
    """The snapshots of a run of the digits' MLP."""
    network, collector = digits_network(), SnapshotCollector(REAL_CYCLE)
    torch.manual_seed(seed)
    model = load("mlp").model()
    optimizer = torch.optim.SGD(model.parameters(), lr=REAL_CYCLE(0))
    scheduler = REAL_CYCLE.scheduler(optimizer)
    for steps in network.sgd(model, optimizer, 32, REAL_CYCLE.steps, seed=200 + seed):
        scheduler.step()
        collector.after(steps - 1, model)
    return tuple(collector.snapshots)


def _test_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels that were not used in training."""
    images, labels = load("mlp").test.data  # type: ignore[union-attr]  # the digits have a test set
    return images, labels


@cache
def _probabilities() -> tuple[Float[np.ndarray, "snapshots examples classes"], Float[np.ndarray, "examples classes"]]:
    """The predictions of every snapshot of one run for the test images, and the true classes."""
    members, (images, labels) = [], _test_data()
    model = load("mlp").model()
    for snapshot in _trained(0):
        snapshot.load_into(model)
        with torch.no_grad():
            members.append(torch.softmax(model(images).double(), dim=1).numpy())
    return np.array(members), np.eye(members[0].shape[1])[labels.numpy()]


def _ambiguity(count: int) -> Estimate:
    """Mean Brier score of the members less their mean squared distance from their average."""
    members, truth = _probabilities()
    last = members[-count:]
    each = ((last - truth) ** 2).sum(axis=-1).mean()
    apart = ((last - last.mean(axis=0)) ** 2).sum(axis=-1).mean()
    value = float(each - apart)
    return Estimate.bound(value, low=value - ROUNDING, high=value + ROUNDING, method="identity", samples=len(truth))


def _ensembled(count: int) -> float:
    """The Brier score of the ensemble as one module."""
    ensemble = Ensemble.of_snapshots(_trained(0)[-count:], load("mlp").model())
    with torch.no_grad():
        probabilities = ensemble(_test_data()[0]).double().numpy()
    return float(((probabilities - _probabilities()[1]) ** 2).sum(axis=1).mean())


def _weights(snapshot: Snapshot) -> list[torch.Tensor]:
    model = load("mlp").model()
    snapshot.load_into(model)
    return [parameter.detach() for parameter in model.parameters()]


@cache
def _between_runs() -> float:
    """The mean barrier between the last snapshots of runs from different starts."""
    ends = [_weights(_trained(seed)[-1]) for seed in range(RUNS)]
    return float(np.mean([digits_network().barrier(one, other) for one, other in combinations(ends, 2)]))


def _between_cycles(apart: int) -> Estimate:
    """The barrier between the last snapshot and one a number of cycles before, over runs."""
    pairs = [(_trained(seed)[-1 - apart], _trained(seed)[-1]) for seed in range(RUNS)]
    return averaged([digits_network().barrier(*map(_weights, pair)) for pair in pairs])


def _experiments() -> tuple[Experiment, ...]:
    linear = partial(Experiment, log_dial=False, log=False)
    return (
        linear(
            name="one_dimensional",
            setting=Setting.KNOWN,
            where="the one-dimensional example in five cycles of 30 steps, η₀ = 0.1",
            quantity="excess loss of the average",
            dial="snapshots averaged, m",
            points=COUNTS,
            predict=_averaged,
            measure=lambda count: averaged(_ends()[-count:].mean(axis=0) ** 2 / 2),
            says="Averaging m snapshots divides the variance, but by less than m: a snapshot remembers ∏(1 − η_t) of "
            "the one before.",
        ),
        linear(
            name="digits",
            setting=Setting.REAL,
            where="the digits' MLP in five cycles, as one module, on test images",
            quantity="Brier score of the ensemble",
            dial="snapshots averaged, m",
            points=COUNTS[1:],
            predict=_ambiguity,
            measure=_ensembled,
            says="The mean score of its members less their spread around their average: an average is better than the "
            "mean of its members by as much as they disagree, and no more. The best member may still beat it.",
        ),
        linear(
            name="basin",
            setting=Setting.FAILS,
            where="the digits' MLP, eight runs of five cycles",
            quantity="loss halfway between two snapshots, less the mean at both",
            dial="cycles apart",
            points=COUNTS[:-1],
            predict=lambda _: Estimate.bound(
                0.0, low=-np.inf, high=FEW * _between_runs(), method="one basin", samples=RUNS
            ),
            measure=_between_cycles,
            claim=lambda _: _between_runs(),
            says="Below a tenth of the barrier between runs from different starts (dotted): the snapshots stay in one "
            "basin, and are not M different models. M for free is a cheap ensemble, not a deep one.",
        ),
    )


S12 = Statement(
    name="S12",
    title="Snapshot ensembles",
    claim="Heat and cool the learning rate in cycles, keep the model at the end of each, and average their "
    "predictions: train one, get M for free.",
    experiments=_experiments,
    limits="The gain is the disagreement of the members, and snapshots from one basin disagree less than independent "
    "runs. Early snapshots are worse models and can hurt: choose on validation data how many of the last to average.",
)
