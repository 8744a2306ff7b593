"""What each listed change gains on each healthy recipe, with its noise between seeds, as a page."""

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from recipes.bank import RECIPES
from recipes.changes import LISTED, MORE_EXAMPLES
from recipes.results import HEALTHY, Results, Training

PAGE = Path(__file__).with_name("RESULTS.md")
SEEDS = (0, 1)
LEVEL, QUANTILE = 0.9, 1.645
NEEDED = 0.05
"""A gain of this size is counted in the summary."""


@dataclass(frozen=True)
class Gain:
    """What a change gains on a recipe.

    Args:
        losses: Its losses at the end, by seed, infinite if it diverged.
        gains: (healthy - changed) / (healthy - floor), by seed.
        spread: Standard deviation of the gain on one seed.
    """

    recipe: str
    change: str
    losses: tuple[float, ...]
    gains: tuple[float, ...]
    spread: float

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.gains)

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of the mean at 90 %."""
        half = QUANTILE * self.spread / math.sqrt(len(self.gains))
        return self.mean - half, self.mean + half

    @property
    def is_sure(self) -> bool:
        """True if it gains on both seeds, beyond the noise between them."""
        return len(self.gains) == len(SEEDS) and self.interval[0] > 0 and min(self.gains) > 0


def losses_and_gains(
    results: Results, recipe: str, change: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Losses and gains of a change by seed, for the seeds that were trained."""
    losses, gains = [], []
    for seed in SEEDS:
        loss = results.loss(Training(recipe, change, seed))
        healthy = results.loss(Training(recipe, HEALTHY, seed))
        if loss is not None and healthy is not None:
            losses.append(loss)
            gains.append((healthy - loss) / (healthy - RECIPES[recipe].floor))
    return tuple(losses), tuple(gains)


def spreads(results: Results) -> dict[str, float]:
    """The standard deviation of a gain on one seed, by recipe.

    Robust: 1.48 times the median difference between the seeds, over √2, pooled over the changes of
    a recipe; over all recipes where a recipe has fewer than five.
    """
    differences = {}
    for recipe in RECIPES:
        pairs = [losses_and_gains(results, recipe, change)[1] for change in LISTED]
        differences[recipe] = [
            abs(pair[0] - pair[1])
            for pair in pairs
            if len(pair) == len(SEEDS) and all(map(math.isfinite, pair))
        ]
    pooled = [each for found in differences.values() for each in found]
    common = statistics.median(pooled) if pooled else math.inf
    return {
        recipe: 1.4826 / math.sqrt(2) * (statistics.median(found) if len(found) >= 5 else common)
        for recipe, found in differences.items()
    }


def gains(results: Results) -> list[Gain]:
    """All gains of listed changes that were trained, recipe by recipe."""
    found, noise = [], spreads(results)
    for recipe in RECIPES:
        for change in LISTED:
            losses, by_seed = losses_and_gains(results, recipe, change)
            if losses:
                found.append(Gain(recipe, change, losses, by_seed, noise[recipe]))
    return found


def percent(value: float) -> str:
    """A part as a signed percentage."""
    if not math.isfinite(value):
        return "diverged"
    return f"{100 * value:+.1f} %" if value > -9.995 else f"{100 * value:+,.0f} %"


def with_interval(gain: Gain) -> str:
    """A mean gain and its interval."""
    if not math.isfinite(gain.mean):
        return "diverged"
    low, high = gain.interval
    return f"{percent(gain.mean)} [{100 * low:+.1f}, {100 * high:+.1f}]"


def numbers(losses: tuple[float, ...]) -> str:
    """Losses by seed."""
    return ", ".join(f"{loss:.4g}" if math.isfinite(loss) else "diverged" for loss in losses)


def page(results: Results) -> str:
    """The table as a page."""
    found = gains(results)
    asked = [
        Training(recipe, change, seed)
        for recipe in RECIPES
        for change in LISTED
        for seed in SEEDS
        if Training(recipe, change, seed).settings() is not None
    ]
    trained = sum(results.loss(training) is not None for training in asked)
    two = sum(len(gain.gains) == len(SEEDS) for gain in found)
    lines = [
        "# Gains of listed changes on healthy recipes",
        "",
        "Made by `python -m recipes gains`, which trains what is missing and writes this page. A gain",
        "is (healthy − changed) / (healthy − floor) of the final loss on rows that are never trained",
        "on; the floor is 0 where none is named. The mean over seeds has a 90 % interval, from the",
        "differences between seeds, pooled over the changes of a recipe. A row with one loss has one",
        "seed, and counts as unknown in the summaries.",
        "",
        f"Complete: {trained:,} of {len(asked):,} trainings; {two} of {len(asked) // 2} changes "
        "on both seeds.",
        "",
        *summary_by_recipe(found, results),
        "",
        *summary_by_change(found),
    ]
    for recipe in RECIPES:
        lines += ["", *section(recipe, found, results)]
    return "\n".join(lines) + "\n"


def summary_by_recipe(found: list[Gain], results: Results) -> list[str]:
    """One row a recipe: its loss and the change that gains most."""
    lines = [
        "## By recipe",
        "",
        "Of the changes on two seeds that keep the number of examples. The largest of many is biased up.",
        "",
        "| recipe | parameters | updates | healthy loss, by seed | largest gain | by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, recipe in RECIPES.items():
        line = results.line(Training(name, HEALTHY, 0))
        if line is None:
            continue
        losses, _ = losses_and_gains(results, name, HEALTHY)
        sure = [gain for gain in found if gain.recipe == name and len(gain.gains) == len(SEEDS)]
        sure = [gain for gain in sure if gain.change not in MORE_EXAMPLES]
        best = max(sure, key=lambda gain: gain.mean, default=None)
        told = ("", "") if best is None else (with_interval(best), best.change)
        lines.append(
            f"| {name} | {line['parameters']:,} | {recipe.updates:,} | {numbers(losses)} "
            f"| {told[0]} | {told[1]} |"
        )
    return lines


def summary_by_change(found: list[Gain]) -> list[str]:
    """One row a change: on how many recipes it gains."""
    lines = [
        "## By change",
        "",
        "Recipes with both seeds. A change gains if both seeds do and the interval is above zero.",
        "",
        "| change | recipes | gains | gains ≥ 5 % on both seeds | median gain |",
        "| --- | --- | --- | --- | --- |",
    ]
    for change in LISTED:
        known = [g for g in found if g.change == change and len(g.gains) == len(SEEDS)]
        if not known:
            continue
        middle = statistics.median(gain.mean for gain in known)
        large = sum(min(gain.gains) >= NEEDED for gain in known)
        lines.append(
            f"| {change} | {len(known)} | {sum(gain.is_sure for gain in known)} | {large} "
            f"| {percent(middle)} |"
        )
    return lines


def section(name: str, found: list[Gain], results: Results) -> list[str]:
    """The table of a recipe."""
    healthy, _ = losses_and_gains(results, name, HEALTHY)
    known = [gain for gain in found if gain.recipe == name]
    if not healthy:
        return [f"## {name}", "", "Not trained yet."]
    best = min((statistics.fmean(gain.losses), gain.change) for gain in known) if known else None
    lines = [f"## {name}", "", f"{RECIPES[name].published}.", ""]
    lines.append(f"Healthy loss: {numbers(healthy)}.")
    if best is not None and best[0] < statistics.fmean(healthy):
        lines.append(f"The best that is known is {best[0]:.4g} ({best[1]}).")
    lines += ["", "| change | loss, by seed | gain |", "| --- | --- | --- |"]
    for gain in known:
        lines.append(f"| {gain.change} | {numbers(gain.losses)} | {with_interval(gain)} |")
    return lines


def write(results: Results) -> None:
    """Write the page."""
    PAGE.write_text(page(results), encoding="utf-8")
