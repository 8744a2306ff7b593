"""Comparison of runs: paired differences with intervals, and the number of runs that a conclusion
would need.

Runs that differ only in their seed are one group. One run of each group supports a conclusion about
these runs only. A conclusion about the configurations needs several seeds of each; the spread
between seeds determines how many. If several groups are compared with the first one, their deciding
intervals hold together.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, product
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from gradiometer.arguments import type_name
from gradiometer.errors import BadArgument
from gradiometer.estimation.noise import GradientNoise
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.arithmetic import (
    difference_of_estimates,
    ratio_of_estimates,
)
from gradiometer.measurement.uncertainty.differences import (
    difference_over_runs,
    mean_of_few,
    pairs_needed,
)
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS, difference_of_means, mean
from gradiometer.report.compare.contrast import QUANTITIES, Compared, Contrast, Difference, RunGroup
from gradiometer.run.artifacts import read_examples
from gradiometer.run.reader import Run, check_run

# Minimum and maximum number of runs in a comparison.
FEWEST, MOST = 2, 200


class Comparison(NamedTuple):
    """The result of a comparison.

    Attributes:
        groups: The runs, those of one configuration together, in the order given.
        contrasts: Each other group against the first.
    """

    groups: tuple[RunGroup, ...]
    contrasts: tuple[Contrast, ...]


def compare(runs: Sequence[Run], level: float | None = None) -> Comparison:
    """Compare every configuration with that of the first run; if all runs have the same one,
    summarise its seeds.

    Two runs of one configuration are compared with each other.

    Args:
        runs: Two or more runs on the same data.
        level: Confidence level; by default that of the first run. The deciding differences of
            several groups hold together at this level (Bonferroni).

    Raises:
        BadArgument: There are too few or too many runs, their data differ, or they have no loss at
            a common step.
    """
    given = len(runs) if isinstance(runs, Sequence) else type_name(runs)
    if not (isinstance(given, int) and FEWEST <= given <= MOST):
        raise BadArgument(f"`runs` must be {FEWEST} to {MOST} runs, got {given}.")
    first, fingerprints = runs[0], list[Any]()
    for place, run in enumerate(runs):
        check_run(run, "runs")
        if run.path.resolve() in [other.path.resolve() for other in runs[:place]]:
            raise BadArgument(f"`runs` contains {run.path} twice. Compare it with another run.")
        fingerprints.append(run.manifest.get("problem", {}).get("fingerprint"))
    for run, fingerprint in zip(runs, fingerprints, strict=True):
        if fingerprint != fingerprints[0]:
            raise BadArgument(
                f"`runs` must have the same data: {run.path} and {first.path} were trained on "
                f"different data (fingerprints {fingerprint} and {fingerprints[0]}), so their "
                "losses cannot be compared."
            )
    level = first.configuration.level if level is None else level
    found: list[list[Compared]] = []
    for each in (Compared(run, level) for run in runs):
        group = next((group for group in found if group[0].settings == each.settings), None)
        found.append([each]) if group is None else group.append(each)
    if len(found) == 1 and len(runs) == FEWEST:
        found = [[each] for each in found[0]]
    step = min(run.steps for run in runs)
    # A to Z, AA, AB, …
    letters = ("".join(name) for size in count(1) for name in product(ascii_uppercase, repeat=size))
    groups = tuple(
        RunGroup(letter, tuple(group), step, _numbers(group, step, level))
        for letter, group in zip(letters, found, strict=False)
    )
    return Comparison(
        groups, tuple(_contrast(groups[0], other, level, len(groups) - 1) for other in groups[1:])
    )


def _numbers(group: Sequence[Compared], step: int, level: float) -> dict[str, Estimate]:
    """Each quantity at the common step: the mean over seeds, or the estimate of a single run."""
    found = {}
    for quantity in QUANTITIES:
        values = list(_by_seed(quantity, group, step, level).values())
        if len({_key(each) for each in group}) == 1:
            estimate = _estimate(quantity, group[0], step, level)
        else:
            estimate = mean_of_few(values, level) if len(values) >= 2 else None
            if estimate is not None:
                estimate = replace(estimate, method=f"Student over {len(values)} runs")
                estimate = _from_logarithm(estimate) if quantity == "noise_scale" else estimate
        if estimate is not None:
            found[quantity] = estimate
    return found


def _contrast(baseline: RunGroup, other: RunGroup, level: float, contrasts: int) -> Contrast:
    step = min(each.run.steps for each in (*baseline.runs, *other.runs))
    ours, theirs = baseline.settings, other.settings
    named = {name: (ours.get(name), theirs.get(name)) for name in {**ours, **theirs}}
    changed = {name: values for name, values in named.items() if values[0] != values[1]}
    differences: list[Difference] = []
    for quantity in QUANTITIES:
        together = 1 - (1 - level) / contrasts if not differences else level
        difference = _difference(quantity, baseline.runs, other.runs, step, together)
        differences += [] if difference is None else [difference]
    if not any(not difference.is_ratio for difference in differences):
        names = " and ".join(str(group.runs[0].run.path) for group in (baseline, other))
        raise BadArgument(
            f"`runs`: {names} have no loss at a common step. Compare them after more steps."
        )
    pairs = len({_key(each) for each in baseline.runs} & {_key(each) for each in other.runs})
    return Contrast(baseline, other, step, changed, tuple(differences), pairs)


def _difference(
    quantity: str, baseline: Sequence[Compared], other: Sequence[Compared], step: int, level: float
) -> Difference | None:
    """Over two or more pairs of seeds, else over three or more runs, else over the steps of two
    runs."""
    if all(len({_key(each) for each in group}) == 1 for group in (baseline, other)):
        return _of_two_runs(quantity, baseline[0], other[0], step, level)
    first, second = (_by_seed(quantity, group, step, level) for group in (baseline, other))
    paired = [second[seed] - first[seed] for seed in first.keys() & second.keys()]
    if len(paired) >= 2:
        estimate, spread, freedom = (
            mean_of_few(paired, level),
            float(np.std(paired, ddof=1)),
            len(paired) - 1,
        )
    elif first and second and len(first) + len(second) >= 3:
        estimate = difference_over_runs(list(second.values()), list(first.values()), level)
        freedom = len(first) + len(second) - 2
        squares = sum(float(np.var(list(group.values()))) * len(group) for group in (first, second))
        spread = math.sqrt(2 * squares / freedom)
    else:
        return None
    needed = pairs_needed(estimate.value, spread, freedom, level)
    return Difference(
        quantity,
        _from_logarithm(estimate) if quantity == "noise_scale" else estimate,
        "seeds",
        needed,
    )


def _key(each: Compared) -> object:
    """The key of a training of a configuration: its seed, or the run if it records none."""
    return each.run.path if each.seed is None else each.seed


def _by_seed(
    quantity: str, group: Sequence[Compared], step: int, level: float
) -> dict[object, float]:
    """The number of each training. One that was repeated with the same seed counts once."""
    found: dict[object, float] = {}
    for each in group:
        estimate = _estimate(quantity, each, step, level)
        if estimate is None or not math.isfinite(estimate.value):
            continue
        number = estimate.value
        if quantity == "noise_scale":
            # The logarithm, whose differences are averaged.
            number = math.log(number) if number > 0 else math.nan
        if not math.isnan(number):
            found.setdefault(_key(each), number)
    return found


def _of_two_runs(
    quantity: str, first: Compared, second: Compared, step: int, level: float
) -> Difference | None:
    if quantity == "training_loss":
        losses, other_losses = _common_losses(first.run, second.run, step)
        if len(losses) < 4:
            return None
        return Difference(quantity, difference_of_means(other_losses, losses, level=level), "steps")
    pairs = _pairs_of_examples(quantity, first, second, step)
    if pairs is not None:
        before, after = pairs
        estimate = difference_of_means(after, before, level=level, batches=len(before))
        return Difference(quantity, estimate, "pairs of test examples")
    ours, theirs = (_estimate(quantity, each, step, level) for each in (first, second))
    if ours is None or theirs is None:
        return None
    if quantity == "noise_scale":
        return Difference(quantity, ratio_of_estimates(theirs, ours), "measured steps")
    return Difference(quantity, difference_of_estimates(theirs, ours), "test examples")


def _pairs_of_examples(
    quantity: str, first: Compared, second: Compared, step: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The numbers of the same held-out examples in both runs, at the newest evaluation that both
    have; None if they were not kept."""
    steps = [at for at in first.examples.keys() & second.examples.keys() if at <= step]
    found = []
    for each in (first, second):
        place = each.examples[max(steps)].get(quantity) if steps else None
        values = None if place is None else read_examples(each.run.path, *place)
        if values is None or len(values) < FEWEST_READINGS:
            return None
        found.append(values)
    ours, theirs = found
    return (ours, theirs) if len(ours) == len(theirs) else None


def _common_losses(first: Run, second: Run, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The finite losses of both runs at the same steps, over the last quarter of their common
    steps."""
    (steps, losses), (other_steps, other_losses) = first.losses, second.losses
    _, ours, theirs = np.intersect1d(steps, other_steps, assume_unique=True, return_indices=True)
    kept = (steps[ours] <= step) & np.isfinite(losses[ours]) & np.isfinite(other_losses[theirs])
    ours, theirs = ours[kept], theirs[kept]
    start = len(ours) - max(len(ours) // 4, min(len(ours), 40))
    return losses[ours[start:]], other_losses[theirs[start:]]


def _estimate(quantity: str, each: Compared, step: int, level: float) -> Estimate | None:
    """The estimate of one run at the last common step; None if it has none."""
    if quantity == "noise_scale":
        series = each.run.series(GradientNoise.name)
        if series is None:
            return None
        before = series[: int(np.searchsorted(series.steps, step, side="right"))]
        return (
            GradientNoise().estimate(before.at_newest(), level)["noise_scale"]
            if len(before)
            else None
        )
    if quantity == "training_loss":
        losses = each.run.losses[1][each.run.losses[0] <= step]
        window = losses[-max(len(losses) // 4, 40) :]
        window = window[np.isfinite(window)]
        return mean(window, level=level) if len(window) >= 4 else None
    last = max(
        (at for at, found in each.evaluations.items() if at <= step and quantity in found),
        default=None,
    )
    if last is None:
        return None
    estimate = each.evaluations[last][quantity]
    if not estimate.level < 1 or estimate.level == level or not math.isfinite(estimate.value):
        return estimate
    # The ends of another level are scaled as those of a normal distribution.
    scale = float(ndtri((1 + level) / 2) / ndtri((1 + estimate.level) / 2))
    low, high = (
        estimate.value + scale * (end - estimate.value) for end in (estimate.low, estimate.high)
    )
    return replace(estimate, low=low, high=high, level=level)


def _from_logarithm(estimate: Estimate) -> Estimate:
    ends = (math.exp(min(end, 700.0)) for end in (estimate.value, estimate.low, estimate.high))
    return Estimate.interval(
        *ends,
        level=estimate.level,
        method=f"{estimate.method}, of logarithms",
        samples=estimate.samples,
    )
