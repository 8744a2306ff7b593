"""Whether confidence is deserved: the calibration error without its bias, and the reliability diagram."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import ndtri

from gradiometer.errors import BadInput
from gradiometer.measurement.reading import Estimate
from gradiometer.measurement.uncertainty import proportion

BINS = 15
"""Of equal numbers of examples."""

FEWEST_IN_BIN = 3
"""One is left out at a time, and the rest must still have a spread."""

_Samples = Float[np.ndarray, " examples"]
_LogProbabilities = Float[np.ndarray, "examples classes"]
_Labels = Integer[np.ndarray, " examples"]


@dataclass(frozen=True)
class ReliabilityBin:
    """Examples of like confidence.

    Args:
        confidence: The mean probability of the predicted class.
        accuracy: How often it was the label, with Wilson's interval.
        examples: How many they are.
    """

    confidence: float
    accuracy: Estimate
    examples: int


def reliability(
    log_probabilities: _LogProbabilities, labels: _Labels, *, bins: int = BINS, level: float = 0.9
) -> list[ReliabilityBin]:
    """The reliability diagram, least confident bin first: calibrated where accuracy is confidence.

    Source: Niculescu-Mizil & Caruana (2005), Predicting Good Probabilities with Supervised Learning.
    """
    confidence, found = _confidence(log_probabilities, labels)
    places = _places(confidence, bins)
    return [
        ReliabilityBin(
            float(confidence[places == place].mean()),
            proportion(int(found[places == place].sum()), int((places == place).sum()), level),
            int((places == place).sum()),
        )
        for place in range(places.max() + 1)
    ]


def calibration_error(
    log_probabilities: _LogProbabilities, labels: _Labels, *, bins: int = BINS, level: float = 0.9
) -> Estimate:
    """The root mean square of confidence less accuracy over bins of the predicted class: debiased ECE, in ℓ₂.

    In a bin of n examples with gaps e = confidence − found, ((Σe)² − Σe²)/(n (n − 1)) has no bias for the square of the
    mean gap; the plain estimate exceeds it by the variance of e over n, and calls every small test set uncalibrated.
    The interval is the jackknife's, of the square, and its root: about twice too wide where nothing is uncalibrated.
    Bins hide what cancels within them, so that this is a lower limit of the error of single predictions.

    Source: Kumar, Liang & Ma (2019), Verified Uncertainty Calibration, section 4.2.
    """
    samples = _jackknife(log_probabilities, labels, bins)
    value, low, high = _root(samples, _quantile(level))
    return Estimate.interval(
        value, low, high, level=level, method=f"jackknife, {bins} bins of equal numbers", samples=len(labels)
    )


def calibration_difference(
    first: _LogProbabilities, second: _LogProbabilities, labels: _Labels, *, bins: int = BINS, level: float = 0.9
) -> Estimate:
    """`calibration_error` of the first less that of the second, paired over the same examples.

    The two intervals are joined with the correlation of their jackknife samples.

    Source: Zou & Donner (2008), Construction of Confidence Limits about Effect Measures; with a correlation:
    Zou (2007), Toward Using Confidence Intervals to Compare Correlations, eq. 15.
    """
    ours, theirs = _jackknife(first, labels, bins), _jackknife(second, labels, bins)
    quantile = _quantile(level)
    (one, low, high), (other, other_low, other_high) = _root(ours, quantile), _root(theirs, quantile)
    correlation = _correlation(ours, theirs)

    def distance(down: float, up: float) -> float:
        return math.sqrt(max(down**2 + up**2 - 2 * correlation * down * up, 0.0))

    value = one - other
    return Estimate.interval(
        value,
        value - distance(one - low, other_high - other),
        value + distance(high - one, other - other_low),
        level=level,
        method=f"jackknife, joined; {bins} bins of equal numbers",
        samples=len(labels),
    )


def squared_gaps(
    gaps: _Samples, places: Integer[np.ndarray, " examples"]
) -> tuple[Float[np.ndarray, " bins"], _Samples]:
    """What each bin adds to n times the squared error, and what it would add without each of its examples.

    Args:
        gaps: Confidence less found.
        places: The bin of each example, from 0, each with at least 3.
    """
    count = np.bincount(places).astype(np.float64)
    total, squares = np.bincount(places, gaps), np.bincount(places, gaps**2)
    whole = (total**2 - squares) / (count - 1)
    without = ((total[places] - gaps) ** 2 - (squares[places] - gaps**2)) / (count[places] - 2)
    return whole, without


def _jackknife(log_probabilities: _LogProbabilities, labels: _Labels, bins: int) -> _Samples:
    """Pseudo-values of the squared error: their mean estimates it, their spread over √n is its standard error."""
    confidence, found = _confidence(log_probabilities, labels)
    places = _places(confidence, bins)
    whole, without = squared_gaps(confidence - found, places)
    samples: np.ndarray = whole[places] - without
    return samples


def _root(samples: _Samples, quantile: float) -> tuple[float, float, float]:
    """The root of a mean that cannot be negative, with its interval: never empty below zero."""
    value, margin = float(samples.mean()), quantile * float(samples.std(ddof=1)) / math.sqrt(len(samples))
    low, high = max(value - margin, 0.0), max(value + margin, margin)
    return math.sqrt(max(value, 0.0)), math.sqrt(low), math.sqrt(high)


def _confidence(log_probabilities: _LogProbabilities, labels: _Labels) -> tuple[_Samples, _Samples]:
    predicted = log_probabilities.argmax(axis=1)
    confidence = np.exp(log_probabilities[np.arange(len(labels)), predicted]).astype(np.float64)
    return confidence, (predicted == labels).astype(np.float64)


def _places(confidence: _Samples, bins: int) -> Integer[np.ndarray, " examples"]:
    """Bins of equal numbers of examples, in the order of their confidence."""
    if not bins >= 1:
        raise BadInput(f"`bins` must be at least 1, got {bins}.")
    if not len(confidence) >= FEWEST_IN_BIN * bins:
        raise BadInput(
            f"`bins`: {bins} bins need at least {FEWEST_IN_BIN * bins} examples, got {len(confidence)}: ask for fewer."
        )
    places = np.empty(len(confidence), dtype=np.int64)
    places[np.argsort(confidence, kind="stable")] = np.arange(len(confidence)) * bins // len(confidence)
    return places


def _correlation(first: _Samples, second: _Samples) -> float:
    one, other = first - first.mean(), second - second.mean()
    size = math.sqrt(float((one**2).sum()) * float((other**2).sum()))
    return float(one @ other) / size if size > 0 else 0.0


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise BadInput(f"`level` must lie between 0 and 1, got {level}: write 0.9 for 90 %.")
    return float(ndtri((1 + level) / 2))
