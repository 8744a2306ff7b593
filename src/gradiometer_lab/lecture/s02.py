"""S2: how accurate is the batch gradient?"""

import numpy as np
import torch

from gradiometer.estimation.noise import GradientNoise
from gradiometer.measurement.estimate import Estimate
from gradiometer_lab.closed_forms.quadratic import Quadratic
from gradiometer_lab.lecture.network import MLP, digits_network
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)

NUMBERS = settings("S2")


def _fresh(size: int) -> Estimate:
    """‖ĝ − g‖² of fresh batches at a point of the quadratic, from one step of many chains."""
    quadratic, start = Quadratic(NUMBERS.curvature, NUMBERS.noise), np.array(NUMBERS.start)
    chains = quadratic.simulate(
        [1.0], chains=NUMBERS.chains, batch_size=size, start=start, seed=size
    )
    return mean_estimate(((chains[0] - chains[1] - quadratic.gradient(start)) ** 2).sum(axis=1))


def _exact(size: int) -> float:
    """tr Σ/B · (N − B)/(N − 1), from the gradients of all examples."""
    return digits_network().noise_of_batch(size)


def _errors(size: int) -> Estimate:
    """‖ĝ − g‖² of batches drawn without replacement, by torch's own backward."""
    network = digits_network()
    gradients = map(network.batch_gradient, network.batches(size, NUMBERS.batches, seed=size))
    return mean_estimate(
        [float((gradient - network.gradient).square().sum()) for gradient in gradients]
    )


def _by_class(size: int) -> float:
    """E‖ĝ − g‖² of batches from a single class, from the mean and the variance of every class."""
    network, expected = digits_network(), 0.0
    labels, total = network.everything[1], len(network.train)
    for label in labels.unique():
        own = network.per_example[labels == label]
        off = float((own.mean(dim=0) - network.gradient).square().sum())
        spread = float((own - own.mean(dim=0)).square().sum(dim=1).mean())
        expected += len(own) / total * (off + spread / size * (len(own) - size) / (len(own) - 1))
    return expected


def _errors_by_class(size: int) -> Estimate:
    """‖ĝ − g‖² of batches from a single class; a class is drawn in proportion to its size."""
    network, generator = digits_network(), torch.Generator().manual_seed(size)
    labels, errors = network.everything[1], []
    # A random example draws the class, so that a class comes as often as its examples: then E ĝ =
    # g.
    for first in torch.randint(len(labels), (2 * NUMBERS.batches,), generator=generator):
        own = (labels == labels[first]).nonzero()[:, 0]
        chosen = own[torch.randperm(len(own), generator=generator)[:size]]
        errors.append(float((network.batch_gradient(chosen) - network.gradient).square().sum()))
    return mean_estimate(errors)


S2 = Statement(
    name="S2",
    title="Gradient estimation",
    claim="The batch gradient is right on average, and its squared error is tr Σ / B.",
    experiments=(
        Experiment(
            name="quadratic",
            setting=Circumstance.KNOWN,
            where="a noisy quadratic of three parameters, fresh batches",
            quantity="E‖ĝ − g‖²",
            dial="batch size, B",
            points=NUMBERS.sizes,
            predict=lambda size: sum(NUMBERS.noise) / size,
            measure=_fresh,
            says="tr Σ / B.",
        ),
        Experiment(
            name="digits",
            setting=Circumstance.REAL,
            where=f"{MLP}, batches without replacement from 1,437 images",
            quantity="E‖ĝ − g‖²",
            dial="batch size, B",
            points=NUMBERS.sizes,
            predict=_exact,
            measure=_errors,
            rival=Rival(
                "independent draws, tr Σ / B",
                lambda size: digits_network().gradient_variance / size,
            ),
            says=(
                "tr Σ / B times (N − B)/(N − 1): at B = 1,024 of 1,437 the error is down to 29 % "
                "of tr Σ / B."
            ),
        ),
        Experiment(
            name="gauge",
            setting=Circumstance.REAL,
            where=f"{MLP}: the instrument, from two halves of each batch",
            quantity="tr Σ",
            dial="batch size, B",
            points=NUMBERS.sizes[:-1],
            predict=lambda _: (
                digits_network().gradient_variance / (1 - 1 / len(digits_network().train))
            ),
            measure=lambda size: digits_network().estimates(
                GradientNoise(), size, NUMBERS.batches, 3 * size, NUMBERS.rate
            )["gradient_variance"],
            says=(
                "The instrument uses one batch at a time, and finds the tr Σ of all 1,437 "
                "gradients."
            ),
            log=False,
        ),
        Experiment(
            name="by_class",
            setting=Circumstance.FAILS,
            where=f"{MLP}, all examples of a batch of one class",
            quantity="E‖ĝ − g‖²",
            dial="batch size, B",
            points=NUMBERS.sizes[:-2],
            predict=_by_class,
            measure=_errors_by_class,
            claim=_exact,
            says=(
                "These batches are not random samples. E ĝ = g still holds, but the error does not "
                "fall as 1/B: it stays at the distance between a class's gradient and the mean."
            ),
        ),
    ),
    limits=(
        "The examples of a batch must be a random sample. If the data are ordered (by class, by "
        "file, by user), a larger batch helps less than tr Σ / B says, and the two halves of a "
        "batch do not show it."
    ),
)
