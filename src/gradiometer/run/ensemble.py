"""Evaluate the snapshots of a run as an ensemble on held-out data, against the last one, SWA and
other runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from gradiometer.convergence.averaging import tracking_layers
from gradiometer.errors import BadArgument, RunDamaged, Unsupported
from gradiometer.exploration.ensembles.ensemble import SWAG, Ensemble
from gradiometer.exploration.ensembles.ensemble_report import Baseline, EnsembleReport
from gradiometer.exploration.ensembles.members import (
    chosen_count,
    correlations,
    deep_ensemble_equivalent,
    disagreement,
    ensemble_sizes,
    linear_path,
    validation_mask,
)
from gradiometer.exploration.ensembles.scores import (
    BINS,
    LogProbabilities,
    Predictions,
    averaged,
    differences,
    reliability,
    scores,
)
from gradiometer.measurement.estimate import LEVEL
from gradiometer.problems.evaluation import held_out_labels, log_probabilities
from gradiometer.problems.problem import Problem, new_model, refresh
from gradiometer.randomness import untouched_randomness
from gradiometer.run.artifacts import load_snapshots
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.problem import problem_of
from gradiometer.run.reader import Run

# Test examples needed, so that every bin of the calibration error has enough.
FEWEST_HELD_OUT = 2 * 3 * BINS


@dataclass(frozen=True)
class EnsembleEvaluation:
    """The ensemble of a run's snapshots, evaluated.

    Args:
        run: The run.
        report: Scores, comparisons and diversity.
        ensemble: The last m snapshots as one module, with the temperature.
        problem: The problem that they were trained on.
    """

    run: Run
    report: EnsembleReport
    ensemble: Ensemble
    problem: Problem


def evaluate_ensemble(
    path: Path, against: Sequence[Path] = (), *, points: int = 9
) -> EnsembleEvaluation:
    """Score the snapshots of a run on its problem's test examples.

    A quarter of the test examples, chosen by their number only, selects m and the temperatures; the
    rest is scored.

    Args:
        path: The run.
        against: Other finished runs on the same data, whose final models are compared.
        points: Number of points on the line from each member to the last; 0 skips the paths.

    Raises:
        BadArgument: There are fewer than two snapshots, or another run is not finished or was
            trained on other data.
        Unsupported: The problem is not a classification with enough test examples.
        RunDamaged: A snapshot or a checkpoint cannot be read.
    """
    run = Run.open(path)
    return score_snapshots(run, problem_of(run, "ensemble"), against, points=points)


def score_snapshots(
    run: Run,
    problem: Problem,
    against: Sequence[Path] = (),
    *,
    points: int = 9,
    level: float = LEVEL,
) -> EnsembleEvaluation:
    """Score the snapshots of a run on the test examples of a problem. Arguments as in
    `evaluate_ensemble`."""
    labels = held_out_labels(problem)
    if len(labels) < FEWEST_HELD_OUT:
        raise Unsupported(
            f"An ensemble is scored on at least {FEWEST_HELD_OUT} test examples, and problem "
            f"{problem.name} has {len(labels)}: hold out more."
        )
    device, validation = torch.device(run.configuration.device), validation_mask(len(labels))
    whole = Ensemble.of_snapshots(
        load_snapshots(run.snapshots_path), _new_model(run, problem).to(device)
    )
    refreshed = partial(
        refresh, problem, problem.train.to(device), size=run.configuration.batch_size
    )
    predict, split = (
        partial(log_probabilities, device=device),
        partial(Predictions.split, validation=validation),
    )
    members = [predict(problem, member) for member in whole.members]
    runs = {str(other): predict(*_final(other, run, device)) for other in against}
    count = chosen_count([member[validation] for member in members], labels[validation])
    chosen = split(averaged(members[-count:]), labels)
    mean = predict(problem, _mean(list(whole.members)[-count:], refreshed))
    baselines = {"the last snapshot": members[-1], "SWA of the same snapshots": mean} | runs
    scored = [member[~validation] for member in members]

    def baseline(name: str, found: LogProbabilities) -> Baseline:
        predictions = split(found, labels)
        return Baseline(name, scores(predictions, level), differences(chosen, predictions, level))

    def wrong(model: nn.Module) -> Bool[np.ndarray, " examples"]:
        mistakes: np.ndarray = predict(problem, model).argmax(axis=1) != labels
        return mistakes

    *earlier, last = whole.members
    line = partial(
        linear_path,
        refresh=refreshed if tracking_layers(last) else None,
        points=points,
        level=level,
    )
    report = EnsembleReport(
        snapshots=len(members),
        chosen=count,
        temperature=chosen.temperature,
        scored=int((~validation).sum()),
        validation=int(validation.sum()),
        sizes=tuple(ensemble_sizes(members, labels, validation, level)),
        baselines=tuple(baseline(name, found) for name, found in baselines.items()),
        disagreement_over_error=disagreement(scored, labels[~validation], level=level),
        correlations=correlations(scored, level=level),
        paths=tuple(line(member, last, wrong) for member in earlier) if points else (),
        reliability=tuple(reliability(chosen.log_probabilities, chosen.labels, level=level)),
        deep_ensemble_equivalent=(
            deep_ensemble_equivalent(chosen, list(runs.values()), labels, validation, level=level)
            if len(runs) >= 2
            else None
        ),
    )
    return EnsembleEvaluation(run, report, whole.last(count, chosen.temperature), problem)


def example_inputs(problem: Problem, ensemble: Ensemble) -> torch.Tensor:
    """The inputs of three training examples, for the export of the ensemble.

    Raises:
        Unsupported: The inputs are not one tensor.
    """
    inputs: Any = problem.train.batch(torch.arange(3))[0]
    if not isinstance(inputs, torch.Tensor):
        raise Unsupported(
            f"Export needs inputs that are one tensor, and {problem.name} has a "
            f"{type(inputs).__name__}."
        )
    return inputs.to(ensemble.weights.device)


def _final(path: Path, run: Run, device: torch.device) -> tuple[Problem, nn.Module]:
    """The problem and the final model of another run on the same data."""
    other = Run.open(path)
    theirs, ours = (each.manifest.get("problem", {}).get("fingerprint") for each in (other, run))
    if theirs != ours:
        raise BadArgument(
            f"`--against` {path} must be trained on the data of {run.path}: its test examples "
            "differ."
        )
    if other.status != "finished":
        raise BadArgument(
            f"`--against` {path} must be finished to have a final model: it is {other.status}."
        )
    checkpoint, _ = load_latest(other)
    if checkpoint is None:
        raise RunDamaged(
            f"`{path}` has no complete checkpoint, so its final model is lost: train it again."
        )
    problem = problem_of(other, "ensemble")
    model, prefix = _new_model(other, problem), "model."
    model.load_state_dict(
        {
            name.removeprefix(prefix): value
            for name, value in checkpoint.tensors.items()
            if name.startswith(prefix)
        }
    )
    return problem, model.to(device)


def _new_model(run: Run, problem: Problem) -> nn.Module:
    """A model of the run's architecture."""
    with untouched_randomness(run.configuration.seed, []):
        return new_model(problem)


def _mean(members: Sequence[nn.Module], refreshed: "partial[None]") -> nn.Module:
    """The average of the weights, with its own BatchNorm statistics."""
    swag = SWAG(members[-1])
    for member in members:
        swag.update(member)
    average: nn.Module = swag.average.module
    if tracking_layers(average):
        refreshed(average)
    return average
