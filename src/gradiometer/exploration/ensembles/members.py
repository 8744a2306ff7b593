"""How the members of an ensemble differ, and how many it needs: disagreement, correlation, the
barrier between two of them, the gain from each, and the number of independent runs that it is as
good as.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import ndtri
from torch import nn

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.ensemble_report import EnsembleSize, LinearPath
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
from gradiometer.measurement.uncertainty.means import ratio_of_means
from gradiometer.measurement.uncertainty.proportions import difference_of_proportions, proportion

ALONE = "one model has nothing to differ from"


def disagreement(
    members: Sequence[LogProbabilities], labels: Labels, *, level: float = LEVEL
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
    check_whole("members", len(members), 2, why=ALONE)
    classes = [member.argmax(axis=1) for member in members]
    differ = np.mean([one != other for one, other in itertools.combinations(classes, 2)], axis=0)
    wrong = np.mean([chosen != labels for chosen in classes], axis=0)
    return ratio_of_means(differ, wrong, level=level, batches=len(labels))


def correlations(
    members: Sequence[LogProbabilities], *, level: float = LEVEL
) -> dict[str, Estimate]:
    """Pearson's correlation of the members' probabilities, over all examples and classes, for every
    pair.

    The interval is the jackknife's over examples, on Fisher's scale, since the classes of one
    example are not independent.

    Returns:
        The correlations by the numbers of the members, from 1: "1-2", "1-3", ….

    Source: Huang et al. (2017), Snapshot Ensembles, figure 6; the jackknife: Efron & Tibshirani
    (1993), chapter 11.
    """
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
    # On Fisher's scale the jackknife is symmetric, also for correlations near 1.
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


# A function of a model: True for each held-out example whose class it gets wrong.
Wrong = Callable[[nn.Module], Bool[np.ndarray, " examples"]]


def linear_path(
    first: nn.Module,
    last: nn.Module,
    wrong: Wrong,
    *,
    points: int = 9,
    refresh: Callable[[nn.Module], object] | None = None,
    level: float = LEVEL,
) -> LinearPath:
    """The errors between two models, and max over λ of
    error((1 − λ)Φ_first + λΦ_last) − (1 − λ) error(Φ_first) − λ error(Φ_last).

    The interval of the barrier holds at all points at once (Bonferroni over both ends at every
    point, paired by example), so that taking the maximum does not bias it. This makes it wide. The
    barrier may be higher between points.

    Args:
        first: The model at λ = 0. It is not changed.
        last: The model at λ = 1, of the same architecture. It is not changed.
        wrong: Which examples a model gets wrong.
        points: Number of λ between the ends, at least 1.
        refresh: Re-estimates BatchNorm's statistics, which a point between two models does not
            have.
        level: Confidence level, between 0 and 1.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from gradiometer.exploration.ensembles.members import linear_path
        >>> first, last = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> for model, weight in ((first, 1.0), (last, -1.0)):
        ...     _ = torch.nn.init.constant_(model.weight, weight)
        >>> path = linear_path(first, last, lambda model: np.full(1000, model.weight.abs().item() < 0.5), points=3)
        >>> [error.value for error in path.errors], path.barrier.value
        ([0.0, 0.0, 1.0, 0.0, 0.0], 1.0)

    Source: Frankle et al. (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis,
    section 2; Huang et al. (2017), Snapshot Ensembles, figure 5.
    """
    check_whole("points", points, 1)
    shares, seen = np.linspace(0, 1, points + 2).tolist(), [wrong(first)]
    for share in shares[1:-1]:
        model = between(first, last, share)
        if refresh is not None:
            refresh(model)
        seen.append(wrong(model))
    seen.append(wrong(last))
    # Bonferroni over both ends at every point: the largest of several is chosen.
    strict = 1 - (1 - level) / (2 * points)
    excesses = []
    for here, share in zip(seen[1:-1], shares[1:-1], strict=True):
        to_first, to_last = (
            difference_of_proportions(here, end, level=strict) for end in (seen[0], seen[-1])
        )
        # Both differences are at their ends at once.
        excesses.append(
            [
                (1 - share) * getattr(to_first, end) + share * getattr(to_last, end)
                for end in ("value", "low", "high")
            ]
        )
    value, low, high = np.max(excesses, axis=0).tolist()
    barrier = Estimate.interval(
        value,
        low,
        high,
        level=level,
        method=f"Tango scores at {points} points at once",
        samples=len(seen[0]),
    )
    return LinearPath(
        tuple(shares), tuple(proportion(int(w.sum()), len(w), level) for w in seen), barrier
    )


def between(first: nn.Module, last: nn.Module, share: float) -> nn.Module:
    """The model at (1 − λ)Φ_first + λΦ_last, including floating-point buffers. Integer buffers are
    the first's."""
    made, target = copy.deepcopy(first), last.state_dict()
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                value.lerp_(target[name].to(value), share)
    return made


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

    def loss(count: int) -> float:
        found = averaged(members[-count:])
        return float(
            Predictions(found, labels, fitted_temperature(found, labels))
            .losses["calibrated_nll"]
            .mean()
        )

    return min(range(2, len(members) + 1), key=loss)


def validation_mask(examples: int) -> Bool[np.ndarray, " examples"]:
    """True for the held-out examples used for validation. Depends only on their number.

    Example:
        >>> from gradiometer.exploration.ensembles import validation_mask
        >>> validation_mask(8).nonzero()[0].tolist()
        [2, 4]
    """
    # A quarter chooses m and the temperature, and is not scored: a choice would flatter its score.
    check_whole("examples", examples, 2, why="some choose, and the others are scored")
    taken = max(round(examples / 4), 1)
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
        >>> from gradiometer.exploration.ensembles.members import deep_ensemble_equivalent
        >>> draws = np.random.default_rng(0)
        >>> labels, validation = draws.integers(0, 3, 300), validation_mask(300)
        >>> runs = list(log_softmax(np.eye(3)[labels] + draws.standard_normal((5, 300, 3)), axis=2))
        >>> ensemble = Predictions.split(averaged(runs[:2]), labels, validation)
        >>> print(deep_ensemble_equivalent(ensemble, runs[2:], labels, validation))
        1.62 [1.07, 2.32] runs

    Source: Ashukha et al. (2020), Pitfalls of In-Domain Uncertainty Estimation and Ensembling in
    Deep Learning, section 4.1; the percentile bootstrap: Efron & Tibshirani (1993), chapter 13.
    """
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
