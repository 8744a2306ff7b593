"""Fourteen further tasks, each of its own kind, on which tuning was judged once after lanes with
BatchNorm were read out with new statistics. Five have BatchNorm. They differ from those of `bank.py` in kind, data or
network, and are small."""

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from noise.runs import images, perceptron
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from tasks.bank import Cell, Pairs, cell, generator, words
from tasks.networks import entropy, squared

DIGITS = 1400
"""Pictures of digits that a task has."""


def columns(table: object) -> tuple[Tensor, Tensor]:
    """The columns of a table of scikit-learn with mean 0 and size 1, and its targets."""
    inputs = torch.tensor(table.data, dtype=torch.float32)  # type: ignore[attr-defined]
    return (inputs - inputs.mean(0)) / inputs.std(0), torch.tensor(table.target)  # type: ignore[attr-defined]


def progress() -> tuple[Tensor, Tensor]:
    """Measures of patients with diabetes, and its progress after a year."""
    inputs, targets = columns(datasets.load_diabetes(scaled=False))
    targets = targets.float()[:, None]
    return inputs, (targets - targets.mean()) / targets.std()


def clothes(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Small pictures of clothes, and their classes."""
    pictures, labels = images("fashion-mnist", count)
    return functional.adaptive_avg_pool2d(pictures, side), labels


def classified(model: nn.Module, batch: Pairs) -> Tensor:
    """Cross entropy of classes."""
    return entropy(model(batch[0]), batch[1])


# With BatchNorm


def wines() -> Cell:
    """Which of three growers made a wine, from 13 measures, in small batches."""
    return cell(
        "wines, BatchNorm, batch 8",
        columns(datasets.load_wine()),
        lambda: nn.Sequential(nn.Linear(13, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)),
        classified,
        steps=200,
        batch=8,
    )


def strided() -> Cell:
    """Digits under strided convolutions with BatchNorm."""
    return cell(
        "digits, convolutions, BatchNorm",
        images("digits", DIGITS),
        lambda: nn.Sequential(
            nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 10),
        ),
        classified,
        steps=150,
    )


def spelling() -> Cell:
    """The letter after ten of a text, by convolutions along it with BatchNorm."""
    text = " ".join(words())[:30_000]
    codes = torch.tensor([max(ord(letter) - 96, 0) for letter in text])
    windows = codes.unfold(0, 11, 11)
    letters = functional.one_hot(windows[:, :10], 27).float().transpose(1, 2)
    return cell(
        "letters, convolutions, BatchNorm",
        (letters, windows[:, 10]),
        lambda: nn.Sequential(
            nn.Conv1d(27, 24, 3, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Conv1d(24, 24, 4, stride=2, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 27),
        ),
        classified,
        steps=200,
    )


def restored() -> Cell:
    """Digits of which half of the pixels are missing, restored by a network with BatchNorm."""
    pixels = images("digits", DIGITS)[0].flatten(1)
    seen = pixels * (torch.rand(pixels.shape, generator=generator(401)) < 0.5)
    return cell(
        "digits restored, BatchNorm",
        (seen, pixels),
        lambda: nn.Sequential(
            nn.Linear(64, 48),
            nn.BatchNorm1d(48),
            nn.SiLU(),
            nn.Linear(48, 48),
            nn.BatchNorm1d(48),
            nn.SiLU(),
            nn.Linear(48, 64),
        ),
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=200,
        floor=None,
    )


class Residuals(nn.Module):
    """Layers with BatchNorm, each of which adds to what it is given."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(depth)
        )

    def forward(self, values: Tensor) -> Tensor:
        """The outputs."""
        values = self.first(values.flatten(1))
        for block in self.blocks:
            values = values + block(values)
        return self.last(values)


def deep_residual() -> Cell:
    """Clothes under six residual layers with BatchNorm."""
    return cell(
        "clothes, residual layers, BatchNorm",
        clothes(1536, 8),
        lambda: Residuals(64, 32, 6, 10),
        classified,
        steps=200,
    )


# Without


def ordered() -> Cell:
    """The fifth of the patients to which the progress of diabetes belongs, by ordered thresholds."""
    inputs, targets = progress()
    cuts = targets.flatten().quantile(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    above = (targets > cuts).float()

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        score, widths = model(batch[0]).split([1, 4], dim=1)
        logits = score - (functional.softplus(widths).cumsum(1) - 2)
        return functional.binary_cross_entropy_with_logits(logits, batch[1], reduction="none").sum(
            1
        )

    return cell(
        "diabetes, ordered fifths", (inputs, above), lambda: perceptron(10, 16, 5), loss, steps=200
    )


def mixture() -> Cell:
    """The density of the progress of diabetes as a mixture of three Gaussians: it crosses zero."""

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        weight, mean, deviation = model(batch[0]).chunk(3, dim=1)
        each = -deviation - ((batch[1] - mean) * (-deviation).exp()).square() / 2
        return -(functional.log_softmax(weight, 1) + each).logsumexp(1)

    return cell(
        "diabetes, mixture density",
        progress(),
        lambda: perceptron(10, 24, 9, kind=nn.Tanh),
        loss,
        steps=200,
        floor=None,
    )


def pairs() -> Cell:
    """Which of two patients has the larger progress of diabetes: a ranking."""
    inputs, targets = progress()
    by = generator(402)
    first, second = (torch.randint(len(inputs), (1024,), generator=by) for _ in range(2))
    larger = (targets[first] > targets[second]).float()

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        one, other = (model(part) for part in batch[0].chunk(2, dim=1))
        return functional.binary_cross_entropy_with_logits(
            one - other, batch[1], reduction="none"
        ).squeeze(1)

    return cell(
        "diabetes, ranked pairs",
        (torch.cat([inputs[first], inputs[second]], dim=1), larger),
        lambda: perceptron(10, 24, 24, 1),
        loss,
        steps=150,
        batch=16,
    )


def triplets() -> Cell:
    """An embedding of digits in which one of the same class is nearer than one of another."""
    pictures, labels = images("digits", DIGITS)
    pixels, by = pictures.flatten(1), generator(403)
    same, other = [], []
    for label in labels.tolist():
        for places, chosen in (((labels == label), same), ((labels != label), other)):
            found = places.nonzero().flatten()
            chosen.append(found[torch.randint(len(found), (), generator=by)])

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        anchor, near, far = (model(part) for part in batch[0].chunk(3, dim=1))
        margin = (anchor - near).square().sum(1) - (anchor - far).square().sum(1)
        return functional.softplus(margin)

    three = torch.cat([pixels, pixels[torch.stack(same)], pixels[torch.stack(other)]], dim=1)
    return cell("digits, triplets", (three, labels), lambda: perceptron(64, 32, 6), loss, steps=200)


def distilled() -> Cell:
    """A small network that learns the odds that a wide one at its start gives to clothes."""
    pixels = clothes(1536, 8)[0].flatten(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(404)
        teacher = perceptron(64, 256, 256, 10, kind=nn.Tanh)
    with torch.no_grad():
        odds = (12 * teacher((pixels - pixels.mean()) / pixels.std())).softmax(1)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        odds = batch[1].clamp(min=1e-30)
        return (odds * (odds.log() - functional.log_softmax(model(batch[0]), 1))).sum(1)

    return cell("clothes, distilled", (pixels, odds), lambda: perceptron(64, 24, 10), loss)


class Sets(nn.Module):
    """What a set of three pictures has in all: a sum over its members."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = perceptron(64, 32, 16), perceptron(16, 32, 28)

    def forward(self, pictures: Tensor) -> Tensor:
        """The odds of every sum of three digits."""
        members: Tensor = self.each(pictures.flatten(0, 1))
        return self.all(members.unflatten(0, pictures.shape[:2]).sum(1))


def sums() -> Cell:
    """The sum of the digits on three pictures, whose order does not count."""
    pictures, labels = images("digits", DIGITS)
    chosen = torch.randint(DIGITS, (1536, 3), generator=generator(405))
    return cell(
        "sums of digits, sets",
        (pictures[chosen].flatten(2), labels[chosen].sum(1)),
        Sets,
        classified,
        steps=300,
    )


class Mixer(nn.Module):
    """Linear layers along the patches of a picture and along the values of each, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 16)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))
        self.places = nn.ModuleList(perceptron_of(16) for _ in range(2))
        self.values = nn.ModuleList(perceptron_of(16) for _ in range(2))
        self.last = nn.Linear(16, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """The odds of the classes of pictures of 8 x 8."""
        patches = pictures.unflatten(3, (4, 2)).unflatten(2, (4, 2)).movedim(3, 4).flatten(4)
        seen = self.first(patches.flatten(1, 3))
        for layer in range(2):
            seen = seen + self.places[layer](self.norms[2 * layer](seen).mT).mT
            seen = seen + self.values[layer](self.norms[2 * layer + 1](seen))
        return self.last(seen.mean(1))


def perceptron_of(width: int) -> nn.Module:
    """Two linear layers on the last axis."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))


def mixed() -> Cell:
    """Digits under layers that mix patches and values."""
    return cell("digits, mixer", images("digits", DIGITS), Mixer, classified, steps=200)


class Pushed(nn.Module):
    """The state of a pendulum after eight steps of a learnt force."""

    def __init__(self) -> None:
        super().__init__()
        self.force = perceptron(2, 16, 1, kind=nn.Tanh)

    def forward(self, state: Tensor) -> Tensor:
        """The state at each step."""
        seen = []
        for _ in range(8):
            angle, speed = state.chunk(2, dim=1)
            speed = speed + 0.25 * self.force(state)
            state = torch.cat([angle + 0.25 * speed, speed], dim=1)
            seen.append(state)
        return torch.cat(seen, dim=1)


def pendulum() -> Cell:
    """The force on a pendulum with friction, from where it is seen with errors at eight times."""
    by = generator(406)
    start = 2 * torch.randn(1024, 2, generator=by)
    state, seen = start, []
    for step in range(64):
        angle, speed = state.chunk(2, dim=1)
        speed = speed - (angle.sin() + 0.2 * speed) / 32
        state = torch.cat([angle + speed / 32, speed], dim=1)
        if step % 8 == 7:
            seen.append(state)
    path = torch.cat(seen, dim=1)
    errors = 0.1 * torch.randn(path.shape, generator=by)
    return cell(
        "pendulum, unrolled",
        (start, path + errors),
        Pushed,
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=200,
        floor=None,
    )


def bags() -> Cell:
    """In which tenth of a text a stretch of 20 words stands, from the counts of its commonest 400
    words, by one linear layer."""
    common = {word: place for place, (word, _) in enumerate(Counter(words()).most_common(400))}
    counts = torch.zeros(len(words()) // 20, 400)
    for place, word in enumerate(words()[: 20 * len(counts)]):
        if word in common:
            counts[place // 20, common[word]] += 1
    tenths = torch.arange(len(counts)) * 10 // len(counts)
    return cell(
        "stretches of text, linear",
        (counts, tenths),
        lambda: nn.Linear(400, 10),
        classified,
        steps=200,
        floor=None,
    )


SECOND: Mapping[str, Callable[[], Cell]] = {
    "wines": wines,
    "strided": strided,
    "spelling": spelling,
    "restored": restored,
    "deep residual": deep_residual,
    "ordered": ordered,
    "mixture": mixture,
    "pairs": pairs,
    "triplets": triplets,
    "distilled": distilled,
    "sums": sums,
    "mixer": mixed,
    "pendulum": pendulum,
    "bags": bags,
}
