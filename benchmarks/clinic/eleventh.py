"""Networks of the eleventh fresh part, which no other part has: those that people run on texts, masks,
graphs, tables with categories, pairs, lists and series."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from clinic.data import Data
from clinic.eleventh_data import GUESTS, ROOMS
from clinic.networks import (
    Body,
    Causal,
    Kind,
    MeanOverTime,
    Positions,
    Recurrent,
    Residual,
    dense,
)
from clinic.tenth import first_vectors


class SideBySide(nn.Module):
    """Attention and a layer of each position, both of the same normalised input."""

    def __init__(self, width: int, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Causal(width, heads)
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), activation, nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        normed = self.norm(x)
        return x + self.attention(normed) + self.layers(normed)


class UNet(nn.Module):
    """Convolutions at three sizes, down and up again, with what was seen on the way down beside."""

    def __init__(self, width: int, activation: Kind) -> None:
        super().__init__()

        def pair(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1),
                activation(),
                nn.Conv2d(outputs, outputs, 3, padding=1),
                activation(),
            )

        self.down = nn.ModuleList([pair(1, width), pair(width, 2 * width)])
        self.bottom = pair(2 * width, 2 * width)
        self.up = nn.ModuleList([pair(4 * width, width), pair(2 * width, width)])
        self.smaller, self.larger = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, 1, height, width] to [examples, width, height, width]."""
        seen = []
        for layers in self.down:
            x = layers(x)
            seen.append(x)
            x = self.smaller(x)
        x = self.bottom(x)
        for layers in self.up:
            x = layers(torch.cat([seen.pop(), self.larger(x)], dim=1))
        return x


class Pixels(nn.Module):
    """The channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, channels, height, width] to [examples, pixels, channels]."""
        return x.flatten(2).transpose(1, 2)


class GraphConvolutions(nn.Module):
    """Layers of the means over neighbours and of the knot itself."""

    def __init__(self, inputs: int, width: int, count: int, activation: Kind) -> None:
        super().__init__()
        widths = [inputs, *[width] * (count - 1)]
        self.own = nn.ModuleList([nn.Linear(each, width) for each in widths])
        self.near = nn.ModuleList([nn.Linear(each, width, bias=False) for each in widths])
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, knots, knots + inputs] to [examples, knots, width]."""
        edges, knots = x.split((x.shape[1], x.shape[2] - x.shape[1]), dim=2)
        edges = edges / (edges.sum(dim=2, keepdim=True) + 1)
        for own, near in zip(self.own, self.near, strict=True):
            knots = self.activation(own(knots) + edges @ near(knots))
        return knots


class GraphAttention(nn.Module):
    """Layers of means over neighbours, weighted by what both knots are and by the edge."""

    def __init__(self, inputs: int, width: int, count: int, activation: Kind) -> None:
        super().__init__()
        widths = [inputs, *[width] * (count - 1)]
        self.layers = nn.ModuleList([nn.Linear(each, width) for each in widths])
        self.scores = nn.ModuleList([nn.Linear(width, 2, bias=False) for _ in widths])
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, knots, knots + inputs] to [examples, knots, width]."""
        edges, knots = x.split((x.shape[1], x.shape[2] - x.shape[1]), dim=2)
        edges = edges + torch.eye(x.shape[1])
        for layer, score in zip(self.layers, self.scores, strict=True):
            knots = layer(knots)
            asked, offered = score(knots).split(1, dim=2)
            weights = nn.functional.leaky_relu(asked + offered.transpose(1, 2), 0.2)
            weights = weights.masked_fill(edges == 0, -1e9).softmax(dim=2)
            knots = self.activation(knots + (weights * edges) @ knots)
        return knots


class QuickGelu(nn.Module):
    """x σ(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x."""
        return x * torch.sigmoid(1.702 * x)


class Matched(nn.Module):
    """The product of the vectors of a guest and a room, and layers of both vectors."""

    def __init__(self, kinds: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.vectors = nn.Embedding(kinds, width)
        self.layers = nn.Sequential(nn.Linear(2 * width, width), activation)
        with torch.no_grad():
            self.vectors.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, 2] to [examples, 2 × width]."""
        vectors = self.vectors(x)
        product = vectors[:, 0] * vectors[:, 1]
        return torch.cat([product, self.layers(vectors.flatten(1))], dim=1)


class Categories(nn.Module):
    """Vectors of the categories of three columns, beside the other columns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vectors = nn.ModuleList([nn.Embedding(kinds, width) for kinds in (24, 6, 12)])

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, 3 + numbers] to [examples, 3 × width + numbers]."""
        codes = x[:, :3].long().unbind(dim=1)
        vectors = [each(code) for each, code in zip(self.vectors, codes, strict=True)]
        return torch.cat([*vectors, x[:, 3:]], dim=1)


class AgainstTheList(nn.Module):
    """What each candidate has, and how it differs from the mean of its list."""

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, candidates, width] to twice the width."""
        return torch.cat([x, x - x.mean(dim=1, keepdim=True)], dim=2)


class Explained(nn.Module):
    """Blocks that forecast, each from what those before it left of the series."""

    def __init__(self, inputs: int, width: int, count: int, activation: Kind) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Sequential(nn.Linear(inputs, width), activation()) for _ in range(count)]
        )
        self.back = nn.ModuleList([nn.Linear(width, inputs) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, count × width]."""
        forecasts = []
        for layers, back in zip(self.layers, self.back, strict=True):
            forecasts.append(layers(x))
            x = x - back(forecasts[-1])
        return torch.cat(forecasts, dim=1)


class MeanAndMax(nn.Module):
    """The mean and the largest over the last two axes."""

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, channels, height, width] to [examples, 2 × channels]."""
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


def side_by_side(data: Data, activation: Kind) -> Body:
    """Two blocks of width 32 with attention and layers side by side."""
    blocks = [SideBySide(32, 4, activation()) for _ in range(2)]
    first = first_vectors(data, data.outputs, 32)
    return [first, Positions(data.shape[0], 32), *blocks, nn.LayerNorm(32)], 32


def layered_gru(data: Data, activation: Kind) -> Body:
    """A GRU of 40 with LayerNorm, and a layer of 40."""
    last = data.train[0].is_floating_point()
    layer = Recurrent(nn.GRU(20, 40, batch_first=True), last=last)
    first = first_vectors(data, data.outputs, 20)
    return [first, layer, nn.LayerNorm(40), nn.Linear(40, 40), activation()], 40


def u_net(data: Data, activation: Kind) -> Body:
    """A U-net of 8 and 16 channels."""
    return [UNet(8, activation), Pixels()], 8


def looking_wide(data: Data, activation: Kind) -> Body:
    """Four convolutions of 12 channels that look ever wider, with GroupNorm."""
    layers: list[nn.Module] = []
    channels = 1
    for wide in (1, 2, 3, 1):
        layers += [
            nn.Conv2d(channels, 12, 3, padding=wide, dilation=wide),
            nn.GroupNorm(3, 12),
            activation(),
        ]
        channels = 12
    return [*layers, Pixels()], 12


def of_graph(data: Data, layers: nn.Module) -> list[nn.Module]:
    """Layers of each knot, and their mean where one answer is wanted."""
    return [layers] if data.kind == "tokens" else [layers, MeanOverTime()]


def graph_convolutions(data: Data, activation: Kind) -> Body:
    """Three graph convolutions of 40."""
    inputs = data.shape[1] - data.shape[0]
    return of_graph(data, GraphConvolutions(inputs, 40, 3, activation)), 40


def graph_attention(data: Data, activation: Kind) -> Body:
    """Three layers of graph attention of 32."""
    inputs = data.shape[1] - data.shape[0]
    return of_graph(data, GraphAttention(inputs, 32, 3, activation)), 32


def quick_gelu(data: Data, activation: Kind) -> Body:
    """Two layers of 72, with x σ(1.702 x) in place of ReLU."""
    kind = QuickGelu if activation is nn.ReLU else activation
    return dense(data.shape.numel(), (72, 72), kind)


def skipping_pairs(data: Data, activation: Kind) -> Body:
    """Three residual blocks of width 40 that begin with an activation."""
    blocks = [
        Residual(activation(), nn.Linear(40, 40), activation(), nn.Linear(40, 40)) for _ in range(3)
    ]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 40), *blocks, activation()], 40


def matched(data: Data, activation: Kind) -> Body:
    """Vectors of 12 of guests and rooms, their product, and a layer of both."""
    return [Matched(GUESTS + ROOMS, 12, activation())], 24


def waist(data: Data, activation: Kind) -> Body:
    """A denoiser of 48, 6 and 48."""
    return dense(data.shape.numel(), (48, 6, 48), activation)


def siamese(data: Data, activation: Kind) -> Body:
    """Two layers of 48, the same for both of a pair."""
    return [nn.Linear(20, 48), activation(), nn.Linear(48, 48), activation()], 48


def listwise(data: Data, activation: Kind) -> Body:
    """A layer of 40 of each candidate, and one of how it differs from its list."""
    return [
        nn.Linear(6, 40),
        activation(),
        AgainstTheList(),
        nn.Linear(80, 40),
        activation(),
    ], 40


def table_resnet(data: Data, activation: Kind) -> Body:
    """Vectors of the categories, and two residual blocks of width 48 with BatchNorm."""
    blocks = [
        Residual(nn.BatchNorm1d(48), nn.Linear(48, 64), activation(), nn.Linear(64, 48))
        for _ in range(2)
    ]
    return [Categories(4), nn.Linear(19, 48), *blocks, nn.BatchNorm1d(48), activation()], 48


def table_layers(data: Data, activation: Kind) -> Body:
    """Vectors of the categories, and two layers of 64 with a little dropout between them."""
    layers, width = dense(19, (64,), activation)
    return [Categories(4), *layers, nn.Dropout(0.05), nn.Linear(64, 64), activation()], width


def explained(data: Data, activation: Kind) -> Body:
    """Three blocks of 40 that forecast from what is left."""
    return [nn.Flatten(), Explained(data.shape.numel(), 40, 3, activation)], 120


def begun_with_norm(data: Data, activation: Kind) -> Body:
    """Two residual blocks of 12 channels that begin with BatchNorm."""

    def block() -> nn.Module:
        return Residual(
            nn.BatchNorm2d(12),
            activation(),
            nn.Conv2d(12, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            activation(),
            nn.Conv2d(12, 12, 3, padding=1, bias=False),
        )

    first = nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False)
    return [first, block(), block(), nn.BatchNorm2d(12), activation(), MeanAndMax()], 24


def mean_and_max(data: Data, activation: Kind) -> Body:
    """Three convolutions without normalisation, the mean and the largest, and a layer of 40."""
    return [
        nn.Conv2d(1, 12, 5, stride=2, padding=2),
        activation(),
        nn.Conv2d(12, 20, 3, padding=1),
        activation(),
        nn.Conv2d(20, 24, 3, padding=1),
        activation(),
        MeanAndMax(),
        nn.Linear(48, 40),
        activation(),
    ], 40


NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "side_by_side": side_by_side,
    "layered_gru": layered_gru,
    "u_net": u_net,
    "looking_wide": looking_wide,
    "graph_convolutions": graph_convolutions,
    "graph_attention": graph_attention,
    "quick_gelu": quick_gelu,
    "skipping_pairs": skipping_pairs,
    "matched": matched,
    "waist": waist,
    "siamese": siamese,
    "listwise": listwise,
    "table_resnet": table_resnet,
    "table_layers": table_layers,
    "explained": explained,
    "begun_with_norm": begun_with_norm,
    "mean_and_max": mean_and_max,
}
