"""The learning rate of a training against the edge of stability."""

from gradiometer.drift.curvature_survey import Survey
from gradiometer.drift.stability import MomentumRule, edge_finding, no_edge_finding
from gradiometer.measurement.finding import Finding
from gradiometer.run.configuration import OPTIMIZERS
from gradiometer.train.training import Training


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
