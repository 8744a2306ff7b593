"""A problem: a model, a loss and examples, with all that is needed to train on it and to name it later."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import loss as criteria

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.loss import Loss
from gradiometer.problems.examples import Examples

Correct = Callable[[nn.Module, Batch], Tensor]
"""Which predictions of a batch are right: one truth value per example, shape [examples]."""

FINGERPRINT_DIGITS = 16


@dataclass(frozen=True)
class Problem:
    """What is trained: a way to make the model, its loss, and the examples.

    Your own is a function in a file of yours, named on the command line as `module:function`:

        # mine.py                                  gradiometer train mine:problem
        from torch import nn
        from gradiometer import supervised
        from gradiometer.problems import Examples, Problem

        def problem() -> Problem:
            images, labels = ...                   # tensors, [examples, 784] and [examples]
            return Problem(
                name="mine",
                model=lambda: nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)),
                loss=supervised(nn.CrossEntropyLoss(reduction="none")),
                train=Examples((images, labels)),
            )

    or, shorter, one that returns `(model, loss, train)` or `(model, loss, train, test)`.

    Args:
        name: What the problem is called.
        model: Makes a new model each time. Its random numbers are torch's global ones: whoever calls it sets the
            seed before, with `torch.manual_seed`.
        loss: Called as `loss(model, batch)`; returns one value per example, shape [examples], or their mean,
            shape [], which tells less.
        train: The training examples.
        test: Examples that are never trained on.
        correct: Called as `correct(model, batch)`; returns for each example whether it is right, for the accuracy.
        model_name: What the model is called.
        description: The problem in one line.

    Raises:
        BadArgument: A part is not of its kind, or the loss is a criterion that knows no model.
    """

    name: str
    model: Callable[[], nn.Module]
    loss: Loss
    train: Examples
    test: Examples | None = None
    correct: Correct | None = None
    model_name: str = "model"
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise BadArgument("`name` must not be empty: the run folder is called by it.")
        _check_model(self.model)
        _check_loss(self.loss)
        _check_examples("train", self.train)
        if self.test is not None:
            _check_examples("test", self.test)
        if self.correct is not None and not callable(self.correct):
            raise BadArgument(f"`correct` must be a function of (model, batch), got {type(self.correct).__name__}.")

    @cached_property
    def fingerprint(self) -> str:
        """The first digits of the SHA-256 of the training and test data: two runs on the same data share it."""
        parts = [self.train.fingerprint(), self.test.fingerprint() if self.test is not None else "no test data"]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def _check_model(model: Any) -> None:
    if isinstance(model, nn.Module):
        raise BadArgument(
            f"`model` is a {type(model).__name__} that is made already, a function that makes one was expected: "
            "write model=lambda: ..., so that each run starts from its own seed."
        )
    if not callable(model):
        raise BadArgument(f"`model` must be a function that makes the model, got {type(model).__name__}.")


def _check_loss(loss: Any) -> None:
    if isinstance(loss, criteria._Loss):
        raise BadArgument(
            f"`loss` is {type(loss).__name__}, a criterion on (prediction, target), a function of (model, batch) was "
            f"expected: write supervised(nn.{type(loss).__name__}(reduction='none'))."
        )
    if not callable(loss):
        raise BadArgument(f"`loss` must be a function of (model, batch), got {type(loss).__name__}.")


def _check_examples(name: str, examples: Any) -> None:
    if not isinstance(examples, Examples):
        raise BadArgument(f"`{name}` must be Examples, got {type(examples).__name__}: write {name}=Examples(...).")
