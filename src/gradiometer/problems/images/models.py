"""The small networks of the image problems. They have no batch statistics and no dropout, so the
loss is exact."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from torch import nn


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
