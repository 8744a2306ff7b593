"""The networks and losses of the problems on which the choice of a learning rate was judged."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from now_runs import perceptron
from torch import Tensor, nn
from torch.nn import functional

Losses = Callable[[Tensor, Tensor], Float[Tensor, " examples"]]


class Residual(nn.Module):
    """x + layer(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """The sum."""
        return inputs + self.layers(inputs)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.into, self.out = (
            heads,
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(
        self, hidden: Float[Tensor, "examples length width"]
    ) -> Float[Tensor, "examples length width"]:
        """Each position looks at itself and at those before it."""
        examples, length, width = hidden.shape
        parts = self.into(hidden).view(examples, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(examples, length, width))


class Letters(nn.Module):
    """A pre-norm transformer over one-hot letters; returns the logits of the next one."""

    def __init__(self, symbols: int, width: int, blocks: int, length: int) -> None:
        super().__init__()
        self.symbols, self.places = (
            nn.Linear(symbols, width, bias=False),
            nn.Parameter(0.02 * torch.randn(length, width)),
        )
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    Residual(nn.LayerNorm(width), Attention(width, 2)),
                    Residual(
                        nn.LayerNorm(width), perceptron(width, 4 * width, width, kind=nn.GELU)[1:]
                    ),
                )
                for _ in range(blocks)
            )
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, symbols))

    def forward(
        self, letters: Float[Tensor, "examples length symbols"]
    ) -> Float[Tensor, "examples symbols length"]:
        """Logits as the cross entropy takes them."""
        return self.out(self.blocks(self.symbols(letters) + self.places)).transpose(1, 2)


def entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of an example, averaged over its positions if it has several."""
    losses = functional.cross_entropy(outputs, labels, reduction="none")
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared error of an example, averaged over its outputs."""
    return (outputs - targets).square().flatten(1).mean(1) / 2


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    """Huber loss of an example, averaged over its outputs: an error above 1 counts in proportion to
    its size."""
    return functional.huber_loss(outputs, targets, reduction="none").mean(1)


def yes_or_no(outputs: Tensor, answers: Tensor) -> Tensor:
    """Binary cross entropy of an example, averaged over its answers, each 0 or 1."""
    return functional.binary_cross_entropy_with_logits(outputs, answers, reduction="none").mean(1)


def batch_norm(channels: int) -> nn.Module:
    """BatchNorm."""
    return nn.BatchNorm2d(channels)


def group_norm(channels: int) -> nn.Module:
    """GroupNorm with two channels a group."""
    return nn.GroupNorm(channels // 2, channels)


def convolved(
    norm: Callable[[int], nn.Module],
    channels: tuple[int, int],
    kind: type[nn.Module] = nn.ReLU,
    stride: int = 1,
    pooled: bool = False,
) -> nn.Module:
    """Two convolutions with norms, then one linear layer to 10 classes from all 4 x 4 places, or
    from their mean."""
    one, two = channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(two, 10)]
    return nn.Sequential(
        nn.Conv2d(1, one, 3, stride=stride, padding=1),
        norm(one),
        kind(),
        nn.Conv2d(one, two, 3, stride=2, padding=1),
        norm(two),
        kind(),
        *(head if pooled else [nn.Flatten(), nn.Linear(16 * two, 10)]),
    )


def residual_convolved(
    norm: Callable[[int], nn.Module], channels: int, kind: type[nn.Module]
) -> nn.Module:
    """A convolution, two residual convolutions with norms, one linear layer; for
    images of 8 x 8."""
    blocks = [
        Residual(nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels), kind())
        for _ in range(2)
    ]
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, stride=2, padding=1),
        norm(channels),
        kind(),
        *blocks,
        nn.Flatten(),
        nn.Linear(16 * channels, 10),
    )


def pooled_stages(
    norm: Callable[[int], nn.Module], channels: tuple[int, int, int], features: int
) -> nn.Module:
    """Three convolutions with norms and ReLU, the first two followed by max pooling, then two
    linear layers."""
    one, two, three = channels
    return nn.Sequential(
        nn.Conv2d(1, one, 3),
        norm(one),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(one, two, 3, padding=1, bias=False),
        norm(two),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(two, three, 1, bias=False),
        norm(three),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )


def normed_first(
    norm: Callable[[int], nn.Module], channels: int, classes: int, kind: type[nn.Module]
) -> nn.Module:
    """Three channels in, a residual block with norms before its two convolutions, one linear layer;
    for 8 x 8."""
    block = [
        layer
        for _ in range(2)
        for layer in (
            norm(channels),
            kind(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
    ]
    return nn.Sequential(
        nn.Conv2d(3, channels, 4, stride=2, padding=1),
        Residual(*block),
        norm(channels),
        kind(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, classes),
    )
