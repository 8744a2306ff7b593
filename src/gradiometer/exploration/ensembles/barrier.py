"""The straight line between two models in weight space, and the error barrier on it."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.ensemble_report import LinearPath
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.proportions import difference_of_proportions, proportion

Wrong = Callable[[nn.Module], Bool[np.ndarray, " examples"]]
"""A function of a model: True for each held-out example whose class it gets wrong."""


def linear_path(
    first: nn.Module,
    last: nn.Module,
    wrong: Wrong,
    *,
    points: int = 9,
    refresh: Callable[[nn.Module], object] | None = None,
    level: float = 0.9,
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
        >>> from gradiometer.exploration.ensembles.barrier import linear_path
        >>> first, last = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> for model, weight in ((first, 1.0), (last, -1.0)):
        ...     _ = torch.nn.init.constant_(model.weight, weight)
        >>> path = linear_path(first, last, lambda model: np.full(1000, model.weight.abs().item() < 0.5), points=3)
        >>> [error.value for error in path.errors], path.barrier.value
        ([0.0, 0.0, 1.0, 0.0, 0.0], 1.0)

    Source: Frankle et al. (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis,
    section 2; Huang et al. (2017), Snapshot Ensembles, figure 5.
    """
    if not points >= 1:
        raise BadArgument(f"`points` must be at least 1, got {points}.")
    shares, seen = np.linspace(0, 1, points + 2).tolist(), [wrong(first)]
    for share in shares[1:-1]:
        model = between(first, last, share)
        if refresh is not None:
            refresh(model)
        seen.append(wrong(model))
    seen.append(wrong(last))
    strict = 1 - (1 - level) / (2 * points)
    excesses = [
        _excess(here, seen[0], seen[-1], share, strict)
        for here, share in zip(seen, shares, strict=True)
    ]
    value, low, high = np.max(excesses[1:-1], axis=0).tolist()
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


def _excess(
    here: Bool[np.ndarray, " examples"],
    first: Bool[np.ndarray, " examples"],
    last: Bool[np.ndarray, " examples"],
    share: float,
    level: float,
) -> Float[np.ndarray, " 3"]:
    """(1 − λ)(error − error_first) + λ(error − error_last), and its ends if both differences are at
    theirs."""
    to_first, to_last = (difference_of_proportions(here, end, level=level) for end in (first, last))
    return np.array(
        [
            (1 - share) * getattr(to_first, end) + share * getattr(to_last, end)
            for end in ("value", "low", "high")
        ]
    )
