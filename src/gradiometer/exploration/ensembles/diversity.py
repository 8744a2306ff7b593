"""The diversity of an ensemble: disagreement of its members over their error, and correlation of
their outputs."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.scores import Labels, LogProbabilities
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import ratio_of_means


def disagreement(
    members: Sequence[LogProbabilities], labels: Labels, *, level: float = 0.9
) -> Estimate:
    """How often two members predict different classes, over how often one is wrong: means over
    pairs and members.

    Near 2 if the members' mistakes are independent and never the same, 0 for copies. Fieller's
    interval over the examples.

    Example:
        >>> import numpy as np
        >>> from gradiometer.exploration.ensembles import disagreement
        >>> labels = np.zeros(100, int)
        >>> members = [np.log(np.tile([0.8, 0.2], (100, 1))) for _ in range(2)]
        >>> members[0][:10] = members[1][8:18] = np.log([0.2, 0.8])  # two mistakes in common
        >>> print(disagreement(members, labels))
        1.60 [1.22, 2.09]

    Source: Fort, Hu & Lakshminarayanan (2019), Deep Ensembles: A Loss Landscape Perspective,
    section 4.
    """
    _need_two(members)
    classes = [member.argmax(axis=1) for member in members]
    differ = np.mean([one != other for one, other in itertools.combinations(classes, 2)], axis=0)
    wrong = np.mean([chosen != labels for chosen in classes], axis=0)
    return ratio_of_means(differ, wrong, level=level, batches=len(labels))


def correlations(members: Sequence[LogProbabilities], *, level: float = 0.9) -> dict[str, Estimate]:
    """Pearson's correlation of the members' probabilities, over all examples and classes, for every
    pair.

    The interval is the jackknife's over examples, on Fisher's scale, since the classes of one
    example are not independent.

    Returns:
        The correlations by the numbers of the members, from 1: "1-2", "1-3", ….

    Source: Huang et al. (2017), Snapshot Ensembles, figure 6; the jackknife: Efron & Tibshirani
    (1993), chapter 11.
    """
    _need_two(members)
    numbered = enumerate((np.exp(member).astype(np.float64) for member in members), start=1)
    return {
        f"{one}-{other}": _correlation(first, second, level)
        for (one, first), (other, second) in itertools.combinations(numbered, 2)
    }


def _correlation(first: LogProbabilities, second: LogProbabilities, level: float) -> Estimate:
    classes, examples = first.shape[1], len(first)
    x, y = first - 1 / classes, second - 1 / classes  # the mean of probabilities is exactly this
    products = np.stack([(x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1)])
    total = products.sum(axis=1)
    # over all examples, then without each of them
    xy, xx, yy = np.column_stack([total, total[:, None] - products])
    with np.errstate(invalid="ignore", divide="ignore"):
        found = xy / np.sqrt(xx * yy)
    if not (np.isfinite(found).all() and examples >= 4):
        raise BadArgument(
            "`members` must vary in their predictions, and one is constant: it has no correlation."
        )
    whole, without = float(found[0]), found[1:]
    if not abs(whole) < 1 - 1e-12:  # one member is a copy of the other
        return Estimate.exact(float(round(whole)))
    center, parts = math.atanh(whole), np.arctanh(np.clip(without, -1 + 1e-15, 1 - 1e-15))
    error = math.sqrt((examples - 1) / examples * float(((parts - parts.mean()) ** 2).sum()))
    margin = float(ndtri((1 + level) / 2)) * error
    return Estimate.interval(
        whole,
        math.tanh(center - margin),
        math.tanh(center + margin),
        level=level,
        method="jackknife over examples, Fisher's scale",
        samples=examples,
    )


def _need_two(members: Sequence[LogProbabilities]) -> None:
    if not len(members) >= 2:
        raise BadArgument(
            f"`members` must be at least 2, got {len(members)}: one model has nothing to differ "
            "from."
        )
