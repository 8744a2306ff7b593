"""How good a model is on held-out examples: loss and accuracy, each with its interval."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.loss import checked_loss
from gradiometer.measurement.uncertainty.proportions import proportion
from gradiometer.measurement.uncertainty.skewed import skewed_mean
from gradiometer.measurement.untouched import in_eval_mode, untouched_randomness
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.problems.user_code import user_code

AT_ONCE = 1024
"""Most examples in a part."""

PARTS = 10
"""Fewest parts: where the loss comes as a mean, its interval is over them."""


def evaluate(problem: Problem, model: nn.Module, device: torch.device, level: float = 0.9) -> Mapping[str, Estimate]:
    """The loss and the accuracy on the test set, in eval mode, with intervals over its examples.

    The model's mode and every random state are left as they were. Where the loss is given as a mean, its
    interval is over parts of the test set. Without a test set there is nothing to say, and the answer is empty.
    """
    if problem.test is None:
        return {}
    with torch.no_grad(), untouched_randomness(0, [device]), in_eval_mode(model):
        losses, correct = _over(problem.test.to(device), problem, model)
    estimates = {"test_loss": _mean_loss(losses, level)}
    if correct is not None:
        estimates["test_accuracy"] = proportion(int(correct.sum()), len(correct), level=level)
    return estimates


def _mean_loss(losses: Float[np.ndarray, " losses"], level: float) -> Estimate:
    """With an interval over the examples; one that is infinite or not a number ends no training, and is told."""
    if wrong := int((~np.isfinite(losses)).sum()):
        method = f"{wrong:,} of {len(losses):,} losses are not finite"
        return Estimate.unknown(level=level, method=method, samples=len(losses))
    return skewed_mean(losses, level=level)


def _truth_values(value: Any, batch: Batch) -> Tensor:
    size = batch_size(batch)
    if not (isinstance(value, Tensor) and value.dtype == torch.bool and tuple(value.shape) == (size,)):
        got = f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise BadArgument(
            f"`correct` returned {got}: one truth value per example was expected, torch.bool of [{size}]."
        )
    return value


def _over(examples: Examples, problem: Problem, model: nn.Module) -> tuple[np.ndarray, np.ndarray | None]:
    """The loss of every example and, where the problem can say, whether it is right."""
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    parts = min(max(-(-len(examples) // AT_ONCE), PARTS), len(examples))
    for index in torch.arange(len(examples)).tensor_split(parts):
        batch = examples.batch(index)
        with user_code("loss", "on held-out examples"):
            losses.append(checked_loss(problem.loss(model, batch), batch).reshape(-1).double())
        if problem.correct is not None:
            with user_code("correct", "on held-out examples"):
                correct.append(_truth_values(problem.correct(model, batch), batch))
    return torch.cat(losses).cpu().numpy(), torch.cat(correct).cpu().numpy() if correct else None
