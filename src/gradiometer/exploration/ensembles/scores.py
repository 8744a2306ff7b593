"""Scores of predictions and their paired differences: error, log-loss, Brier score and calibration
error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.calibration import (
    Labels,
    LogProbabilities,
    calibration_difference,
    calibration_error,
)
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import difference_of_means
from gradiometer.measurement.uncertainty.proportions import difference_of_proportions, proportion
from gradiometer.measurement.uncertainty.skewed import skewed_mean


@dataclass(frozen=True)
class Predictions:
    """Predictions for labelled examples, and a temperature fitted on other examples.

    Args:
        log_probabilities: log p(class | x) of the examples that are scored.
        labels: Their classes, from 0.
        temperature: τ, fitted on other examples than these.

    Example:
        >>> import numpy as np
        >>> from gradiometer.exploration.ensembles import Predictions
        >>> from gradiometer.exploration.ensembles.scores import scores
        >>> labels = np.array([0, 1] * 50)
        >>> probabilities = np.where(np.eye(2)[labels] == 1, 0.8, 0.2)
        >>> probabilities[:10] = probabilities[:10, ::-1]  # ten mistakes
        >>> found = scores(Predictions(np.log(probabilities), labels))
        >>> print(found["error"], "and", found["nll"])
        0.100 [0.0607, 0.160] and 0.362 [0.302, 0.447] nats
    """

    log_probabilities: LogProbabilities
    labels: Labels
    temperature: float = 1.0

    @classmethod
    def split(
        cls,
        log_probabilities: LogProbabilities,
        labels: Labels,
        validation: Bool[np.ndarray, " examples"],
    ) -> "Predictions":
        """Fit the temperature on the validation examples, and keep the other examples for the
        scores.

        Source: Ashukha et al. (2020), Pitfalls of In-Domain Uncertainty Estimation and Ensembling
        in Deep Learning,
        section 3: without this, comparisons of log-losses rank methods wrongly.
        """
        check_predictions(log_probabilities, labels)
        temperature = fitted_temperature(log_probabilities[validation], labels[validation])
        return cls(log_probabilities[~validation], labels[~validation], temperature)

    def __post_init__(self) -> None:
        check_predictions(self.log_probabilities, self.labels)

    @cached_property
    def correct(self) -> Bool[np.ndarray, " examples"]:
        """True for each example whose most likely class is its label."""
        correct: np.ndarray = self.log_probabilities.argmax(axis=1) == self.labels
        return correct

    @cached_property
    def losses(self) -> Mapping[str, Float[np.ndarray, " examples"]]:
        """For every example: nll and calibrated_nll in nats, and the Brier score, Σ over classes of
        (p − truth)²."""
        truth = np.eye(self.log_probabilities.shape[1])[self.labels]
        return {
            "nll": log_losses(self.log_probabilities, self.labels),
            "calibrated_nll": log_losses(
                at_temperature(self.log_probabilities, self.temperature), self.labels
            ),
            "brier": ((np.exp(self.log_probabilities) - truth) ** 2).sum(axis=1),
        }


UNITS: Mapping[str, str] = {
    "error": "",
    "nll": "nats",
    "calibrated_nll": "nats",
    "brier": "",
    "calibration_error": "",
}
"""The scores and their units. Lower is better for all."""


def scores(predictions: Predictions, level: float = 0.9) -> dict[str, Estimate]:
    """Every score, with its interval over the examples."""
    wrong = ~predictions.correct
    found: dict[str, Estimate] = {"error": proportion(int(wrong.sum()), len(wrong), level)}
    for name, losses in predictions.losses.items():
        found[name] = skewed_mean(losses, level=level, unit=UNITS[name])
    found["calibration_error"] = calibration_error(
        predictions.log_probabilities, predictions.labels, level=level
    )
    return found


def differences(first: Predictions, second: Predictions, level: float = 0.9) -> dict[str, Estimate]:
    """Every score of the first less that of the second, paired by example. Below zero, the first is
    better.

    Examples that are hard for both cancel, so the interval is far narrower than those of the two
    scores. It is valid for other examples of the same kind and these two predictors. Other training
    runs would differ by more.

    Raises:
        BadArgument: The two are not for the same examples.
    """
    if not np.array_equal(first.labels, second.labels):
        raise BadArgument("`first` and `second` must have the same labels: pair the same examples.")
    count = len(first.labels)
    found = {"error": difference_of_proportions(~first.correct, ~second.correct, level=level)}
    for name, losses in first.losses.items():
        found[name] = difference_of_means(
            losses, second.losses[name], level=level, unit=UNITS[name], batches=count
        )
    found["calibration_error"] = calibration_difference(
        first.log_probabilities, second.log_probabilities, first.labels, level=level
    )
    return found


def averaged(members: Sequence[LogProbabilities]) -> LogProbabilities:
    """The logarithm of the mean of the members' probabilities."""
    mean: np.ndarray = logsumexp(np.stack(members), axis=0, b=1 / len(members))
    return mean


def at_temperature(log_probabilities: LogProbabilities, temperature: float) -> LogProbabilities:
    """log p^(1/τ), normalised."""
    found: np.ndarray = log_softmax(log_probabilities / temperature, axis=1)
    return found


def fitted_temperature(log_probabilities: LogProbabilities, labels: Labels) -> float:
    """The τ with the smallest mean log-loss of p^(1/τ). It is unique, since the loss is convex in
    1/τ.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, section 4.2.
    """
    check_predictions(log_probabilities, labels)

    def loss(log_temperature: float) -> float:
        return float(
            log_losses(at_temperature(log_probabilities, np.exp(log_temperature)), labels).mean()
        )

    # If every prediction is correct, a colder one is always better: the fit ends at the lower end.
    bounds = (np.log(0.02), np.log(50.0))
    return float(
        np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x)
    )


def log_losses(
    log_probabilities: LogProbabilities, labels: Labels
) -> Float[np.ndarray, " examples"]:
    """−log p(label) of every example, in nats."""
    found: np.ndarray = -log_probabilities[np.arange(len(labels)), labels]
    return found


def check_predictions(log_probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Check log-probabilities [examples, classes] and their labels [examples]."""
    if log_probabilities.ndim != 2 or len(log_probabilities) != len(labels) or not len(labels) >= 1:
        raise BadArgument(
            "`log_probabilities` must be [examples, classes] and `labels` [examples], got "
            f"{list(log_probabilities.shape)} and {list(labels.shape)}."
        )
    totals = np.exp(log_probabilities).sum(axis=1)
    good = np.abs(totals - 1) < 1e-4
    if not good.all():
        first = int(np.argmin(good))
        raise BadArgument(
            f"`log_probabilities` of example {first} must sum to a probability of 1, got "
            f"{totals[first]:.4g}: take the log_softmax of the logits."
        )
    if not ((labels >= 0) & (labels < log_probabilities.shape[1])).all():
        raise BadArgument(
            f"`labels` must lie between 0 and {log_probabilities.shape[1] - 1}, the predicted "
            "classes."
        )
    losses = log_losses(log_probabilities, labels)
    if not np.isfinite(losses).all():
        raise BadArgument(
            f"`log_probabilities` of example {int(np.argmin(np.isfinite(losses)))} give its label "
            "a probability of 0 and so an infinite log-loss: take the log_softmax of the logits, "
            "not the logarithm of the softmax."
        )
