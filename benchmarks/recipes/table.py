"""The order in which the table is trained: what is soon known of many recipes comes first."""

import time
from collections.abc import Iterator, Sequence

from recipes.bank import RECIPES
from recipes.changes import FAULTS, MORE_EXAMPLES, OTHERS, RATES
from recipes.data import Absent
from recipes.faults import GAIN_OF_A_CURE, cure
from recipes.results import HEALTHY, Results, Training

NEAR = ("rate x2", "rate x0.5")
SHORT = tuple(name for name in OTHERS if name not in MORE_EXAMPLES)


def trainings(recipes: Sequence[str], changes: Sequence[str], seed: int) -> list[Training]:
    """Each change of each recipe that it changes."""
    listed = [Training(recipe, change, seed) for change in changes for recipe in recipes]
    return [training for training in listed if training.settings() is not None]


def stages(results: Results) -> Iterator[list[Training]]:
    """Trainings of the table, in stages: near rates of all recipes, then all that the quicker half
    of the recipes needs, then the slower half, and last what trains on twice the examples."""
    yield trainings([*RECIPES], [HEALTHY, *NEAR], 0)
    quick = sorted(RECIPES, key=lambda name: seconds(results, name))
    half = len(quick) // 2
    for recipes in (quick[:half], quick[half:]):
        yield trainings(recipes, [*RATES], 0)
        yield trainings(recipes, [HEALTHY, *RATES], 1)
        yield trainings(recipes, SHORT, 0)
        yield trainings(recipes, SHORT, 1)
        yield trainings(recipes, [*FAULTS], 0)
        # A fault whose cure gains too little on one seed is dropped.
        yield [
            fault
            for fault in trainings(recipes, [*FAULTS], 1)
            if (cure(results, Training(fault.recipe, fault.change, 0)) or 0) >= GAIN_OF_A_CURE
        ]
    for seed in (0, 1):
        yield trainings(quick, MORE_EXAMPLES, seed)


def seconds(results: Results, recipe: str) -> float:
    """Processor time of the healthy recipe on the first seed."""
    line = results.line(Training(recipe, HEALTHY, 0))
    return float("inf") if line is None else float(line["seconds"])


def fill(results: Results) -> None:
    """Train what is missing in the table."""
    began = time.perf_counter()
    for stage in stages(results):
        for training in stage:
            if results.loss(training) is not None:
                continue
            try:
                loss = results.train(training)
            except Absent as error:
                print(f"{training.recipe}: {error}", flush=True)
                continue
            minutes = (time.perf_counter() - began) / 60
            print(
                f"{minutes:6.1f} min  {training.recipe}, {training.change}, seed {training.seed}: "
                f"{loss:.4f}",
                flush=True,
            )
