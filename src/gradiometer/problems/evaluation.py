"""A model on held-out examples: its loss and accuracy, each with an interval, and its
predictions."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer.errors import BadArgument, Unsupported, UserCodeFailed
from gradiometer.measurement.artifact import Evaluation
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.objective import checked_loss
from gradiometer.measurement.uncertainty.proportions import proportion
from gradiometer.measurement.uncertainty.skewed import skewed_mean
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness

# The largest number of examples in a part.
AT_ONCE = 1024


def evaluate(
    problem: Problem, model: nn.Module, device: torch.device, level: float = LEVEL
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
    held_out = problem.test.to(device)
    parts: list[Tensor] = []
    right: list[Tensor] = []
    # 10: the smallest number of parts: a loss that is a mean has its interval over the parts.
    count = min(max(-(-len(held_out) // AT_ONCE), 10), len(held_out))
    indices = list(torch.arange(len(held_out)).tensor_split(count))
    with torch.no_grad(), untouched_randomness(0, [device]), in_eval_mode(model):
        while indices:
            batch = held_out.batch(indices.pop(0))
            with user_code("loss", "on held-out examples"):
                value = checked_loss(problem.loss(model, batch), batch)
            # A loss for every example needs no more parts than memory asks for.
            if value.dim() and indices and not parts:
                indices = list(torch.cat(indices).split(AT_ONCE))
            parts.append(value.reshape(-1).double())
            correct = correctness(problem, model, batch)
            if correct is not None:
                right.append(correct)
    losses = torch.cat(parts).cpu().numpy()
    wrong = int((~np.isfinite(losses)).sum())
    if wrong:
        # A loss that is not finite makes the mean unknown, and does not stop the training.
        loss = Estimate.unknown(
            level=level,
            method=f"{wrong:,} of {len(losses):,} losses are not finite",
            samples=len(losses),
        )
    else:
        loss = skewed_mean(losses, level=level)
    estimates = {"test_loss": loss}
    examples = {"test_loss": losses}
    if right:
        found = torch.cat(right).cpu().numpy()
        estimates["test_accuracy"] = proportion(int(found.sum()), len(found), level=level)
        examples["test_accuracy"] = found.astype(np.float64)
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


def held_out_labels(problem: Problem) -> Int[np.ndarray, " examples"]:
    """The classes of the test examples.

    Raises:
        BadArgument: There are no test examples.
        Unsupported: They are not the (inputs, labels) of a classification.
    """
    labels = [_parts(batch)[1] for batch in _test_examples(problem).batches(AT_ONCE)]
    return torch.cat(labels).cpu().numpy()


def log_probabilities(
    problem: Problem, model: nn.Module, device: torch.device
) -> Float[np.ndarray, "examples classes"]:
    """log p(class | x) of every test example, in eval mode and double precision. Random states are
    unchanged.

    Raises:
        BadArgument: There are no test examples.
        Unsupported: The problem is not a classification of (inputs, labels) by logits [examples,
            classes].
        UserCodeFailed: The model raised, or its logits are not finite.
    """
    examples = _test_examples(problem).to(device)
    parts: list[Tensor] = []
    with torch.no_grad(), untouched_randomness(0, [device]), in_eval_mode(model):
        for batch in examples.batches(AT_ONCE):
            inputs, labels = _parts(batch)
            with user_code("model", "on held-out examples"):
                logits = model(inputs)
            is_table = isinstance(logits, Tensor) and logits.dim() == 2
            if not (is_table and logits.shape[0] == len(labels)):
                got = type(logits).__name__
                if isinstance(logits, Tensor):
                    got = f"shape {list(logits.shape)}"
                raise Unsupported(
                    f"`model` returned {got}: logits of shape [{len(labels)}, classes] are needed."
                )
            # An index beyond the classes would end in an error of torch without a name.
            if not int(labels.max()) < logits.shape[1]:
                raise Unsupported(
                    f"`model` has {logits.shape[1]} classes, but there is a label "
                    f"{int(labels.max())}."
                )
            parts.append(torch.log_softmax(logits.double(), dim=1).cpu())
    found: np.ndarray = torch.cat(parts).numpy()
    if not np.isfinite(found).all():
        raise UserCodeFailed(
            "`model` returned logits that are not finite on held-out examples: it has diverged."
        )
    return found


def _test_examples(problem: Problem) -> Examples:
    if problem.test is None:
        raise BadArgument(
            f"`problem` {problem.name} has no test examples, on which predictions are scored."
        )
    return problem.test


def _parts(batch: Any) -> tuple[Any, Tensor]:
    """The inputs and the labels of a batch."""
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        raise Unsupported(
            f"`problem` has batches of type {type(batch).__name__}: pairs (inputs, labels) are "
            "needed."
        )
    inputs, labels = batch
    # A label is an integer; a truth value is not, as 1 − p would be the probability of False.
    whole = isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point()
    if not whole or labels.dtype == torch.bool:
        got = (
            f"{labels.dtype} of {list(labels.shape)}"
            if isinstance(labels, Tensor)
            else type(labels).__name__
        )
        raise Unsupported(
            f"`problem` has labels {got}: an integer class for every example is needed."
        )
    return inputs, labels.long()
