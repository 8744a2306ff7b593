"""Classification of images: the cross-entropy and the accuracy of each example, and small networks.

The networks have no batch statistics and no dropout, so the loss is exact.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from gradiometer.measurement.batch import Batch
from gradiometer.measurement.objective import supervised
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem


def digits_mlp() -> nn.Module:
    """64-64-10 with ReLU: 4,810 parameters."""
    return _mlp(64, 64)


def digits_cnn() -> nn.Module:
    """Two 3 × 3 convolutions of 8 and 16 channels, each halved by pooling: 1,898 parameters."""
    return _in_order(**_convolutions(8, kernel=3), head=nn.Linear(16 * 2 * 2, 10))


def fashion_mnist_mlp() -> nn.Module:
    """784-128-10 with ReLU: 101,770 parameters."""
    return _mlp(28 * 28, 128)


def fashion_mnist_cnn() -> nn.Module:
    """Two 5 × 5 convolutions of 16 and 32 channels, each halved by pooling, then 1568-24-10: 51,154
    parameters."""
    return _in_order(
        **_convolutions(16, kernel=5),
        hidden=nn.Linear(32 * 7 * 7, 24),
        relu3=nn.ReLU(),
        head=nn.Linear(24, 10),
    )


def _mlp(inputs: int, hidden: int) -> nn.Module:
    return _in_order(
        flat=nn.Flatten(),
        hidden=nn.Linear(inputs, hidden),
        relu=nn.ReLU(),
        head=nn.Linear(hidden, 10),
    )


def _convolutions(channels: int, *, kernel: int) -> dict[str, nn.Module]:
    """Two convolutions that keep the size of an image, the second with twice the channels."""
    return {
        "conv1": nn.Conv2d(1, channels, kernel, padding=kernel // 2),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(channels, 2 * channels, kernel, padding=kernel // 2),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "flat": nn.Flatten(),
    }


def _in_order(**layers: nn.Module) -> nn.Module:
    """A sequence of named layers. Estimates by layer use these names."""
    return nn.Sequential(OrderedDict(layers))


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
