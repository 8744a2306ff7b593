"""Which split of one budget gives the best ensemble, and how many full runs is it worth?

    python benchmarks/equal_budget.py --on digits [--seeds 5] [--out equal-budget] [--json]
    python benchmarks/equal_budget.py --on fashion [--seeds 3]

All recipes train on as many examples as one full run: one run, snapshots, short independent runs, and cycles that start
again from a mixture of the old parameters and new random ones, or with noise in their first half. Recipes are compared
on digits (400 images, an MLP and a CNN, 1,397 images to score). On Fashion-MNIST (12,000 images, 20 epochs, a CNN of
42,706 parameters) only the recipes in `JUDGED` are run, which were chosen on digits. SGD with Nesterov momentum 0.9,
weight decay 1e-4, batches of 64; the rate grows in the first tenth of every cycle.

Each run is kept as one file in the folder and is not trained again. A quarter of the scored images fits the
temperatures, the rest is scored.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from snapshot_runs import FEW, Labelled, images_of, small_cnn
from snapshot_scores import over_seeds
from torch import nn
from torch.nn import functional as F  # noqa: N812

from gradiometer import Draw, Estimate
from gradiometer.convergence.schedules import Cosine
from gradiometer.exploration.ensembles import (
    Predictions,
    averaged,
    deep_ensemble_equivalent,
    disagreement,
    linear_path,
    validation_mask,
)
from gradiometer.measurement import Order
from gradiometer.measurement.uncertainty import mean
from gradiometer.problems import load
from gradiometer.problems.images.models import DIGITS
from gradiometer.storage.disk import replace_file
from gradiometer.storage.journal import plain

BATCH_SIZE, MOMENTUM, LEVEL = 64, 0.9, 0.9
DIGITS_IMAGES = 400


@dataclass(frozen=True)
class Recipe:
    """How one budget is spent.

    Args:
        name: What it is called.
        runs: Independent starts.
        cycles: Cosine cycles of each. Every cycle gives one member.
        keep: At a restart Φ ← keep·Φ + √(1 − keep²)·(new random parameters); 1 changes nothing.
        heat: Temperature of Langevin noise in the first half of every cycle but the first, in nats over the number of
            parameters.
        first: Length of the first cycle, in lengths of the others.
        rate: η₀ of every cycle.
        budget: Examples in full runs.
    """

    name: str
    runs: int = 1
    cycles: int = 1
    keep: float = 1.0
    heat: float = 0.0
    first: float = 1.0
    rate: float = 0.1
    budget: float = 1.0

    def lengths(self, steps: int) -> list[int]:
        """Steps of every cycle of one of its runs."""
        unit = self.budget * steps / self.runs / (self.first + self.cycles - 1)
        return [max(round(unit * (self.first if cycle == 0 else 1.0)), 1) for cycle in range(self.cycles)]


SINGLE, FULL = Recipe("one run"), Recipe("three full runs", runs=3, budget=3.0)
RECIPES = (
    SINGLE,
    FULL,
    Recipe("one run, η₀ = 0.2", rate=0.2),
    Recipe("three full runs, η₀ = 0.2", runs=3, budget=3.0, rate=0.2),
    Recipe("one short run", budget=0.2),
    *(Recipe(f"{runs} short runs", runs=runs) for runs in (3, 5, 8)),
    *(Recipe(f"{runs} short runs, η₀ = 0.2", runs=runs, rate=0.2) for runs in (3, 5, 8)),
    Recipe("5 snapshots", cycles=5),
    Recipe("5 snapshots, η₀ = 0.2", cycles=5, rate=0.2),
    Recipe("5 snapshots, first cycle 3 times as long", cycles=5, first=3.0),
    *(Recipe(f"5 cycles, keep {keep:g}", cycles=5, keep=keep) for keep in (0.9, 0.7, 0.5)),
    *(Recipe(f"5 cycles, keep {keep:g}, η₀ = 0.2", cycles=5, keep=keep, rate=0.2) for keep in (0.7, 0.5)),
    Recipe("3 short runs of 3 snapshots", runs=3, cycles=3),
    *(Recipe(f"5 cycles, heat {heat:g}", cycles=5, heat=heat) for heat in (1.0, 2.0)),
)
JUDGED = (
    SINGLE.name,
    FULL.name,
    "5 short runs",
    "5 short runs, η₀ = 0.2",
    "5 snapshots",
    "5 cycles, keep 0.7",
    "5 cycles, heat 1",
)
"""On Fashion-MNIST: the best of digits, 5 short runs at η₀ = 0.2, the best with mixing and with heat, and what they are
compared with."""


@dataclass(frozen=True)
class Data:
    """Images to train on and to score, the network, and the epochs of a full run."""

    name: str
    train: Labelled
    scored: Labelled
    model: Callable[[], nn.Module]
    epochs: int

    @property
    def steps(self) -> int:
        """Of a full run."""
        return self.epochs * math.ceil(len(self.train[0]) / BATCH_SIZE)


def data_of(name: str) -> Iterator[Data]:
    """The data sets of `--on`."""
    if name == "fashion":
        train, test = images_of(load("fashion-mnist"), FEW)
        yield Data("fashion", train, test, small_cnn, epochs=20)
        return
    problem = load("digits")
    parts = [problem.train.batch(torch.arange(len(problem.train))), problem.test.batch(torch.arange(len(problem.test)))]
    images, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    few, rest = order[:DIGITS_IMAGES], order[DIGITS_IMAGES:]
    for model, epochs in (("mlp", 100), ("cnn", 100)):
        yield Data(f"digits-{model}", (images[few], labels[few]), (images[rest], labels[rest]), DIGITS[model], epochs)


def trained(data: Data, recipe: Recipe, seed: int) -> list[nn.Module]:
    """The members of a recipe."""
    members = []
    for run in range(recipe.runs):
        start = 1000 * seed + run
        torch.manual_seed(start)
        model = data.model()
        order = Order(Draw.RESHUFFLED, len(data.train[0]), BATCH_SIZE, seed=start)
        noise, done = torch.Generator().manual_seed(start), 0
        for cycle, length in enumerate(recipe.lengths(data.steps)):
            if cycle and recipe.keep < 1:
                _mixed(model, data.model(), recipe.keep)
            optimizer = torch.optim.SGD(
                model.parameters(), recipe.rate, momentum=MOMENTUM, nesterov=True, weight_decay=1e-4, fused=True
            )
            scheduler = Cosine(recipe.rate, length).warmed_up(length // 10, within=True).scheduler(optimizer)
            for step in range(done, done + length):
                index = order.batch(step)
                optimizer.zero_grad()
                F.cross_entropy(model(data.train[0][index]), data.train[1][index]).backward()
                optimizer.step()
                if cycle and recipe.heat and step < done + length // 2:
                    add_noise(model, recipe.heat, optimizer.param_groups[0]["lr"] / (1 - MOMENTUM), noise)
                scheduler.step()
            done += length
            members.append(data.model())
            members[-1].load_state_dict(model.state_dict())
    return members


def _mixed(model: nn.Module, new: nn.Module, keep: float) -> None:
    with torch.no_grad():
        for old, fresh in zip(model.parameters(), new.parameters(), strict=True):
            old.mul_(keep).add_(fresh, alpha=math.sqrt(1 - keep**2))


def add_noise(model: nn.Module, heat: float, step: float, noise: torch.Generator) -> None:
    """Langevin noise for a step of this length, at the temperature `heat` over the number of parameters."""
    parameters = list(model.parameters())
    spread = math.sqrt(2 * step * heat / sum(each.numel() for each in parameters))
    with torch.no_grad():
        for each in parameters:
            each.add_(torch.randn(each.shape, generator=noise), alpha=spread)


def log_probabilities(model: nn.Module, images: torch.Tensor) -> np.ndarray:
    """What a model predicts, [images, classes]."""
    with torch.no_grad():
        return torch.cat([F.log_softmax(model(part).double(), dim=1) for part in images.split(1000)]).numpy()


def predictions(data: Data, recipe: Recipe, seed: int, out: Path) -> tuple[np.ndarray, float]:
    """Log-probabilities of every member, and the barrier of the error between the first and the last one."""
    path = out / f"{data.name}-{recipe.name}-{seed}.npz".replace(" ", "_").replace("/", "_")
    if not path.exists():
        members = trained(data, recipe, seed)
        images, labels = data.scored
        barrier = math.nan
        if len(members) > 1:

            def wrong(model: nn.Module) -> np.ndarray:
                return log_probabilities(model, images[:2000]).argmax(axis=1) != labels[:2000].numpy()

            barrier = linear_path(members[0], members[-1], wrong, level=LEVEL).barrier.value
        partial = path.with_suffix(".part.npz")
        np.savez(partial, said=np.stack([log_probabilities(member, images) for member in members]), barrier=barrier)
        replace_file(path, partial.read_bytes())
        partial.unlink()
    with np.load(path) as kept:
        return kept["said"], float(kept["barrier"])


def compared(data: Data, recipes: Sequence[Recipe], seeds: Sequence[int], out: Path) -> list[dict[str, Any]]:
    """One row a recipe: scores, differences from one run, worth in full runs, disagreement and barrier."""
    labels = data.scored[1].numpy()
    validation = validation_mask(len(labels))
    said = {}
    for seed in seeds:
        for recipe in recipes:
            said[recipe.name, seed] = predictions(data, recipe, seed, out)
            click.echo(f"{data.name} {recipe.name}, seed {seed}", err=True)
    rows = []
    for recipe in recipes:
        ours = [Predictions.split(averaged(said[recipe.name, s][0]), labels, validation) for s in seeds]
        single = [Predictions.split(said[SINGLE.name, s][0][0], labels, validation) for s in seeds]
        full = [list(said[FULL.name, s][0]) for s in seeds]
        pairs = list(zip(ours, single, strict=True))
        # Predictions of the full runs of all seeds give one curve, so that every seed is compared with all of them.
        pooled = [run for runs in full for run in runs]
        members = said[recipe.name, seeds[0]][0][:, ~validation]
        rows.append(
            {
                "recipe": recipe.name,
                "budget": recipe.budget,
                "error": _of([1.0 - each.correct for each in ours]),
                "nll": _of([each.losses["calibrated_nll"] for each in ours]),
                "difference": _of([a.losses["calibrated_nll"] - b.losses["calibrated_nll"] for a, b in pairs]),
                "over_seeds": over_seeds(
                    [float((a.losses["calibrated_nll"] - b.losses["calibrated_nll"]).mean()) for a, b in pairs]
                ),
                "worth": [deep_ensemble_equivalent(each, pooled[:6], labels, validation, level=LEVEL) for each in ours],
                "disagreement": disagreement(list(members), labels[~validation], level=LEVEL)
                if len(members) > 1
                else None,
                "barrier": [said[recipe.name, s][1] for s in seeds],
            }
        )
    return rows


def _of(losses: Sequence[np.ndarray]) -> Estimate:
    """The mean over seeds, with its interval over images."""
    average = np.mean(losses, axis=0)
    return mean(average, level=LEVEL, batches=len(average))


@click.command()
@click.option("--on", type=click.Choice(["digits", "fashion"]), required=True)
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("equal-budget"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def main(on: str, seeds: int, out: Path, as_json: bool) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    recipes = [recipe for recipe in RECIPES if on == "digits" or recipe.name in JUDGED]
    found = {data.name: compared(data, recipes, range(seeds), out) for data in data_of(on)}
    if as_json:
        click.echo(json.dumps(plain(found)))
        return
    for name, rows in found.items():
        table = Table(title=f"{name}: mean over {seeds} seeds, with intervals over images [over seeds]", box=None)
        for column in ("recipe", "cost", "error %", "calibrated log-loss", "minus one run", "worth", "D/E", "barrier"):
            table.add_column(column, no_wrap=True)
        for row in rows:
            low, high = row["over_seeds"].low, row["over_seeds"].high
            table.add_row(
                row["recipe"],
                f"{row['budget']:g}",
                f"{100 * row['error'].value:.2f} [{100 * row['error'].low:.2f}, {100 * row['error'].high:.2f}]",
                str(row["nll"]),
                f"{row['difference']} [{low:+.3f}, {high:+.3f}]",
                "; ".join(str(each).removesuffix(" runs") for each in row["worth"]),
                "" if row["disagreement"] is None else f"{row['disagreement'].value:.2f}",
                f"{100 * np.mean(row['barrier']):.1f}",
            )
        Console(width=260).print(table)


if __name__ == "__main__":
    main()
