"""Networks of the twelfth fresh part, which no other part has: those that people run on images, photographs,
texts, tags, tables, clicks, graphs, series and triplets."""

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinic.data import Data
from clinic.eleventh import Pixels, of_graph
from clinic.networks import (
    Body,
    Causal,
    Kind,
    Mean,
    MeanOverTime,
    Patches,
    Positions,
    Recurrent,
    Residual,
    Transposed,
    dense,
)
from clinic.seventh import And
from clinic.sixth import Asked
from clinic.tenth import first_vectors
from clinic.twelfth_data import KINDS, WORDS


def gelu_of(activation: Kind) -> nn.Module:
    """GELU in place of ReLU."""
    return nn.GELU() if activation is nn.ReLU else activation()


# ---- modules


class Each(nn.Module):
    """The same layers on each of several inputs of an example."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, several, ...] to [examples, several, width]."""
        return self.layers(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Stage(nn.Module):
    """Two convolutions with BatchNorm, the first with a stride, and beside them one of single pixels."""

    def __init__(self, inputs: int, width: int, stride: int, activation: Kind) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            activation(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.beside = nn.Sequential(
            nn.Conv2d(inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
        )
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs, height, width] to so many channels, smaller by the stride."""
        return self.activation(self.layers(x) + self.beside(x))


class Affine(nn.Module):
    """A trained size and a trained shift of each feature."""

    def __init__(self, width: int, size: float = 1.0) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.full((width,), size))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [..., width]."""
        return self.size * x + self.shift


class First(nn.Module):
    """The first position."""

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, time, width] to [examples, width]."""
        return x[:, 0]


class NormedQuestions(Causal):
    """Attention to the past between questions and keys of length one, times a trained number."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.size = nn.Parameter(torch.full((heads, 1, 1), 4.0))

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        parts = self.inputs(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = (self.size * functional.normalize(parts[0], dim=-1)), parts[1]
        key = functional.normalize(key, dim=-1)
        mixed = functional.scaled_dot_product_attention(
            query, key, parts[2], is_causal=True, scale=1.0
        )
        return self.outputs(mixed.transpose(1, 2).flatten(2))


class LinearAttention(Causal):
    """Attention to the past without a softmax: sums of products of keys and values, as in linear
    transformers."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        parts = self.inputs(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = (functional.elu(part) + 1 for part in parts[:2])
        weights = (query @ key.transpose(2, 3)).tril()
        mixed = weights @ parts[2] / (weights.sum(dim=3, keepdim=True) + 1e-6)
        return self.outputs(mixed.transpose(1, 2).flatten(2))


class Openings(nn.Module):
    """Convolutions over the past, ever farther, each opened by another one; the sum of all of them, as
    in WaveNet."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.both = nn.ModuleList(
            [nn.Conv1d(width, 2 * width, 2, dilation=2**place) for place in range(count)]
        )
        self.on = nn.ModuleList([nn.Conv1d(width, width, 1) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        x = x.transpose(1, 2)
        found = []
        for place, (both, on) in enumerate(zip(self.both, self.on, strict=True)):
            signal, opening = both(functional.pad(x, (2**place, 0))).chunk(2, dim=1)
            found.append(torch.tanh(signal) * torch.sigmoid(opening))
            x = x + on(found[-1])
        return sum(found[1:], start=found[0]).transpose(1, 2)


class Isomorphism(nn.Module):
    """Layers of the sum of a knot and its neighbours, as in a graph isomorphism network."""

    def __init__(self, inputs: int, width: int, count: int, activation: Kind) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Linear(each, width), activation(), nn.Linear(width, width), activation()
                )
                for each in (inputs, *[width] * (count - 1))
            ]
        )
        self.own = nn.Parameter(torch.zeros(count))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, knots, knots + inputs] to [examples, knots, width]."""
        edges, knots = x.split((x.shape[1], x.shape[2] - x.shape[1]), dim=2)
        for own, layers in zip(self.own, self.layers, strict=True):
            knots = layers((1 + own) * knots + edges @ knots)
        return knots


class ColumnTokens(nn.Module):
    """A vector of each column, times its value, behind one that asks, as in an FT-Transformer."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.randn(columns, width) / width**0.5)
        self.shifts = nn.Parameter(torch.randn(columns, width) / width**0.5)
        self.asks = nn.Parameter(torch.randn(1, 1, width) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, columns] to [examples, 1 + columns, width]."""
        vectors = x.unsqueeze(2) * self.slopes + self.shifts
        return torch.cat([self.asks.expand(len(x), -1, -1), vectors], dim=1)


class Periodic(nn.Module):
    """Sines and cosines of each column, of trained frequencies, and a layer of them."""

    def __init__(self, columns: int, count: int, width: int, activation: Kind) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(0.3 * torch.randn(columns, count))
        self.layer = nn.Sequential(nn.Linear(2 * count, width), activation())

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, columns] to [examples, columns × width]."""
        turns = 6.2832 * x.unsqueeze(2) * self.frequencies
        return self.layer(torch.cat([turns.sin(), turns.cos()], dim=2)).flatten(1)


class Octaves(nn.Module):
    """The coordinates, and their sines and cosines at frequencies that double."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, coordinates] to [examples, (1 + 2 × count) × coordinates]."""
        turns = 3.1416 * x.unsqueeze(2) * 2.0 ** torch.arange(self.count)
        return torch.cat([x, turns.sin().flatten(1), turns.cos().flatten(1)], dim=1)


class Grids(nn.Module):
    """Two trained values on the points of grids of several sizes, read at a place between the points."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.grids = nn.ParameterList([0.1 * torch.randn(1, 2, size, size) for size in sizes])

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, 2] in [-1, 1] to [examples, 2 × grids]."""
        places = x.view(1, -1, 1, 2)
        read = [functional.grid_sample(each, places, align_corners=True) for each in self.grids]
        return torch.cat(read, dim=1).squeeze(3).squeeze(0).transpose(0, 1)


class Crossings(nn.Module):
    """Vectors of categories and one of all numbers, and the products of all pairs of them, as in
    DLRM."""

    def __init__(self, numbers: int, width: int, activation: Kind) -> None:
        super().__init__()
        self.vectors = nn.ModuleList([nn.Embedding(kinds, width) for kinds in KINDS])
        self.below = nn.Sequential(nn.Linear(numbers, 32), activation(), nn.Linear(32, width))
        self.pairs = list(zip(*combinations(range(1 + len(KINDS)), 2), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, categories + numbers] to [examples, width + pairs]."""
        codes = x[:, : len(KINDS)].long().unbind(dim=1)
        vectors = [each(code) for each, code in zip(self.vectors, codes, strict=True)]
        below = self.below(x[:, len(KINDS) :])
        every = torch.stack([below, *vectors], dim=1)
        products = (every @ every.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return torch.cat([below, products], dim=1)


# ---- networks


def staged(data: Data, activation: Kind) -> Body:
    """A residual network of two stages of 12 and 20 channels."""
    first = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
    stages = [Stage(8, 12, 1, activation), Stage(12, 20, 2, activation)]
    return [first, nn.BatchNorm2d(8), activation(), *stages, Mean()], 20


def conv_mixer(data: Data, activation: Kind) -> Body:
    """Squares of 2 × 2 pixels, and two blocks that mix places and channels in turn, as in ConvMixer."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 2, stride=2), gelu_of(activation)]
    layers.append(nn.BatchNorm2d(16))
    for _ in range(2):
        places = nn.Conv2d(16, 16, 3, groups=16, padding=1)
        layers += [
            Residual(places, gelu_of(activation), nn.BatchNorm2d(16)),
            nn.Conv2d(16, 16, 1),
            gelu_of(activation),
            nn.BatchNorm2d(16),
        ]
    return [*layers, Mean()], 16


def affine_mixer(data: Data, activation: Kind) -> Body:
    """Two blocks of width 24 that mix the squares of an image without a norm, as in ResMLP."""
    squares = (data.shape[1] // 2) * (data.shape[2] // 2)
    layers: list[nn.Module] = [Patches(2, 24)]
    for _ in range(2):
        layers += [
            Residual(Affine(24), Transposed(nn.Linear(squares, squares)), Affine(24, 0.3)),
            Residual(
                Affine(24),
                nn.Linear(24, 48),
                gelu_of(activation),
                nn.Linear(48, 24),
                Affine(24, 0.3),
            ),
        ]
    return [*layers, Affine(24), MeanOverTime()], 24


def encoder(data: Data, activation: Kind) -> Body:
    """Two blocks of a transformer of width 24 that looks both ways, normalised after each part, as in
    BERT."""
    blocks = [
        nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, activation="gelu", batch_first=True)
        for _ in range(2)
    ]
    layers = [nn.Embedding(32, 24), Positions(data.shape[0], 24), *blocks]
    return (layers if data.kind == "tokens" else [*layers, First()]), 24


def question_norms(data: Data, activation: Kind) -> Body:
    """Two blocks of a transformer of width 24 whose questions and keys have length one."""
    layers: list[nn.Module] = [first_vectors(data, data.outputs, 24), Positions(data.shape[0], 24)]
    for _ in range(2):
        layers += [
            Residual(nn.LayerNorm(24), NormedQuestions(24, 3)),
            Residual(nn.LayerNorm(24), nn.Linear(24, 48), gelu_of(activation), nn.Linear(48, 24)),
        ]
    return [*layers, nn.LayerNorm(24)], 24


def linear_attention(data: Data, activation: Kind) -> Body:
    """Two blocks of width 24 with attention without a softmax."""
    layers: list[nn.Module] = [first_vectors(data, data.outputs, 24), Positions(data.shape[0], 24)]
    for _ in range(2):
        layers += [
            Residual(nn.LayerNorm(24), LinearAttention(24, 3)),
            Residual(nn.LayerNorm(24), nn.Linear(24, 48), activation(), nn.Linear(48, 24)),
        ]
    return [*layers, nn.LayerNorm(24)], 24


def beside_letters(data: Data, activation: Kind) -> Body:
    """Three convolutions of 32 over both sides of a position, with BatchNorm and skips."""
    blocks = [
        Residual(
            nn.Conv1d(32, 32, 3, padding=wide, dilation=wide), nn.BatchNorm1d(32), activation()
        )
        for wide in (1, 2, 1)
    ]
    return [nn.Embedding(32, 32), Transposed(*blocks)], 32


def attended_lstm(data: Data, activation: Kind) -> Body:
    """An LSTM of 32, what a question finds in it, and a layer of 32."""
    layer = Recurrent(nn.LSTM(20, 32, batch_first=True))
    first = first_vectors(data, 32, 20)
    return [first, layer, Asked(32), nn.Linear(32, 32), activation()], 32


def wavenet(data: Data, activation: Kind) -> Body:
    """Three opened convolutions of 20 over the past, and a layer of their sum."""
    first = first_vectors(data, data.outputs, 20)
    return [first, Openings(20, 3), activation(), nn.Linear(20, 32), activation()], 32


def isomorphism(data: Data, activation: Kind) -> Body:
    """Three layers of sums over neighbours, of 32, and the mean over the knots."""
    inputs = data.shape[1] - data.shape[0]
    return of_graph(data, Isomorphism(inputs, 32, 3, activation)), 32


def column_tokens(data: Data, activation: Kind) -> Body:
    """Two blocks of a transformer of width 16 on the columns of a table."""
    blocks = [
        nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=True)
        for _ in range(2)
    ]
    return [ColumnTokens(data.shape[0], 16), *blocks, First(), nn.LayerNorm(16), activation()], 16


def periodic(data: Data, activation: Kind) -> Body:
    """Sines and cosines of each column, and two layers of 56."""
    columns = data.shape[0]
    layers, width = dense(8 * columns, (56, 56), activation)
    return [Periodic(columns, 6, 8, activation), *layers], width


def nerf(data: Data, activation: Kind) -> Body:
    """Sines and cosines of five octaves, and four layers of 56, the third of which sees them again."""
    inputs = 11 * data.shape[0]
    first, width = dense(inputs, (56, 56), activation)
    second, width = dense(width + inputs, (56, 56), activation)
    return [Octaves(5), And(*first), *second], width


def grids(data: Data, activation: Kind) -> Body:
    """Grids of 6 to 48 points a side, and two layers of 48."""
    layers, width = dense(8, (48, 48), activation)
    return [Grids((6, 12, 24, 48)), *layers], width


def dlrm(data: Data, activation: Kind) -> Body:
    """Vectors of 10 of the categories and of all numbers, their products, and a layer of 48."""
    crossings = Crossings(data.shape[0] - len(KINDS), 10, activation)
    layers, width = dense(10 + len(crossings.pairs[0]), (48,), activation)
    return [crossings, *layers], width


def nearby_words(data: Data, activation: Kind) -> Body:
    """The mean of the vectors of the words nearby, as in word2vec."""
    return [nn.Embedding(WORDS, 32), MeanOverTime()], 32


def mirror(data: Data, activation: Kind) -> Body:
    """Convolutions down to 4 × 4 places and transposed ones up again."""
    return [
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        activation(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        activation(),
        nn.ConvTranspose2d(16, 12, 3, stride=2, padding=1),
        activation(),
        nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1),
        activation(),
        Pixels(),
    ], 8


def three_alike(data: Data, activation: Kind) -> Body:
    """Two convolutions and a layer of 32, the same for each of three images."""
    return [
        Each(
            nn.Unflatten(1, (1, 14)),
            nn.Conv2d(1, 8, 4, stride=2, padding=1),
            activation(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(256, 32),
            activation(),
        )
    ], 32


def hard_swish(data: Data, activation: Kind) -> Body:
    """Three layers of 64, with Hardswish in place of ReLU."""
    return dense(
        data.shape.numel(), (64,) * 3, nn.Hardswish if activation is nn.ReLU else activation
    )


def norm_and_dropout(data: Data, activation: Kind) -> Body:
    """Two layers of 72 with BatchNorm and a little dropout after each."""
    layers, width = dense(data.shape.numel(), (72,), activation, nn.BatchNorm1d)
    second, width = dense(width, (72,), activation, nn.BatchNorm1d)
    return [*layers, nn.Dropout(0.1), *second, nn.Dropout(0.1)], width


NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "staged": staged,
    "conv_mixer": conv_mixer,
    "affine_mixer": affine_mixer,
    "encoder": encoder,
    "question_norms": question_norms,
    "linear_attention": linear_attention,
    "beside_letters": beside_letters,
    "attended_lstm": attended_lstm,
    "wavenet": wavenet,
    "isomorphism": isomorphism,
    "column_tokens": column_tokens,
    "periodic": periodic,
    "nerf": nerf,
    "grids": grids,
    "dlrm": dlrm,
    "nearby_words": nearby_words,
    "mirror": mirror,
    "three_alike": three_alike,
    "hard_swish": hard_swish,
    "norm_and_dropout": norm_and_dropout,
}
