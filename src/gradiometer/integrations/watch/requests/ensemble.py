"""The average of the predictions of a watched loop's snapshots."""

import copy
from typing import Any

from gradiometer.convergence.averaging import tracking_layers
from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.ensemble_report import EnsembleReport
from gradiometer.integrations.watch.requests.request import Request
from gradiometer.integrations.watch.subject import examples_of
from gradiometer.measurement.estimate import LEVEL
from gradiometer.problems.problem import Problem
from gradiometer.run.ensemble import score_snapshots


def ensemble(
    request: Request, test: Any, *, train: Any = None, points: int = 9, level: float = LEVEL
) -> EnsembleReport | None:
    """Average the predictions of the run's snapshots and score the average on examples that
    were not trained on.

    A quarter of the examples selects the number of snapshots and the calibration; the others
    are scored.

    Args:
        test: Pairs (inputs, labels) of a classification, of which `model(inputs)` gives the
            logits: tensors, a map-style data set, or a DataLoader.
        train: The training examples, for a model with BatchNorm: the statistics of averaged
            weights are estimated on them.
        points: Number of points on the line from each snapshot to the last; 0 skips the error
            barriers.
        level: Confidence level of every interval.

    Raises:
        BadArgument: There are fewer than two snapshots, or `train` is missing.
        Unsupported: The examples are not those of a classification, or too few.
    """
    with request.looking() as run:
        if run is None:
            return None
        model = request.objective.model
        if train is None and tracking_layers(model):
            raise BadArgument(
                "`train` is missing, on which the statistics of BatchNorm are estimated."
            )
        held_out = examples_of(test, "test")
        examples = held_out if train is None else examples_of(train, "train")
        problem = Problem(
            run.name, lambda: copy.deepcopy(model), request.objective.loss, examples, held_out
        )
        report = score_snapshots(run, problem, points=points, level=level).report
        request.keep(run, report)
        return report
