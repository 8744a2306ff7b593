"""Does a training that nobody tuned end as well as the best of a grid of rates, and what does that
cost?

    .venv/bin/python benchmarks/tuning.py --out bank.jsonl
    .venv/bin/python benchmarks/tuning.py --out bank.jsonl --method none     # the grids alone
    .venv/bin/python benchmarks/tuning.py --out second.jsonl --bank second   # the second judgement
    .venv/bin/python benchmarks/tuning.py --out third.jsonl --bank third     # the third
    .venv/bin/python benchmarks/tuning.py --out fourth.jsonl --bank fourth   # the fourth
    .venv/bin/python benchmarks/tuning.py --out fifth.jsonl --bank fifth     # the fifth
    .venv/bin/python benchmarks/tuning.py --out bank.jsonl --clip            # does clipping ever cost?
    .venv/bin/python benchmarks/tuning.py --out bank.jsonl --time-left       # is the forecast right?
    .venv/bin/python benchmarks/tuning.py --out bank.jsonl --laws            # offsets and factors
    .venv/bin/python benchmarks/tuning.py --out bank.jsonl --lanes           # did the best lane win?
    .venv/bin/python benchmarks/tuning.py --out bank.jsonl --again           # the grid's best again

Sixteen tasks (`tasks/bank.py`), fourteen others (`tasks/second.py`), or sixteen more
(`tasks/third.py`, `tasks/fourth.py`, `tasks/fifth.py`). The grid has 13 rates a factor of 2 apart,
each linear and cosine to zero, SGD with Nesterov momentum 0.9, and is extended while its
best rate is near an end. Its best is chosen with hindsight: the smallest mean over three seeds of
the final training loss. Every method gets the same seeds, batches and steps. Its end is given in
percent above the best of the grid, over the floor: a level that the loss cannot go below, or, where
none is known, the loss of the best training that is three times as long. The cost counts everything
in whole trainings, a forward pass as a third of a gradient. Rivals whose packages are not installed
are left out.

`--clip` trains at the rates that SGD alone has chosen without clipping, which is all that acts on a
training after its choice. `--time-left` compares the time that tuning says is left after a tenth of
the work with that of the rest, by a clock that counts examples and in processor time. `--laws` adds
20 to each loss or takes it away, which must change no choice of SGD alone, and multiplies it by 8
or 1/8, which must divide the rate by that within a factor of 2. `--lanes` takes every lane of a
race to its own end: which one should have won, and does a training end above the lowest loss at
which a lane was judged? `--again` trains at the best rate and shape of the grid with six other
seeds: how much of the grid's score is hindsight?

The results of every training are kept in `--out`, and a study that was stopped goes on from there.
"""

import argparse
import json
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tasks.bank import TASKS, Cell, Pairs
from tasks.fifth import FIFTH
from tasks.fourth import FOURTH
from tasks.rivals import Method, installed
from tasks.runs import (
    FORWARD,
    SHAPES,
    Counted,
    choice_of,
    gone_on,
    losses_of,
    sgd,
    stacked,
    trained,
    trapezoid,
    tuned,
)
from tasks.second import SECOND
from tasks.third import THIRD
from torch import Tensor, nn

SEEDS = (0, 1, 2)
OTHER_SEEDS = ((3, 4, 5), (6, 7, 8))
COARSE_SEED = 1000

# Exponents of 2 of the rates among which the centre of a grid is found.
COARSE = range(-18, 9, 2)

# Rates of a grid on either side of its centre, and those that the best one has at least there.
EACH_WAY = 6
MARGIN = 2

BANKS = {"first": TASKS, "second": SECOND, "third": THIRD, "fourth": FOURTH, "fifth": FIFTH}
KNOWN = {name: make for bank in BANKS.values() for name, make in bank.items()}

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
    return KNOWN[name]()


def interval(values: list[float], of: Callable[..., Any]) -> str:
    """A statistic of the tasks, with its 90 % interval if other tasks of these kinds were drawn."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(of(drawn, axis=1), [0.05, 0.95])
    return f"{of(np.array(values), axis=0):+.1f} [{low:+.1f}, {high:+.1f}]"


def unclipped(results: Results, names: list[str]) -> None:
    """Print where trainings end with and without clipping, at the same rates."""
    print("| training loss | clipped, by seed | not clipped | worse by more than the seeds |")
    print("| --- | --- | --- | --- |")
    for name in names:
        task = cell_of(name)
        chosen = [
            results.of(f"{name}/SGD alone seed {seed}", partial(ended, tuned, task, seed))
            for seed in SEEDS
        ]
        clipped = [end["train"] for end in chosen]

        def end_of(seed: int, rate: float, task: Cell = task) -> float:
            loss = losses_of(task, trained(task, seed, sgd(rate), trapezoid))[0]
            return loss if math.isfinite(loss) else math.inf

        plain = [
            results.of(f"{name}/not clipped seed {seed}", partial(end_of, seed, end["rate"]))
            for seed, end in zip(SEEDS, chosen, strict=True)
        ]
        worse = statistics.fmean(clipped) - statistics.fmean(plain)
        is_worse = worse > statistics.stdev(clipped)
        values = [", ".join(f"{loss:.4g}" for loss in each) for each in (clipped, plain)]
        print(f"| {task.name} | {values[0]} | {values[1]} | {is_worse} |", flush=True)


def time_left(names: list[str]) -> None:
    """Print the time that tuning says is left after a tenth, over the time that the rest takes: by
    a clock that counts examples, and in processor time, which other processes disturb."""
    ratios = list[tuple[float, float]]()
    forecast_of(cell_of("quantiles"), "sgd", counted=False)  # the first one imports
    for name in names:
        for optimizer in ("sgd", "sgd,adamw"):
            by_count, by_time = (
                forecast_of(cell_of(name), optimizer, counted=counted) for counted in (True, False)
            )
            ratios.append((by_count, by_time))
            print(f"{name}, {optimizer}: {by_count:.2f}, {by_time:.2f}", flush=True)
    for words, each in zip(("examples", "processor time"), zip(*ratios, strict=True), strict=True):
        near = sum(1 / 1.3 <= ratio <= 1.3 for ratio in each)
        print(
            f"in {words} within 30 %: {near} of {len(each)}, median {statistics.median(each):.2f}"
        )


def forecast_of(task: Cell, optimizer: str, *, counted: bool) -> float:
    """The time that is said to be left after a tenth of a training, over the time of the rest."""
    units = {"s": 1, "min": 60, "h": 3600}
    said = list[tuple[float, float]]()
    examples = Counted(task)
    # All clocks run fast, since times are said in whole seconds.
    time.monotonic = time.perf_counter = lambda: (
        1e4 * (examples.runs if counted else time.process_time())
    )

    def hear(sentence: str) -> None:
        amount, unit = re.findall(r"about ([\d.]+) (s|min|h) left", sentence)[0]
        said.append((time.monotonic(), float(amount) * units[unit]))

    began = time.monotonic()
    tuned(replace(task, loss=examples), 0, optimizer, progress=hear)
    # The final loss over all examples is no part of it.
    final = FORWARD * (len(task.train) + len(task.test)) / (task.steps * task.batch)
    end = time.monotonic() - (1e4 * final if counted else 0)
    now, left = next((now, left) for now, left in said if now - began >= (end - began) / 10)
    return left / (end - now)


def lanes(results: Results, names: list[str]) -> None:
    """Print where the training ends, and where the best of the lanes that it was chosen from does."""
    print("| training loss, optimizer | end | best lane's end | lowest lane when judged |")
    print("| --- | --- | --- | --- |")
    found = list[list[float]]()
    for name in names:
        for optimizer in ("sgd", "sgd,adamw"):
            each = results.of(
                f"{name}/lanes {optimizer}", partial(ends_of_lanes, cell_of(name), optimizer)
            )
            found.append(each)
            print(
                f"| {name}, {optimizer} | {' | '.join(f'{one:.5g}' for one in each)} |", flush=True
            )
    won = sum(end <= best for end, best, _ in found)
    worse = sum(end > judged for end, _, judged in found)
    print(f"the best lane won {won} of {len(found)}; above the lowest lane when judged: {worse}")


def ends_of_lanes(cell: Cell, optimizer: str) -> tuple[float, float, float]:
    """The end of the training that a race chose, the lowest end of its lanes, and the lowest loss
    at which one of them was judged."""
    found, _ = choice_of(cell, 0, optimizer)
    every = {one.lane.name: one.lane for rung in found.rungs for one in rung}
    ends = {
        name: losses_of(cell, gone_on(cell, 0, replace(found, lane=lane), cell.loss))[0]
        for name, lane in every.items()
    }
    known = [end for end in ends.values() if math.isfinite(end)]
    judged = min(one.loss for rung in found.rungs for one in rung)
    return ends[found.lane.name], min(known), judged


def again(results: Results, names: list[str]) -> None:
    """Print where trainings end at the best rate and shape of the grid, with other seeds."""
    print("| training loss | best of grid | at | with three other seeds | with three more |")
    print("| --- | --- | --- | --- | --- |")
    scores: list[list[float]] = [[] for _ in OTHER_SEEDS]
    for name in names:
        task = cell_of(name)
        table = grid(results, name, task)
        (exponent, shape), best = table.best, table.losses[table.best]
        floor = floor_of(results, name, task, table.best)
        for each, seeds in zip(scores, OTHER_SEEDS, strict=True):
            ends = [
                results.of(
                    f"{name}/again seed {seed}", partial(rows, task, seed, [exponent], [shape])
                )
                for seed in seeds
            ]
            loss = statistics.fmean(end for [[_, _, end]] in ends)
            each.append(100 * (loss - best) / (best - floor))
        values = " | ".join(shown(each[-1]) for each in scores)
        print(f"| {task.name} | {best:.4g} | 2^{exponent} {shape} | {values} |", flush=True)
    summary(scores)


def laws(results: Results, names: list[str]) -> None:
    """Print the rates that are chosen for a loss with a constant, or in another unit."""
    print("| training loss | rate | - 20 | + 20 | x 8 | x 1/8 |")
    print("| --- | --- | --- | --- | --- | --- |")
    changed = 0
    for name in names:
        task = cell_of(name)

        def rate(factor: float, offset: float, task: Cell = task) -> float:
            def loss(model: nn.Module, batch: Pairs) -> Tensor:
                return factor * task.loss(model, batch) + offset

            return choice_of(replace(task, loss=loss), 0)[0].learning_rate

        cases = ((1, 0), (1, -20), (1, 20), (8, 0), (0.125, 0))
        rates = [
            factor * results.of(f"{name}/rate {factor} {offset}", partial(rate, factor, offset))
            for factor, offset in cases
        ]
        changed += sum(one != rates[0] for one in rates[1:3])
        changed += sum(not rates[0] / 2 <= one <= 2 * rates[0] for one in rates[3:])
        print(f"| {task.name} | {' | '.join(f'{one:.4g}' for one in rates)} |", flush=True)
    print(f"{changed} of {4 * len(names)} choices change")


def shown(value: float) -> str:
    """A percentage. A training that diverged is above all."""
    return f"{value:+.1f}" if value <= 1000 else "> 1000"


def summary(columns: list[list[float]]) -> None:
    """Print the median, the worst and the tasks within 1 % of each column of scores."""
    print(f"| median | | | {' | '.join(interval(each, np.median) for each in columns)} |")
    print(f"| worst | | | {' | '.join(shown(max(each)) for each in columns)} |")
    near = [f"{sum(value <= 1 for value in each)} of {len(each)}" for each in columns]
    print(f"| at most +1 % | | | {' | '.join(near)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = {**OURS, **installed()}
    parser.add_argument("--out", type=Path, required=True, help="file of finished trainings")
    parser.add_argument("--only", action="append", choices=KNOWN)
    parser.add_argument("--bank", choices=BANKS, default="first", help="the tasks of a judgement")
    parser.add_argument("--method", action="append", choices=[*known, "none"])
    parser.add_argument("--clip", action="store_true", help="with and without clipping")
    parser.add_argument("--laws", action="store_true", help="losses with a constant or a factor")
    parser.add_argument("--lanes", action="store_true", help="did the best lane win?")
    parser.add_argument("--again", action="store_true", help="the best of the grid, other seeds")
    parser.add_argument("--time-left", action="store_true", help="is the time that is left right?")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(given.out)
    names = given.only or list(BANKS[given.bank])
    if given.laws:
        laws(results, names)
        return
    if given.lanes:
        lanes(results, names)
        return
    if given.clip:
        unclipped(results, names)
        return
    if given.again:
        again(results, names)
        return
    if given.time_left:
        time_left(names)
        return
    methods = {
        name: run for name, run in known.items() if given.method is None or name in given.method
    }
    scores: dict[str, list[float]] = {name: [] for name in methods}
    costs: dict[str, list[float]] = {name: [] for name in methods}
    print(f"| training loss | best of grid | at | {' | '.join(methods)} |")
    print(f"|{' --- |' * (3 + len(methods))}")
    for name in names:
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
    summary(list(scores.values()))
    means = [f"{statistics.fmean(each):.2f} (at most {max(each):.2f})" for each in costs.values()]
    print(f"| cost in trainings | 26 | | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
