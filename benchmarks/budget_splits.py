"""Does a race choose the best split of a budget between the number and the length of an ensemble's members?

    python benchmarks/budget_splits.py --on seen [--seeds 2] [--out budget-splits] [--no-train] [--json]
    python benchmarks/budget_splits.py --on fresh
    python benchmarks/budget_splits.py --on later
    python benchmarks/budget_splits.py --on large --worth --seeds 1

A budget of one run is split into 1, 2, 4 or 8 independent runs of equal length. All members of all splits are trained,
so that the best split is known; the race of `split_budget` then gets those that it asks for. The method was chosen on
the settings `seen`, and judged once on `fresh`: wrong labels, other lengths, another network. The rule that leaves
splits out was then mended on both, and judged once on `later`. SGD as in `equal_budget.py`, at η₀ = 0.1. Half of the
held-out images choose, the other half is scored.

With `--worth` three more full runs and five snapshots are trained. It prints the number of full runs that each split,
the snapshots, and all networks of the race together are worth, by calibrated log-loss, with intervals over images.

Members are kept as files in the folder and are not trained again. With `--no-train`, settings with missing members are
left out. 20 seconds of one core for a seed of `seen` on digits and 3 minutes on Fashion-MNIST; a minute for a seed of
`fresh`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from budget_members import FRESH, FULL, LARGE, LATER, SEEN, SNAPSHOTS, SPLITS, Setting, members, members_of, path_of
from rich.console import Console
from rich.table import Table

from gradiometer.exploration.ensembles import (
    Predictions,
    averaged,
    deep_ensemble_equivalent,
    mixture_weights,
    scores,
    validation_mask,
)
from gradiometer.exploration.ensembles.split_race import Race
from gradiometer.measurement.estimate import Estimate, counted
from gradiometer.storage.journal import plain

LEVEL, BUDGET, SHARE = 0.9, 1000, 0.5
SETTINGS = {"seen": SEEN, "fresh": FRESH, "later": LATER, "large": LARGE}


def raced(setting: Setting, seed: int, out: Path, score: str, worth: bool = False) -> dict[str, Any]:
    """One race, what every split really gives, and what it is worth."""
    data = setting.data()
    said = {split: members(data, split, seed, path_of(setting, split, seed, out)) for split in SPLITS}
    labels = data.scored[1].numpy()
    choosing = validation_mask(len(labels), share=SHARE)

    def train(split: int, steps: int, numbers: Sequence[int]) -> list[np.ndarray]:
        return [said[split][number] for number in numbers]

    race = Race(labels, choosing, score, LEVEL)
    best = race.run(train, SPLITS, BUDGET)
    truth = {split: scored(averaged(list(each)), labels, choosing, score) for split, each in said.items()}
    means = [averaged(lane.said) for lane in race.lanes]
    weights = mixture_weights([each[choosing] for each in means], labels[choosing])
    together = averaged(means, weights.tolist())
    right = min(truth, key=lambda split: truth[split])
    row: dict[str, Any] = {} if not worth else {"worth": worths(setting, seed, out, choosing, said, together)}
    return row | {
        "setting": setting.name,
        "seed": seed,
        "tried": [lane.members for lane in race.lanes],
        "chosen": best.members,
        "best": right,
        "regret": truth[best.members] / truth[right] - 1,
        "cost": sum(len(lane.said) / lane.members for lane in race.lanes),
        "truth": truth,
        "together": scored(together, labels, choosing, score) / truth[best.members] - 1,
    }


def worths(
    setting: Setting,
    seed: int,
    out: Path,
    choosing: np.ndarray,
    said: Mapping[int, np.ndarray],
    together: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """The error of every ensemble, and the number of full runs that it is worth."""
    data = setting.data()
    labels = data.scored[1].numpy()
    full, snapshots = (
        members_of(data, recipe, start + seed, path_of(setting, recipe.name, seed, out))
        for recipe, start in ((FULL, 900), (SNAPSHOTS, 1000))
    )
    ensembles = {
        **{counted(split, "run"): averaged(list(each)) for split, each in said.items()},
        SNAPSHOTS.name: averaged(list(snapshots)),
        "all of the race": together,
        FULL.name: averaged(list(full)),
    }
    found = {}
    for name, each in ensembles.items():
        predictions = Predictions.split(each, labels, choosing)
        found[name] = {
            "error": scores(predictions, LEVEL)["error"],
            "calibrated_nll": scores(predictions, LEVEL)["calibrated_nll"],
            "worth": deep_ensemble_equivalent(predictions, list(full), labels, choosing, level=LEVEL),
        }
    return found


def scored(found: np.ndarray, labels: np.ndarray, choosing: np.ndarray, score: str) -> float:
    """The score on the images that do not choose."""
    return float(Predictions.split(found, labels, choosing).losses[score].mean())


def in_runs(worth: Estimate) -> str:
    """A number of full runs with its interval; the curve ends at three."""
    value, low, high = (
        f"{each:.2f}" if math.isfinite(each) else f"> {FULL.runs}" for each in (worth.value, worth.low, worth.high)
    )
    return f"{value} [{low}, {high}]"


def worth_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each ensemble is worth, by setting and seed."""
    table = Table(title="What each ensemble is worth in full runs", box=None)
    for column in ("setting", "seed", "ensemble", "error %", "calibrated log-loss", "worth"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        for name, found in row["worth"].items():
            error = "{:.2f} [{:.2f}, {:.2f}]".format(
                *(100 * getattr(found["error"], e) for e in ("value", "low", "high"))
            )
            table.add_row(
                row["setting"], str(row["seed"]), name, error, str(found["calibrated_nll"]), in_runs(found["worth"])
            )
    return table


@click.command()
@click.option("--on", type=click.Choice(list(SETTINGS)), required=True)
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--score", type=click.Choice(["brier", "nll", "calibrated_nll"]), default="brier", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("budget-splits"), show_default=True)
@click.option("--train/--no-train", "training", default=True, help="Train the members that are missing first.")
@click.option("--worth", is_flag=True, help="Train three more full runs, and print what each ensemble is worth.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def main(on: str, seeds: int, score: str, out: Path, training: bool, worth: bool, as_json: bool) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for setting in SETTINGS[on]:
        for seed in range(seeds):
            if training or all(path_of(setting, split, seed, out).exists() for split in SPLITS):
                rows.append(raced(setting, seed, out, score, worth))
    if as_json:
        click.echo(json.dumps(plain(rows)))
        return
    table = Table(title=f"{score} of 1, 2, 4 and 8 runs, and what the race chose", box=None)
    for column in ("setting", "seed", *map(str, SPLITS), "tried", "chosen", "best", "regret %", "cost", "together %"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(
            *(row["setting"], str(row["seed"]), *(f"{row['truth'][split]:.4f}" for split in SPLITS)),
            *(", ".join(map(str, row["tried"])), str(row["chosen"]), str(row["best"]), f"{100 * row['regret']:.1f}"),
            *(f"{row['cost']:.2f}", f"{100 * row['together']:+.1f}"),
        )
    Console(width=160).print(table)
    if worth:
        Console(width=160).print(worth_table(rows))
    means = {name: float(np.mean([row[name] for row in rows])) for name in ("regret", "cost", "together")}
    right = sum(row["chosen"] == row["best"] for row in rows)
    click.echo(
        f"best of those tried in {right} of {len(rows)} races; mean regret {100 * means['regret']:.1f} %, mean cost "
        f"{means['cost']:.2f} runs, all together {100 * means['together']:+.1f} %"
    )


if __name__ == "__main__":
    main()
