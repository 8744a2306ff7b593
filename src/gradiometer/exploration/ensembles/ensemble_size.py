"""The ensembles of the last m members: the gain from each member, and the best m on validation
data."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.calibration import Labels, LogProbabilities
from gradiometer.exploration.ensembles.ensemble_report import FEWEST, EnsembleSize
from gradiometer.exploration.ensembles.scores import (
    Predictions,
    averaged,
    differences,
    fitted_temperature,
    scores,
)


def ensemble_sizes(
    members: Sequence[LogProbabilities],
    labels: Labels,
    validation: Bool[np.ndarray, " examples"],
    level: float = 0.9,
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
    if not len(members) >= FEWEST:
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
            f"`examples` must be at least 2, got {examples}: some choose, and the others are "
            "scored."
        )
    mask = np.zeros(examples, dtype=bool)
    mask[np.random.default_rng(0).permutation(examples)[:taken]] = True
    return mask
