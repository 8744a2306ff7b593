"""Loss and accuracy of a model on held-out examples, each with an interval."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.errors import UserCodeFailed
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.evaluation import Evaluation
from gradiometer.measurement.loss import checked_loss
from gradiometer.measurement.uncertainty.proportions import proportion
from gradiometer.measurement.uncertainty.skewed import skewed_mean
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness

AT_ONCE = 1024
"""The largest number of examples in a part."""


def evaluate(
    problem: Problem, model: nn.Module, device: torch.device, level: float = 0.9
) -> Evaluation:
    """The loss and the accuracy on the test set, in eval mode, with intervals over its examples,
    and both for every example.

    The model's mode and all random states are unchanged afterwards. If the loss is a mean, its
    interval is over parts of the test set. Without a test set the result is empty.

    >>> from gradiometer.problems import load
    >>> from gradiometer.problems.evaluation import evaluate
    >>> digits = load("digits")
    >>> sorted(evaluate(digits, digits.model(), torch.device("cpu")).estimates)
    ['test_accuracy', 'test_loss']
    """
    if problem.test is None:
        return Evaluation({}, {})
    with torch.no_grad(), untouched_randomness(0, [device]), in_eval_mode(model):
        losses, correct = _over(problem.test.to(device), problem, model)
    wrong = int((~np.isfinite(losses)).sum())
    if wrong:
        # A loss that is not finite makes the mean unknown, and does not stop the training.
        method = f"{wrong:,} of {len(losses):,} losses are not finite"
        loss = Estimate.unknown(level=level, method=method, samples=len(losses))
    else:
        loss = skewed_mean(losses, level=level)
    estimates = {"test_loss": loss}
    examples = {"test_loss": losses}
    if correct is not None:
        estimates["test_accuracy"] = proportion(int(correct.sum()), len(correct), level=level)
        examples["test_accuracy"] = correct.astype(np.float64)
    return Evaluation(estimates, examples)


def correctness(problem: Problem, model: nn.Module, batch: Batch) -> Tensor | None:
    """True for every example of a batch that is right, or None if the problem has no `correct`."""
    if problem.correct is None:
        return None
    with user_code("correct", "on held-out examples"):
        value: Any = problem.correct(model, batch)
    size = batch_size(batch)
    if not (
        isinstance(value, Tensor) and value.dtype == torch.bool and tuple(value.shape) == (size,)
    ):
        got = (
            f"{value.dtype} of shape {list(value.shape)}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise UserCodeFailed(
            f"`correct` returned {got}: return one torch.bool per example, of shape [{size}]."
        )
    return value


def _over(
    examples: Examples, problem: Problem, model: nn.Module
) -> tuple[np.ndarray, np.ndarray | None]:
    """The loss of every example, and if the problem has `correct`, its value for every example."""
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    # 10: the smallest number of parts: a loss that is a mean has its interval over the parts.
    parts = min(max(-(-len(examples) // AT_ONCE), 10), len(examples))
    for index in torch.arange(len(examples)).tensor_split(parts):
        batch = examples.batch(index)
        with user_code("loss", "on held-out examples"):
            losses.append(checked_loss(problem.loss(model, batch), batch).reshape(-1).double())
        right = correctness(problem, model, batch)
        if right is not None:
            correct.append(right)
    return torch.cat(losses).cpu().numpy(), torch.cat(correct).cpu().numpy() if correct else None
