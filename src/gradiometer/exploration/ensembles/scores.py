"""Scores of predictions and their paired differences: error, log-loss, Brier score, and the
calibration error without bias."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, ndtri

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.means import difference_of_means
from gradiometer.measurement.uncertainty.proportions import difference_of_proportions, proportion
from gradiometer.measurement.uncertainty.skewed import skewed_mean

# Number of bins, of equal numbers of examples.
BINS = 15

LogProbabilities = Float[np.ndarray, "examples classes"]
Labels = Integer[np.ndarray, " examples"]
_Samples = Float[np.ndarray, " examples"]


@dataclass(frozen=True)
class ReliabilityBin:
    """Examples of similar confidence.

    Args:
        confidence: The mean probability of the predicted class.
        accuracy: The share of correct predictions, with Wilson's interval.
        examples: Number of examples.
    """

    confidence: float
    accuracy: Estimate
    examples: int


def reliability(
    log_probabilities: LogProbabilities, labels: Labels, *, level: float = LEVEL
) -> list[ReliabilityBin]:
    """The reliability diagram, least confident bin first. Calibrated predictions have accuracy =
    confidence.

    Source: Niculescu-Mizil & Caruana (2005), Predicting Good Probabilities with Supervised
    Learning.
    """
    confidence, correct = _confidence(log_probabilities, labels)
    places = _places(confidence)
    return [
        ReliabilityBin(
            float(confidence[inside].mean()),
            proportion(int(correct[inside].sum()), int(inside.sum()), level),
            int(inside.sum()),
        )
        for inside in (places == place for place in range(BINS))
    ]


def calibration_error(
    log_probabilities: LogProbabilities, labels: Labels, *, level: float = LEVEL
) -> Estimate:
    """Root mean square of confidence less accuracy over bins of the predicted class: debiased ECE,
    in ℓ₂.

    In a bin of n examples with gaps e = confidence − correct, ((Σe)² − Σe²)/(n (n − 1)) is an
    unbiased estimate of the squared mean gap. The plain estimate exceeds it by the variance of e
    over n, so that every small test set looks uncalibrated. The interval is the root of the
    jackknife's interval of the square. For calibrated predictions it is about twice too wide. If
    few predictions are wrong, the jackknife cannot see how many more could have been, so the upper
    end is at least that of bins with as many more mistakes as Wilson's interval allows. Simulated
    at nominal 90 %, with 2 to 34 % wrong, 100 to 3,000 examples, calibrated or far from it, it
    covers in 89 to 100 %. With only two to five wrong predictions that are far from calibrated, it
    covers in 83 % (the jackknife alone in 57 %). Errors that cancel within a bin are not seen, so
    this is a lower limit of the error of single predictions.

    Example:
        >>> import numpy as np
        >>> from gradiometer.exploration.ensembles.scores import calibration_error
        >>> confidence = np.full(1000, 0.9)
        >>> labels = (np.arange(1000) % 10 >= 7).astype(int)  # 70 % are of class 0
        >>> print(calibration_error(np.log(np.stack([confidence, 1 - confidence], axis=1)), labels))
        0.193 [0.167, 0.225]

    Source: Kumar, Liang & Ma (2019), Verified Uncertainty Calibration, section 4.2; the added
        mistakes: Agresti & Coull (1998), Approximate Is Better than "Exact" for Interval Estimation
        of Binomial Proportions.
    """
    _, value, low, highs = _ends(log_probabilities, labels, _quantile(level))
    return Estimate.interval(
        value,
        low,
        max(highs),
        level=level,
        method=f"jackknife, {BINS} bins of equal numbers",
        samples=len(labels),
    )


def calibration_difference(
    first: LogProbabilities, second: LogProbabilities, labels: Labels, *, level: float = LEVEL
) -> Estimate:
    """`calibration_error` of the first predictions less that of the second, paired over the same
    examples.

    The two intervals are combined with the correlation of their jackknife samples, once with each
    of the two upper ends of `calibration_error`; the wider result is returned. Simulated at nominal
    90 %, with 2 to 18 % wrong, it covers in 88 to 100 %, and in 82 to 85 % if only two to five
    predictions are wrong.

    Source: Zou & Donner (2008), Construction of Confidence Limits about Effect Measures; with a
    correlation: Zou (2007), Toward Using Confidence Intervals to Compare Correlations, eq. 15.
    """
    quantile = _quantile(level)
    ours, one, low, highs = _ends(first, labels, quantile)
    theirs, other, other_low, other_highs = _ends(second, labels, quantile)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = float(np.nan_to_num(np.corrcoef(ours, theirs)[0, 1]))  # 0 if one is constant

    def distance(down: float, up: float) -> float:
        return math.sqrt(max(down**2 + up**2 - 2 * correlation * down * up, 0.0))

    value = one - other
    return Estimate.interval(
        value,
        value - max(distance(one - low, high - other) for high in other_highs),
        value + max(distance(high - one, other - other_low) for high in highs),
        level=level,
        method=f"jackknife, combined; {BINS} bins of equal numbers",
        samples=len(labels),
    )


def squared_gaps(
    gaps: _Samples, places: Integer[np.ndarray, " examples"]
) -> tuple[Float[np.ndarray, " bins"], _Samples]:
    """The share of each bin in n times the squared error, and the same without each of its
    examples.

    Args:
        gaps: Confidence less correct, for each example.
        places: The bin of each example, from 0. Every bin has at least 3 examples.
    """
    count = np.bincount(places).astype(np.float64)
    total, squares = np.bincount(places, gaps), np.bincount(places, gaps**2)
    whole = (total**2 - squares) / (count - 1)
    without = ((total[places] - gaps) ** 2 - (squares[places] - gaps**2)) / (count[places] - 2)
    return whole, without


def _ends(
    log_probabilities: LogProbabilities, labels: Labels, quantile: float
) -> tuple[_Samples, float, float, tuple[float, float]]:
    """Pseudo-values of the squared error, whose mean estimates it; its root, the root's lower end,
    two upper ends."""
    confidence, correct = _confidence(log_probabilities, labels)
    places = _places(confidence)
    whole, without = squared_gaps(confidence - correct, places)
    samples = whole[places] - without
    value = float(samples.mean())
    margin = quantile * float(samples.std(ddof=1)) / math.sqrt(len(samples))
    # An unbiased square may come out negative, but its interval must reach above zero.
    high = max(value + margin, margin)
    # With z²/2 more mistakes among z² more examples, spread evenly over the bins.
    count = np.bincount(places).astype(np.float64)
    share, added = count / len(correct), quantile**2 / len(correct)
    wrong = (np.bincount(places, 1 - correct) / count + added / 2) / (1 + added)
    gap, variance = wrong - np.bincount(places, 1 - confidence) / count, wrong * (1 - wrong)
    spread = 4 * gap**2 * variance / count + 2 * variance**2 / (count * (count - 1))
    more = float(share @ gap**2) + quantile * math.sqrt(float(share**2 @ spread))
    return (
        samples,
        math.sqrt(max(value, 0.0)),
        math.sqrt(max(value - margin, 0.0)),
        (math.sqrt(high), math.sqrt(max(high, more))),
    )


def _confidence(log_probabilities: LogProbabilities, labels: Labels) -> tuple[_Samples, _Samples]:
    predicted = log_probabilities.argmax(axis=1)
    confidence = np.exp(log_probabilities[np.arange(len(labels)), predicted]).astype(np.float64)
    return confidence, (predicted == labels).astype(np.float64)


def _places(confidence: _Samples) -> Integer[np.ndarray, " examples"]:
    """Bins of equal numbers of examples, in the order of their confidence."""
    # the jackknife leaves one example out, and the rest must still have a variance
    least = 3 * BINS
    if len(confidence) < least:
        raise BadArgument(
            f"`labels` must be of at least {least} examples, {BINS} bins of 3, got "
            f"{len(confidence)}."
        )
    places = np.empty(len(confidence), dtype=np.int64)
    # Stable, so that equal confidences fall into the same bins on every machine.
    places[np.argsort(confidence, kind="stable")] = (
        np.arange(len(confidence)) * BINS // len(confidence)
    )
    return places


def _quantile(level: float) -> float:
    check_level(level)
    return float(ndtri((1 + level) / 2))


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
        return np.asarray(self.log_probabilities.argmax(axis=1) == self.labels)

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


# The scores and their units. Lower is better for all.
UNITS: Mapping[str, str] = {
    "error": "",
    "nll": "nats",
    "calibrated_nll": "nats",
    "brier": "",
    "calibration_error": "",
}


def scores(predictions: Predictions, level: float = LEVEL) -> dict[str, Estimate]:
    """Every score, with its interval over the examples."""
    wrong = ~predictions.correct
    found: dict[str, Estimate] = {"error": proportion(int(wrong.sum()), len(wrong), level)}
    for name, losses in predictions.losses.items():
        found[name] = skewed_mean(losses, level=level, unit=UNITS[name])
    found["calibration_error"] = calibration_error(
        predictions.log_probabilities, predictions.labels, level=level
    )
    return found


def differences(
    first: Predictions, second: Predictions, level: float = LEVEL
) -> dict[str, Estimate]:
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
    return np.asarray(logsumexp(np.stack(members), axis=0, b=1 / len(members)))


def at_temperature(log_probabilities: LogProbabilities, temperature: float) -> LogProbabilities:
    """log p^(1/τ), normalised."""
    return np.asarray(log_softmax(log_probabilities / temperature, axis=1))


def fitted_temperature(log_probabilities: LogProbabilities, labels: Labels) -> float:
    """The τ with the smallest mean log-loss of p^(1/τ). It is unique, since the loss is convex in
    1/τ.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, section 4.2.
    """

    def loss(log_temperature: float) -> float:
        return float(
            log_losses(at_temperature(log_probabilities, np.exp(log_temperature)), labels).mean()
        )

    # If every prediction is correct, a colder one is always better: the fit ends at the lower end.
    return float(
        np.exp(minimize_scalar(loss, bounds=(np.log(0.02), np.log(50.0)), method="bounded").x)
    )


def log_losses(
    log_probabilities: LogProbabilities, labels: Labels
) -> Float[np.ndarray, " examples"]:
    """−log p(label) of every example, in nats."""
    return np.asarray(-log_probabilities[np.arange(len(labels)), labels])


def check_predictions(log_probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Check log-probabilities [examples, classes] and their labels [examples]."""
    if not (
        log_probabilities.ndim == 2 and len(log_probabilities) == len(labels) and len(labels) >= 1
    ):
        raise BadArgument(
            "`log_probabilities` must be [examples, classes] and `labels` [examples], got "
            f"{list(log_probabilities.shape)} and {list(labels.shape)}."
        )
    # Logits that were never normalised are the usual mistake.
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
