"""Does a training that nobody tuned end as well as the best of a grid of rates, and what does that
cost?

    .venv/bin/python benchmarks/tuning.py --out bank.jsonl
    .venv/bin/python benchmarks/tuning.py --out bank.jsonl --method none     # the grids alone

Sixteen tasks (`tuning_bank.py`). The grid has 13 rates a factor of 2 apart, each linear and cosine
to zero, SGD with Nesterov momentum 0.9, and is extended while its best rate is near an end. Its
best is chosen with hindsight: the smallest mean over three seeds of the final training loss. Every
method gets the same seeds, batches and steps. Its end is given in percent above the best of the
grid, over the floor: a level that the loss cannot go below, or, where none is known, the loss of
the best training that is three times as long. The cost counts everything in whole trainings, a
forward pass as a third of a gradient. Rivals whose packages are not installed are left out.

The results of every training are kept in `--out`, and a study that was stopped goes on from there.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tuning_bank import TASKS, Cell
from tuning_rivals import Method, installed
from tuning_runs import SHAPES, stacked, tuned

SEEDS = (0, 1, 2)
COARSE_SEED = 1000

# Exponents of 2 of the rates among which the centre of a grid is found.
COARSE = range(-18, 9, 2)

# Rates of a grid on either side of its centre, and those that the best one has at least there.
EACH_WAY = 6
MARGIN = 2

OURS: Mapping[str, Method] = {
    "SGD alone": tuned,
    "race of SGD and AdamW": partial(tuned, optimizer="sgd,adamw"),
}


@dataclass(frozen=True)
class Grid:
    """Mean final training losses over the seeds, by rate (as exponent of 2) and shape."""

    losses: Mapping[tuple[int, str], float]

    @property
    def best(self) -> tuple[int, str]:
        """The best rate and shape."""
        return min(self.losses, key=lambda key: self.losses[key])

    @property
    def missing(self) -> list[int]:
        """Exponents to add until the best one lies inside."""
        exponents = sorted({exponent for exponent, _ in self.losses})
        low, high = exponents[0], exponents[-1]
        best = self.best[0]
        if best - low < MARGIN:
            return list(range(low - EACH_WAY, low))
        return list(range(high + 1, high + 1 + EACH_WAY)) if high - best < MARGIN else []


def grid_of(rows: list[list[Any]]) -> Grid:
    """The grid of rows of exponent, shape and training loss, one for every seed."""
    losses: dict[tuple[int, str], list[float]] = {}
    for exponent, shape, loss in rows:
        losses.setdefault((exponent, shape), []).append(loss)
    return Grid({key: statistics.fmean(each) for key, each in losses.items()})


class Results:
    """Results in a file, which are not computed again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.known: dict[str, Any] = {}
        if file.exists():
            self.known = dict(json.loads(line) for line in file.read_text().splitlines())

    def of(self, name: str, make: Callable[[], Any]) -> Any:
        """The result with this name."""
        if name not in self.known:
            self.known[name] = json.loads(json.dumps(make()))
            with self.file.open("a") as file:
                file.write(json.dumps([name, self.known[name]]) + "\n")
        return self.known[name]


def rows(cell: Cell, seed: int, exponents: list[int], shapes: list[str]) -> list[list[Any]]:
    """[exponent, shape, training loss] of every training; inf if the loss is not finite."""
    ends = stacked(cell, seed, [2.0**exponent for exponent in exponents], shapes)
    keys = [(exponent, shape) for shape in shapes for exponent in exponents]
    return [
        [*key, end.train if math.isfinite(end.train) else math.inf]
        for key, end in zip(keys, ends, strict=True)
    ]


def grid(results: Results, name: str, cell: Cell) -> Grid:
    """The grid of a task, extended while its best rate is near an end."""
    coarse = results.of(f"{name}/coarse", lambda: rows(cell, COARSE_SEED, list(COARSE), ["linear"]))
    centre = min(coarse, key=lambda row: row[2])[0]
    wanted = list(range(centre - EACH_WAY, centre + EACH_WAY + 1))
    found = list[list[Any]]()
    while wanted:
        for seed in SEEDS:
            part = f"{name}/grid {wanted[0]}..{wanted[-1]} seed {seed}"
            found += results.of(part, partial(rows, cell, seed, wanted, list(SHAPES)))
        made = grid_of(found)
        wanted = made.missing
    return made


def floor_of(results: Results, name: str, cell: Cell, best: tuple[int, str]) -> float:
    """The level that percents are counted from."""
    if cell.floor is not None:
        return cell.floor
    longer = replace(cell, steps=3 * cell.steps)
    near = [best[0] + step for step in (-1, 0, 1)]
    return min(
        row[2] for row in results.of(f"{name}/floor", lambda: rows(longer, 0, near, [best[1]]))
    )


def ended(run: Method, cell: Cell, seed: int) -> dict[str, float]:
    """One training by a method."""
    return vars(run(cell, seed))


@cache
def cell_of(name: str) -> Cell:
    """A task."""
    return TASKS[name]()


def interval(values: list[float], of: Callable[..., Any]) -> str:
    """A statistic of the tasks, with its 90 % interval if other tasks of these kinds were drawn."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(of(drawn, axis=1), [0.05, 0.95])
    return f"{of(np.array(values), axis=0):+.1f} [{low:+.1f}, {high:+.1f}]"


def shown(value: float) -> str:
    """A percentage. A training that diverged is above all."""
    return f"{value:+.1f}" if value <= 1000 else "> 1000"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = {**OURS, **installed()}
    parser.add_argument("--out", type=Path, required=True, help="file of finished trainings")
    parser.add_argument("--only", action="append", choices=list(TASKS))
    parser.add_argument("--method", action="append", choices=[*known, "none"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(given.out)
    methods = {
        name: run for name, run in known.items() if given.method is None or name in given.method
    }
    scores: dict[str, list[float]] = {name: [] for name in methods}
    costs: dict[str, list[float]] = {name: [] for name in methods}
    print(f"| training loss | best of grid | at | {' | '.join(methods)} |")
    print(f"|{' --- |' * (3 + len(methods))}")
    for name in given.only or TASKS:
        task = cell_of(name)
        table = grid(results, name, task)
        exponent, shape = table.best
        best = table.losses[table.best]
        floor = floor_of(results, name, task, table.best)
        for method, run in methods.items():
            ends = [
                results.of(f"{name}/{method} seed {seed}", partial(ended, run, task, seed))
                for seed in SEEDS
            ]
            loss = statistics.fmean(end["train"] for end in ends)
            above = 100 * (loss - best) / (best - floor)
            scores[method].append(above if math.isfinite(above) else math.inf)
            costs[method] += [end["cost"] for end in ends]
        values = " | ".join(shown(each[-1]) for each in scores.values())
        print(f"| {task.name} | {best:.4g} | 2^{exponent} {shape} | {values} |", flush=True)
    if not methods:
        return
    columns = list(scores.values())
    print(f"| median | | | {' | '.join(interval(each, np.median) for each in columns)} |")
    print(f"| worst | | | {' | '.join(shown(max(each)) for each in columns)} |")
    near = [f"{sum(value <= 1 for value in each)} of {len(each)}" for each in columns]
    print(f"| at most +1 % | | | {' | '.join(near)} |")
    means = [f"{statistics.fmean(each):.2f} (at most {max(each):.2f})" for each in costs.values()]
    print(f"| cost in trainings | 26 | | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
