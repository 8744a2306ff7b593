"""The snapshots of a run as an ensemble, scored on held-out data against what else the run and other runs give."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from gradiometer.convergence.averaging import tracked
from gradiometer.errors import BadInput
from gradiometer.exploration.barrier import Segment, segment
from gradiometer.exploration.calibration import BINS, FEWEST_IN_BIN, ReliabilityBin, reliability
from gradiometer.exploration.diversity import correlations, disagreement
from gradiometer.exploration.ensemble import Ensemble
from gradiometer.exploration.equivalent import deep_ensemble_equivalent
from gradiometer.exploration.growth import Size, chosen_count, growing, validation_mask
from gradiometer.exploration.scores import Labels, LogProbabilities, Predictions, differences, scores
from gradiometer.exploration.weight_moments import WeightMoments
from gradiometer.measurement.reading import Estimate
from gradiometer.problems.predictions import held_out_labels, log_probabilities
from gradiometer.problems.problem import Problem
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.folder import RunFolder
from gradiometer.run.reader import Run
from gradiometer.run.snapshots import load_snapshots
from gradiometer.train.loop import problem_of
from gradiometer.train.snapshots import refresh

FEWEST_HELD_OUT = 2 * FEWEST_IN_BIN * BINS
"""Test examples needed: enough of them in every bin of the calibration error."""


@dataclass(frozen=True)
class Rival:
    """Another predictor: its scores, and the ensemble's less its, paired."""

    name: str
    scores: dict[str, Estimate]
    difference: dict[str, Estimate]


@dataclass(frozen=True)
class EnsembleStudy:
    """What the snapshots of a run are worth together.

    Args:
        run: Its folder.
        count: m, how many of the last snapshots validation data call for.
        sizes: The last 1, 2, … snapshots averaged, each scored.
        rivals: The last snapshot, the average of the weights, and the other runs.
        disagreement: Of the members, over their error.
        correlations: Of the members' probabilities, by pair of snapshot numbers.
        segments: From each earlier member to the last one.
        reliability: The ensemble's, uncalibrated.
        equivalent: How many independent runs it is worth; None where fewer than two were given.
        validation: How many examples chose m and the temperature; the others are scored.
        ensemble: The members as one module, with the temperature.
        problem: What they were trained on.
    """

    run: Path
    count: int
    sizes: list[Size]
    rivals: list[Rival]
    disagreement: Estimate
    correlations: dict[tuple[int, int], Estimate]
    segments: dict[int, Segment]
    reliability: list[ReliabilityBin]
    equivalent: Estimate | None
    validation: int
    ensemble: Ensemble
    problem: Problem

    @property
    def chosen(self) -> Size:
        """The ensemble that validation data call for."""
        return self.sizes[self.count - 1]

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "run": str(self.run),
            "snapshots": len(self.sizes),
            "chosen": self.count,
            "temperature": self.chosen.predictions.temperature,
            "scored": len(self.chosen.predictions.labels),
            "validation": self.validation,
            "scores": _dicts(self.chosen.scores),
            "growing": [
                {"members": size.count, "scores": _dicts(size.scores), "added": _dicts(size.added)}
                for size in self.sizes
            ],
            "against": [
                {"name": rival.name, "scores": _dicts(rival.scores), "difference": _dicts(rival.difference)}
                for rival in self.rivals
            ],
            "disagreement_over_error": self.disagreement.to_dict(),
            "correlations": [
                {"snapshots": pair, "correlation": found.to_dict()} for pair, found in self.correlations.items()
            ],
            "barriers": [
                {
                    "snapshot": number,
                    "barrier": found.barrier.to_dict(),
                    "shares": found.shares,
                    "errors": [error.to_dict() for error in found.errors],
                }
                for number, found in self.segments.items()
            ],
            "reliability": [
                {"confidence": part.confidence, "accuracy": part.accuracy.to_dict(), "examples": part.examples}
                for part in self.reliability
            ],
            "deep_ensemble_equivalent": None if self.equivalent is None else self.equivalent.to_dict(),
        }


def study(path: Path, against: Sequence[Path] = (), *, points: int = 9, level: float = 0.9) -> EnsembleStudy:
    """Score the snapshots of a run on its problem's test examples.

    A quarter of them, drawn by their number only, choose m and the temperatures; the rest are scored.

    Args:
        path: The run.
        against: Other runs on the same data: their final models.
        points: Places looked at on the way from each member to the last; 0: none.
        level: Confidence level of every interval.

    Raises:
        BadInput: There are fewer than two snapshots, one is torn or of another architecture, the problem is no
            classification with enough test examples, or another run is of other data.
    """
    run = Run.open(path)
    problem = problem_of(run)
    labels = _labels(problem)
    device, validation = torch.device(run.configuration.device), validation_mask(len(labels))
    torch.manual_seed(run.configuration.seed)
    whole = Ensemble.of_snapshots(load_snapshots(run.folder.snapshots_path), problem.model().to(device))
    predict = partial(log_probabilities, device=device)
    members = [predict(problem, member) for member in whole.members]
    others = {str(other): _final(other, run, device) for other in against}
    count = chosen_count([member[validation] for member in members], labels[validation])
    sizes = growing(members, labels, validation, level)
    chosen = sizes[count - 1].predictions
    refreshed = partial(refresh, problem, problem.train.to(device), size=run.configuration.batch_size)
    mean = predict(problem, _mean(whole, count, refreshed))
    rivals = {"the last snapshot": members[-1], "SWA of the same snapshots": mean} | others
    runs = list(others.values())
    return EnsembleStudy(
        path,
        count,
        sizes,
        [_rival(name, chosen, found, labels, validation, level) for name, found in rivals.items()],
        disagreement([member[~validation] for member in members], labels[~validation], level=level),
        {
            (one + 1, other + 1): found
            for (one, other), found in correlations([member[~validation] for member in members], level=level).items()
        },
        _segments(whole, problem, device, refreshed, points, level),
        reliability(chosen.log_probabilities, chosen.labels, level=level),
        deep_ensemble_equivalent(chosen, runs, labels, validation, level=level) if len(runs) >= 2 else None,
        int(validation.sum()),
        whole.last(count, chosen.temperature),
        problem,
    )


def example_inputs(study: EnsembleStudy) -> torch.Tensor:
    """A few inputs of the test examples, to export the ensemble by.

    Raises:
        BadInput: They are not one tensor.
    """
    inputs: Any = study.problem.train.batch(torch.arange(3))[0]
    if not isinstance(inputs, torch.Tensor):
        raise BadInput(
            f"`export` needs inputs that are one tensor, {study.problem.name} has a {type(inputs).__name__}."
        )
    return inputs.to(study.ensemble.weights.device)


def _labels(problem: Problem) -> Labels:
    labels = held_out_labels(problem)
    if not len(labels) >= FEWEST_HELD_OUT:
        raise BadInput(
            f"`problem` {problem.name} has {len(labels)} test examples, at least {FEWEST_HELD_OUT} are needed to score "
            "an ensemble: hold out more."
        )
    return labels


def _final(path: Path, run: Run, device: torch.device) -> LogProbabilities:
    """What the model another run ended with says of the same test examples."""
    other = Run.open(path)
    if other.manifest["problem"]["fingerprint"] != run.manifest["problem"]["fingerprint"]:
        raise BadInput(f"`--against` {path} was trained on other data than {run.path}: its test examples are others.")
    problem, model = final_model(other)
    return log_probabilities(problem, model.to(device), device)


def final_model(run: Run) -> tuple[Problem, nn.Module]:
    """The problem of a run, and the model of its last whole checkpoint."""
    problem = problem_of(run)
    checkpoint, _ = load_latest(RunFolder.open(run.path))
    if checkpoint is None or run.status != "finished":
        raise BadInput(f"`{run.path}` is {run.status}: only a run that has finished has a final model.")
    torch.manual_seed(run.configuration.seed)
    model = problem.model()
    prefix = "model."
    model.load_state_dict(
        {name.removeprefix(prefix): value for name, value in checkpoint.tensors.items() if name.startswith(prefix)}
    )
    return problem, model


def _mean(ensemble: Ensemble, count: int, refreshed: "partial[None]") -> nn.Module:
    """The average of the weights of the last members, with BatchNorm's statistics of its own."""
    moments = WeightMoments(ensemble.members[-1])
    for member in list(ensemble.members)[-count:]:
        moments.update(member)
    average = moments.average.module
    if tracked(average):
        refreshed(average)
    made: nn.Module = average
    return made


def _rival(
    name: str,
    chosen: Predictions,
    found: LogProbabilities,
    labels: Labels,
    validation: Bool[np.ndarray, " examples"],
    level: float,
) -> Rival:
    predictions = Predictions.split(found, labels, validation)
    return Rival(name, scores(predictions, level), differences(chosen, predictions, level))


def _segments(
    ensemble: Ensemble,
    problem: Problem,
    device: torch.device,
    refreshed: "partial[None]",
    points: int,
    level: float,
) -> dict[int, Segment]:
    """From each earlier member to the last, on all test examples: nothing was chosen by them."""
    if points == 0:
        return {}
    labels = held_out_labels(problem)

    def wrong(model: nn.Module) -> Bool[np.ndarray, " examples"]:
        found: np.ndarray = log_probabilities(problem, model, device).argmax(axis=1) != labels
        return found

    *earlier, last = ensemble.members
    return {
        number: segment(member, last, wrong, points=points, refresh=refreshed if tracked(last) else None, level=level)
        for number, member in enumerate(earlier, start=1)
    }


def _dicts(estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_dict() for name, estimate in estimates.items()}
