"""Losses that a person has measured, as an evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.artifact import Evaluation, PerExample
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.skewed import skewed_mean

LossesGiven = float | Tensor | Sequence[Any]
"""A mean loss, or the losses of single examples."""


def evaluation(**losses: LossesGiven | None) -> Evaluation:
    """An evaluation, from the losses on the test and the training examples.

    Raises:
        BadArgument: None is given, or one is not a number, a tensor or a list of numbers.
    """
    estimates, examples = {}, {}
    for name, value in losses.items():
        if value is not None:
            given = losses_given(name, value)
            estimates[f"{name}_loss"] = mean_loss(given)
            if name == "test" and given.size > 1:
                examples[f"{name}_loss"] = given
    if not estimates:
        raise BadArgument(
            "`test` and `train` are missing: give the loss on held-out examples as test=..."
        )
    return Evaluation(estimates, examples)


def losses_given(name: str, value: Any) -> PerExample:
    """What was given for an evaluation, as an array.

    Raises:
        BadArgument: It is not a number, a tensor or a list of numbers.
    """
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu().double().numpy()
        losses = np.asarray(value, dtype=np.float64).reshape(-1)
    # NotImplementedError is of a meta tensor, OverflowError of a whole number of 400 digits
    except (TypeError, ValueError, NotImplementedError, OverflowError) as error:
        raise BadArgument(
            f"`{name}` must be a loss or the losses of single examples, got a "
            f"{type(value).__name__}: give a number, a tensor or a list of numbers."
        ) from error
    if not losses.size:
        raise BadArgument(f"`{name}` holds no loss: give a number, or the loss of every example.")
    return losses


def mean_loss(losses: PerExample) -> Estimate:
    """The mean, with an interval if these are the losses of single examples."""
    if not np.isfinite(losses).all():
        return Estimate.unknown(level=LEVEL, method="a loss is not finite", samples=losses.size)
    return Estimate.exact(float(losses[0])) if losses.size == 1 else skewed_mean(losses)
