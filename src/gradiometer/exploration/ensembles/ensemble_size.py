"""How many members an ensemble needs: the gain from each, the best number, and the number of
independent runs that it is as good as."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.ensemble_report import FEWEST, EnsembleSize
from gradiometer.exploration.ensembles.scores import (
    Labels,
    LogProbabilities,
    Predictions,
    averaged,
    differences,
    fitted_temperature,
    scores,
)
from gradiometer.measurement.estimate import LEVEL, Estimate


def ensemble_sizes(
    members: Sequence[LogProbabilities],
    labels: Labels,
    validation: Bool[np.ndarray, " examples"],
    level: float = LEVEL,
) -> list[EnsembleSize]:
    """The last 1, 2, … members averaged, each average with its own temperature.

    Args:
        members: Log-probabilities of all held-out examples, the newest member last.
        labels: Labels of all held-out examples.
        validation: True for the examples that fit the temperature; the others are scored.
        level: Confidence level, between 0 and 1.

    Source: Huang et al. (2017), Snapshot Ensembles, figure 3.
    """
    sizes: list[EnsembleSize] = []
    before: Predictions | None = None
    for count in range(1, len(members) + 1):
        predictions = Predictions.split(averaged(members[-count:]), labels, validation)
        added = {} if before is None else differences(predictions, before, level)
        sizes.append(EnsembleSize(count, scores(predictions, level), added))
        before = predictions
    return sizes


def chosen_count(members: Sequence[LogProbabilities], labels: Labels) -> int:
    """The m ≥ 2 with the smallest calibrated log-loss on these validation examples. Early snapshots
    can hurt."""
    if len(members) < FEWEST:
        raise BadArgument(
            f"`members` must be at least {FEWEST}, got {len(members)}: there is nothing to choose."
        )

    def loss(count: int) -> float:
        found = averaged(members[-count:])
        return float(
            Predictions(found, labels, fitted_temperature(found, labels))
            .losses["calibrated_nll"]
            .mean()
        )

    return min(range(FEWEST, len(members) + 1), key=loss)


def validation_mask(examples: int) -> Bool[np.ndarray, " examples"]:
    """True for the held-out examples used for validation. Depends only on their number.

    Example:
        >>> from gradiometer.exploration.ensembles import validation_mask
        >>> validation_mask(8).nonzero()[0].tolist()
        [2, 4]
    """
    # A quarter chooses m and the temperature, and is not scored: a choice would flatter its score.
    taken = max(round(examples / 4), 1)
    if not 1 <= taken < examples:
        raise BadArgument(
            f"`examples` must be at least 2, got {examples}: some choose, and the others are scored."
        )
    mask = np.zeros(examples, dtype=bool)
    mask[np.random.default_rng(0).permutation(examples)[:taken]] = True
    return mask


def deep_ensemble_equivalent(
    ensemble: Predictions,
    runs: Sequence[LogProbabilities],
    labels: Labels,
    validation: Bool[np.ndarray, " examples"],
    *,
    level: float = LEVEL,
) -> Estimate:
    """The number of independent runs whose ensemble has the same calibrated log-loss, linear
    between whole numbers.

    The loss of k runs is the average over all choices of k of the given runs. The result is at
    least 1 by definition, and ∞ if the ensemble is better than all of them together. The interval
    is the bootstrap's over the scored examples, for these runs and these temperatures. With few
    runs, other runs would differ by more. Simulated at nominal 90 %, with a quarter of 360 and of
    2,000 examples for the temperatures, it covers in 80 to 88 % and in 84 to 92 %.

    Args:
        ensemble: The predictions of the ensemble.
        runs: Log-probabilities of at least 2 independent full runs, on all held-out examples.
        labels: Labels of all held-out examples.
        validation: True for the examples that fit temperatures; the others are scored.
        level: Confidence level, between 0 and 1.

    Example:
        >>> import numpy as np
        >>> from scipy.special import log_softmax
        >>> from gradiometer.exploration.ensembles import Predictions, averaged, validation_mask
        >>> from gradiometer.exploration.ensembles.ensemble_size import deep_ensemble_equivalent
        >>> draws = np.random.default_rng(0)
        >>> labels, validation = draws.integers(0, 3, 300), validation_mask(300)
        >>> runs = list(log_softmax(np.eye(3)[labels] + draws.standard_normal((5, 300, 3)), axis=2))
        >>> ensemble = Predictions.split(averaged(runs[:2]), labels, validation)
        >>> print(deep_ensemble_equivalent(ensemble, runs[2:], labels, validation))
        1.62 [1.07, 2.32] runs

    Source: Ashukha et al. (2020), Pitfalls of In-Domain Uncertainty Estimation and Ensembling in
    Deep Learning, section 4.1; the percentile bootstrap: Efron & Tibshirani (1993), chapter 13.
    """
    if len(runs) < 2:
        raise BadArgument(f"`runs` must be at least 2, got {len(runs)}: one run gives no curve.")
    # The calibrated log-loss of each scored example, averaged over all ensembles of so many runs.
    curve = np.stack(
        [
            np.mean(
                [
                    Predictions.split(averaged(group), labels, validation).losses["calibrated_nll"]
                    for group in itertools.combinations(runs, count)
                ],
                axis=0,
            )
            for count in range(1, len(runs) + 1)
        ]
    )
    own = ensemble.losses["calibrated_nll"]
    if len(own) != curve.shape[1]:
        raise BadArgument(
            f"`ensemble` must be scored on the {curve.shape[1]} examples of `runs`, got {len(own)}."
        )
    examples, draws = len(own), np.random.default_rng(0)
    resampled = []
    for _ in range(1000):
        # A bootstrap sample as counts: the losses themselves are never copied.
        weights = np.bincount(draws.integers(0, examples, examples), minlength=examples)
        resampled.append(_crossing(float(own @ weights), curve @ weights))
    # A quantile that is one of the draws may be infinite, where a mean of two would be NaN.
    low, high = np.quantile(
        resampled, ((1 - level) / 2, (1 + level) / 2), method="inverted_cdf"
    ).tolist()
    value = _crossing(float(own.sum()), curve.sum(axis=1))
    return Estimate.interval(
        value,
        min(low, value),
        max(high, value),
        level=level,
        method=f"bootstrap over examples, {len(runs)} runs",
        samples=examples,
        unit="runs",
    )


def _crossing(loss: float, curve: Float[np.ndarray, " runs"]) -> float:
    """The first place on a curve over 1, 2, … runs that is as low as the loss."""
    if loss >= curve[0]:
        return 1.0
    for count in range(1, len(curve)):
        if curve[count] <= loss:
            return count + float((curve[count - 1] - loss) / (curve[count - 1] - curve[count]))
    return math.inf
