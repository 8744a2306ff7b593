"""Classification: the cross-entropy and the accuracy of each example."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from gradiometer.measurement.batch import Batch
from gradiometer.measurement.loss import supervised
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem

cross_entropy = supervised(nn.CrossEntropyLoss(reduction="none"))
"""−log p(label | image) of every example of an (images, labels) batch, in nats, shape
[examples]."""

Labelled = tuple[Float[Tensor, "examples 1 height width"], Int[Tensor, " examples"]]
HeldOut = tuple[Float[Tensor, "tested 1 height width"], Int[Tensor, " tested"]]


def label_found(model: nn.Module, batch: Batch) -> Bool[Tensor, " examples"]:
    """True if the largest logit is that of the label."""
    images, labels = batch
    found: Tensor = model(images).argmax(dim=1) == labels
    return found


def classification(
    name: str,
    model_name: str,
    model: Callable[[], nn.Module],
    *,
    train: Labelled,
    test: HeldOut,
    description: str,
) -> Problem:
    """An image classification problem.

    Args:
        name: Name of the problem.
        model_name: Name of the model.
        model: Makes a model from images [examples, 1, height, width] to logits [examples, classes].
        train: Images with pixels in [0, 1], and labels from 0.
        test: The same, never trained on.
        description: The data in one line.
    """
    return Problem(
        name=name,
        model=model,
        loss=cross_entropy,
        train=Examples(train, "train"),
        test=Examples(test, "test"),
        correct=label_found,
        model_name=model_name,
        description=description,
    )


def grey_values(
    pixels: Integer[Tensor, "examples height width"], white: int
) -> Float[Tensor, "examples 1 height width"]:
    """Integer pixels from 0 to `white` as one channel of numbers in [0, 1]."""
    return pixels.to(torch.float32).div_(white).unsqueeze(1)
