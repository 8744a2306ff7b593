"""Do the batch and the rate of `tune(aim="time")` reach a loss as fast as the best of a grid of
batches and rates?

    .venv/bin/python benchmarks/tuning_time.py --out time.jsonl

Two networks, four batch sizes. The time of a step at each size is measured in turn, in processor
time on one thread. A training of the grid has as many updates as fit into the time of the whole
training at the first size; rates are a factor 2 apart, linear to zero, SGD with Nesterov momentum
0.9. The target is the mean final training loss, over three seeds, of the best of the grid. Then
tune chooses batch and rate for each seed from step times of its own, and trainings
at its choice are repeated with several lengths: the shortest whose mean final loss is at most the
target is its time, in units of the time of the grid; their rates fall in the second half, as `tune`
says. The same lengths are tried at the best of the grid, for comparison.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tuning_bank import TASKS, Cell
from tuning_runs import SHAPES, Counted, Shape, losses_of, sgd, stacked, trained, trapezoid

from gradiometer.loop.data import data_of
from gradiometer.tuning import Tuned, tune
from gradiometer.tuning.optimizers import Made
from gradiometer.tuning.start import paces_for

NETWORKS = ("vision transformer", "residual")
SIZES = (16, 32, 64, 128)
SEEDS = (0, 1, 2)
LENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4)
EXPONENTS = range(-9, 1)


def paced(cell: Cell, seed: int) -> dict[int, float]:
    """Updates of each size in the time of one of the first."""
    data = {size: data_of(cell.train, size) for size in SIZES}
    made = Made("sgd", 0.9, True, 0.0)
    return dict(
        paces_for(
            "time", cell.model(seed).train(), made, data, loss=cell.loss, seed=seed, out=None
        ).updates
    )


def grid(cell: Cell, paces: dict[int, float]) -> dict[tuple[int, int], float]:
    """The mean final training loss over the seeds by batch size and exponent of the rate."""
    found = {}
    for size, pace in paces.items():
        each = replace(cell, batch=size, steps=max(round(cell.steps * pace), 1))
        ends = [
            stacked(each, seed, [2.0**exponent for exponent in EXPONENTS], ["linear"])
            for seed in SEEDS
        ]
        for place, exponent in enumerate(EXPONENTS):
            found[size, exponent] = statistics.fmean(end[place].train for end in ends)
    return found


def ends(
    cell: Cell, batch: int, steps: int, seed: int, optimizer: Any, shape: Shape
) -> list[float]:
    """The final training loss for every length."""
    found = []
    for length in LENGTHS:
        each = replace(cell, batch=batch, steps=max(round(length * steps), 1))
        found.append(losses_of(each, trained(each, seed, optimizer, shape))[0])
    return found


def tuned(cell: Cell, seed: int) -> tuple[Tuned, float]:
    """The choice, and its cost in trainings as examples that went through the loss."""
    counted = Counted(cell)
    found = tune(
        cell.model(seed).train(),
        loss=counted,
        batches=cell.train,
        batch_size=SIZES,
        aim="time",
        steps=cell.steps,
        seed=seed,
    )
    return found, counted.runs


def optimizer_of(one: Tuned) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Makes the optimizer that was chosen."""
    return lambda model: one.optimizer(model.parameters())


def first_below(losses: list[float], target: float) -> float:
    """The shortest length whose loss is at most the target; inf if there is none."""
    return next(
        (length for length, loss in zip(LENGTHS, losses, strict=True) if loss <= target),
        float("inf"),
    )


def judged(name: str) -> dict[str, Any]:
    """One network: the grid, the choices of tune, and the lengths that both need."""
    cell = TASKS[name]()
    cell = replace(cell, batch=SIZES[0], steps=2 * cell.steps)
    each = [paced(cell, seed) for seed in SEEDS]
    paces = {size: statistics.median(one[size] for one in each) for size in SIZES}
    losses = grid(cell, paces)
    (size, exponent), target = min(losses.items(), key=lambda item: item[1])
    choices = [tuned(cell, seed) for seed in SEEDS]
    ours, theirs = [], []
    for seed, (one, _) in zip(SEEDS, choices, strict=True):
        steps = round(cell.steps * paces[one.batch_size])
        ours.append(ends(cell, one.batch_size, steps, seed, optimizer_of(one), trapezoid))
        theirs.append(
            ends(
                cell,
                size,
                round(cell.steps * paces[size]),
                seed,
                sgd(2.0**exponent),
                SHAPES["linear"],
            )
        )
    mean_ours, mean_theirs = (
        [statistics.fmean(each) for each in zip(*rows, strict=True)] for rows in (ours, theirs)
    )
    by_size = {
        one: min(loss for (other, _), loss in losses.items() if other == one) for one in SIZES
    }
    return {
        "network": name,
        "paces": paces,
        "best": [size, exponent],
        "target": target,
        "best_of_size": by_size,
        "choices": [[one.batch_size, one.learning_rate, cost, one.cost] for one, cost in choices],
        "time": first_below(mean_ours, target),
        "time_of_best": first_below(mean_theirs, target * 1.0001),
        "ends": mean_ours,
        "ends_of_best": mean_theirs,
    }


def main() -> None:
    """Judge the networks that are not in the file yet, and print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=list(TASKS), default=list(NETWORKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = (
        [json.loads(line) for line in given.out.read_text().splitlines()]
        if given.out.exists()
        else []
    )
    for name in given.networks:
        if name not in [row["network"] for row in known]:
            known.append(judged(name))
            with given.out.open("a") as file:
                file.write(json.dumps(known[-1]) + "\n")
    print(
        "| network | best of grid | target | tune chose | its time to the target | cost in runs |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for row in known:
        size, exponent = row["best"]
        chose = ", ".join(f"{batch} at {rate:.3g}" for batch, rate, *_ in row["choices"])
        cost = statistics.fmean(one[3] for one in row["choices"])
        best = f"{size} at 2^{exponent}"
        print(
            f"| {row['network']} | {best} | {row['target']:.4g} | {chose} | {row['time']:g} | "
            f"{cost:.2f} |"
        )


if __name__ == "__main__":
    main()
