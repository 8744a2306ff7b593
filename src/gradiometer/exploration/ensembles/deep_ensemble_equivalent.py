"""How many independent runs an ensemble is worth."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.scores import Labels, LogProbabilities, Predictions, averaged
from gradiometer.measurement.estimate import Estimate

RESAMPLES = 1000


def deep_ensemble_equivalent(
    ensemble: Predictions,
    runs: Sequence[LogProbabilities],
    labels: Labels,
    validation: Bool[np.ndarray, " examples"],
    *,
    level: float = 0.9,
    seed: int = 0,
) -> Estimate:
    """The number of independent runs whose ensemble has the same calibrated log-loss, between whole ones by a line.

    The loss of k runs is the average over all choices of k from those given. At least 1 by definition; better than all
    of them together is ∞, "more than there are". The interval is the bootstrap's over the scored examples, for these
    runs and these temperatures: of few runs, other runs would differ by more. Simulated at nominal 90 %, with a
    quarter of 360 and of 2,000 examples for the temperatures, it covers in 80 to 88 % and in 84 to 92 %.

    Args:
        ensemble: What is to be valued.
        runs: Log-probabilities of independent full runs, on all held-out examples; at least 2.
        labels: Of all held-out examples.
        validation: Which of them fit temperatures; the rest are scored.
        level: Confidence level, between 0 and 1.
        seed: Of the bootstrap.

    Source: Ashukha et al. (2020), Pitfalls of In-Domain Uncertainty Estimation and Ensembling in Deep Learning,
    section 4.1; the percentile bootstrap: Efron & Tibshirani (1993), chapter 13.
    """
    if not len(runs) >= 2:
        raise BadArgument(f"`runs` must be at least 2, got {len(runs)}: one run is no curve to read from.")
    curve = np.stack([_losses(runs, count, labels, validation) for count in range(1, len(runs) + 1)])
    own = ensemble.losses["calibrated_nll"]
    if len(own) != curve.shape[1]:
        raise BadArgument(f"`ensemble` is of {len(own)} examples, `runs` of {curve.shape[1]}: the same are needed.")
    examples = len(own)
    draws = np.random.default_rng(seed)
    resampled = []
    for _ in range(RESAMPLES):
        weights = np.bincount(draws.integers(0, examples, examples), minlength=examples)
        resampled.append(_place(float(own @ weights), curve @ weights))
    low, high = (float(np.quantile(resampled, q, method="inverted_cdf")) for q in ((1 - level) / 2, (1 + level) / 2))
    value = _place(float(own.sum()), curve.sum(axis=1))
    return Estimate.interval(
        value,
        min(low, value),
        max(high, value),
        level=level,
        method=f"bootstrap over examples, {len(runs)} runs",
        samples=examples,
        unit="runs",
    )


def _losses(
    runs: Sequence[LogProbabilities], count: int, labels: Labels, validation: Bool[np.ndarray, " examples"]
) -> Float[np.ndarray, " scored"]:
    """Calibrated log-loss of each scored example, averaged over all ensembles of so many of the runs."""
    chosen = [
        Predictions.split(averaged(group), labels, validation).losses["calibrated_nll"]
        for group in itertools.combinations(runs, count)
    ]
    average: np.ndarray = np.mean(chosen, axis=0)
    return average


def _place(loss: float, curve: Float[np.ndarray, " runs"]) -> float:
    """Where on a curve over 1, 2, … runs the loss is first reached."""
    if loss >= curve[0]:
        return 1.0
    for count in range(1, len(curve)):
        if curve[count] <= loss:
            return count + float((curve[count - 1] - loss) / (curve[count - 1] - curve[count]))
    return math.inf
