"""Sixteen tasks of fifteen kinds on which tuning is judged, most of them on data that people
measured: tables, pictures, and source text of Python.

They differ from the lists on which tuning was developed. Columns differ by 10^5, likelihoods cross
zero, 20 is added to a loss or taken from it, and trainings have from 100 to 2,000 updates. The
data come with scikit-learn (tables, two photographs), with Python (its source) and with this
package (digits); Fashion-MNIST is downloaded by `gradiometer`.
"""

import inspect
import pydoc_data.topics
import re
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from noise.runs import images, perceptron
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from gradiometer.problems import Examples
from tasks.networks import (
    Autoencoder,
    Bottleneck,
    Flow,
    Gates,
    Transformer,
    Vectors,
    entropy,
    gaussian,
    squared,
)

Pairs = tuple[Tensor, Tensor]

COUNT, HELD_OUT = 2048, 512
"""Examples of the larger tasks, and those of every task that are never trained on."""


@dataclass(frozen=True)
class Cell:
    """A task.

    Args:
        model: Makes the network of a seed.
        loss: Called as `loss(model, batch)`; one value per example.
        train: The training examples. The final training loss is their mean loss in eval mode.
        test: Examples that are never trained on.
        steps: Updates of the whole training.
        batch: Examples of an update.
        floor: A level that the loss cannot go below; None if it is not known.
    """

    name: str
    model: Callable[[int], nn.Module]
    loss: Callable[[nn.Module, Pairs], Float[Tensor, " examples"]]
    train: Examples
    test: Examples
    steps: int
    batch: int
    floor: float | None = 0.0

    def batches(self, seed: int) -> Iterator[Pairs]:
        """Batches in epochs of one random order each, without end."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.train), generator=generator)
            for chosen in order[: len(order) - len(order) % self.batch].split(self.batch):
                yield self.train.batch(chosen)


def cell(
    name: str,
    data: Pairs,
    network: Callable[[], nn.Module],
    loss: Callable[[nn.Module, Pairs], Tensor],
    *,
    steps: int = 300,
    batch: int = 32,
    floor: float | None = 0.0,
) -> Cell:
    """A task from its examples in random order, of which the last are held out."""

    def model(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return network()

    order = torch.randperm(len(data[0]), generator=generator(1))
    held_out = min(HELD_OUT, len(order) // 5)
    inputs, targets = (part[order] for part in data)
    train = Examples((inputs[:-held_out], targets[:-held_out]))
    test = Examples((inputs[-held_out:], targets[-held_out:]))
    return Cell(name, model, loss, train, test, steps, batch, floor)


def generator(seed: int) -> torch.Generator:
    """A generator of a task."""
    return torch.Generator().manual_seed(seed)


# Tables


def tumours() -> Cell:
    """Is a tumour malignant? 30 measures, centred, whose sizes differ by 10^5."""
    table = datasets.load_breast_cancer()
    inputs = torch.tensor(table.data, dtype=torch.float32)
    labels = torch.tensor(table.target, dtype=torch.float32)[:, None]

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        logits = model(batch[0])
        return functional.binary_cross_entropy_with_logits(logits, batch[1], reduction="none").mean(
            1
        )

    return cell(
        "tumours, unequal columns",
        (inputs - inputs.mean(0), labels),
        lambda: perceptron(30, 24, 1),
        loss,
    )


def quantiles() -> Cell:
    """Three quantiles of the progress of diabetes after a year: a loss with kinks."""
    table = datasets.load_diabetes(scaled=False)
    inputs, targets = (
        torch.tensor(part, dtype=torch.float32) for part in (table.data, table.target[:, None])
    )
    levels = torch.tensor([0.1, 0.5, 0.9])

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        above = batch[1] - model(batch[0])
        return torch.maximum(levels * above, (levels - 1) * above).mean(1)

    return cell(
        "quantiles of diabetes",
        ((inputs - inputs.mean(0)) / inputs.std(0), (targets - targets.mean()) / targets.std()),
        lambda: perceptron(10, 24, 3, kind=nn.Tanh),
        loss,
        batch=16,
    )


# Words


@cache
def words() -> list[str]:
    """The words of Python's help texts, in order."""
    topics = pydoc_data.topics.topics
    return re.findall(r"[a-z]+", " ".join(topics[name] for name in sorted(topics)).lower())


def word_vectors() -> Cell:
    """Vectors of the 200 commonest words of a text, from the words within four places (GloVe)."""
    common = {word: place for place, (word, _) in enumerate(Counter(words()).most_common(200))}
    codes = [common.get(word, -1) for word in words()]
    together = Counter[tuple[int, int]]()
    for apart in range(1, 5):
        for one, other in zip(codes, codes[apart:], strict=False):
            if one >= 0 and other >= 0:
                together[one, other] += 1
    pairs = torch.tensor(list(together))
    counts = torch.tensor(list(together.values()), dtype=torch.float32)[:, None]
    weights = (counts / 100).clamp(max=1) ** 0.75

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        logarithm, weight = batch[1].chunk(2, dim=1)
        return (weight * (model(batch[0]) - logarithm).square()).squeeze(1)

    return cell(
        "word vectors",
        (pairs, torch.cat([counts.log(), weights], dim=1)),
        lambda: Vectors(200, 8),
        loss,
        steps=500,
    )


def topics() -> Cell:
    """Counts of 80 words in stretches of 60, from six hidden numbers: a Poisson likelihood without
    its constant."""
    common = {word: place for place, (word, _) in enumerate(Counter(words()).most_common(80))}
    stretches = torch.zeros(len(words()) // 60, 80)
    for place, word in enumerate(words()[: 60 * len(stretches)]):
        if word in common:
            stretches[place // 60, common[word]] += 1

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        logarithms = model(batch[0])
        return (logarithms.exp() - batch[1] * logarithms).mean(1)

    return cell(
        "topics, Poisson",
        (stretches.log1p(), stretches),
        lambda: perceptron(80, 32, 6, 80, kind=nn.SiLU),
        loss,
        floor=None,
    )


@cache
def source(length: int) -> Pairs:
    """Stretches of the source of Python's module `typing`, one-hot, and the same one letter
    later."""
    kept = "abcdefghijklmnopqrstuvwxyz_()[],.:='\" \n"
    codes = torch.tensor(
        [kept.find(letter) % (len(kept) + 1) for letter in inspect.getsource(typing).lower()]
    )
    starts = torch.arange(COUNT + HELD_OUT)[:, None] * length + torch.arange(length)
    return functional.one_hot(codes[starts], len(kept) + 1).float(), codes[starts + 1]


def letters_gru() -> Cell:
    """A GRU that predicts the next letter of a program."""
    inputs, targets = source(12)
    return cell(
        "program, GRU",
        (inputs, targets),
        lambda: Gates("gru", inputs.shape[2], 32, inputs.shape[2], each=True),
        lambda model, batch: entropy(model(batch[0]), batch[1]),
    )


def rows_lstm() -> Cell:
    """An LSTM that reads a picture of clothes row by row."""
    pictures, labels = images("fashion-mnist", COUNT + HELD_OUT)
    return cell(
        "rows of pictures, LSTM",
        (functional.avg_pool2d(pictures, 2)[:, 0], labels),
        lambda: Gates("lstm", 14, 24, 10, each=False),
        lambda model, batch: entropy(model(batch[0]), batch[1]),
    )


def letters_transformer() -> Cell:
    """A causal transformer that predicts the next letter of a program."""
    inputs, targets = source(20)
    return cell(
        "program, transformer",
        (inputs, targets),
        lambda: Transformer(inputs.shape[2], 24, 20, inputs.shape[2], causal=True),
        lambda model, batch: entropy(model(batch[0]), batch[1]),
        batch=16,
    )


# Pictures


@cache
def patches(name: str, side: int) -> Tensor:
    """Grey squares of a photograph, from 0 to 1."""
    picture = torch.tensor(datasets.load_sample_image(name), dtype=torch.float32).mean(2) / 255
    by = generator(302)
    rows, columns = (
        torch.randint(size - side, (COUNT + HELD_OUT,), generator=by) for size in picture.shape
    )
    along = torch.arange(side)
    return picture[
        rows[:, None, None] + along[:, None], columns[:, None, None] + along[None, :]
    ].flatten(1)


def vision_transformer() -> Cell:
    """A transformer over nine patches of a picture of clothes."""
    pictures, labels = images("fashion-mnist", COUNT + HELD_OUT)
    small = functional.avg_pool2d(pictures[:, :, 2:26, 2:26], 2)
    parts = functional.unfold(small, 4, stride=4).transpose(1, 2)
    return cell(
        "vision transformer",
        (parts, labels),
        lambda: Transformer(16, 24, 9, 10, causal=False),
        lambda model, batch: entropy(model(batch[0]), batch[1]),
    )


def residual() -> Cell:
    """A residual network with BatchNorm on pictures of clothes."""
    pictures, labels = images("fashion-mnist", COUNT + HELD_OUT)
    return cell(
        "residual network, BatchNorm",
        (functional.avg_pool2d(pictures, 2), labels),
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            Bottleneck(8, 16),
            Bottleneck(16, 24),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 10),
        ),
        lambda model, batch: entropy(model(batch[0]), batch[1]),
    )


def short() -> Cell:
    """100 updates of a convolutional network without norms on digits, with 20 taken from the
    loss."""
    return cell(
        "100 updates, loss - 20",
        images("digits", 1400),
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        ),
        lambda model, batch: entropy(model(batch[0]), batch[1]) - 20,
        steps=100,
        batch=64,
        floor=-20.0,
    )


def convolutional_autoencoder() -> Cell:
    """A convolutional autoencoder of squares of a photograph, with 20 added to the loss."""
    squares = patches("china.jpg", 8).view(-1, 1, 8, 8)
    return cell(
        "autoencoder, loss + 20",
        (squares - squares.mean(), squares - squares.mean()),
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ELU(),
            nn.Conv2d(8, 4, 3, stride=2, padding=1),
            nn.ConvTranspose2d(4, 8, 2, stride=2),
            nn.ELU(),
            nn.ConvTranspose2d(8, 1, 2, stride=2),
        ),
        lambda model, batch: squared(model(batch[0]), batch[1]) + 20,
        floor=20.0,
    )


def photograph() -> Cell:
    """A photograph as a function of the place, through waves: 2,000 updates."""
    picture = torch.tensor(datasets.load_sample_image("flower.jpg"), dtype=torch.float32)
    grey = functional.avg_pool2d(picture.mean(2)[None, None] / 255, 8)[0, 0]
    rows, columns = (torch.linspace(-1, 1, size) for size in grey.shape)
    places = torch.cartesian_prod(rows, columns)
    angles = places @ (4 * torch.randn(2, 24, generator=generator(303)))
    return cell(
        "photograph, 2,000 updates",
        (torch.cat([angles.sin(), angles.cos()], dim=1), grey.reshape(-1, 1)),
        lambda: perceptron(48, 32, 32, 1),
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=2000,
    )


# Densities


def clothes() -> Cell:
    """A variational autoencoder of pictures of clothes, each pixel black or white."""
    pictures, _ = images("fashion-mnist", COUNT + HELD_OUT)
    pixels = functional.avg_pool2d(pictures, 4).flatten(1)
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    noise = torch.randn(len(pixels), 4, generator=generator(304))

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        seen, distance = model(batch[0])
        cross = functional.binary_cross_entropy_with_logits(seen, batch[1], reduction="none")
        return cross.sum(1) + distance

    return cell(
        "clothes, variational",
        (torch.cat([pixels, noise], dim=1), pixels),
        lambda: Autoencoder(49, 4, 48),
        loss,
        steps=400,
    )


def flower() -> Cell:
    """A variational autoencoder of squares of a photograph with learnt errors: its bound crosses
    zero."""
    pixels = patches("flower.jpg", 6)
    pixels = (pixels - pixels.mean()) / pixels.std()
    noise = torch.randn(len(pixels), 4, generator=generator(305))

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        seen, distance = model(batch[0])
        spread = typing.cast("Tensor", model.spread)
        return (gaussian(batch[1], seen, spread).sum(1) + distance) / 36

    return cell(
        "flower, variational, crosses zero",
        (torch.cat([pixels, noise], dim=1), pixels),
        lambda: Autoencoder(36, 4, 48),
        loss,
        steps=400,
        floor=None,
    )


def flow() -> Cell:
    """A normalising flow of squares of a photograph with noise: a likelihood that crosses zero."""
    pixels = patches("china.jpg", 4)
    pixels = (pixels - pixels.mean()) / pixels.std()
    pixels = pixels + 0.1 * torch.randn(pixels.shape, generator=generator(306))

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        values, volume = model(batch[0])
        return (values.square().sum(1) / 2 + volume) / values.shape[1]

    return cell(
        "flow, crosses zero",
        (pixels, pixels),
        lambda: Flow(16, 24, 4),
        loss,
        floor=None,
    )


def diffusion() -> Cell:
    """A denoiser of pictures of clothes at every level of noise."""
    pictures, _ = images("fashion-mnist", 2 * COUNT + HELD_OUT)
    pixels = functional.avg_pool2d(pictures, 4).flatten(1)
    pixels = (pixels - pixels.mean()) / pixels.std()
    by = generator(307)
    noise = torch.randn(pixels.shape, generator=by)
    angle = torch.pi / 2 * torch.rand(len(pixels), 1, generator=by)
    waves = torch.cat([(angle * k).cos() for k in range(1, 7)], dim=1)
    seen = angle.cos() * pixels + angle.sin() * noise
    return cell(
        "diffusion",
        (torch.cat([seen, waves], dim=1), noise),
        lambda: perceptron(55, 64, 64, 49, kind=nn.SiLU),
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=500,
    )


TASKS: Mapping[str, Callable[[], Cell]] = {
    "tumours": tumours,
    "quantiles": quantiles,
    "word vectors": word_vectors,
    "topics": topics,
    "GRU": letters_gru,
    "LSTM": rows_lstm,
    "transformer": letters_transformer,
    "vision transformer": vision_transformer,
    "residual": residual,
    "short": short,
    "autoencoder": convolutional_autoencoder,
    "photograph": photograph,
    "clothes": clothes,
    "flower": flower,
    "flow": flow,
    "diffusion": diffusion,
}
