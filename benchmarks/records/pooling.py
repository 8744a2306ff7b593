"""From outcomes to probabilities: counts of a claim lean towards those of similar claims."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import gradiometer.verdict
from gradiometer.verdict import records as shipped
from records.outcomes import RECIPES, SMALL, Outcome, rule_of

FILE = Path(gradiometer.verdict.__file__).with_name(shipped.RECORDS)

STRENGTHS = (4.0, 8.0, 16.0)
"""Outcomes that a level of similar claims counts as. That with the smallest loss is taken, each outcome
being told from those of other trainings."""

WEIGHTS = {RECIPES: 1.0, SMALL: 0.25}
"""What an outcome counts. The rules were chosen on small trainings, so that four of them count as one
of a published recipe."""

KINDS: dict[str, tuple[str, ...]] = {
    "state": ("healthy", "may_stop"),
    "doubt": ("undecided",),
    "rate": ("rate_low", "rate_high", "momentum_rate", "rate_burst", "fork_better", "unstable"),
    "schedule": ("no_decay", "decay_early", "schedule_unit", "stopped_early"),
    "batch": ("batch_small", "batch_large"),
    "regularisation": ("clip_small", "weight_decay", "dropout", "overfit"),
}
"""Claims that lean towards one another. All others are about data and the loop."""


@dataclass(frozen=True)
class Cell:
    """Claims that are counted together."""

    claim: str
    evidence: str
    is_certain: bool

    @classmethod
    def of(cls, outcome: Outcome) -> "Cell":
        """That of an outcome."""
        return cls(outcome.claim, outcome.evidence, outcome.is_certain)

    @property
    def levels(self) -> tuple[tuple[Any, ...], ...]:
        """What it leans towards, from all claims to itself."""
        kind = next((name for name, claims in KINDS.items() if self.claim in claims), "loop")
        apart = kind if kind in ("state", "doubt") else "claim"
        return (
            (apart,),
            (apart, self.evidence, self.is_certain),
            (kind, self.evidence, self.is_certain),
            (self.claim, self.evidence, self.is_certain),
        )


class Pool:
    """Probabilities by cell from outcomes.

    Args:
        outcomes: What was counted.
        strength: One of `STRENGTHS`.
    """

    def __init__(self, outcomes: Iterable[Outcome], strength: float) -> None:
        self.strength = strength
        self.sums: dict[tuple[Any, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for each in outcomes:
            weight = WEIGHTS[each.population]
            for level in Cell.of(each).levels:
                self.sums[level][0] += weight * each.is_right
                self.sums[level][1] += weight

    def probability(self, cell: Cell) -> float:
        """That a claim is right."""
        found = 0.5
        # the first level leans towards one half, by one outcome
        strength = 1.0
        for level in cell.levels:
            right, counted = self.sums.get(level, (0.0, 0.0))
            found = (right + strength * found) / (counted + strength)
            strength = self.strength
        return found


def told_from_others(outcomes: Sequence[Outcome], strength: float) -> list[tuple[Outcome, float]]:
    """Each outcome with the probability that those of other trainings give it."""
    told = []
    for left_out in sorted({each.training for each in outcomes}):
        pool = Pool([each for each in outcomes if each.training != left_out], strength)
        told += [
            (each, pool.probability(Cell.of(each)))
            for each in outcomes
            if each.training == left_out
        ]
    return told


def best_strength(outcomes: Sequence[Outcome]) -> float:
    """That whose probabilities have the smallest mean logarithmic loss."""

    def loss(strength: float) -> float:
        told = told_from_others(outcomes, strength)
        return -sum(
            WEIGHTS[each.population] * math.log(p if each.is_right else 1 - p) for each, p in told
        )

    return min(STRENGTHS, key=loss)


def valid(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes of rules as they are today."""
    return [each for each in outcomes if each.rule == rule_of(each.claim, each.evidence)]


def pooled(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The content of the file that the package ships."""
    strength = best_strength(outcomes)
    pool = Pool(outcomes, strength)
    cells: dict[str, Any] = {}
    for cell in sorted({Cell.of(each) for each in outcomes}, key=str):
        of_cell = [each for each in outcomes if Cell.of(each) == cell]
        strong = "claim" if cell.is_certain else "suspect"
        cells[f"{cell.claim} {cell.evidence} {strong}"] = _cell(of_cell, pool.probability(cell))
    for evidence in sorted({each.evidence for each in outcomes}):
        for is_certain in (True, False):
            strong = "claim" if is_certain else "suspect"
            probability = pool.probability(Cell("", evidence, is_certain))
            cells[f"any {evidence} {strong}"] = _cell([], probability)
    return {"strength": strength, "cells": cells}


def _cell(outcomes: Sequence[Outcome], probability: float) -> dict[str, Any]:
    counts = {}
    for population in WEIGHTS:
        found = [each.is_right for each in outcomes if each.population == population]
        if found:
            counts[population] = [sum(found), len(found)]
    gains = [statistics.fmean(each.gains) for each in outcomes if each.gains]
    return {
        "probability": round(probability, 3),
        "counts": counts,
        "gain": round(statistics.median(gains), 3) if gains else None,
        "harmed": sum(each.is_harmful for each in outcomes),
    }


def write(outcomes: Iterable[Outcome], path: Path = FILE) -> None:
    """Write the file that the package ships, if its content differs."""
    content = pooled(valid(counted(outcomes)))
    path.write_text(
        json.dumps({"made": str(date.today()), **content}, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )


def counted(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes that records are made of: none of the judged recipes. A verdict after a test
    counts where the test has made the claim."""
    return [
        each
        for each in outcomes
        if each.group != "judged" and (each.stage == "read" or each.evidence == "fork")
    ]
