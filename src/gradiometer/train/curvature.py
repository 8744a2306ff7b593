"""A survey of the curvature of a training, and its learning rate against the edge of stability."""

from gradiometer.drift.curvature import survey_examples
from gradiometer.drift.curvature_survey import Survey
from gradiometer.drift.stability import MomentumRule, edge_finding, no_edge_finding
from gradiometer.measurement.finding import Finding
from gradiometer.run.configuration import OPTIMIZERS
from gradiometer.train.training import Training


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
        training.objective,
        training.data,
        examples,
        step=training.step,
        top=top,
        probes=probes,
        seed=seed,
    )


def rate_ahead(training: Training) -> float:
    """η of the next step, or the initial η if a schedule has ended at zero."""
    return training.learning_rate if training.learning_rate > 0 else training.configuration.rate


def sharpness_finding(training: Training, found: Survey) -> Finding:
    """Compare the sharpness of a survey with the edge of the training's learning rate."""
    settings = training.configuration
    if settings.optimizer != "sgd":
        return no_edge_finding(found.sharpness, found.step, (OPTIMIZERS[settings.optimizer],))
    kind = MomentumRule(settings.momentum, settings.nesterov)
    return edge_finding(
        found.sharpness, rate_ahead(training), kind, weight_decay=settings.weight_decay
    )
