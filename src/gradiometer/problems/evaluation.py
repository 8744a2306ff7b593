"""How good a model is on held-out examples: loss and accuracy, each with its interval."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.measurement.objective import checked_loss
from gradiometer.measurement.reading import Estimate
from gradiometer.measurement.uncertainty import mean, proportion
from gradiometer.measurement.untouched import untouched_randomness
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem

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
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), untouched_randomness(0, [device]):
            losses, correct = _over(problem.test.to(device), problem, model)
    finally:
        for module, training in modes:
            module.training = training
    estimates = {"test_loss": mean(losses, level=level, batches=len(losses))}
    if correct is not None:
        estimates["test_accuracy"] = proportion(int(correct.sum()), len(correct), level=level)
    return estimates


def _over(examples: Examples, problem: Problem, model: nn.Module) -> tuple[np.ndarray, np.ndarray | None]:
    """The loss of every example and, where the problem can say, whether it is right."""
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    parts = min(max(-(-len(examples) // AT_ONCE), PARTS), len(examples))
    for index in torch.arange(len(examples)).tensor_split(parts):
        batch = examples.batch(index)
        losses.append(checked_loss(problem.loss(model, batch), batch).reshape(-1).double())
        if problem.correct is not None:
            correct.append(problem.correct(model, batch))
    return torch.cat(losses).cpu().numpy(), torch.cat(correct).cpu().numpy() if correct else None
