"""The predictors of the snapshot study, from the runs that are there, and their scores
over seeds."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import stdtrit
from snapshot_runs import HOT, MEMBERS, SEEDS, Job, Labelled, Regime, small_cnn
from torch import nn

from gradiometer import Estimate
from gradiometer.exploration.ensembles import (
    LogProbabilities,
    Predictions,
    averaged,
    disagreement,
    validation_mask,
)
from gradiometer.exploration.ensembles.ensemble_report import EnsembleSize, LinearPath
from gradiometer.exploration.ensembles.members import (
    chosen_count,
    correlations,
    deep_ensemble_equivalent,
    ensemble_sizes,
    linear_path,
)
from gradiometer.exploration.ensembles.scores import calibration_error
from gradiometer.measurement.uncertainty import mean
from gradiometer.run.artifacts import load_snapshots

LEVEL = 0.9
BASELINE = "single, cosine"
SNAPSHOT, HOT_SNAPSHOT, NO_CYCLE = (
    "snapshots, η₀ = 0.1",
    f"snapshots, η₀ = {HOT:g}",
    "no-cycle ensemble",
)
MODELS: Mapping[str, tuple[str, ...]] = {
    SNAPSHOT: ("snapshot",),
    HOT_SNAPSHOT: ("snapshot",),
    NO_CYCLE: ("step",),
}
AT_ONCE = 2000


@dataclass(frozen=True)
class Line:
    """One method on one regime, over the seeds.

    Args:
        method: What was done.
        cost: In full runs.
        scores: The mean over seeds of each score.
        spread: The smallest and the largest over seeds.
        difference: Less the single cosine run of the same seed, paired: the interval is over test
            examples.
        over_seeds: The same difference with Student's interval over seeds, which other seeds would
            be in.
    """

    method: str
    cost: float
    scores: Mapping[str, float]
    spread: Mapping[str, tuple[float, float]]
    difference: Mapping[str, Estimate]
    over_seeds: Mapping[str, Estimate]


class Study:
    """One regime: the models on disk, what they say of the test images, and what follows from that.

    Args:
        regime: Which.
        out: The folder of the runs.
        test: The test images.
    """

    def __init__(self, regime: Regime, out: Path, test: Labelled) -> None:
        self.regime, self.out, self.test = regime, out, test
        self.labels = test[1].numpy()
        self.validation = validation_mask(len(self.labels))
        self._said: dict[Path, list[LogProbabilities]] = {}
        self._paths: dict[tuple[str, int, float], list[LinearPath]] = {}

    def done(self, method: str, seed: int, learning_rate: float = 0.1, part: int = 0) -> bool:
        """Whether this run has ended."""
        return self._json(Job(self.regime, method, learning_rate, seed, part)).exists()

    @cached_property
    def seeds(self) -> list[int]:
        """Those of which every method that is compared on equal terms is there."""
        return [
            seed
            for seed in SEEDS
            if all(self.done(method, seed) for method in ("cosine", "step", "snapshot"))
            and all(self.done("short", seed, part=part) for part in range(MEMBERS))
        ]

    @cached_property
    def hot_seeds(self) -> list[int]:
        """Those of which the hot cycles are there, too."""
        return [seed for seed in self.seeds if self.done("snapshot", seed, HOT)]

    def curve(
        self, method: str, seed: int, learning_rate: float = 0.1
    ) -> list[tuple[int, float, float]]:
        """Epoch, training loss and test error."""
        record = json.loads(self._json(Job(self.regime, method, learning_rate, seed)).read_bytes())
        return [tuple(row) for row in record["curve"]]

    def said(
        self, method: str, seed: int, learning_rate: float = 0.1, part: int = 0
    ) -> list[LogProbabilities]:
        """What each model a run kept says of the test images, the newest last."""
        return self._of(self.out / Job(self.regime, method, learning_rate, seed, part).name)

    def models(self, method: str, seed: int, learning_rate: float = 0.1) -> list[nn.Module]:
        """The models a run kept."""
        return _models(self.out / Job(self.regime, method, learning_rate, seed).name)

    def predictors(self, seed: int) -> dict[str, tuple[float, LogProbabilities]]:
        """Every method: its cost in full runs, and what it says of the test images."""
        step, snapshots = self.said("step", seed), self.said("snapshot", seed)
        short = [self.said("short", seed, part=part)[-1] for part in range(MEMBERS)]
        full = [self.said("cosine", other)[-1] for other in self.seeds]
        average = self._of(self.out / Job(self.regime, "step", 0.1, seed).name / "average")[-1]
        found = {
            BASELINE: (1.0, self.said("cosine", seed)[-1]),
            "single, step": (1.0, step[-1]),
            "SWA of the step run": (1.0, average),
            NO_CYCLE: (1.0, averaged(step)),
            "  the last m, chosen, no cycle": (1.0, self._chosen(step)),
            "last snapshot, η₀ = 0.1": (1.0, snapshots[-1]),
            SNAPSHOT: (1.0, averaged(snapshots)),
            "  the last m, chosen": (1.0, self._chosen(snapshots)),
            "five short independent": (1.0, averaged(short)),
        }
        if self.hot_seeds == self.seeds:
            hot = self.said("snapshot", seed, HOT)
            found[f"last snapshot, η₀ = {HOT:g}"] = (1.0, hot[-1])
            found[HOT_SNAPSHOT] = (1.0, averaged(hot))
            found["  the last m, chosen, hot"] = (1.0, self._chosen(hot))
        if len(full) >= 2:
            found[f"{len(full)} full independent"] = (float(len(full)), averaged(full))
        return found

    def lines(self) -> list[Line]:
        """Every method over the seeds."""
        of_seed = [self.predictors(seed) for seed in self.seeds]
        split = [
            {name: self.split(said) for name, (_, said) in methods.items()} for methods in of_seed
        ]
        return [
            Line(name, cost, *_summary([(methods[name], methods[BASELINE]) for methods in split]))
            for name, (cost, _) in of_seed[0].items()
        ]

    def sizes(self, method: str, seed: int, learning_rate: float = 0.1) -> list[EnsembleSize]:
        """The last 1, 2, … models of a run averaged."""
        return ensemble_sizes(
            self.said(method, seed, learning_rate), self.labels, self.validation, LEVEL
        )

    def chosen(self, method: str, seed: int, learning_rate: float = 0.1) -> int:
        """m that validation images call for."""
        members = [part[self.validation] for part in self.said(method, seed, learning_rate)]
        return chosen_count(members, self.labels[self.validation])

    def disagreement(self, members: Sequence[LogProbabilities]) -> Estimate:
        """Of these members over their error."""
        return disagreement(
            [part[~self.validation] for part in members], self.labels[~self.validation], level=LEVEL
        )

    def correlations(self, members: Sequence[LogProbabilities]) -> dict[str, Estimate]:
        """Of their probabilities, by pair."""
        return correlations([part[~self.validation] for part in members], level=LEVEL)

    def equivalent(self, seed: int) -> Estimate | None:
        """How many full runs the snapshots of a seed are worth."""
        full = [self.said("cosine", other)[-1] for other in self.seeds]
        if len(full) < 2:
            return None
        predictions = self.split(averaged(self.said("snapshot", seed)))
        return deep_ensemble_equivalent(
            predictions, full, self.labels, self.validation, level=LEVEL
        )

    def paths(self, method: str, seed: int, learning_rate: float = 0.1) -> list[LinearPath]:
        """The error on the way from each earlier model of a run to its last; of cosine, from seed
        to seed."""
        key = method, seed, learning_rate
        if key not in self._paths:
            if method == "cosine":
                *earlier, last = [self.models("cosine", other)[-1] for other in self.seeds[:2]]
            else:
                *earlier, last = self.models(method, seed, learning_rate)
            self._paths[key] = [self._path(model, last) for model in earlier]
        return self._paths[key]

    def _path(self, first: nn.Module, last: nn.Module) -> LinearPath:
        return linear_path(
            first,
            last,
            lambda model: _said(model, self.test).argmax(axis=1) != self.labels,
            level=LEVEL,
        )

    def _chosen(self, members: Sequence[LogProbabilities]) -> LogProbabilities:
        count = chosen_count(
            [part[self.validation] for part in members], self.labels[self.validation]
        )
        return averaged(members[-count:])

    def split(self, said: LogProbabilities) -> Predictions:
        """With the temperature from the validation images."""
        return Predictions.split(said, self.labels, self.validation)

    def _json(self, job: Job) -> Path:
        return self.out / f"{job.name}.json"

    def _of(self, folder: Path) -> list[LogProbabilities]:
        if folder not in self._said:
            self._said[folder] = [_said(model, self.test) for model in _models(folder)]
        return self._said[folder]


def over_seeds(values: Sequence[float]) -> Estimate:
    """Their mean with Student's interval: three seeds tell little, and it says so."""
    count, value = len(values), float(np.mean(values))
    if count < 2:
        return Estimate.unknown(level=LEVEL, method="one seed", samples=count)
    margin = (
        float(stdtrit(count - 1, (1 + LEVEL) / 2))
        * float(np.std(values, ddof=1))
        / math.sqrt(count)
    )
    return Estimate.interval(
        value,
        value - margin,
        value + margin,
        level=LEVEL,
        method=f"Student, {count} seeds",
        samples=count,
    )


def _summary(
    pairs: Sequence[tuple[Predictions, Predictions]],
) -> tuple[
    dict[str, float], dict[str, tuple[float, float]], dict[str, Estimate], dict[str, Estimate]
]:
    """Scores, their range, and the differences from the baseline: over examples, and over seeds."""
    ours, theirs = [_losses(one) for one, _ in pairs], [_losses(other) for _, other in pairs]
    means = {name: [float(losses[name].mean()) for losses in ours] for name in ours[0]}
    gaps = {
        name: np.mean(
            [one[name] - other[name] for one, other in zip(ours, theirs, strict=True)], axis=0
        )
        for name in ours[0]
    }
    seeds = {
        name: over_seeds(
            [
                float((one[name] - other[name]).mean())
                for one, other in zip(ours, theirs, strict=True)
            ]
        )
        for name in ours[0]
    }
    means["calibration_error"] = [_calibration(one) for one, _ in pairs]
    seeds["calibration_error"] = over_seeds(
        [_calibration(one) - _calibration(other) for one, other in pairs]
    )
    return (
        {name: float(np.mean(values)) for name, values in means.items()},
        {name: (min(values), max(values)) for name, values in means.items()},
        {name: mean(gap, level=LEVEL, batches=len(gap)) for name, gap in gaps.items()},
        seeds,
    )


def _losses(predictions: Predictions) -> dict[str, Float[np.ndarray, " examples"]]:
    return {"error": (~predictions.correct).astype(float), **predictions.losses}


def _calibration(predictions: Predictions) -> float:
    return calibration_error(predictions.log_probabilities, predictions.labels, level=LEVEL).value


def _models(folder: Path) -> list[nn.Module]:
    models: list[nn.Module] = []
    for snapshot in load_snapshots(folder):
        model = small_cnn()
        snapshot.load_into(model)
        models.append(model.eval())
    return models


def _said(model: nn.Module, test: Labelled) -> LogProbabilities:
    with torch.no_grad():
        parts: Iterable[torch.Tensor] = [
            torch.log_softmax(model(images).double(), dim=1) for images in test[0].split(AT_ONCE)
        ]
        found: np.ndarray = torch.cat(list(parts)).numpy()
        return found
