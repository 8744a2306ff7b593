"""The ensemble of the last m members, for every m: what each adds, and which m validation data call for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.scores import (
    Labels,
    LogProbabilities,
    Predictions,
    at_temperature,
    averaged,
    differences,
    fitted_temperature,
    log_losses,
    scores,
)
from gradiometer.exploration.ensembles.snapshots import FEWEST
from gradiometer.measurement.estimate import Estimate

VALIDATION = 0.25
"""Share of the held-out examples that choose m and the temperature, and are not scored."""


@dataclass(frozen=True)
class Size:
    """The ensemble of the last m members.

    Args:
        count: m.
        predictions: What it says of the examples that are scored.
        scores: Each with its interval.
        added: Its scores less those of the last m − 1, paired; none where m is 1.
    """

    count: int
    predictions: Predictions
    scores: dict[str, Estimate]
    added: dict[str, Estimate]


def growing(
    members: Sequence[LogProbabilities], labels: Labels, validation: Bool[np.ndarray, " examples"], level: float = 0.9
) -> list[Size]:
    """The last 1, 2, … members averaged, each with a temperature of its own.

    Args:
        members: Log-probabilities of all held-out examples, the newest member last.
        labels: Of all of them.
        validation: Which of them are for the temperature; the rest are scored.
        level: Confidence level, between 0 and 1.

    Source: Huang et al. (2017), Snapshot Ensembles, figure 3.
    """
    sizes: list[Size] = []
    for count in range(1, len(members) + 1):
        predictions = Predictions.split(averaged(members[-count:]), labels, validation)
        added = differences(predictions, sizes[-1].predictions, level) if sizes else {}
        sizes.append(Size(count, predictions, scores(predictions, level), added))
    return sizes


def chosen_count(members: Sequence[LogProbabilities], labels: Labels) -> int:
    """m ≥ 2 whose calibrated log-loss on these, validation, examples is smallest: early snapshots can hurt."""
    if not len(members) >= FEWEST:
        raise BadArgument(f"`members` must be at least {FEWEST}, got {len(members)}: there is nothing to choose.")
    losses = {}
    for count in range(FEWEST, len(members) + 1):
        found = averaged(members[-count:])
        calibrated = at_temperature(found, fitted_temperature(found, labels))
        losses[count] = float(log_losses(calibrated, labels).mean())
    return min(losses, key=lambda count: losses[count])


def validation_mask(examples: int, seed: int = 0, share: float = VALIDATION) -> Bool[np.ndarray, " examples"]:
    """Which held-out examples are for validation: a draw that depends on their number and the seed only."""
    if not 0 < share < 1:
        raise BadArgument(f"`share` must lie between 0 and 1, got {share}.")
    taken = max(round(share * examples), 1)
    if not 1 <= taken < examples:
        raise BadArgument(f"`examples` must be at least 2, got {examples}: some choose, and the others are scored.")
    mask = np.zeros(examples, dtype=bool)
    mask[np.random.default_rng(seed).permutation(examples)[:taken]] = True
    return mask
