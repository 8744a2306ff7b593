"""Classification of images: the cross-entropy and the accuracy of each example, and small networks.

The networks have no batch statistics and no dropout, so the loss is exact.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from gradiometer.measurement import Batch, supervised
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem


def _mlp(inputs: int, hidden: int) -> nn.Module:
    """One hidden layer with ReLU. Estimates by layer use the names of the layers."""
    layers = OrderedDict[str, nn.Module](flat=nn.Flatten(), hidden=nn.Linear(inputs, hidden))
    return nn.Sequential(layers | {"relu": nn.ReLU(), "head": nn.Linear(hidden, 10)})


def _cnn(side: int, channels: int, kernel: int, hidden: int | None = None) -> nn.Module:
    """Two convolutions that keep the size of an image, the second with twice the channels, each
    halved by pooling; then perhaps a hidden layer."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(1, channels, kernel, padding=kernel // 2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(channels, 2 * channels, kernel, padding=kernel // 2),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flat=nn.Flatten(),
    )
    width = 2 * channels * (side // 4) ** 2
    if hidden is not None:
        layers |= {"hidden": nn.Linear(width, hidden), "relu3": nn.ReLU()}
        width = hidden
    return nn.Sequential(layers | {"head": nn.Linear(width, 10)})


# 64-64-10 with ReLU: 4,810 parameters.
digits_mlp = partial(_mlp, 64, 64)

# Convolutions of 3 × 3 with 8 and 16 channels: 1,898 parameters.
digits_cnn = partial(_cnn, 8, channels=8, kernel=3)

# 784-128-10 with ReLU: 101,770 parameters.
fashion_mnist_mlp = partial(_mlp, 28 * 28, 128)

# Convolutions of 5 × 5 with 16 and 32 channels, then 1568-24-10: 51,154 parameters.
fashion_mnist_cnn = partial(_cnn, 28, channels=16, kernel=5, hidden=24)

DIGITS: Mapping[str, Callable[[], nn.Module]] = {"mlp": digits_mlp, "cnn": digits_cnn}
FASHION_MNIST: Mapping[str, Callable[[], nn.Module]] = {
    "mlp": fashion_mnist_mlp,
    "cnn": fashion_mnist_cnn,
}


# −log p(label | image) of every example of an (images, labels) batch, in nats, shape [examples].
cross_entropy = supervised(nn.CrossEntropyLoss(reduction="none"))

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
