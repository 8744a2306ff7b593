"""Networks of another kind that judge the method last: sequences, AdamW and RMSprop, up to millions
of parameters."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from noise.runs import (
    Characters,
    Network,
    Optimizer,
    adamw,
    convolutions,
    cosine,
    drop,
    images,
    linear,
    markov,
    one_cycle,
    perceptron,
    sgd,
    staircase,
    text,
)

entropy = functional.cross_entropy


class Memory(nn.Module):
    """An LSTM over characters; returns the logits of the next one."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        self.cell, self.out = nn.LSTM(width, width, batch_first=True), nn.Linear(width, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, [batch, symbols, length]."""
        return self.out(self.cell(self.symbols(tokens))[0]).transpose(1, 2)


class Patches(nn.Module):
    """A transformer over the 16 squares of 7 by 7 pixels of a picture; returns the logits of 10
    classes."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.patches, self.places = (
            nn.Linear(49, width),
            nn.Parameter(0.02 * torch.randn(16, width)),
        )
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
                )
                for _ in range(blocks)
            )
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, [batch, 10]."""
        squares = functional.unfold(pictures, 7, stride=7).transpose(1, 2)
        return self.out(self.norm(self.blocks(self.patches(squares) + self.places)).mean(dim=1))


class Residual(nn.Module):
    """Blocks of two linear layers with a shortcut, each after a LayerNorm."""

    def __init__(self, inputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(inputs, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
            )
            for _ in range(blocks)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, [batch, 10]."""
        hidden = self.enter(pictures.flatten(1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.out(hidden)


def rmsprop(rate: float) -> Optimizer:
    """RMSprop with torch's defaults."""
    return lambda parameters: torch.optim.RMSprop(parameters, lr=rate)


def fashion(examples: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """The first pictures of Fashion-MNIST."""
    return lambda: images("fashion-mnist", examples)


LARGER = {
    "text GPT, AdamW, cosine": Network(
        lambda: text(1500, 32),
        lambda: Characters(128, 64, 2, 32),
        entropy,
        adamw(1.5e-3),
        cosine,
        batch=32,
        steps=800,
        chunk=20,
        passes=50,
    ),
    "text LSTM, AdamW, OneCycle": Network(
        lambda: text(1500, 24),
        lambda: Memory(128, 128),
        entropy,
        adamw(4e-3),
        one_cycle,
        batch=64,
        steps=700,
        chunk=20,
        passes=50,
    ),
    "Markov LSTM, RMSprop, staircase": Network(
        lambda: markov(1600, 20, 20),
        lambda: Memory(20, 64),
        entropy,
        rmsprop(2e-3),
        staircase,
        batch=40,
        steps=900,
        chunk=20,
        passes=50,
    ),
    "Fashion MLP of 2.8 million, momentum, drop": Network(
        fashion(2000),
        lambda: perceptron(784, 1536, 1024, 10),
        entropy,
        sgd(0.03, 0.9),
        drop(0.5, 0.1),
        batch=64,
        steps=500,
        chunk=50,
        passes=50,
    ),
    "Fashion patches transformer, AdamW, linear, without replacement": Network(
        fashion(2000),
        lambda: Patches(48, 2),
        entropy,
        adamw(2e-3),
        linear,
        batch=50,
        steps=800,
        reshuffled=True,
        chunk=20,
        passes=50,
    ),
    "Fashion CNN, AdamW, without replacement": Network(
        fashion(2400),
        lambda: convolutions(16, 32, 32, features=512),
        entropy,
        adamw(1e-3),
        batch=48,
        steps=1000,
        reshuffled=True,
        passes=50,
    ),
    "Fashion residual MLP of 1.2 million, AdamW, cosine": Network(
        fashion(2000),
        lambda: Residual(784, 384, 3),
        entropy,
        adamw(1e-3),
        cosine,
        batch=128,
        steps=600,
        chunk=40,
        passes=50,
    ),
}
"""Networks, data, optimizers and schedules on which nothing was chosen. No batch sharpness."""
