"""The order in which the table is trained: what is known of all recipes comes before the rest."""

import time
from collections.abc import Iterator

from recipes.bank import RECIPES
from recipes.changes import FAULTS, MORE_EXAMPLES, OTHERS, RATES
from recipes.data import Absent
from recipes.faults import GAIN_OF_A_CURE, cure
from recipes.results import HEALTHY, Results, Training


def stages(results: Results) -> Iterator[list[Training]]:
    """Trainings of the table, in stages: rates first, on one seed; then the second seed."""

    def of(changes: list[str], seed: int) -> list[Training]:
        listed = [Training(name, change, seed) for change in changes for name in RECIPES]
        return [training for training in listed if training.settings() is not None]

    yield of([HEALTHY, *RATES], 0)
    yield of([HEALTHY], 1)
    yield of(list(RATES), 1)
    short = [name for name in OTHERS if name not in MORE_EXAMPLES]
    yield of(short, 0)
    yield of(list(FAULTS), 0)
    # A fault whose cure gains too little on one seed is dropped.
    faults = of(list(RATES) + list(FAULTS), 1)
    yield [
        fault
        for fault in faults
        if (cure(results, Training(fault.recipe, fault.change, 0)) or 0) >= GAIN_OF_A_CURE
    ]
    yield of(short, 1)
    yield of(list(MORE_EXAMPLES), 0)
    yield of(list(MORE_EXAMPLES), 1)


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
