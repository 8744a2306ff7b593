"""The curvature of the training loss at the present parameters of a watched loop."""

from typing import Any

from gradiometer.drift.curvature import survey_examples
from gradiometer.drift.curvature_survey import Survey
from gradiometer.integrations.watch.requests.request import Request


def sharpness(
    request: Request,
    train: Any,
    *,
    examples: int | None = None,
    top: int = 5,
    probes: int = 8,
    seed: int = 0,
) -> Survey | None:
    """Measure the curvature of the training loss at the present parameters.

    The model runs in its present mode.

    Args:
        train: The training examples: a tree of tensors, a map-style data set, or a DataLoader.
        examples: Size of a fixed random subsample of them; None for 1,024 or all.
        top: Number of largest eigenvalues.
        probes: Number of random vectors for trace and density.
        seed: Seed of the subsample and the random vectors.

    Raises:
        BadArgument: An argument is invalid, or there was no step yet.
        Unsupported: The model is sharded, or its loss has no second derivative.
    """
    with request.looking() as run:
        if run is None:
            return None
        data = request.on_device(train)
        found = survey_examples(
            request.objective, data, examples, step=request.steps, top=top, probes=probes, seed=seed
        )
        request.keep(run, found)
        return found
