"""The level of a guess: the loss of the best answer that does not look at its input."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import SAME_LOSS


class Known(StrEnum):
    """Where the level of a guess comes from."""

    LABELS = "the entropy of the labels"
    TARGETS = "the variance of the targets"
    START = "the loss of the first steps"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Level:
    """What a guess costs.

    Args:
        value: In the unit of the loss; NaN if unknown.
        known_by: Where it comes from.
    """

    value: float
    known_by: Known


def trained_loss(signs: Signs) -> str:
    """Which of the known losses is trained: the name of its sign without `as_`; empty
    if none fits."""
    given = signs.given
    for name, values in signs.single.items():
        if not name.startswith("as_"):
            continue
        known = np.isfinite(given) & np.isfinite(values)
        if known.any() and np.all(
            np.abs(values - given)[known] <= SAME_LOSS * np.abs(given)[known]
        ):
            return name.removeprefix("as_")
    return ""


def level_of(signs: Signs) -> Level:
    """The level of a guess for the loss of a run."""
    entropy, variance = _last(signs, "label_entropy"), _last(signs, "target_variance")
    start = math.nan
    if len(signs.finite) >= 5:
        # a rate that is far too high raises the loss within a few steps: the first one is before it
        start = float(min(np.median(signs.finite[:5]), signs.finite[0]))
    match "" if signs.is_of_a_game else trained_loss(signs):
        case "cross_entropy" | "twice" | "log_of_outputs" if entropy > 0:
            return Level(entropy, Known.LABELS)
        case "squared" if variance > 0:
            return Level(variance, Known.TARGETS)
        case "binary":
            share = _last(signs, "target_share")
            if 0 < share < 1:
                value = -share * math.log(share) - (1 - share) * math.log(1 - share)
                return Level(value, Known.LABELS)
    if signs.has_no_floor:
        return Level(math.nan, Known.NOTHING)
    # labels without outputs: their entropy counts if the first loss is about as large, as for
    # another kind of cross- entropy (with smoothing, or computed inside of the model)
    if entropy > 0 and entropy / 1.5 <= start <= 1.5 * entropy:
        return Level(entropy, Known.LABELS)
    return Level(start, Known.START if math.isfinite(start) and start > 0 else Known.NOTHING)


def _last(signs: Signs, name: str) -> float:
    values = signs.series(name)
    return float(values[-1]) if len(values) else math.nan
