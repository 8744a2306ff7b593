"""How good predictions are: error, log-loss, calibrated log-loss, Brier score and calibration, alone and in pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.calibration import calibration_difference, calibration_error
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import difference_of_means
from gradiometer.measurement.uncertainty.proportions import difference_of_proportions, proportion
from gradiometer.measurement.uncertainty.skewed import skewed_mean

COLDEST, HOTTEST = 0.02, 50.0
"""Temperatures looked at; where every label is found the fit runs into the lower end."""

LogProbabilities = Float[np.ndarray, "examples classes"]
Labels = Integer[np.ndarray, " examples"]


@dataclass(frozen=True)
class Predictions:
    """What was predicted for labelled examples, and the temperature that others called for.

    Args:
        log_probabilities: log p(class | x) of the examples that are scored.
        labels: Their classes, from 0.
        temperature: Fitted on examples that are not among them.
    """

    log_probabilities: LogProbabilities
    labels: Labels
    temperature: float = 1.0

    @classmethod
    def split(
        cls, log_probabilities: LogProbabilities, labels: Labels, validation: Bool[np.ndarray, " examples"]
    ) -> "Predictions":
        """The temperature from the validation examples, the scores from the rest.

        Source: Ashukha et al. (2020), Pitfalls of In-Domain Uncertainty Estimation and Ensembling in Deep Learning,
        section 3: comparisons of log-losses without it rank methods wrongly.
        """
        checked(log_probabilities, labels)
        temperature = fitted_temperature(log_probabilities[validation], labels[validation])
        return cls(log_probabilities[~validation], labels[~validation], temperature)

    def __post_init__(self) -> None:
        checked(self.log_probabilities, self.labels)

    @cached_property
    def found(self) -> Bool[np.ndarray, " examples"]:
        """Whether the likeliest class is the label."""
        right: np.ndarray = self.log_probabilities.argmax(axis=1) == self.labels
        return right

    @cached_property
    def losses(self) -> Mapping[str, Float[np.ndarray, " examples"]]:
        """Of every example: nll and calibrated_nll in nats, and the Brier score, Σ over classes of (p − truth)²."""
        truth = np.eye(self.log_probabilities.shape[1])[self.labels]
        return {
            "nll": log_losses(self.log_probabilities, self.labels),
            "calibrated_nll": log_losses(at_temperature(self.log_probabilities, self.temperature), self.labels),
            "brier": ((np.exp(self.log_probabilities) - truth) ** 2).sum(axis=1),
        }


UNITS: Mapping[str, str] = {"error": "", "nll": "nats", "calibrated_nll": "nats", "brier": "", "calibration_error": ""}
"""The scores and their units; of all of them less is better."""


def scores(predictions: Predictions, level: float = 0.9) -> dict[str, Estimate]:
    """Every score, with its interval over the examples."""
    wrong = ~predictions.found
    found: dict[str, Estimate] = {"error": proportion(int(wrong.sum()), len(wrong), level)}
    for name, losses in predictions.losses.items():
        found[name] = skewed_mean(losses, level=level, unit=UNITS[name])
    found["calibration_error"] = calibration_error(predictions.log_probabilities, predictions.labels, level=level)
    return found


def differences(first: Predictions, second: Predictions, level: float = 0.9) -> dict[str, Estimate]:
    """Every score of the first less that of the second, paired over the same examples: below zero, the first is better.

    What is hard for both cancels, so that the interval is far narrower than those of the two scores. It speaks of other
    examples of the same kind, for these two predictors; another training run of either would differ by more.

    Raises:
        BadArgument: They are not of the same examples.
    """
    if not np.array_equal(first.labels, second.labels):
        raise BadArgument("`first` and `second` have other labels: a paired difference is of the same examples.")
    count = len(first.labels)
    found = {"error": difference_of_proportions(~first.found, ~second.found, level=level)}
    for name, losses in first.losses.items():
        other = second.losses[name]
        found[name] = difference_of_means(losses, other, level=level, unit=UNITS[name], batches=count)
    found["calibration_error"] = calibration_difference(
        first.log_probabilities, second.log_probabilities, first.labels, level=level
    )
    return found


def averaged(members: Sequence[LogProbabilities], weights: Sequence[float] | None = None) -> LogProbabilities:
    """The logarithm of the mean of the members' probabilities."""
    shares = None if weights is None else np.asarray(weights)[:, None, None] / np.sum(weights)
    stacked = np.stack(list(members))
    scale = 1 / len(stacked) if shares is None else shares
    found: np.ndarray = logsumexp(stacked, axis=0, b=scale)
    return found


def at_temperature(log_probabilities: LogProbabilities, temperature: float) -> LogProbabilities:
    """p^(1/τ), scaled to a sum of 1."""
    found: np.ndarray = log_softmax(log_probabilities / temperature, axis=1)
    return found


def fitted_temperature(log_probabilities: LogProbabilities, labels: Labels) -> float:
    """τ with the smallest mean log-loss of p^(1/τ). The loss is convex in 1/τ, so there is one.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, section 4.2.
    """
    checked(log_probabilities, labels)

    def loss(log_temperature: float) -> float:
        return float(log_losses(at_temperature(log_probabilities, np.exp(log_temperature)), labels).mean())

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x))


def log_losses(log_probabilities: LogProbabilities, labels: Labels) -> Float[np.ndarray, " examples"]:
    """−log p(label) of every example, in nats."""
    found: np.ndarray = -log_probabilities[np.arange(len(labels)), labels]
    return found


def checked(log_probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Refuse what are not logarithms of probabilities of labelled examples."""
    if log_probabilities.ndim != 2 or len(log_probabilities) != len(labels) or not len(labels) >= 1:
        raise BadArgument(
            f"`log_probabilities` of shape {list(log_probabilities.shape)} and {len(labels)} `labels` do not belong "
            "together: [examples, classes] and [examples] were expected."
        )
    totals = np.exp(log_probabilities).sum(axis=1)
    if not (np.abs(totals - 1) < 1e-4).all():
        worst = int(np.argmax(~(np.abs(totals - 1) < 1e-4)))
        raise BadArgument(
            f"`log_probabilities` of example {worst} add up to a probability of {totals[worst]:.4g}, not 1: take the "
            "log_softmax of the logits."
        )
    if not ((labels >= 0) & (labels < log_probabilities.shape[1])).all():
        raise BadArgument(f"`labels` must lie between 0 and {log_probabilities.shape[1] - 1}, the classes predicted.")
    if not np.isfinite(losses := log_losses(log_probabilities, labels)).all():
        raise BadArgument(
            f"`log_probabilities` of example {int(np.argmax(~np.isfinite(losses)))} give its label no probability at "
            "all, an infinite log-loss: take the log_softmax of the logits, not the logarithm of the softmax."
        )
