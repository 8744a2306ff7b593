"""Does SGD that chooses its own rate end as well as after a grid, and what does that cost?

    .venv/bin/python benchmarks/tuning.py --problems development --out development.jsonl
    .venv/bin/python benchmarks/tuning.py --problems last --out last.jsonl --pool processes

Eight problems at three scales of their inputs. The grid has 13 rates a factor 2 apart, each linear
and cosine to zero, SGD with Nesterov momentum 0.9, and is extended if its best rate lies at an end.
Its best is chosen with hindsight: the smallest mean over three seeds of the final training loss,
which is then compared. Every method gets the same three seeds, the same batches and the same steps;
its end is given in percent above the best of the grid, and its cost in whole trainings (a forward
pass alone counts a third). Methods whose packages are not installed are left out. The column
"other seeds" is what the grid itself is worth: each seed is trained at the rate and shape that are
best for the others.

With `--seeds 10` a second table shows each of ten seeds of tune: how far they spread, and how many
failed, which means that more than half of what the best of the grid gains from the start is lost.

The results of every training are kept in `--out`, and a study that was stopped goes on from there.
"""

import argparse
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuning_problems import PROBLEMS, SCALES, Cell
from tuning_rivals import RIVALS, Method, installed
from tuning_runs import SHAPES, End, Optimizer, losses_of, stacked, tuned

from gradiometer.jobs import Job, Pool, pool_of
from gradiometer.jobs.pool import Ledger

SEEDS = (0, 1, 2)
COARSE_SEED = 1000
COARSE = range(-18, 9, 2)
"""Exponents of 2 of the rates among which the centre of a grid is found."""
EACH_WAY = 6
"""Rates of a grid on either side of its centre."""
OWN, OTHERS = "tune", "other seeds"
MARGIN = 2
"""The best rate has at least this many rates on either side."""
ADAPTIVE = ("CNN, BatchNorm", "CNN, GroupNorm", "transformer")
"""Problems on which AdamW is judged."""


@dataclass(frozen=True)
class Place:
    """A problem at one scale, by name."""

    problems: str
    name: str
    scale: float

    @property
    def cell(self) -> Cell:
        """The cell itself."""
        return PROBLEMS[self.problems][self.name].cell(self.name, self.scale)

    def job(self, what: str) -> str:
        """The name of a job."""
        return f"{self.problems}/{self.name}/{self.scale:g}/{what}"


@dataclass(frozen=True)
class Grid:
    """Final losses by rate (as exponent of 2) and shape: means over the seeds, and training and
    test loss by seed."""

    train: Mapping[tuple[int, str], float]
    test: Mapping[tuple[int, str], float]
    by_seed: Mapping[tuple[int, str], Mapping[int, tuple[float, float]]]

    @property
    def best(self) -> tuple[int, str]:
        """The best rate and shape."""
        return min(self.train, key=lambda key: self.train[key])

    def by_others(self, part: str) -> float:
        """The mean final loss if every seed has the rate and shape with the lowest training loss of
        the other seeds."""

        def of_others(key: tuple[int, str], seed: int) -> float:
            return statistics.fmean(
                losses[0] for other, losses in self.by_seed[key].items() if other != seed
            )

        seeds = self.by_seed[self.best]
        chosen = {seed: min(self.by_seed, key=lambda key: of_others(key, seed)) for seed in seeds}
        return statistics.fmean(
            self.by_seed[key][seed][part == "test"] for seed, key in chosen.items()
        )

    def beside(self, factor: int) -> float:
        """How much worse a rate this many doublings away ends, in percent."""
        exponent, shape = self.best
        return percent(self.train[exponent + factor, shape], self.train[self.best])

    @property
    def missing(self) -> list[int]:
        """Exponents to add until the best one lies inside."""
        exponents = sorted({exponent for exponent, _ in self.train})
        low, high = exponents[0], exponents[-1]
        best = self.best[0]
        if best - low < MARGIN:
            return list(range(low - EACH_WAY, low))
        return list(range(high + 1, high + 1 + EACH_WAY)) if high - best < MARGIN else []


def percent(value: float, reference: float) -> float:
    """How much larger, in percent."""
    return 100 * (value / reference - 1)


def rates_at(
    place: Place, seed: int, exponents: list[int], shapes: list[str], optimizer: Optimizer
) -> list[list[Any]]:
    """[exponent, shape, training loss, test loss] of every training; inf if the loss is
    not finite."""
    ends = stacked(place.cell, seed, [2.0**exponent for exponent in exponents], shapes, optimizer)
    keys = [(exponent, shape) for shape in shapes for exponent in exponents]
    return [
        [*key, finite(end.train), finite(end.test)] for key, end in zip(keys, ends, strict=True)
    ]


def ended(place: Place, method: Method, seed: int) -> dict[str, float]:
    """One training by a method."""
    return {name: finite(value) for name, value in asdict(method(place.cell, seed)).items()}


def finite(value: float) -> float:
    """The value, or inf if it is not a number."""
    return value if math.isfinite(value) else math.inf


class Study:
    """Runs what is missing, and reads the rest from the ledger."""

    def __init__(self, pool: Pool, ledger: Ledger, optimizer: Optimizer) -> None:
        self.pool, self.ledger, self.optimizer = pool, ledger, optimizer

    def results(self, jobs: list[Job]) -> dict[str, Any]:
        """The results by name. A job that failed has none, and its error is printed."""
        results = {}
        for outcome in self.pool.run(jobs, ledger=self.ledger):
            if outcome.error is None:
                results[outcome.name] = outcome.result
            else:
                print(f"{outcome.name}: {outcome.error!r}", flush=True)
        return results

    def grids(self, places: list[Place]) -> dict[Place, Grid]:
        """The grid of every place."""
        coarse = {place: place.job(f"coarse {self.optimizer}") for place in places}
        found = self.results(
            [
                Job(name, rates_at, (place, COARSE_SEED, list(COARSE), ["linear"], self.optimizer))
                for place, name in coarse.items()
            ]
        )
        rows: dict[Place, list[list[Any]]] = {place: [] for place in places}
        wanted = {
            place: list(range(centre - EACH_WAY, centre + EACH_WAY + 1))
            for place, name in coarse.items()
            for centre in [min(found[name], key=lambda row: row[2])[0]]
        }
        while wanted:
            jobs = {
                place.job(f"grid {self.optimizer} {exponents[0]}..{exponents[-1]} seed {seed}"): (
                    place,
                    seed,
                    Job(
                        place.job(
                            f"grid {self.optimizer} {exponents[0]}..{exponents[-1]} seed {seed}"
                        ),
                        rates_at,
                        (place, seed, exponents, list(SHAPES), self.optimizer),
                    ),
                )
                for place, exponents in wanted.items()
                for seed in SEEDS
            }
            for name, result in self.results([job for *_, job in jobs.values()]).items():
                place, seed, _ = jobs[name]
                rows[place] += [[*row, seed] for row in result]
            grids = {place: grid_of(rows[place]) for place in places}
            wanted = {place: grid.missing for place, grid in grids.items() if grid.missing}
        return grids

    def ends(
        self, places: list[Place], methods: Mapping[str, Method], seeds: Iterable[int]
    ) -> dict[Any, list[End]]:
        """Ends by place and method, one a seed."""
        jobs = {
            (place, name, seed): Job(
                place.job(f"{name} {self.optimizer} seed {seed}"), ended, (place, method, seed)
            )
            for place in places
            for name, method in methods.items()
            for seed in seeds
        }
        found = self.results(list(jobs.values()))
        ends: dict[Any, list[End]] = {}
        for (place, name, _), job in jobs.items():
            if job.name in found:
                ends.setdefault((place, name), []).append(End(**found[job.name]))
        return ends


def grid_of(rows: list[list[Any]]) -> Grid:
    """The grid of rows of exponent, shape, training loss, test loss and seed."""
    by_seed: dict[tuple[int, str], dict[int, tuple[float, float]]] = {}
    for exponent, shape, train, test, seed in rows:
        by_seed.setdefault((exponent, shape), {})[seed] = (train, test)
    train, test = (
        {
            key: statistics.fmean(losses[part] for losses in each.values())
            for key, each in by_seed.items()
        }
        for part in (0, 1)
    )
    return Grid(train, test, by_seed)


def table(
    grids: Mapping[Place, Grid], ends: Mapping[Any, list[End]], methods: list[str], part: str
) -> str:
    """Percent above the best of the grid, by place and method; then the worst, the median and the
    cost."""
    lines = [
        f"| {part} loss | inputs | best of grid | at | half, twice | {' | '.join([OTHERS, *methods])} |",
        f"|{' --- |' * (6 + len(methods))}",
    ]
    columns: dict[str, list[float]] = {name: [] for name in [OTHERS, *methods]}
    for place, grid in grids.items():
        exponent, shape = grid.best
        best = getattr(grid, part)[grid.best]
        columns[OTHERS].append(percent(grid.by_others(part), best))
        for name in methods:
            values = [getattr(end, part) for end in ends.get((place, name), [])]
            columns[name].append(percent(statistics.fmean(values), best) if values else math.nan)
        cells = " | ".join(shown(column[-1]) for column in columns.values())
        beside = f"{shown(grid.beside(-1))}, {shown(grid.beside(1))}"
        lines.append(
            f"| {place.name} | × {place.scale:g} | {best:.4g} | 2^{exponent} {shape} | {beside} | "
            f"{cells} |"
        )
    for what, of in (("worst", max), ("median", statistics.median)):
        lines.append(
            f"| {what} | | | | | {' | '.join(shown(of(column)) for column in columns.values())} |"
        )
    near = [
        f"{sum(value <= 1 for value in column)} of {len(column)}" for column in columns.values()
    ]
    lines.append(f"| at most +1 % | | | | | {' | '.join(near)} |")
    costs = {
        name: [end.cost for place in grids for end in ends.get((place, name), [])]
        for name in methods
    }
    means = " | ".join(
        f"{statistics.fmean(each):.2f} (at most {max(each):.2f})" for each in costs.values()
    )
    grid_cost = 2 * (2 * EACH_WAY + 1)
    return "\n".join(
        [*lines, f"| cost in runs | | {grid_cost} | | | {(len(SEEDS) - 1) * grid_cost} | {means} |"]
    )


def spread(grids: Mapping[Place, Grid], ends: Mapping[Any, list[End]]) -> str:
    """The single seeds of tune, and how many have lost more than half of what the best of the grid
    gains."""
    lines = [
        "| training loss | inputs | seeds | best, median, worst seed | failed |",
        f"|{' --- |' * 5}",
    ]
    for place, grid in grids.items():
        best, cell = grid.train[grid.best], place.cell
        losses = sorted(end.train for end in ends[place, OWN])
        start = losses_of(cell, cell.model(0))[0]
        failed = sum(not loss - best <= (start - best) / 2 for loss in losses)
        three = (losses[0], statistics.median(losses), losses[-1])
        said = ", ".join(shown(percent(loss, best)) for loss in three)
        lines.append(f"| {place.name} | × {place.scale:g} | {len(losses)} | {said} | {failed} |")
    return "\n".join(lines)


def shown(value: float) -> str:
    """A percentage. A training that diverged is above all."""
    return "none" if math.isnan(value) else "> 1000" if value > 1000 else f"{value:+.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", choices=list(PROBLEMS), default="development")
    parser.add_argument(
        "--scale", action="append", type=float, help="scale of the inputs; default: all three"
    )
    parser.add_argument("--only", action="append", help="name of a problem; default: all")
    parser.add_argument(
        "--method",
        action="append",
        choices=[OWN, *RIVALS, "none"],
        help="default: all that are installed",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=len(SEEDS),
        help="seeds of tune; more add a table of their spread",
    )
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd")
    parser.add_argument("--pool", default="here")
    parser.add_argument("--out", type=Path, required=True, help="file of finished trainings")
    given = parser.parse_args()
    names = given.only or (
        ADAPTIVE if given.optimizer == "adamw" else list(PROBLEMS[given.problems])
    )
    places = [
        Place(given.problems, name, scale) for name in names for scale in given.scale or SCALES
    ]
    wanted = given.method or [OWN, *(RIVALS if given.optimizer == "sgd" else [])]
    known: dict[str, Method] = {
        OWN: lambda cell, seed: tuned(cell, seed, given.optimizer),
        **installed(),
    }
    methods = {name: method for name, method in known.items() if name in wanted}
    if missing := [name for name in wanted if name not in methods and name != "none"]:
        print(f"Left out, since their packages are not installed: {', '.join(missing)}.")
    with pool_of(given.pool) as pool:
        study = Study(pool, Ledger(given.out), given.optimizer)
        grids = study.grids(places)
        ends = study.ends(places, methods, SEEDS)
        more = (
            study.ends(places, {OWN: known[OWN]}, range(given.seeds))
            if given.seeds > len(SEEDS)
            else {}
        )
    for part in ("train", "test"):
        print(table(grids, ends, list(methods), part), end="\n\n")
    if more:
        print(spread(grids, more))


if __name__ == "__main__":
    main()
