"""The networks of the clinic, each as a body and a head. The parts of the clinic share none."""

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


def dense(
    inputs: int, widths: tuple[int, ...], activation: Kind, *norms: Callable[[int], nn.Module]
) -> Body:
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
        nn.Conv2d(1, 8, 3, padding=1),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        activation(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 48),
        activation(),
    ]
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
        nn.Embedding(data.outputs, 32),
        Positions(data.shape[0], 32),
        Residual(Causal(32, 4)),
        nn.LayerNorm(32),
        Residual(nn.Linear(32, 64), activation(), nn.Linear(64, 32)),
        nn.LayerNorm(32),
    ]
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
    blocks = [
        Residual(nn.LayerNorm(64), nn.Linear(64, 96), activation(), nn.Linear(96, 64))
        for _ in range(3)
    ]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 64), *blocks, nn.LayerNorm(64)], 64


def conv_norm(data: Data, activation: Kind) -> Body:
    """Three convolutions with BatchNorm and a mean over the image."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (12, 24, 32):
        layers += [
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            activation(),
        ]
        channels = width
    return [*layers, Mean()], channels


def conv_skips(data: Data, activation: Kind) -> Body:
    """A convolution and two residual blocks of convolutions, without normalisation."""
    blocks = [
        Residual(nn.Conv2d(12, 12, 3, padding=1), activation(), nn.Conv2d(12, 12, 3, padding=1))
        for _ in range(2)
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


# ---- the fresh part


def swish(data: Data, activation: Kind) -> Body:
    """Four layers of 56, with SiLU in place of ReLU."""
    return dense(data.shape.numel(), (56,) * 4, nn.SiLU if activation is nn.ReLU else activation)


def funnel(data: Data, activation: Kind) -> Body:
    """Six layers, from 96 to 24."""
    return dense(data.shape.numel(), (96, 80, 64, 48, 32, 24), activation)


def layer_norm(data: Data, activation: Kind) -> Body:
    """Three layers of 72 with LayerNorm."""
    return dense(data.shape.numel(), (72, 72, 72), activation, nn.LayerNorm)


def stack(data: Data, activation: Kind) -> Body:
    """Three convolutions with two poolings, and a layer of 40."""
    layers = [
        nn.Conv2d(1, 10, 3, padding=1),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 20, 3, padding=1),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 20, 3, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(180, 40),
        activation(),
    ]
    return layers, 40


def residual_norm(data: Data, activation: Kind) -> Body:
    """A small residual network of convolutions with BatchNorm."""

    def block(width: int) -> nn.Module:
        return Residual(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            activation(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    first = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
    return [
        first,
        nn.BatchNorm2d(16),
        activation(),
        block(16),
        activation(),
        block(16),
        activation(),
        Mean(),
    ], 16


class Patches(nn.Module):
    """Vectors of the squares of an image."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, width, size, stride=size)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, 1, height, width] to [examples, squares, width]."""
        return self.layer(x).flatten(2).transpose(1, 2)


class MeanOverTime(nn.Module):
    """The mean over the positions."""

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, time, width] to [examples, width]."""
        return x.mean(dim=1)


def blocks(width: int, heads: int, count: int) -> list[nn.Module]:
    """Blocks of a transformer, normalised before each part, four times as wide within."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [
            Residual(nn.LayerNorm(width), Causal(width, heads)),
            Residual(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Linear(4 * width, width),
            ),
        ]
    return layers


def vision(data: Data, activation: Kind) -> Body:
    """Two blocks of a transformer of width 40 on squares of 3 × 3 pixels."""
    squares = (data.shape[1] // 3) * (data.shape[2] // 3)
    return [
        Patches(3, 40),
        Positions(squares, 40),
        *blocks(40, 4, 2),
        nn.LayerNorm(40),
        MeanOverTime(),
    ], 40


def decoder(data: Data, activation: Kind) -> Body:
    """Three blocks of a transformer of width 48 that begins with small weights, as GPT-2 does."""
    embedding, table = nn.Embedding(data.outputs, 48), Positions(data.shape[0], 48)
    inner = blocks(48, 4, 3)
    with torch.no_grad():
        for module in (embedding, *(part for layer in inner for part in layer.modules())):
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(std=0.02)
        table.vectors.mul_(0.2)
    return [embedding, table, *inner, nn.LayerNorm(48)], 48


# ---- the second fresh part


class Dense(nn.Module):
    """The input, and beside it what a layer makes of it."""

    def __init__(self, inputs: int, width: int, activation: Kind) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, width), activation())

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, inputs + width]."""
        return torch.cat([x, self.layers(x)], dim=1)


class Transposed(nn.Module):
    """Layers that act along the time, not along the columns."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        return self.layers(x.transpose(1, 2)).transpose(1, 2)


def tanh(data: Data, activation: Kind) -> Body:
    """Three layers of 64, with Tanh in place of ReLU."""
    return dense(data.shape.numel(), (64,) * 3, nn.Tanh if activation is nn.ReLU else activation)


def leaky(data: Data, activation: Kind) -> Body:
    """Five layers of 48, with LeakyReLU in place of ReLU."""
    kind = nn.LeakyReLU if activation is nn.ReLU else activation
    return dense(data.shape.numel(), (48,) * 5, kind)


def dense_skips(data: Data, activation: Kind) -> Body:
    """Four layers of 32, each of which sees the input and all layers before."""
    inputs = data.shape.numel()
    layers = [Dense(inputs + 32 * place, 32, activation) for place in range(4)]
    return [nn.Flatten(), *layers], inputs + 128


def group_norm(data: Data, activation: Kind) -> Body:
    """Three convolutions with GroupNorm, and a mean over the image."""
    layers: list[nn.Module] = []
    channels = 1
    for width, stride in ((12, 1), (16, 2), (24, 2)):
        layers += [
            nn.Conv2d(channels, width, 3, stride=stride, padding=1),
            nn.GroupNorm(4, width),
            activation(),
        ]
        channels = width
    return [*layers, Mean()], channels


def strided(data: Data, activation: Kind) -> Body:
    """Two strided convolutions and two layers of 64, without normalisation."""
    layers = [
        nn.Conv2d(1, 12, 4, stride=2, padding=1),
        activation(),
        nn.Conv2d(12, 16, 4, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(144, 64),
        activation(),
        nn.Linear(64, 64),
        activation(),
    ]
    return layers, 64


def mixer(data: Data, activation: Kind) -> Body:
    """Two blocks that mix first along the time and then along the columns."""
    time, inputs = data.shape
    layers: list[nn.Module] = [nn.Linear(inputs, 32)]
    for _ in range(2):
        layers += [
            Residual(
                nn.LayerNorm(32), Transposed(nn.Linear(time, 32), nn.GELU(), nn.Linear(32, time))
            ),
            Residual(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)),
        ]
    return [*layers, nn.LayerNorm(32), MeanOverTime()], 32


def dilated(data: Data, activation: Kind) -> Body:
    """Three residual convolutions over the past, each twice as far as the one before."""
    blocks = [
        Residual(
            activation(),
            nn.ConstantPad1d((distance, 0), 0.0),
            nn.Conv1d(40, 40, 2, dilation=distance),
        )
        for distance in (1, 2, 4)
    ]
    return [nn.Embedding(data.outputs, 40), Transposed(*blocks), activation()], 40


def elman(data: Data, activation: Kind) -> Body:
    """A plain recurrent layer of 48, of symbols or of a signal."""
    if data.kind == "tokens":
        return [nn.Embedding(data.outputs, 24), Recurrent(nn.RNN(24, 48, batch_first=True))], 48
    return [Recurrent(nn.RNN(data.shape[1], 48, batch_first=True), last=True)], 48


Network = Callable[[Data, Kind], Body]
EARLIER: dict[str, Network] = {
    "perceptron": perceptron,
    "deep": deep,
    "batch_norm": batch_norm,
    "convolutions": convolutions,
    "skips": skips,
    "gru": gru,
    "attention": attention,
    "wide": wide,
    "smooth": smooth,
    "tower": tower,
    "normed": normed,
    "conv_norm": conv_norm,
    "conv_skips": conv_skips,
    "lstm": lstm,
    "transformer": transformer,
    "broad": broad,
    "swish": swish,
    "funnel": funnel,
    "layer_norm": layer_norm,
    "stack": stack,
    "residual_norm": residual_norm,
    "vision": vision,
    "decoder": decoder,
    "tanh": tanh,
    "leaky": leaky,
    "dense_skips": dense_skips,
    "group_norm": group_norm,
    "strided": strided,
    "mixer": mixer,
    "dilated": dilated,
    "elman": elman,
}
"""The networks of the parts before the third fresh one."""
