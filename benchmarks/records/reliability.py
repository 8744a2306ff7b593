"""Do stated probabilities hold on trainings that they were not counted on?"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from gradiometer.measurement.uncertainty.proportions import proportion
from records.outcomes import RECIPES, Outcome
from records.pooling import Cell, Pool, best_strength, counted, told_from_others, valid

DRAWS = 10_000
LEVEL = 0.9
EDGES = (0.0, 0.5, 0.7, 0.85, 1.0001)
"""Bounds of the table: 0.85 is the probability from which a claim counts as sure."""

Told = Sequence[tuple[Outcome, float]]


def show(outcomes: Iterable[Outcome]) -> None:
    """Print the tables: of the recipes that records are counted on, each told from all others, and of the
    recipes that are judged, told from the records that ship."""
    every = valid(outcomes)
    records = counted(every)
    told = told_from_others(records, best_strength(records))
    _table("recipes of the records, each left out", [each for each in told if _is_claim(each[0])])
    pool = Pool(records, best_strength(records))
    judged = [each for each in every if each.group == "judged"]
    for stage in ("read", "tested"):
        found = [(each, pool.probability(Cell.of(each))) for each in judged if each.stage == stage]
        _table(f"judged recipes, {stage}", [each for each in found if _is_claim(each[0])])


def _is_claim(outcome: Outcome) -> bool:
    """True for what names a change, on a published recipe."""
    return outcome.population == RECIPES and bool(outcome.gains)


def _table(name: str, told: Told) -> None:
    if not told:
        return
    print(f"{name}: {len(told)} claims on {len({each.training for each, _ in told})} recipes")
    for low, high in pairwise(EDGES):
        of_row = [(each.is_right, p) for each, p in told if low <= p < high]
        if of_row:
            share = proportion(sum(right for right, _ in of_row), len(of_row))
            stated = np.mean([p for _, p in of_row])
            print(
                f"  stated {low:.0%} to {min(high, 1):.0%}: {len(of_row)} claims, {stated:.0%} in the "
                f"mean; right {share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"
            )
    brier, base, interval = compared(told)
    print(
        f"  Brier score {brier:.3f}, of the base rate {base:.3f}; difference {brier - base:+.3f} "
        f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"
    )


def compared(told: Told) -> tuple[float, float, tuple[float, float]]:
    """The Brier score, that of the base rate of the other recipes, and the interval of their
    difference over recipes that are drawn anew."""
    recipes = sorted({each.training for each, _ in told})
    scores, bases, sizes = [], [], []
    for recipe in recipes:
        inside = [(each.is_right, p) for each, p in told if each.training == recipe]
        outside = [each.is_right for each, _ in told if each.training != recipe]
        base = float(np.mean(outside)) if outside else 0.5
        scores.append(sum((right - p) ** 2 for right, p in inside))
        bases.append(sum((right - base) ** 2 for right, _ in inside))
        sizes.append(len(inside))
    differences, counts = np.subtract(scores, bases), np.array(sizes)
    drawn = np.random.default_rng(0).integers(len(recipes), size=(DRAWS, len(recipes)))
    means = differences[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    total = sum(sizes)
    return sum(scores) / total, sum(bases) / total, (float(low), float(high))
