"""Find the layer and the examples that made a loss infinite or NaN."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradiometer.integrations.watch.shield import reason_of
from gradiometer.loop.incident_cause import are_finite, layers_not_finite
from gradiometer.measurement.batch import Batch, batch_size, span
from gradiometer.measurement.objective import Objective

# Most examples that are listed.
FEW = 8


def culprit(
    objective: Objective, batch: Batch, *, seed: int = 0, has_loss: bool = True
) -> tuple[str, str]:
    """The place of the first number that is not finite, as text: a parameter, the batch, or the
    output of a layer. And its kind: "parameters", "inputs", "layers" or "unknown".

    Runs the batch once more, and its examples one by one, at the present parameters. Call it before
    the update.

    Args:
        objective: The model and its loss.
        batch: The batch whose loss is not finite.
        seed: Seed of the random numbers that the loss draws.
        has_loss: False if the model cannot be run again, because `watch` was given no loss.
    """
    for name, parameter in zip(objective.names, objective.parameters, strict=True):
        if not parameter.isfinite().all():
            text = f"the parameter {name} is not finite: an update before this step made it so"
            return text, "parameters"
    try:
        examples = _examples(batch, lambda one: not are_finite(one))
        if examples:
            return f"the batch itself is not finite, in {examples}", "inputs"
        if not has_loss:
            text = "parameters and inputs are finite; give `watch` a `loss` to find the layer"
            return text, "unknown"
        layer = _first_layer(objective, batch, seed)
        examples = _examples(batch, lambda one: not are_finite(_loss(objective, one, seed)))
    except Exception as error:
        text = f"the batch could not be run again to find the layer ({reason_of(error)})"
        return text, "unknown"
    where = f"first in {layer}" if layer else "in the loss, with every layer's output finite"
    whose = f"of {examples}" if examples else "and for no example of the batch alone"
    return f"{where}, {whose}", "layers"


def _first_layer(objective: Objective, batch: Batch, seed: int) -> str:
    """The innermost module, in the order of the forward, whose output is not finite; empty if there
    is none."""
    with layers_not_finite(objective.model) as found:
        _loss(objective, batch, seed)
    return next((f"{name or 'the model'} ({kind})" for name, kind in found), "")


def _loss(objective: Objective, batch: Batch, seed: int) -> Tensor:
    with torch.no_grad(), objective.untouched_randomness(seed):
        return objective.mean_loss(objective.parameters, batch)


def _examples(batch: Batch, bad: Callable[[Batch], bool]) -> str:
    """The bad examples of a batch, as text."""
    places = [place for place in range(batch_size(batch)) if bad(span(batch, place, place + 1))]
    if not places:
        return ""
    more = f" and {len(places) - FEW:,} more" if len(places) > FEW else ""
    return (
        f"example{'s' if len(places) > 1 else ''} {', '.join(map(str, places[:FEW]))}{more} of the "
        "batch"
    )
