"""The networks of the clinic, each as a body and a head. The two halves of the clinic share none."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from clinic.data import Data

Body = tuple[list[nn.Module], int]
"""The layers before the head, and the width of what they give."""
Kind = Callable[[], nn.Module]
"""Makes an activation."""


class Residual(nn.Module):
    """The input plus what some layers make of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x."""
        return x + self.layers(x)


class Recurrent(nn.Module):
    """A recurrent layer that gives its outputs at all positions, or at the last one."""

    def __init__(self, layer: nn.RNNBase, *, last: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, time, inputs] to [examples, time, width] or [examples, width]."""
        outputs = self.layer(x)[0]
        return outputs[:, -1] if self.last else outputs


class Positions(nn.Module):
    """Adds a learned vector for each position."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(0.1 * torch.randn(length, width))

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x."""
        return x + self.vectors


class Causal(nn.Module):
    """Self-attention in which a position sees itself and what is before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.outputs = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        examples, time, width = x.shape
        parts = self.inputs(x).view(examples, time, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.outputs(mixed.transpose(1, 2).reshape(examples, time, width))


class Mean(nn.Module):
    """The mean over the last two axes."""

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, channels, height, width] to [examples, channels]."""
        return x.mean(dim=(2, 3))


def dense(inputs: int, widths: tuple[int, ...], activation: Kind, *norms: Callable[[int], nn.Module]) -> Body:
    """Linear layers, each followed by its normalisations and the activation."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(inputs, width), *(norm(width) for norm in norms), activation()]
        inputs = width
    return layers, inputs


# ---- the development half


def perceptron(data: Data, activation: Kind) -> Body:
    """Two layers of 64."""
    return dense(data.shape.numel(), (64, 64), activation)


def deep(data: Data, activation: Kind) -> Body:
    """Seven layers of 40."""
    return dense(data.shape.numel(), (40,) * 7, activation)


def batch_norm(data: Data, activation: Kind) -> Body:
    """Two layers of 64 with BatchNorm."""
    return dense(data.shape.numel(), (64, 64), activation, nn.BatchNorm1d)


def convolutions(data: Data, activation: Kind) -> Body:
    """Two convolutions and a layer of 48."""
    layers = [
        nn.Conv2d(1, 8, 3, padding=1), activation(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), activation(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 48), activation(),
    ]  # fmt: skip
    return layers, 48


def skips(data: Data, activation: Kind) -> Body:
    """Three residual blocks of width 48."""
    blocks = [Residual(nn.Linear(48, 48), activation(), nn.Linear(48, 48)) for _ in range(3)]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 48), *blocks, activation()], 48


def gru(data: Data, activation: Kind) -> Body:
    """An embedding and a GRU of 48."""
    return [nn.Embedding(data.outputs, 24), Recurrent(nn.GRU(24, 48, batch_first=True))], 48


def attention(data: Data, activation: Kind) -> Body:
    """One block of a transformer of width 32, normalised after each part."""
    layers = [
        nn.Embedding(data.outputs, 32), Positions(data.shape[0], 32),
        Residual(Causal(32, 4)), nn.LayerNorm(32),
        Residual(nn.Linear(32, 64), activation(), nn.Linear(64, 32)), nn.LayerNorm(32),
    ]  # fmt: skip
    return layers, 32


def wide(data: Data, activation: Kind) -> Body:
    """Two layers of 2,240: 5.2 million parameters on the digits."""
    return dense(data.shape.numel(), (2_240, 2_240), activation)


# ---- the judged half


def smooth(data: Data, activation: Kind) -> Body:
    """Three layers of 80, with GELU in place of ReLU."""
    return dense(data.shape.numel(), (80, 80, 80), nn.GELU if activation is nn.ReLU else activation)


def tower(data: Data, activation: Kind) -> Body:
    """Nine layers of 32."""
    return dense(data.shape.numel(), (32,) * 9, activation)


def normed(data: Data, activation: Kind) -> Body:
    """Three residual blocks of width 64, each with LayerNorm before it."""
    blocks = [Residual(nn.LayerNorm(64), nn.Linear(64, 96), activation(), nn.Linear(96, 64)) for _ in range(3)]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 64), *blocks, nn.LayerNorm(64)], 64


def conv_norm(data: Data, activation: Kind) -> Body:
    """Three convolutions with BatchNorm and a mean over the image."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (12, 24, 32):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), activation()]
        channels = width
    return [*layers, Mean()], channels


def conv_skips(data: Data, activation: Kind) -> Body:
    """A convolution and two residual blocks of convolutions, without normalisation."""
    blocks = [
        Residual(nn.Conv2d(12, 12, 3, padding=1), activation(), nn.Conv2d(12, 12, 3, padding=1)) for _ in range(2)
    ]
    first = nn.Conv2d(1, 12, 4, stride=2, padding=1)
    return [first, *blocks, activation(), nn.AvgPool2d(2), nn.Flatten()], 108


def lstm(data: Data, activation: Kind) -> Body:
    """An LSTM of 40, of characters or of a signal."""
    if data.kind == "tokens":
        return [nn.Embedding(data.outputs, 20), Recurrent(nn.LSTM(20, 40, batch_first=True))], 40
    return [Recurrent(nn.LSTM(data.shape[1], 40, batch_first=True), last=True)], 40


def transformer(data: Data, activation: Kind) -> Body:
    """Two blocks of a transformer of width 32, normalised before each part."""
    layers: list[nn.Module] = [nn.Embedding(data.outputs, 32), Positions(data.shape[0], 32)]
    for _ in range(2):
        layers += [
            Residual(nn.LayerNorm(32), Causal(32, 2)),
            Residual(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)),
        ]
    return [*layers, nn.LayerNorm(32)], 32


def broad(data: Data, activation: Kind) -> Body:
    """Three layers of 1,600: 5.4 million parameters on the clothes."""
    return dense(data.shape.numel(), (1_600, 1_600, 1_600), activation)


Network = Callable[[Data, Kind], Body]
DEVELOPMENT: dict[str, Network] = {
    "perceptron": perceptron,
    "deep": deep,
    "batch_norm": batch_norm,
    "convolutions": convolutions,
    "skips": skips,
    "gru": gru,
    "attention": attention,
    "wide": wide,
}
JUDGED: dict[str, Network] = {
    "smooth": smooth,
    "tower": tower,
    "normed": normed,
    "conv_norm": conv_norm,
    "conv_skips": conv_skips,
    "lstm": lstm,
    "transformer": transformer,
    "broad": broad,
}


def network_of(name: str) -> Network:
    """The network of this name."""
    return (DEVELOPMENT | JUDGED)[name]
