"""Trains what is asked for, on several processes, and keeps every outcome, so that nothing is
trained twice."""

import json
import math
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from clinic.recipe import Outcome, Recipe, train


@dataclass(frozen=True)
class Wanted:
    """A training that somebody needs.

    Args:
        watched: True if the training is under `watch` and its run is kept.
        alone: True if the watch gets the model and the optimizer alone, and `step` the loss.
        trials: Share of the training time for trials.
    """

    recipe: Recipe
    seed: int
    watched: bool = False
    alone: bool = False
    trials: float = 0.0

    def folder(self, runs: Path) -> Path:
        """Where its outcome and its run are."""
        kind = "alone" if self.alone else "watched" if self.watched else "plain"
        kind += f" with trials {self.trials:g}" if self.trials else ""
        return runs / kind / self.recipe.digest(self.seed)


class Bench:
    """Trainings and their outcomes in a folder.

    Args:
        runs: The folder.
        processes: Number of trainings at a time, each on one thread.
    """

    def __init__(self, runs: Path, processes: int | None = None) -> None:
        self.runs = runs
        self.processes = processes or os.cpu_count() or 1

    def train(self, wanted: Iterable[Wanted]) -> None:
        """Train what is missing."""
        missing = [
            each
            for each in dict.fromkeys(wanted)
            if not any(
                (kept.folder(self.runs) / "outcome.json").exists()
                for kept in (each, replace(each, watched=True))  # the same training, bit for bit
            )
        ]
        if not missing:
            return
        print(f"{len(missing)} trainings", flush=True)
        if self.processes == 1:
            for each in missing:
                perform(each, self.runs)
            return
        with ProcessPoolExecutor(
            self.processes,
            mp_context=get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(1,),
        ) as pool:
            list(pool.map(perform, missing, [self.runs] * len(missing)))

    def outcome(self, wanted: Wanted) -> Outcome:
        """The outcome of a training that was made."""
        stored = json.loads((wanted.folder(self.runs) / "outcome.json").read_text())
        return Outcome(**stored)

    def fresh_loss(self, recipe: Recipe, seed: int) -> float:
        """The loss on fresh rows; inf if it is not finite."""
        plain = Wanted(recipe, seed)
        if not (plain.folder(self.runs) / "outcome.json").exists():
            plain = Wanted(recipe, seed, watched=True)
        value = float(self.outcome(plain).fresh)
        return value if math.isfinite(value) else math.inf

    def run(self, wanted: Wanted) -> Path:
        """The folder of the run of a watched training."""
        return next(path for path in wanted.folder(self.runs).iterdir() if path.is_dir())


def perform(wanted: Wanted, runs: Path) -> None:
    """Train, and write the outcome last: a folder without one is a training that was
    interrupted."""
    folder = wanted.folder(runs)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    out = folder if wanted.watched else None
    outcome = train(wanted.recipe, wanted.seed, out, alone=wanted.alone, trials=wanted.trials)
    # Python's own notation of NaN and inf is read back by json.loads.
    (folder / "outcome.json").write_text(json.dumps(vars(outcome)))


def gain(sick: float, cured: float) -> float:
    """By how much of the sick loss the cure lowers it; 1 if the sick one is not finite."""
    if not math.isfinite(cured):
        return 0.0 if not math.isfinite(sick) else -math.inf
    if not math.isfinite(sick):
        return 1.0
    return 1 - cured / sick
