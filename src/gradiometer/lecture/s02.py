"""S2: how accurate is the batch gradient?"""

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.estimation.noise import GradientNoise
from gradiometer.lecture.experiment import LEVEL, Experiment, Setting
from gradiometer.lecture.network import digits_network
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.reading import Draw, Reading, Sampling, Series
from gradiometer.measurement.step import TrainingStep
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.problems.closed_forms.quadratic import Quadratic

SIZES = (4, 16, 64, 256, 1024)
BATCHES = 300
CURVATURE, NOISE = [0.5, 1.0, 4.0], [1.0, 9.0, 2.0]


def _fresh(size: int) -> Estimate:
    """‖ĝ − g‖² of fresh batches at a point of the quadratic, from one step of many chains."""
    quadratic = Quadratic(CURVATURE, NOISE)
    start = np.array([1.0, -2.0, 0.5])
    chains = quadratic.simulate([1.0], chains=4000, batch_size=size, start=start, seed=size)
    errors = ((chains[0] - chains[1] - quadratic.gradient(start)) ** 2).sum(axis=1)
    return mean(errors, level=LEVEL, batches=len(errors))


def _errors(size: int) -> Estimate:
    """‖ĝ − g‖² of batches drawn without replacement, by torch's own backward."""
    network = digits_network()
    errors = [
        float((network.batch_gradient(chosen) - network.gradient).square().sum())
        for chosen in network.batches(size, BATCHES, seed=size)
    ]
    return mean(np.array(errors), level=LEVEL, batches=BATCHES)


def _gauge(size: int) -> Estimate:
    """Tr Σ as the instrument sees it: from the halves of a step, blind to g and to every other example."""
    network, gauge, readings = digits_network(), GradientNoise(), []
    sampling = Sampling(Draw.RESHUFFLED, len(network.train))
    for index, chosen in enumerate(network.batches(size, BATCHES, seed=3 * size)):
        step = TrainingStep(
            network.objective, network.train.batch(chosen), index=index, learning_rate=0.1, sampling=sampling
        )
        readings.append(Reading(gauge.name, index, size, 0.1, gauge.measure(step)))
    series = Series.of(readings, sampling, network.objective.layers)
    return gauge.estimate(series, LEVEL)["gradient_variance"]


def _by_class() -> tuple[Float[np.ndarray, " sizes"], Float[np.ndarray, " sizes"]]:
    """E‖ĝ − g‖² of batches of a single class: predicted from the classes' means and variances, and the claim's."""
    network = digits_network()
    labels, total = network.everything[1], len(network.train)
    expected = np.zeros(len(SIZES[:3]))
    for label in labels.unique():
        own = network.per_example[labels == label]
        off = float((own.mean(dim=0) - network.gradient).square().sum())
        spread = float((own - own.mean(dim=0)).square().sum(dim=1).mean())
        sizes = np.array(SIZES[:3])
        expected += len(own) / total * (off + spread / sizes * (len(own) - sizes) / (len(own) - 1))
    claimed = np.array([network.gradient_variance / size * (total - size) / (total - 1) for size in SIZES[:3]])
    return expected, claimed


def _errors_by_class(size: int) -> Estimate:
    """‖ĝ − g‖² where all examples of a batch are of one class, the class drawn by its share."""
    network, generator = digits_network(), torch.Generator().manual_seed(size)
    labels, errors = network.everything[1], []
    for first in torch.randint(len(labels), (2 * BATCHES,), generator=generator):
        own = (labels == labels[first]).nonzero()[:, 0]
        chosen = own[torch.randperm(len(own), generator=generator)[:size]]
        errors.append(float((network.batch_gradient(chosen) - network.gradient).square().sum()))
    return mean(np.array(errors), level=LEVEL, batches=len(errors))


def _experiments() -> tuple[Experiment, ...]:
    network = digits_network()
    total, trace = len(network.train), network.gradient_variance
    expected, claimed = _by_class()
    where = "the digits' MLP, 64-64-10"
    return (
        Experiment(
            name="quadratic",
            setting=Setting.KNOWN,
            where="a noisy quadratic of three parameters, fresh batches",
            quantity="E‖ĝ − g‖²",
            dial="batch size, B",
            points=SIZES,
            predict=lambda: [Estimate.exact(sum(NOISE) / size) for size in SIZES],
            measure=lambda: [_fresh(size) for size in SIZES],
            says="tr Σ / B.",
        ),
        Experiment(
            name="digits",
            setting=Setting.REAL,
            where=f"{where}, batches without replacement from 1,437 images",
            quantity="E‖ĝ − g‖²",
            dial="batch size, B",
            points=SIZES,
            predict=lambda: [Estimate.exact(trace / size * (total - size) / (total - 1)) for size in SIZES],
            measure=lambda: [_errors(size) for size in SIZES],
            says="tr Σ / B times (N − B)/(N − 1): at B = 1,024 of 1,437 the error is down to 29 % of tr Σ / B.",
        ),
        Experiment(
            name="gauge",
            setting=Setting.REAL,
            where=f"{where}: the instrument, from two halves of each batch",
            quantity="tr Σ",
            dial="batch size, B",
            points=SIZES[:4],
            predict=lambda: [Estimate.exact(trace * total / (total - 1))] * 4,
            measure=lambda: [_gauge(size) for size in SIZES[:4]],
            says="The instrument, which sees a batch at a time, finds the tr Σ that all 1,437 gradients have.",
            log=False,
        ),
        Experiment(
            name="by_class",
            setting=Setting.FAILS,
            where=f"{where}, all examples of a batch of one class",
            quantity="E‖ĝ − g‖²",
            dial="batch size, B",
            points=SIZES[:3],
            predict=lambda: [Estimate.exact(value) for value in expected],
            measure=lambda: [_errors_by_class(size) for size in SIZES[:3]],
            claimed=tuple(claimed),
            says="Batches that are no random sample: E ĝ = g still, but the error does not fall as 1/B; it stays at "
            "the distance of a class's gradient from the mean.",
        ),
    )


S2 = Statement(
    name="S2",
    title="Gradient estimation",
    claim="The batch gradient is right on average, and its squared error is tr Σ / B.",
    experiments=_experiments,
    limits="The examples of a batch must be a random sample. In data that come in order (by class, by file, by user) a "
    "larger batch helps less than tr Σ / B says, and halves of one batch cannot see it.",
)
