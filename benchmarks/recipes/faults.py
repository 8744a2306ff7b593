"""Mild faults: which of them a recipe has, chosen by a rule that was fixed before any was trained.

A fault is kept if its cure, the healthy recipe, gains at least 5 % on each of two seeds, and if it
does not diverge. Of each kind the mildest that is kept counts, and a recipe has at most four. The
kinds are taken in the order of `KINDS`, from a kind that moves by one with each recipe, so that all
kinds occur.
"""

import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from recipes.bank import RECIPES
from recipes.results import HEALTHY, Results, Training

SETS = Path(__file__).with_name("sets")
SEEDS = (0, 1)
GAIN_OF_A_CURE = 0.05
MOST = 4

KINDS: dict[str, tuple[str, ...]] = {
    "rate too low": ("rate x0.5", "rate x0.25", "rate x0.2"),
    "schedule": (
        "schedule x2",
        "schedule x0.5",
        "schedule x0.25",
        "lowest rate 0.3",
        "no decay",
        "scheduler every 4 updates",
    ),
    "order": ("unshuffled",),
    "weight decay or dropout": ("weight decay x5", "weight decay x10", "dropout 0", "dropout 0.5"),
    "batch": ("batch x0.5, twice the updates", "batch x2, half the updates", "batch x0.25"),
    "clip": ("clip x0.2",),
    "rate too high": ("rate x2", "rate x4", "rate x5"),
}


@dataclass(frozen=True)
class Fault:
    """A fault of a recipe, and what its cure gains on each seed."""

    recipe: str
    change: str
    gains: tuple[float, ...]

    @property
    def is_kept(self) -> bool:
        """True if the cure gains enough on both seeds and nothing diverged."""
        enough = len(self.gains) == len(SEEDS) and min(self.gains) >= GAIN_OF_A_CURE
        return enough and max(self.gains) < 1


def cure(results: Results, fault: Training) -> float | None:
    """What the healthy recipe gains over one with a fault: a part of the loss above the floor.

    1 if the fault diverged; None if one of both was not trained.
    """
    sick = results.loss(fault)
    healthy = results.loss(Training(fault.recipe, HEALTHY, fault.seed))
    if sick is None or healthy is None:
        return None
    return 1.0 if math.isinf(sick) else (sick - healthy) / (sick - RECIPES[fault.recipe].floor)


def candidates(
    results: Results, recipe: str, *, on_all_seeds: bool = False
) -> Iterator[tuple[str, Fault]]:
    """Each fault that was trained, with its kind; those that have one seed, too, unless all are
    asked for."""
    for kind, changes in KINDS.items():
        for change in changes:
            found = [cure(results, Training(recipe, change, seed)) for seed in SEEDS]
            gains = tuple(gain for gain in found if gain is not None)
            if len(gains) == len(SEEDS) or (gains and not on_all_seeds):
                yield kind, Fault(recipe, change, gains)


def chosen(results: Results, recipe: str) -> list[Fault]:
    """The faults of a recipe."""
    mildest: dict[str, Fault] = {}
    for kind, fault in candidates(results, recipe):
        known = mildest.get(kind)
        if fault.is_kept and (known is None or min(fault.gains) < min(known.gains)):
            mildest[kind] = fault
    first = list(RECIPES).index(recipe) % len(KINDS)
    kinds = list(KINDS)[first:] + list(KINDS)[:first]
    return [mildest[kind] for kind in kinds if kind in mildest][:MOST]


@dataclass(frozen=True)
class CaseSet:
    """Recipes, each healthy and with its faults.

    Args:
        name: "records" or "judged".
        faults: Names of changes by recipe.
    """

    name: str
    faults: dict[str, list[str]]


def read(name: str) -> CaseSet:
    """A set from its file."""
    content = tomllib.loads((SETS / f"{name}.toml").read_text(encoding="utf-8"))
    return CaseSet(name, content["faults"])


def write(results: Results, commit: str) -> None:
    """Write the faults of all sets. The recipes of a set stay."""
    for path in sorted(SETS.glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        lines = [
            f'use = "{content["use"]}"',
            f"made = {date.today()}",
            f'commit = "{commit}"',
            f"seeds = {list(SEEDS)}",
            f"least_gain_of_a_cure = {GAIN_OF_A_CURE}",
            "",
            "[faults]",
        ]
        for recipe in content["faults"]:
            faults = chosen(results, recipe)
            told = "".join(
                f'    "{fault.change}",  # {", ".join(f"{gain:.0%}" for gain in fault.gains)}\n'
                for fault in faults
            )
            known = any(True for _ in candidates(results, recipe, on_all_seeds=True))
            empty = f"{recipe} = []" if known else f"{recipe} = []  # not trained on both seeds yet"
            lines.append(f"{recipe} = [\n{told}]" if told else empty)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def show(results: Results) -> None:
    """Print the faults of each recipe, with the gains of their cures."""
    for recipe in RECIPES:
        for fault in chosen(results, recipe):
            gains = ", ".join(f"{gain:.0%}" for gain in fault.gains)
            print(f"{recipe:18} {fault.change:32} {gains}")
