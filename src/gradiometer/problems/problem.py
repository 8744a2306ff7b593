"""A problem: a model, a loss and examples; a new model of it, and the statistics of its
BatchNorm."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import loss as criteria
from torch.nn.parameter import is_lazy

from gradiometer.convergence.averaging import refresh_batch_norm
from gradiometer.errors import BadArgument, Unsupported, UserCodeFailed
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.objective import WITHOUT_PARAMETERS, Loss
from gradiometer.problems.examples import Examples
from gradiometer.problems.user_code import user_code

# Returns one truth value per example, shape [examples]: True if the prediction is right.
Correct = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Problem:
    """A function that makes the model, its loss, and the examples.

    For a problem of your own, write a function in a file and give it to the command line as
    `module:function`:

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

    A shorter function returns `(model, loss, train)` or `(model, loss, train, test)`.

    Args:
        name: Name of the problem.
        model: Makes a new model at every call, with torch's global random numbers: the caller sets
            the seed before, with `torch.manual_seed`.
        loss: Called as `loss(model, batch)`; returns one value per example, shape [examples], or
            their mean, shape [], from which fewer gauges can measure.
        train: The training examples.
        test: Examples that are never trained on.
        correct: Called as `correct(model, batch)`; returns True for each example that is right, for
            the accuracy.
        model_name: Name of the model.
        description: The problem in one line.

    Raises:
        BadArgument: A part has the wrong type, or the loss is a criterion on (prediction, target).

    Example:
        >>> import torch
        >>> from gradiometer import supervised
        >>> from gradiometer.problems import Examples, Problem
        >>> points = torch.arange(6.0).reshape(6, 1)
        >>> loss = supervised(nn.MSELoss(reduction="none"))
        >>> len(Problem("doubling", lambda: nn.Linear(1, 1), loss, Examples((points, 2 * points))).fingerprint)
        16
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
            raise BadArgument("`name` must not be empty: the run folder is named after it.")
        if isinstance(self.model, nn.Module):
            raise BadArgument(
                "`model` must be a function that makes the model, got a "
                f"{type(self.model).__name__}: write model=lambda: ..., so that each run starts "
                "from its own seed."
            )
        # The usual slip: a criterion of torch takes outputs and targets.
        if isinstance(self.loss, criteria._Loss):
            raise BadArgument(
                f"`loss` must be a function of (model, batch), got {type(self.loss).__name__}, a "
                "criterion on (prediction, target): write "
                f"supervised(nn.{type(self.loss).__name__}(reduction='none'))."
            )
        for name, does in (("model", "that makes the model"), ("loss", "of (model, batch)")):
            given = getattr(self, name)
            if not callable(given):
                raise BadArgument(
                    f"`{name}` must be a function {does}, got {type(given).__name__}."
                )
        for name in ("train", "test"):
            part = getattr(self, name)
            if not (isinstance(part, Examples) or (name != "train" and part is None)):
                raise BadArgument(
                    f"`{name}` must be Examples, got {type(part).__name__}: write "
                    f"{name}=Examples(...)."
                )
        if not (self.correct is None or callable(self.correct)):
            raise BadArgument(
                f"`correct` must be a function of (model, batch), got "
                f"{type(self.correct).__name__}."
            )

    @cached_property
    def fingerprint(self) -> str:
        """The first digits of the SHA-256 of the training and test data. Two runs on the same data
        share it."""
        parts = [
            self.train.fingerprint(),
            self.test.fingerprint() if self.test is not None else "no test data",
        ]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def new_model(problem: Problem) -> nn.Module:
    """A new model whose gradients can be read."""
    with user_code("model"):
        model: Any = problem.model()
    if not isinstance(model, nn.Module):
        raise UserCodeFailed(
            f"`model` made a {type(model).__name__}, a torch.nn.Module was expected."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise Unsupported(WITHOUT_PARAMETERS)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise Unsupported(
                f"`model` has {name} on the meta device, which holds no numbers: make it on the "
                "CPU."
            )
        if is_lazy(parameter):
            raise Unsupported(
                f"`model` has no shape yet for {name}: run it once on a batch before it is "
                "returned."
            )
        if parameter.is_complex():
            raise Unsupported(
                f"`model` has the complex parameter {name}: use two real parameters instead."
            )
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) is True:
            raise Unsupported(
                f"`model` makes sparse gradients in {name or 'itself'}: build it with sparse=False."
            )
    return model


def refresh(problem: Problem, data: Examples, model: nn.Module, *, size: int) -> None:
    """Re-estimate BatchNorm's statistics on all training data, in random batches of equal size."""
    with user_code("loss", "while BatchNorm's statistics were re-estimated"):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        # A smaller last batch would have noisier statistics.
        parts = (part for part in order.split(size) if len(part) == min(size, len(data)))
        refresh_batch_norm(model, map(data.batch, parts), problem.loss)
