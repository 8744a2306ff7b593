"""The effect of an alternative: its readout minus that of the baseline, paired by replicate, with
an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.readout import Readout
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.differences import (
    PairsNeeded,
    mean_of_few,
    over_examples_too,
    pairs_needed,
    simultaneous_means,
)

# What an effect shows. open: neither better nor worse is shown at the level of the effects.
Verdict = Literal["better", "worse", "open", "diverged", "baseline diverged"]


@dataclass(frozen=True)
class Effect:
    """Alternative minus baseline in one readout at the end of the branches, as the mean over
    replicates.

    The intervals count the order of the data and the other random draws of a branch. They do not
    count that short
    branches prefer small learning rates: see the warnings of the fork.

    Args:
        alternative: Name of the alternative.
        readout: Name of the readout.
        estimate: The effect on the examples of the readout. Its interval covers together with those
            of all other alternatives of the fork. Unknown if a branch diverged, or if there are
            fewer than two pairs.
        single: The same effect with an interval for this alternative alone: narrower, and right
            only for an alternative that was singled out before the fork.
        in_general: The effect on examples like those of the readout: the interval of `estimate`,
            widened by the sampling of the examples. None if the readout has no value for each
            example.
        replicates: Number of pairs.
        diverged: Number of replicates in which the alternative diverged.
        baseline_diverged: Number of replicates in which the baseline diverged.
        lower_is_better: True for a loss, False for an accuracy.
        replicates_needed: If the verdict is open, how many replicates would show an effect of the
            observed size.

    >>> from gradiometer import Estimate
    >>> from gradiometer.loop import Effect
    >>> effect = Estimate.interval(0.013, 0.004, 0.022, level=0.9, method="Student over 4 pairs", samples=4)
    >>> Effect("rate 2x", "test_loss", effect, effect, None, replicates=4).verdict
    'worse'
    """

    alternative: str
    readout: str
    estimate: Estimate
    single: Estimate
    in_general: Estimate | None
    replicates: int
    diverged: int = 0
    baseline_diverged: int = 0
    lower_is_better: bool = True
    replicates_needed: PairsNeeded | None = None

    @property
    def verdict(self) -> Verdict:
        """What the simultaneous interval shows on the examples of the readout."""
        if self.diverged:
            return "diverged"
        if self.baseline_diverged:
            return "baseline diverged"
        low, high = self.estimate.low, self.estimate.high
        if low <= 0 <= high:
            return "open"
        return "better" if (high < 0) == self.lower_is_better else "worse"

    def to_dict(self) -> dict[str, Any]:
        """The fields and the verdict as a dictionary, as in `--json`."""
        return {**asdict(self), "verdict": self.verdict}


def effects_of(
    results: Sequence[BranchResult],
    baseline: str,
    readout: str | None = None,
    *,
    level: float = LEVEL,
    horizon: int | None = None,
) -> tuple[Effect, ...]:
    """The effects of all alternatives among these branches, in their order.

    Each replicate of an alternative is paired with the same replicate of the baseline: they saw the
    same data. The intervals are those of `gradiometer.measurement.uncertainty.simultaneous_means`.
    Alternatives with fewer pairs than others get their share of the level by Bonferroni's
    correction.

    Args:
        results: Results of branches.
        baseline: Name of the baseline among their alternatives.
        readout: Name of the readout; by default "test_loss" if the branches have it, else their
            first readout.
        level: Probability that the intervals of all alternatives cover.
        horizon: Branches of this length in examples; by default the longest.

    Raises:
        BadArgument: No branch has this readout.

    >>> from gradiometer.loop.branch import BranchResult
    >>> from gradiometer.loop.comparison.effects import effects_of
    >>> from gradiometer.loop.readout import Readout
    >>> ends = {"go on": [0.52, 0.55, 0.51], "rate 2x": [0.49, 0.53, 0.475]}
    >>> results = [
    ...     BranchResult(name, replicate, 640, 10, 640, 1.0, (), {"test_loss": Readout(loss)})
    ...     for name, losses in ends.items()
    ...     for replicate, loss in enumerate(losses)
    ... ]
    >>> (effect,) = effects_of(results, baseline="go on")
    >>> print(effect.alternative, effect.verdict, effect.estimate)
    rate 2x better −0.0283 [−0.0412, −0.0155]
    """
    check_level(level)
    horizon = max((result.horizon for result in results), default=0) if horizon is None else horizon
    branches: dict[str, dict[int, BranchResult]] = {baseline: {}}
    for result in results:
        if result.horizon == horizon:
            branches.setdefault(result.alternative, {})[result.replicate] = result
    base = branches.pop(baseline)
    name = readout_name(
        [*base.values(), *(each for found in branches.values() for each in found.values())], readout
    )
    pairs = {alternative: _Pairs.of(base, found, name) for alternative, found in branches.items()}
    together = _together(pairs, level)
    general = _in_general(pairs, together)
    return tuple(
        _effect(each, name, pairs[each], together, general.get(each), level) for each in branches
    )


def readout_name(results: Sequence[BranchResult], asked: str | None) -> str:
    """The readout that was asked for, or "test_loss" if there is one, or the first."""
    names = list(dict.fromkeys(name for result in results for name in result.readouts))
    if asked is None:
        return "test_loss" if "test_loss" in names or not names else names[0]
    if names and asked not in names:
        raise BadArgument(f"`readout` must be one of {', '.join(names)}, got {asked!r}.")
    return asked


@dataclass(frozen=True)
class _Pairs:
    """The differences of one alternative from the baseline."""

    differences: Float[np.ndarray, " pairs"]
    by_example: Float[np.ndarray, "pairs examples"] | None
    diverged: int
    baseline_diverged: int
    lower_is_better: bool

    @classmethod
    def of(
        cls, base: Mapping[int, BranchResult], found: Mapping[int, BranchResult], name: str
    ) -> "_Pairs":
        common = sorted(base.keys() & found.keys())
        both = [
            (base[each].readouts[name], found[each].readouts[name])
            for each in common
            if name in base[each].readouts and name in found[each].readouts
        ]
        return cls(
            np.array([theirs.mean - ours.mean for ours, theirs in both]),
            _by_example(both),
            sum(result.diverged is not None for result in found.values()),
            sum(base[each].diverged is not None for each in common),
            all(ours.lower_is_better for ours, _ in both),
        )

    @property
    def unusable(self) -> str:
        """Why the differences allow no interval; empty if they do."""
        if self.diverged:
            return f"{self.diverged} diverged"
        if self.baseline_diverged:
            return f"the baseline diverged in {self.baseline_diverged}"
        if len(self.differences) < 2:
            return "fewer than two pairs"
        return "" if np.isfinite(self.differences).all() else "not finite"


def _by_example(
    both: Sequence[tuple[Readout, Readout]],
) -> Float[np.ndarray, "pairs examples"] | None:
    """The difference for every example, if all readouts have values for the same examples."""
    rows = [
        theirs.values.astype(np.float64) - ours.values
        for ours, theirs in both
        if ours.values is not None
        and theirs.values is not None
        and len(ours.values) == len(theirs.values)
    ]
    if not rows or len(rows) < len(both) or len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
        return None
    return np.stack(rows)


def _together(pairs: Mapping[str, _Pairs], level: float) -> dict[str, Estimate]:
    """The estimates that cover together, for all alternatives that allow one."""
    usable = {name: each.differences for name, each in pairs.items() if not each.unusable}
    most = max(map(len, usable.values()), default=0)
    share = (1 - level) / max(len(usable), 1)
    full = [name for name, differences in usable.items() if len(differences) == most]
    found = {
        name: mean_of_few(differences.tolist(), 1 - share)
        for name, differences in usable.items()
        if name not in full
    }
    if full:
        differences = np.stack([usable[name] for name in full], axis=1)
        means = simultaneous_means(differences, level=1 - share * len(full))
        found.update(zip(full, means, strict=True))
    return {name: replace(estimate, level=level) for name, estimate in found.items()}


def _in_general(
    pairs: Mapping[str, _Pairs], together: Mapping[str, Estimate]
) -> dict[str, Estimate]:
    """The same estimates with the sampling of the examples, for all alternatives with values for
    the same examples."""
    by_example = {name: pairs[name].by_example for name in together}
    rows = {name: found for name, found in by_example.items() if found is not None}
    if not rows or len({found.shape[1] for found in rows.values()}) > 1:
        return {}
    return dict(
        zip(
            rows,
            over_examples_too([together[name] for name in rows], [*rows.values()]),
            strict=True,
        )
    )


def _effect(
    alternative: str,
    readout: str,
    pairs: _Pairs,
    together: Mapping[str, Estimate],
    in_general: Estimate | None,
    level: float,
) -> Effect:
    count = len(pairs.differences)
    counts = (count, pairs.diverged, pairs.baseline_diverged, pairs.lower_is_better)
    if pairs.unusable:
        unknown = Estimate.unknown(level=level, method=pairs.unusable, samples=count)
        return Effect(alternative, readout, unknown, unknown, None, *counts)
    estimate, needed = together[alternative], None
    if estimate.low <= 0 <= estimate.high:
        spread = float(pairs.differences.std(ddof=1))
        needed = pairs_needed(estimate.value, spread, count - 1, 1 - (1 - level) / len(together))
    single = mean_of_few(pairs.differences.tolist(), level)
    return Effect(alternative, readout, estimate, single, in_general, *counts, needed)
