"""The trainings that were made, one a line of a file that is only appended to.

A run that is killed goes on where it was: what has a line is not trained again. The line has a
digest of the settings, so that a recipe that was changed is.
"""

import hashlib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recipes.bank import RECIPES
from recipes.changes import ALL
from recipes.recipe import Recipe
from recipes.training import train

RESULTS = Path(__file__).with_name("results.jsonl")
HEALTHY = "healthy"


@dataclass(frozen=True)
class Training:
    """A training of the table: a recipe, what is changed in it, and the seed."""

    recipe: str
    change: str
    seed: int

    def settings(self) -> Recipe | None:
        """The changed recipe; None if the change changes nothing here."""
        recipe = RECIPES[self.recipe]
        return recipe if self.change == HEALTHY else ALL[self.change](recipe)


def digest(recipe: Recipe) -> str:
    """Ten digits that differ where settings, or the rate at some step, differ."""
    plain = {
        each.name: getattr(recipe, each.name)
        for each in fields(recipe)
        if isinstance(getattr(recipe, each.name), int | float | str | tuple | None)
        and each.name not in ("published", "floor")
    }
    plain["floor"] = 0.0  # it judges a training, and changes none
    rates = [recipe.factor(step * recipe.updates // 20) for step in range(20)]
    return hashlib.sha256(json.dumps([plain, rates]).encode()).hexdigest()[:10]


class Results:
    """What was trained so far: the loss at the end on rows that are kept apart."""

    def __init__(self, path: Path = RESULTS) -> None:
        self.path = path
        self.lines: dict[tuple[str, str, int, str], dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                self._keep(json.loads(line))
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed

    def _keep(self, line: dict[str, Any]) -> None:
        self.lines[line["recipe"], line["change"], line["seed"], line["settings"]] = line

    def line(self, training: Training) -> dict[str, Any] | None:
        """What is known of a training, or None."""
        settings = training.settings()
        if settings is None:
            return None
        key = (training.recipe, training.change, training.seed, digest(settings))
        return self.lines.get(key)

    def loss(self, training: Training) -> float | None:
        """Its loss at the end, infinite if it diverged; None if it was not trained."""
        line = self.line(training)
        if line is None:
            return None
        return math.inf if line["held_out"] is None else float(line["held_out"])

    def train(self, training: Training) -> float:
        """Train it, unless that was done, and write its line."""
        known = self.loss(training)
        if known is not None:
            return known
        settings = training.settings()
        assert settings is not None, training
        outcome = train(settings, training.seed)
        ended = outcome.held_out if math.isfinite(outcome.held_out) else None
        line = {
            "recipe": training.recipe,
            "change": training.change,
            "seed": training.seed,
            "held_out": ended,
            "last_tenth": outcome.last if math.isfinite(outcome.last) else None,
            "updates": len(outcome.losses),
            "parameters": outcome.parameters,
            "seconds": round(outcome.seconds, 1),
            "settings": digest(settings),
        }
        with self.path.open("a", encoding="utf-8") as file:
            # A line that a kill has torn is ended first.
            file.write(
                f"\n{json.dumps(line)}\n" if _is_torn(self.path) else f"{json.dumps(line)}\n"
            )
        self._keep(line)
        return math.inf if ended is None else ended


def _is_torn(path: Path) -> bool:
    """True if the last line has no end."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"
