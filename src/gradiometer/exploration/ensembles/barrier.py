"""The way from one model to another, straight through weight space: is there a hill between them?"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.proportions import difference_of_proportions, proportion

Wrong = Callable[[nn.Module], Bool[np.ndarray, " examples"]]
"""Of which held-out examples a model gets the class wrong."""


@dataclass(frozen=True)
class Segment:
    """The error along the line from one model to another.

    Args:
        shares: λ, from 0 at the first model to 1 at the last.
        errors: The error at each.
        barrier: The most by which the error between them exceeds the straight line between their errors.
    """

    shares: tuple[float, ...]
    errors: tuple[Estimate, ...]
    barrier: Estimate


def segment(
    first: nn.Module,
    last: nn.Module,
    wrong: Wrong,
    *,
    points: int = 9,
    refresh: Callable[[nn.Module], object] | None = None,
    level: float = 0.9,
) -> Segment:
    """max over λ of error((1 − λ)Φ_first + λΦ_last) − (1 − λ) error(Φ_first) − λ error(Φ_last), and the errors.

    The barrier's interval holds at all points at once (Bonferroni over both ends at every point, paired by example), so
    that looking for the highest costs no honesty; it is wide for that. The hill may be higher between two points.

    Args:
        first, last: Models of one architecture; neither is changed.
        wrong: Which examples a model gets wrong.
        points: λ between the ends, at least 1.
        refresh: Estimates BatchNorm's statistics anew: a point between two models has none of its own.
        level: Confidence level, between 0 and 1.

    Source: Frankle et al. (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis, section 2; Huang et al.
    (2017), Snapshot Ensembles, figure 5.
    """
    if not points >= 1:
        raise BadArgument(f"`points` must be at least 1, got {points}.")
    shares = tuple(float(share) for share in np.linspace(0, 1, points + 2))
    seen = [wrong(first), *(_wrong_between(first, last, share, wrong, refresh) for share in shares[1:-1]), wrong(last)]
    strict = 1 - (1 - level) / (2 * points)
    heights = [_above_the_line(seen[place], seen[0], seen[-1], shares[place], strict) for place in range(1, points + 1)]
    barrier = Estimate.interval(
        max(value for value, _, _ in heights),
        max(low for _, low, _ in heights),
        max(high for _, _, high in heights),
        level=level,
        method=f"Tango scores at {points} points at once",
        samples=len(seen[0]),
    )
    return Segment(shares, tuple(proportion(int(w.sum()), len(w), level) for w in seen), barrier)


def between(first: nn.Module, last: nn.Module, share: float) -> nn.Module:
    """The model at (1 − λ)Φ_first + λΦ_last, its floating-point buffers likewise; what counts is the first's."""
    made, target = copy.deepcopy(first), last.state_dict()
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                value.lerp_(target[name].to(value), share)
    return made


def _wrong_between(
    first: nn.Module, last: nn.Module, share: float, wrong: Wrong, refresh: Callable[[nn.Module], object] | None
) -> Bool[np.ndarray, " examples"]:
    model = between(first, last, share)
    if refresh is not None:
        refresh(model)
    return wrong(model)


def _above_the_line(
    here: Bool[np.ndarray, " examples"],
    first: Bool[np.ndarray, " examples"],
    last: Bool[np.ndarray, " examples"],
    share: float,
    level: float,
) -> tuple[float, float, float]:
    """(1 − λ)(error − error_first) + λ(error − error_last), and its ends where both differences are at theirs."""
    to_first = difference_of_proportions(here, first, level=level)
    to_last = difference_of_proportions(here, last, level=level)
    ends = [(to_first.value, to_last.value), (to_first.low, to_last.low), (to_first.high, to_last.high)]
    value, low, high = ((1 - share) * one + share * other for one, other in ends)
    return value, low, high
