"""The changes whose gains are in the table, and the mild faults that a recipe may get.

Each is a function from a recipe to the changed one, or to None where it changes nothing.
"""

from collections.abc import Callable
from dataclasses import replace

from recipes.recipe import Recipe, constant, linear

Change = Callable[[Recipe], Recipe | None]


def rate(factor: float) -> Change:
    return lambda recipe: replace(recipe, rate=recipe.rate * factor)


def batch(factor: float, updates: float) -> Change:
    """Other rows an update, and other updates in all."""

    def changed(recipe: Recipe) -> Recipe | None:
        rows = round(recipe.batch * factor)
        if recipe.whole or rows < 2:
            return None
        return replace(recipe, batch=rows, updates=round(recipe.updates * updates))

    return changed


def longer(recipe: Recipe) -> Recipe:
    """Twice the updates; the schedule is stretched with them."""
    return replace(recipe, updates=2 * recipe.updates)


def decays(recipe: Recipe) -> bool:
    return recipe.schedule is not None and recipe.schedule is not constant


def decay_to_zero(recipe: Recipe) -> Recipe | None:
    """A rate that goes straight to zero, where it did not fall by itself."""
    return None if decays(recipe) else replace(recipe, schedule=linear)


def linear_instead(recipe: Recipe) -> Recipe | None:
    """The same length, straight down to zero."""
    if not decays(recipe) or (recipe.schedule is linear and not recipe.lowest):
        return None
    return replace(recipe, schedule=linear, lowest=0.0)


def schedule_end(factor: float) -> Change:
    """A schedule that ends earlier or later than the run; the warm-up stays."""

    def changed(recipe: Recipe) -> Recipe | None:
        if not decays(recipe):
            return None
        return replace(recipe, schedule_end=recipe.schedule_end * factor)

    return changed


def no_decay(recipe: Recipe) -> Recipe | None:
    if recipe.schedule is constant:
        return None
    return replace(recipe, schedule=constant)


def lowest(part: float) -> Change:
    """A rate that does not fall below this part of the largest one."""

    def changed(recipe: Recipe) -> Recipe | None:
        if not decays(recipe) or recipe.lowest >= part:
            return None
        return replace(recipe, lowest=part)

    return changed


def clip(factor: float) -> Change:
    def changed(recipe: Recipe) -> Recipe | None:
        return replace(recipe, clip=recipe.clip * factor) if recipe.clip else None

    return changed


def no_clip(recipe: Recipe) -> Recipe | None:
    return replace(recipe, clip=None) if recipe.clip else None


def weight_decay(factor: float) -> Change:
    def changed(recipe: Recipe) -> Recipe | None:
        if not recipe.weight_decay:
            return None
        return replace(recipe, weight_decay=recipe.weight_decay * factor)

    return changed


def dropout(value: float) -> Change:
    def changed(recipe: Recipe) -> Recipe | None:
        if recipe.dropout is None or recipe.dropout == value:
            return None
        return replace(recipe, dropout=value)

    return changed


def unshuffled(recipe: Recipe) -> Recipe | None:
    """Rows in the order of the file, sorted by class or along the text."""
    if recipe.whole or recipe.carries_state:
        return None
    return replace(recipe, shuffled=False)


def every(updates: int) -> Change:
    """A scheduler in the wrong unit: it steps once in so many updates, and hardly moves."""

    def changed(recipe: Recipe) -> Recipe | None:
        return replace(recipe, every=updates) if decays(recipe) else None

    return changed


RATES: dict[str, Change] = {
    "rate x2": rate(2),
    "rate x0.5": rate(0.5),
    "rate x4": rate(4),
    "rate x0.25": rate(0.25),
}
OTHERS: dict[str, Change] = {
    "decay to zero": decay_to_zero,
    "linear to zero": linear_instead,
    "schedule x0.5": schedule_end(0.5),
    "schedule x2": schedule_end(2),
    "dropout 0": dropout(0.0),
    "weight decay 0": weight_decay(0),
    "weight decay x10": weight_decay(10),
    "clip off": no_clip,
    "clip x10": clip(10),
    "batch x2, half the updates": batch(2, 0.5),
    "batch x0.5, twice the updates": batch(0.5, 2),
    "batch x2, same updates": batch(2, 1),
    "longer x2": longer,
}
LISTED: dict[str, Change] = RATES | OTHERS
"""The changes of the table of gains."""

MORE_EXAMPLES = ("batch x2, same updates", "longer x2")
"""Those that train on twice the examples, and cost twice the time."""

FAULTS: dict[str, Change] = {
    "no decay": no_decay,
    "schedule x0.25": schedule_end(0.25),
    "lowest rate 0.3": lowest(0.3),
    "clip x0.2": clip(0.2),
    "weight decay x5": weight_decay(5),
    "dropout 0.5": dropout(0.5),
    "batch x0.25": batch(0.25, 1),
    "unshuffled": unshuffled,
    "scheduler every 4 updates": every(4),
    "rate x0.2": rate(0.2),
    "rate x5": rate(5),
}
"""Mild faults. A recipe has those whose cure, which is the healthy recipe, gains enough."""

ALL: dict[str, Change] = LISTED | FAULTS
