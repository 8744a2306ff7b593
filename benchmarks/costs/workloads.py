"""What is trained in the benchmarks: small networks of the usual kinds, on made-up examples, in
batches of 128."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer import Examples, Problem
from gradiometer.measurement import Batch
from gradiometer.problems.images.classification import cross_entropy, fashion_mnist_cnn

BATCH_SIZE = 128
BATCHES = 25
"""Batches in the training set."""

SYMBOLS, SEQUENCE, WIDTH = 256, 32, 96


class Transformer(nn.Module):
    """Next-symbol prediction: two pre-norm blocks of width 96 with 4 heads, tied embeddings,
    251,328 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.symbol = nn.Embedding(SYMBOLS, WIDTH)
        self.place = nn.Embedding(SEQUENCE, WIDTH)
        block = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, SYMBOLS, bias=False)
        self.head.weight = self.symbol.weight
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(SEQUENCE))

    def forward(
        self, symbols: Int[Tensor, "examples sequence"]
    ) -> Float[Tensor, "examples sequence symbols"]:
        """The logits of the symbol after each."""
        embedded = self.symbol(symbols) + self.place.weight
        logits: Tensor = self.head(self.blocks(embedded, mask=self.mask, is_causal=True))
        return logits


def next_symbol(model: nn.Module, batch: Batch) -> Float[Tensor, " examples"]:
    """The cross-entropy of a sequence, averaged over its symbols, in nats."""
    logits = model(batch[:, :-1])
    return nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").mean(
        1
    )


class Thousand(nn.Module):
    """500 residual layers of width 8: 1,000 small tensors, so that calls cost more than
    arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(28 * 28, 8), nn.Linear(8, 10)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(498))

    def forward(self, images: Float[Tensor, "examples 1 28 28"]) -> Float[Tensor, "examples 10"]:
        """The logits of the classes."""
        hidden = self.enter(images.flatten(1))
        for layer in self.layers:
            hidden = hidden + 0.1 * layer(hidden).tanh()
        logits: Tensor = self.leave(hidden)
        return logits


def mlp() -> nn.Module:
    """784-512-256-10 with ReLU: 535,818 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def cnn_with_batch_norm_and_dropout() -> nn.Module:
    """The CNN with BatchNorm after each convolution and Dropout before its head: no half can be had
    by subtraction."""
    layers = list[nn.Module]()
    *body, head = fashion_mnist_cnn().children()
    for layer in body:
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layers.append(nn.BatchNorm2d(layer.out_channels))
    return nn.Sequential(*layers, nn.Dropout(0.2), head)


def _images(name: str, model: Callable[[], nn.Module]) -> Problem:
    generator = torch.Generator().manual_seed(0)
    examples = BATCHES * BATCH_SIZE
    images = torch.rand((examples, 1, 28, 28), generator=generator)
    labels = torch.randint(10, (examples,), generator=generator)
    return Problem(name=name, model=model, loss=cross_entropy, train=Examples((images, labels)))


def _symbols() -> Problem:
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(SYMBOLS, (BATCHES * BATCH_SIZE, SEQUENCE + 1), generator=generator)
    return Problem(name="transformer", model=Transformer, loss=next_symbol, train=Examples(symbols))


WORKLOADS: dict[str, Callable[[], Problem]] = {
    "cnn": lambda: _images("cnn", fashion_mnist_cnn),
    "transformer": _symbols,
    "mlp": lambda: _images("mlp", mlp),
    "thousand": lambda: _images("thousand", Thousand),
    "cnn+norm+dropout": lambda: _images("cnn+norm+dropout", cnn_with_batch_norm_and_dropout),
}


def batches(problem: Problem) -> list[Batch]:
    """The first few batches of the training set: gathering them is no part of a step."""
    return [
        problem.train.batch(torch.arange(BATCH_SIZE) + BATCH_SIZE * place) for place in range(8)
    ]
