"""A survey of the curvature of a training, and its learning rate against the edge of stability."""

import torch

from gradiometer.convergence.certificate.certifying import TrainingSet
from gradiometer.drift.curvature import AT_ONCE, Curvature
from gradiometer.drift.curvature_survey import Survey, survey
from gradiometer.drift.stability import Momentum, edge_finding, no_edge_finding
from gradiometer.errors import BadArgument
from gradiometer.measurement.finding import Finding
from gradiometer.measurement.objective import Objective
from gradiometer.run.configuration import OPTIMIZERS
from gradiometer.train.training import Training

EXAMPLES = 1024
"""Examples used by default, or all if there are fewer."""


def survey_training(
    training: Training, examples: int | None = None, *, top: int = 5, probes: int = 8, seed: int = 0
) -> Survey:
    """The curvature of the training loss at the present step.

    Args:
        training: A training, with its model in the mode to use.
        examples: Size of a fixed random subsample of the training set; None for 1,024 or all.
        top: Number of largest eigenvalues.
        probes: Number of random vectors for trace and density.
        seed: Seed for the subsample, the vectors and random numbers in the loss.

    Raises:
        BadArgument: There are fewer training examples.
    """
    return survey_examples(
        training.objective, training.data, examples, step=training.step, top=top, probes=probes, seed=seed
    )


def survey_examples(
    objective: Objective, train: TrainingSet, examples: int | None = None, *, step: int, seed: int = 0, **numbers: int
) -> Survey:
    """The curvature of a loss over a training set, or a subsample of it. Arguments as in `survey_training`."""
    available = len(train)
    examples = min(EXAMPLES, available) if examples is None else examples
    if not 1 <= examples <= available:
        raise BadArgument(f"`examples` must lie between 1 and the {available:,} training examples, got {examples:,}.")
    order = torch.arange(available)
    if examples < available:
        order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:examples]
    curvature = Curvature(objective, [train.batch(part) for part in order.split(AT_ONCE)], seed=seed)
    return survey(curvature, of=available, step=step, **numbers)


def rate_ahead(training: Training) -> float:
    """η of the next step, or the initial η if a schedule has ended at zero."""
    return training.learning_rate if training.learning_rate > 0 else training.configuration.rate


def sharpness_finding(training: Training, found: Survey) -> Finding:
    """Compare the sharpness of a survey with the edge of the training's learning rate."""
    settings = training.configuration
    if settings.optimizer != "sgd":
        return no_edge_finding(found.sharpness, found.step, (OPTIMIZERS[settings.optimizer],))
    kind = Momentum(settings.momentum, settings.nesterov)
    return edge_finding(found.sharpness, rate_ahead(training), kind, weight_decay=settings.weight_decay)
