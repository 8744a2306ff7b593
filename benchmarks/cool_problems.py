"""Five small problems on which schedules are compared: their rates are the best ones for linear to zero."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradiometer import Configuration, supervised
from gradiometer.problems import Examples, Problem, load

CROSS_ENTROPY = supervised(nn.CrossEntropyLoss(reduction="none"))


def softmax_with_wrong_labels() -> Problem:
    """Softmax regression on 6,000 images of Fashion-MNIST, a fifth of which have a random label."""
    images, labels = load("fashion-mnist", model="mlp").train.batch(torch.arange(6000))
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(labels), generator=generator) < 0.2
    labels = torch.where(wrong, torch.randint(10, (len(labels),), generator=generator), labels)
    return problem(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), CROSS_ENTROPY, images, labels)


def mislabelled(images: Tensor, labels: Tensor, seed: int, model: Callable[[], nn.Module]) -> Problem:
    """Images of which three in ten have a random label."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(labels), generator=generator) < 0.3
    labels = torch.where(wrong, torch.randint(10, (len(labels),), generator=generator), labels)
    return problem(model, CROSS_ENTROPY, images, labels)


def digits_with_wrong_labels() -> Problem:
    """Softmax regression on the digits."""
    data = load("digits", model="mlp").train
    return mislabelled(*data.batch(torch.arange(len(data))), 5, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def tanh_with_wrong_labels() -> Problem:
    """A network of 32 tanh units on 4,000 images of Fashion-MNIST."""
    images, labels = load("fashion-mnist", model="mlp").train.batch(torch.arange(6000, 10_000))

    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.Tanh(), nn.Linear(32, 10))

    return mislabelled(images, labels, 6, network)


class River(nn.Module):
    """A point (x, y) in a curved valley: the floor y = sin x falls as exp(−x/8), the walls rise with curvature 8."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))

    def forward(self, noise: Tensor) -> Tensor:
        """The loss of examples, of which each has its own valley floor."""
        return 4 * (self.y - torch.sin(self.x) - noise) ** 2 + torch.exp(-self.x / 8)


def river() -> Problem:
    """A curved river valley with noise across it."""
    noise = 0.3 * torch.randn(2000, generator=torch.Generator().manual_seed(1))
    return problem(River, lambda model, batch: model(batch[0]), noise)


class Product(nn.Module):
    """A product of two numbers, both near zero at first: the gradient is small until they have grown."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.full((), 0.02)), nn.Parameter(torch.full((), 0.02))

    def forward(self, inputs: Tensor) -> Tensor:
        """a b x."""
        return self.a * self.b * inputs


def plateau_then_drop() -> Problem:
    """Linear regression by a product of two numbers: a long plateau, then a drop to the noise of the targets."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(2000, generator=generator)
    targets = inputs + 0.3 * torch.randn(2000, generator=generator)
    return problem(Product, supervised(nn.MSELoss(reduction="none")), inputs, targets)


def images_cnn() -> Problem:
    """A CNN on 4,000 synthetic colour images of 16 × 16 pixels: ten patterns, shifted, with noise."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(10, 3, 5, 5, generator=generator)
    patterns = functional.interpolate(coarse, size=(16, 16), mode="bicubic")
    labels = torch.randint(10, (4000,), generator=generator)
    shifts = torch.randint(-4, 5, (4000, 2), generator=generator).tolist()
    clean = [torch.roll(patterns[label], shift, (1, 2)) for label, shift in zip(labels.tolist(), shifts, strict=True)]
    images = torch.stack(clean) + 1.5 * torch.randn(4000, 3, 16, 16, generator=generator)
    return problem(cnn, CROSS_ENTROPY, images, labels)


def cnn() -> nn.Module:
    """Two convolutions of 8 and 16 channels, each halved by pooling, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


LETTERS, LENGTH = 16, 24


class Transformer(nn.Module):
    """One block of causal attention of width 32 with two heads over 24 letters."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(LETTERS, 32), nn.Embedding(LENGTH, 32)
        self.block = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, LETTERS)

    def forward(self, text: Tensor) -> Tensor:
        """Scores of the next letter at every place."""
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        return self.head(self.block(self.letters(text) + self.places.weight, src_mask=mask, is_causal=True))


def text_transformer() -> Problem:
    """A small transformer on 4,000 texts of a source whose letter depends on the two before it."""
    generator = torch.Generator().manual_seed(4)
    chances = torch.softmax(2 * torch.randn(LETTERS, LETTERS, LETTERS, generator=generator), dim=-1)
    text = torch.randint(LETTERS, (4000, LENGTH + 1), generator=generator)
    for place in range(2, LENGTH + 1):
        following = chances[text[:, place - 2], text[:, place - 1]]
        text[:, place] = torch.multinomial(following, 1, generator=generator)[:, 0]

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        scores = model(batch[0][:, :-1])
        return functional.cross_entropy(scores.mT, batch[0][:, 1:], reduction="none").mean(dim=1)

    return problem(Transformer, loss, text)


def problem(model: Callable[[], nn.Module], loss: Callable[..., Tensor], *tensors: Tensor) -> Problem:
    """A problem that is judged by its loss on the whole training set."""
    return Problem(name="cooling", model_name=model.__name__, model=model, loss=loss, train=Examples(tensors))


def built_in(name: str, model: str) -> Callable[[], Problem]:
    """A problem that ships with the package."""
    return lambda: load(name, model=model)


JUDGES: dict[str, tuple[Callable[[], Problem], Configuration]] = {
    "softmax, wrong labels": (softmax_with_wrong_labels, Configuration(batch_size=64, steps=800)),
    "river": (river, Configuration(batch_size=8, steps=1500)),
    "plateau then drop": (plateau_then_drop, Configuration(batch_size=16, steps=800)),
    "images, CNN": (images_cnn, Configuration(batch_size=32, steps=500, momentum=0.9)),
    "text, transformer": (text_transformer, Configuration(batch_size=32, steps=600, optimizer="adamw")),
}
"""The problems that judge, looked at once."""

OTHERS: dict[str, tuple[Callable[[], Problem], Configuration]] = {
    "digits MLP": (built_in("digits", "mlp"), Configuration(batch_size=32, steps=600)),
    "digits MLP, momentum": (built_in("digits", "mlp"), Configuration(batch_size=8, steps=1000, momentum=0.9)),
    "digits CNN": (built_in("digits", "cnn"), Configuration(batch_size=32, steps=400)),
    "Fashion-MNIST MLP": (built_in("fashion-mnist", "mlp"), Configuration(batch_size=64, steps=400)),
    "Fashion-MNIST MLP, momentum": (
        built_in("fashion-mnist", "mlp"),
        Configuration(batch_size=16, steps=600, momentum=0.9),
    ),
}
"""The problems that the method was chosen on."""

FRESH: dict[str, tuple[Callable[[], Problem], Configuration]] = {
    "digits, softmax, wrong labels": (digits_with_wrong_labels, Configuration(batch_size=16, steps=900)),
    "images, tanh, wrong labels": (tanh_with_wrong_labels, Configuration(batch_size=32, steps=700, momentum=0.9)),
}
"""Two more problems with wrong labels."""

RATES = {
    "digits, softmax, wrong labels": 1,
    "images, tanh, wrong labels": 0.1,
    "softmax, wrong labels": 1,
    "river": 0.1,
    "plateau then drop": 0.01,
    "images, CNN": 0.03,
    "text, transformer": 0.03,
    "digits MLP": 1,
    "digits MLP, momentum": 0.1,
    "digits CNN": 1,
    "Fashion-MNIST MLP": 0.3,
    "Fashion-MNIST MLP, momentum": 0.03,
}
"""The best rate of 0.001, 0.003, ... 1 for linear to zero, found by `cool.py --rates`, seed 9."""
