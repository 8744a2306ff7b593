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
from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.barrier import segment
from gradiometer.exploration.ensembles.calibration import BINS, FEWEST_IN_BIN, reliability
from gradiometer.exploration.ensembles.deep_ensemble_equivalent import deep_ensemble_equivalent
from gradiometer.exploration.ensembles.diversity import correlations, disagreement
from gradiometer.exploration.ensembles.ensemble import Ensemble
from gradiometer.exploration.ensembles.ensemble_report import Confidence, EnsembleReport, Growth, Pair, Rival, Way
from gradiometer.exploration.ensembles.ensemble_size import chosen_count, growing, validation_mask
from gradiometer.exploration.ensembles.scores import Labels, LogProbabilities, Predictions, differences, scores
from gradiometer.exploration.ensembles.swag import WeightMoments
from gradiometer.measurement.untouched import untouched_randomness
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
class EnsembleStudy:
    """The snapshots of a run, put together.

    Args:
        run: It.
        worth: What they are worth together.
        ensemble: The last m of them as one module, with the temperature.
        problem: What they were trained on.
    """

    run: Run
    worth: EnsembleReport
    ensemble: Ensemble
    problem: Problem


def study(path: Path, against: Sequence[Path] = (), *, points: int = 9, level: float = 0.9) -> EnsembleStudy:
    """Score the snapshots of a run on its problem's test examples.

    A quarter of them, drawn by their number only, choose m and the temperatures; the rest are scored.

    Args:
        path: The run.
        against: Other runs on the same data: their final models.
        points: Places looked at on the way from each member to the last; 0: none.
        level: Confidence level of every interval.

    Raises:
        BadArgument: There are fewer than two snapshots, one is torn or of another architecture, the problem is no
            classification with enough test examples, or another run is of other data.
    """
    run = Run.open(path)
    problem = problem_of(run)
    labels = _labels(problem)
    device, validation = torch.device(run.configuration.device), validation_mask(len(labels))
    whole = Ensemble.of_snapshots(load_snapshots(run.folder.snapshots_path), _made(run, problem).to(device))
    predict = partial(log_probabilities, device=device)
    members = [predict(problem, member) for member in whole.members]
    others = {str(other): _final(other, run, device) for other in against}
    count = chosen_count([member[validation] for member in members], labels[validation])
    sizes = growing(members, labels, validation, level)
    chosen = sizes[count - 1].predictions
    refreshed = partial(refresh, problem, problem.train.to(device), size=run.configuration.batch_size)
    mean = predict(problem, _mean(whole, count, refreshed))
    rivals = {"the last snapshot": members[-1], "SWA of the same snapshots": mean} | others
    runs, scored = list(others.values()), [member[~validation] for member in members]
    worth = EnsembleReport(
        snapshots=len(members),
        chosen=count,
        temperature=chosen.temperature,
        scored=int((~validation).sum()),
        validation=int(validation.sum()),
        growing=tuple(Growth(size.count, size.scores, size.added) for size in sizes),
        against=tuple(_rival(name, chosen, found, labels, validation, level) for name, found in rivals.items()),
        disagreement_over_error=disagreement(scored, labels[~validation], level=level),
        correlations=_pairs(scored, level),
        barriers=_ways(whole, problem, device, refreshed, points, level),
        reliability=_reliability(chosen, level),
        deep_ensemble_equivalent=(
            deep_ensemble_equivalent(chosen, runs, labels, validation, level=level) if len(runs) >= 2 else None
        ),
    )
    return EnsembleStudy(run, worth, whole.last(count, chosen.temperature), problem)


def example_inputs(study: EnsembleStudy) -> torch.Tensor:
    """A few inputs of the test examples, to export the ensemble by.

    Raises:
        BadArgument: They are not one tensor.
    """
    inputs: Any = study.problem.train.batch(torch.arange(3))[0]
    if not isinstance(inputs, torch.Tensor):
        raise BadArgument(
            f"`export` needs inputs that are one tensor, {study.problem.name} has a {type(inputs).__name__}."
        )
    return inputs.to(study.ensemble.weights.device)


def _labels(problem: Problem) -> Labels:
    labels = held_out_labels(problem)
    if not len(labels) >= FEWEST_HELD_OUT:
        raise BadArgument(
            f"`problem` {problem.name} has {len(labels)} test examples, at least {FEWEST_HELD_OUT} are needed to score "
            "an ensemble: hold out more."
        )
    return labels


def _final(path: Path, run: Run, device: torch.device) -> LogProbabilities:
    """What the model another run ended with says of the same test examples."""
    other = Run.open(path)
    if other.manifest["problem"]["fingerprint"] != run.manifest["problem"]["fingerprint"]:
        raise BadArgument(
            f"`--against` {path} was trained on other data than {run.path}: its test examples are others."
        )
    problem, model = final_model(other)
    return log_probabilities(problem, model.to(device), device)


def final_model(run: Run) -> tuple[Problem, nn.Module]:
    """The problem of a run, and the model of its last whole checkpoint."""
    problem = problem_of(run)
    checkpoint, _ = load_latest(RunFolder.open(run.path))
    if checkpoint is None or run.status != "finished":
        raise BadArgument(f"`{run.path}` is {run.status}: only a run that has finished has a final model.")
    model = _made(run, problem)
    prefix = "model."
    model.load_state_dict(
        {name.removeprefix(prefix): value for name, value in checkpoint.tensors.items() if name.startswith(prefix)}
    )
    return problem, model


def _made(run: Run, problem: Problem) -> nn.Module:
    """A model of the run's architecture."""
    with untouched_randomness(run.configuration.seed, []):
        return problem.model()


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


def _pairs(members: Sequence[LogProbabilities], level: float) -> tuple[Pair, ...]:
    found = correlations(members, level=level)
    return tuple(Pair((one + 1, other + 1), estimate) for (one, other), estimate in found.items())


def _reliability(chosen: Predictions, level: float) -> tuple[Confidence, ...]:
    parts = reliability(chosen.log_probabilities, chosen.labels, level=level)
    return tuple(Confidence(part.confidence, part.accuracy, part.examples) for part in parts)


def _ways(
    ensemble: Ensemble,
    problem: Problem,
    device: torch.device,
    refreshed: "partial[None]",
    points: int,
    level: float,
) -> tuple[Way, ...]:
    """From each earlier member to the last, on all test examples: nothing was chosen by them."""
    if points == 0:
        return ()
    labels = held_out_labels(problem)

    def wrong(model: nn.Module) -> Bool[np.ndarray, " examples"]:
        found: np.ndarray = log_probabilities(problem, model, device).argmax(axis=1) != labels
        return found

    *earlier, last = ensemble.members
    refresh_at = refreshed if tracked(last) else None
    found = (segment(member, last, wrong, points=points, refresh=refresh_at, level=level) for member in earlier)
    return tuple(Way(number, way.barrier, way.shares, way.errors) for number, way in enumerate(found, start=1))
