"""S12: snapshot ensembles: heat and cool the learning rate in cycles, keep the model at the end of each, average."""

import itertools
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.convergence.schedules.cycles import SnapshotCycle
from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.ensemble import Ensemble
from gradiometer.exploration.ensembles.snapshots import Snapshot, SnapshotCollector
from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean
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
"""Of single precision, in a Brier score."""
FEW = 0.1
"""What is said to be no barrier: a tenth of the one between runs from different starts."""


def _averaged(count: int) -> Estimate:
    """E ½(mean of the last snapshots)², exactly: a snapshot is a linear function of the one before, and noise."""
    rates = [CYCLE(step) for step in range(CYCLE.steps)]
    ends = [(k + 1) * CYCLE.length for k in range(SNAPSHOTS)]
    variances = EXAMPLE.law(rates, BATCH)[1][ends]
    kept = float(np.prod(1 - np.array(rates[: CYCLE.length])))
    pairs = [variances[min(i, j)] * kept ** abs(i - j) for i in _last(count) for j in _last(count)]
    return Estimate.exact(float(np.mean(pairs)) / 2)


def _last(count: int) -> range:
    """Places of the last so many snapshots."""
    return range(SNAPSHOTS - count, SNAPSHOTS)


@cache
def _ends() -> Float[np.ndarray, "snapshots chains"]:
    rates = [CYCLE(step) for step in range(CYCLE.steps)]
    chains = EXAMPLE.simulate(rates, chains=CHAINS, batch_size=BATCH, seed=12)
    found: np.ndarray = chains[CYCLE.length :: CYCLE.length]
    return found


def _simulated(count: int) -> Estimate:
    losses = _ends()[-count:].mean(axis=0) ** 2 / 2
    return mean(losses, level=LEVEL, batches=CHAINS)


@cache
def _trained(seed: int) -> tuple[Snapshot, ...]:
    """The snapshots of a run of the digits' MLP."""
    torch.manual_seed(seed)
    problem, network, collector = load("mlp"), digits_network(), SnapshotCollector(REAL_CYCLE)
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=REAL_CYCLE(0))
    scheduler = REAL_CYCLE.scheduler(optimizer)
    for step, chosen in enumerate(network.batches(32, REAL_CYCLE.steps, seed=200 + seed)):
        optimizer.zero_grad()
        problem.loss(model, network.train.batch(chosen)).mean().backward()
        optimizer.step()
        scheduler.step()
        collector.after(step, model)
    return tuple(collector.snapshots)


def _test_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels that no training saw."""
    held_out = load("mlp").test
    if held_out is None:
        raise BadArgument("The digits have no test examples.")
    images, labels = held_out.data
    return images, labels


@cache
def _probabilities() -> tuple[Float[np.ndarray, "snapshots examples classes"], Float[np.ndarray, "examples classes"]]:
    """What every snapshot of one run says of the test images, and the truth."""
    problem, members = load("mlp"), []
    images, labels = _test_data()
    for snapshot in _trained(0):
        model = problem.model()
        snapshot.load_into(model)
        with torch.no_grad():
            members.append(torch.softmax(model(images).double(), dim=1).numpy())
    return np.array(members), np.eye(members[0].shape[1])[labels.numpy()]


def _ambiguity(count: int) -> Estimate:
    """Mean Brier score of the members less their mean squared distance from what they say together."""
    members, truth = _probabilities()
    last = members[-count:]
    each = ((last - truth) ** 2).sum(axis=-1).mean()
    apart = ((last - last.mean(axis=0)) ** 2).sum(axis=-1).mean()
    value = float(each - apart)
    return Estimate.bound(value, low=value - ROUNDING, high=value + ROUNDING, method="identity", samples=len(truth))


def _ensembled(count: int) -> Estimate:
    """The Brier score of the ensemble as one module."""
    problem, truth = load("mlp"), _probabilities()[1]
    ensemble = Ensemble.of_snapshots(_trained(0)[-count:], problem.model())
    with torch.no_grad():
        said = ensemble(_test_data()[0]).double().numpy()
    return Estimate.exact(float(((said - truth) ** 2).sum(axis=1).mean()))


def _weights(snapshot: Snapshot) -> list[torch.Tensor]:
    model = load("mlp").model()
    snapshot.load_into(model)
    return [parameter.detach() for parameter in model.parameters()]


@cache
def _between_runs() -> float:
    """The mean barrier between the last snapshots of runs from different starts."""
    ends = [_weights(_trained(seed)[-1]) for seed in range(RUNS)]
    return float(np.mean([digits_network().barrier(one, other) for one, other in itertools.combinations(ends, 2)]))


def _between_cycles(apart: int) -> Estimate:
    """The barrier between the last snapshot and one so many cycles before, over runs."""
    found = []
    for seed in range(RUNS):
        snapshots = _trained(seed)
        found.append(digits_network().barrier(_weights(snapshots[-1 - apart]), _weights(snapshots[-1])))
    return mean(np.array(found), level=LEVEL, batches=RUNS)


def _experiments() -> tuple[Experiment, ...]:
    dial = partial(Experiment, dial="snapshots averaged, m", log_dial=False, log=False)
    return (
        dial(
            name="one_dimensional",
            setting=Setting.KNOWN,
            where="the one-dimensional example in five cycles of 30 steps, η₀ = 0.1",
            quantity="excess loss of the average",
            points=COUNTS,
            predict=lambda: [_averaged(count) for count in COUNTS],
            measure=lambda: [_simulated(count) for count in COUNTS],
            says="Averaging m snapshots divides the variance, by less than m: a snapshot remembers ∏(1 − η_t) of the "
            "one before.",
        ),
        dial(
            name="digits",
            setting=Setting.REAL,
            where="the digits' MLP in five cycles, as one module, on test images",
            quantity="Brier score of the ensemble",
            points=COUNTS[1:],
            predict=lambda: [_ambiguity(count) for count in COUNTS[1:]],
            measure=lambda: [_ensembled(count) for count in COUNTS[1:]],
            says="The mean score of its members less their spread around what they say together: an average is better "
            "than the mean of its members by as much as they disagree, and no more; the best of them may beat it.",
        ),
        Experiment(
            name="basin",
            setting=Setting.FAILS,
            where="the digits' MLP, eight runs of five cycles",
            quantity="loss halfway between two snapshots, less the mean at both",
            dial="cycles apart",
            points=COUNTS[:-1],
            predict=lambda: [
                Estimate.bound(0.0, low=-np.inf, high=FEW * _between_runs(), method="one basin", samples=RUNS)
                for _ in COUNTS[:-1]
            ],
            measure=lambda: [_between_cycles(apart) for apart in COUNTS[:-1]],
            claimed=tuple(_between_runs() for _ in COUNTS[:-1]),
            says="Below a tenth of the barrier between runs from different starts (dotted): the snapshots are not M "
            "different models, they do not leave the basin. M for free is a cheap ensemble, not a deep one.",
            log_dial=False,
            log=False,
        ),
    )


S12 = Statement(
    name="S12",
    title="Snapshot ensembles",
    claim="Heat and cool the learning rate in cycles, keep the model at the end of each, and average their "
    "predictions: train one, get M for free.",
    experiments=_experiments,
    limits="The gain is what the members disagree, and snapshots of one basin disagree less than independent runs. "
    "Early snapshots are worse models and can hurt: how many of the last to average is chosen on validation data.",
)
