"""Predictions of a classifier on held-out examples, as log probabilities of every class."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer.errors import BadArgument, Unsupported, UserCodeFailed
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.problems.evaluation import AT_ONCE
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness


def held_out_labels(problem: Problem) -> Int[np.ndarray, " examples"]:
    """The classes of the test examples.

    Raises:
        BadArgument: There are no test examples.
        Unsupported: They are not the (inputs, labels) of a classification.
    """
    labels = [_parts(batch)[1] for batch in _test_examples(problem).batches(AT_ONCE)]
    found: np.ndarray = torch.cat(labels).cpu().numpy()
    return found


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
            parts.append(torch.log_softmax(_logits(logits, labels).double(), dim=1).cpu())
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


def _logits(logits: Any, labels: Tensor) -> Tensor:
    if not (isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[0] == len(labels)):
        got = f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise Unsupported(
            f"`model` returned {got}: logits of shape [{len(labels)}, classes] are needed."
        )
    if not int(labels.max()) < logits.shape[1]:
        raise Unsupported(
            f"`model` has {logits.shape[1]} classes, but there is a label {int(labels.max())}."
        )
    return logits
