"""How different the members of an ensemble are: disagreement over error, and the correlation of what they say."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import ndtri

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import ratio_of_means

_LogProbabilities = Float[np.ndarray, "examples classes"]


def disagreement(
    members: Sequence[_LogProbabilities], labels: Integer[np.ndarray, " examples"], *, level: float = 0.9
) -> Estimate:
    """How often two members predict another class, over how often one is wrong; averages over pairs and over members.

    Members whose mistakes are independent and never the same have nearly 2; copies have 0. Fieller's interval, over
    the examples.

    Source: Fort, Hu & Lakshminarayanan (2019), Deep Ensembles: A Loss Landscape Perspective, section 4.
    """
    _need_two(members)
    classes = [member.argmax(axis=1) for member in members]
    differ = np.mean([one != other for one, other in itertools.combinations(classes, 2)], axis=0)
    wrong = np.mean([chosen != labels for chosen in classes], axis=0)
    return ratio_of_means(differ, wrong, level=level, batches=len(labels))


def correlations(members: Sequence[_LogProbabilities], *, level: float = 0.9) -> dict[tuple[int, int], Estimate]:
    """Pearson's correlation of the members' probabilities, over all examples and classes, for every pair from 0.

    The interval is the jackknife's over examples, on Fisher's scale: the classes of one example are not independent.

    Source: Huang et al. (2017), Snapshot Ensembles, figure 6; the jackknife: Efron & Tibshirani (1993), chapter 11.
    """
    _need_two(members)
    probabilities = [np.exp(member).astype(np.float64) for member in members]
    quantile = float(ndtri((1 + level) / 2))
    found = {}
    for one, other in itertools.combinations(range(len(members)), 2):
        whole, without = _correlation(probabilities[one], probabilities[other])
        found[one, other] = _on_fishers_scale(whole, without, quantile, level)
    return found


def _correlation(
    first: Float[np.ndarray, "examples classes"], second: Float[np.ndarray, "examples classes"]
) -> tuple[float, Float[np.ndarray, " examples"]]:
    """Over all examples, and without each of them."""
    classes, examples = first.shape[1], len(first)
    x, y = first - 1 / classes, second - 1 / classes  # the mean of probabilities is exactly this
    products = np.stack([(x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1)])
    total = products.sum(axis=1)
    xy, xx, yy = total[:, None] - products
    with np.errstate(invalid="ignore", divide="ignore"):
        without = xy / np.sqrt(xx * yy)
        whole = float(total[0] / math.sqrt(total[1] * total[2])) if total[1] * total[2] > 0 else math.nan
    if not (math.isfinite(whole) and np.isfinite(without).all() and examples >= 4):
        raise BadArgument("`members`: the predictions of one never vary, so that there is no correlation to speak of.")
    return whole, without


def _on_fishers_scale(whole: float, without: Float[np.ndarray, " examples"], quantile: float, level: float) -> Estimate:
    count = len(without)
    if not abs(whole) < 1 - 1e-12:  # one member is a copy of the other
        return Estimate.exact(float(round(whole)))
    center, parts = math.atanh(whole), np.arctanh(np.clip(without, -1 + 1e-15, 1 - 1e-15))
    error = math.sqrt((count - 1) / count * float(((parts - parts.mean()) ** 2).sum()))
    return Estimate.interval(
        whole,
        math.tanh(center - quantile * error),
        math.tanh(center + quantile * error),
        level=level,
        method="jackknife over examples, Fisher's scale",
        samples=count,
    )


def _need_two(members: Sequence[_LogProbabilities]) -> None:
    if not len(members) >= 2:
        raise BadArgument(f"`members` must be at least 2, got {len(members)}: one model has nobody to differ from.")
