"""Data of the twelfth fresh part, which no other part has: clothes that are turned, damaged and compared,
photographs, texts of scikit-learn's own pages, its toys, and simulated tables, clicks, graphs and
series."""

import inspect
import re
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from sklearn import (
    cluster,
    datasets,
    decomposition,
    ensemble,
    linear_model,
    preprocessing,
    svm,
)
from torch import Tensor
from torch.nn import functional

from clinic.data import Data, parts, standard
from clinic.eighth import Counts, Marks, OwnLoss
from gradiometer.problems.images import fashion_mnist

# ---- losses


class Smoothed(OwnLoss):
    """Classes with a cross-entropy whose labels are smoothed by a tenth."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return functional.cross_entropy(outputs, targets, label_smoothing=0.1)

    def constant(self) -> Tensor:
        """The logarithms of the smoothed shares."""
        shares = self.train[1].bincount(minlength=self.outputs) / len(self.train[1])
        return (0.9 * shares + 0.1 / self.outputs).log()


class Triplets(Data):
    """Three inputs, of which the first two are of the same kind and the third is not. The loss is by how
    much the first is not nearer to the second than to the third by 1."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        first, second, third = outputs.unbind(dim=1)
        return functional.triplet_margin_loss(first, second, third)

    def guess(self) -> float:
        """The loss if all outputs are the same."""
        return 1.0


# ---- clothes


@cache
def clothes_of(first: int, count: int) -> tuple[Tensor, Tensor]:
    """Images of Fashion-MNIST of 14 × 14 pixels, in [0, 1], and their labels."""
    images, labels = fashion_mnist.load("mlp").train.batch(torch.arange(first, first + count))
    return functional.avg_pool2d(images.view(-1, 1, 28, 28), 2), labels


def upright() -> Data:
    """Noisy images of 14 × 14 pixels of clothes, shoes and bags: which of four sides is up?"""
    generator = torch.Generator().manual_seed(160)
    images, _ = clothes_of(20_000, 12_000)
    labels = torch.randint(4, (len(images),), generator=generator)
    turned = torch.stack([images.rot90(side, (2, 3)) for side in range(4)])
    shown = turned[labels, torch.arange(len(images))]
    shown = (shown - 0.29) / 0.33 + 0.6 * torch.randn(shown.shape, generator=generator)
    return Data(*parts(shown, labels, held_out=1_500), 4, "classes")


def restored() -> Data:
    """Images of 14 × 14 pixels of clothes, with noise and with a hole: the clean pixels."""
    generator = torch.Generator().manual_seed(161)
    clean, _ = clothes_of(32_000, 9_000)
    clean = (clean - 0.29) / 0.33
    place = torch.arange(14)
    corner = torch.randint(11, (len(clean), 2, 1), generator=generator)
    inside = (place >= corner) & (place < corner + 4)
    hole = inside[:, 0].unsqueeze(2) & inside[:, 1].unsqueeze(1)
    seen = clean + 0.5 * torch.randn(clean.shape, generator=generator)
    seen = seen.masked_fill(hole.unsqueeze(1), 0.0)
    return Data(*parts(seen, clean.flatten(1).unsqueeze(2), held_out=1_000), 1, "values")


def lookalikes() -> Data:
    """Triplets of images of 14 × 14 pixels of clothes: two of one of the ten kinds and one of another."""
    generator = torch.Generator().manual_seed(162)
    images, labels = clothes_of(42_000, 15_000)
    images = ((images - 0.29) / 0.33).squeeze(1)

    def triplets(rows: Tensor) -> Tensor:
        count = len(rows)
        order = torch.randperm(count, generator=generator)
        rows = rows[order[labels[rows[order]].argsort(stable=True)]]
        # beside one another in the order of kinds, and somewhere else
        others = rows[torch.randint(count, (count,), generator=generator)]
        is_good = (labels[rows] == labels[rows.roll(1)]) & (labels[rows] != labels[others])
        chosen = torch.stack([rows, rows.roll(1), others], dim=1)[is_good]
        return chosen[torch.randperm(len(chosen), generator=generator)]

    of_part = [triplets(part) for part in torch.arange(len(images)).split((12_000, 1_500, 1_500))]
    three = [(images[part], torch.zeros(len(part), dtype=torch.long)) for part in of_part]
    return Triplets(three[0], three[1], three[2], 8, "classes")


# ---- photographs


def photographs() -> Data:
    """Squares of 12 × 12 grey pixels of two photographs, seen from three distances: 6 classes."""
    generator = torch.Generator().manual_seed(163)
    rows: list[list[Tensor]] = [[], [], []]
    labels: list[list[int]] = [[], [], []]
    for number, name in enumerate(("china.jpg", "flower.jpg")):
        photograph = torch.from_numpy(datasets.load_sample_image(name).astype(np.float32))
        grey = (photograph.mean(dim=2) / 255).view(1, 1, *photograph.shape[:2])
        for far in (1, 2, 3):
            size = 12 * far
            for _ in range(2_200):
                # the photograph has 16 bands of 40 pixels, two of which are evaluated and two fresh
                band = int(torch.randint(16, (1,), generator=generator))
                right = 40 * band + int(torch.randint(41 - size, (1,), generator=generator))
                down = int(torch.randint(grey.shape[2] - size, (1,), generator=generator))
                square = grey[:, :, down : down + size, right : right + size]
                part = 1 if band % 8 == 3 else 2 if band % 8 == 6 else 0
                rows[part].append(functional.avg_pool2d(square, far))
                labels[part].append(3 * number + far - 1)
    images = [torch.cat(part) for part in rows]
    mean, size_of_all = images[0].mean(), images[0].std()
    pairs = []
    for image, label in zip(images, labels, strict=True):
        order = torch.randperm(len(image), generator=generator)
        noise = 0.1 * torch.randn(image.shape, generator=generator)
        pairs.append((((image - mean) / size_of_all + noise)[order], torch.tensor(label)[order]))
    return Data(pairs[0], pairs[1], pairs[2], 6, "classes")


def petals() -> Data:
    """The three colours of a photograph of flowers at a place, with a little noise."""
    generator = torch.Generator().manual_seed(164)
    photograph = torch.from_numpy(datasets.load_sample_image("flower.jpg").astype(np.float32))
    small = functional.avg_pool2d(photograph.permute(2, 0, 1).unsqueeze(0), 4).squeeze(0)
    down, right = (torch.linspace(-1, 1, size) for size in small.shape[1:])
    places = torch.cartesian_prod(down, right).flip(1)
    colours = standard(small.flatten(1).transpose(0, 1))
    colours = colours + 0.05 * torch.randn(colours.shape, generator=generator)
    order = torch.randperm(len(places), generator=generator)
    return Data(*parts(places[order], colours[order], held_out=1_500), 3, "values")


# ---- texts


@cache
def pages() -> str:
    """What the classes and functions of scikit-learn say of themselves, in small letters."""
    modules = (cluster, decomposition, ensemble, linear_model, preprocessing, svm)
    texts = [inspect.getdoc(getattr(module, name)) for module in modules for name in module.__all__]
    paragraphs = dict.fromkeys("\n\n".join(map(str, texts)).lower().split("\n\n"))
    return re.sub(r"\s+", " ", " ".join(paragraphs))


def lettered(
    text: str, letters: int, length: int, seed: int
) -> tuple[Tensor, torch.Generator, dict[str, int]]:
    """Windows of a text as numbers of its most common letters, in any order and none twice, the
    generator that ordered them, and the numbers."""
    common = [letter for letter, _ in Counter(text).most_common(letters - 1)]
    number = {letter: index for index, letter in enumerate(common)}
    codes = torch.tensor([number.get(letter, letters - 1) for letter in text])
    windows = codes.unfold(0, length, length)
    _, first = np.unique(windows.numpy(), axis=0, return_index=True)
    windows = windows[torch.from_numpy(first)]
    generator = torch.Generator().manual_seed(seed)
    return windows[torch.randperm(len(windows), generator=generator)], generator, number


def estimators() -> Data:
    """The next of 36 characters in windows of 16 of the pages of scikit-learn."""
    windows, _, _ = lettered(pages()[:330_000], 36, 17, 165)
    return Data(*parts(windows[:, :-1], windows[:, 1:], held_out=1_000), 36, "tokens")


def unspaced() -> Data:
    """Windows of 16 letters of the pages of scikit-learn without their spaces: where does a word
    begin?"""
    words = re.findall(r"[a-z]+", pages()[330_000:])
    letters = torch.tensor([ord(letter) - ord("a") for letter in "".join(words)])
    begins = torch.tensor([int(place == 0) for word in words for place in range(len(word))])
    both = torch.stack([letters, begins], dim=1).unfold(0, 16, 16)
    _, first = np.unique(both[:, 0].numpy(), axis=0, return_index=True)
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(166))
    both = both[torch.from_numpy(first)][order]
    return Data(*parts(both[:, 0], both[:, 1], held_out=1_000), 2, "tokens")


WORDS = 300


def vocabulary() -> Data:
    """Which of the 300 most common words of the pages of scikit-learn is between four others?"""
    words = re.findall(r"[a-z]+|[0-9]+", pages())
    common = [word for word, _ in Counter(words).most_common(WORDS - 1)]
    number = {word: index for index, word in enumerate(common)}
    codes = torch.tensor([number.get(word, WORDS - 1) for word in words]).unfold(0, 5, 1)
    codes = codes[codes[:, 2] < WORDS - 1]
    # blocks of the text, so that no words are in two parts
    blocks = codes[: len(codes) - len(codes) % 50].view(-1, 50, 5)[:, :46]
    generator = torch.Generator().manual_seed(167)
    blocks = blocks[torch.randperm(len(blocks), generator=generator)]
    cut = [part.flatten(0, 1) for part in blocks.split((len(blocks) - 120, 60, 60))]
    pairs = [(part[:, [0, 1, 3, 4]], part[:, 2]) for part in cut]
    return Data(pairs[0], pairs[1], pairs[2], WORDS, "classes")


# ---- sequences


def intents() -> Data:
    """12 words of 32, most of them idle: 6 things that are asked for, by which of three verbs comes
    first and by what follows it, with 4 % of wrong labels. The labels are smoothed."""
    generator = torch.Generator().manual_seed(168)
    count = 12_000
    words = torch.randint(9, 32, (count, 12), generator=generator)
    places = torch.rand(count, 11, generator=generator).argsort(dim=1)[:, :2].sort(dim=1).values
    verbs = torch.randint(3, (count, 2), generator=generator)
    things = torch.randint(2, (count, 2), generator=generator)
    words.scatter_(1, places[:, 1:] + 1, 3 + 3 * things[:, 1:] + verbs[:, 1:])
    words.scatter_(1, places[:, 1:], verbs[:, 1:])
    words.scatter_(1, places[:, :1] + 1, 3 + 3 * things[:, :1] + verbs[:, :1])
    words.scatter_(1, places[:, :1], verbs[:, :1])
    labels = 2 * verbs[:, 0] + things[:, 0]
    wrong = torch.rand(count, generator=generator) < 0.04
    labels = torch.where(wrong, torch.randint(6, (count,), generator=generator), labels)
    return Smoothed(*parts(words, labels, held_out=1_500), 6, "classes")


def payments() -> Data:
    """20 payments with a card, by amount, hour and distance: was it stolen on the way, and is the
    account a shop's?"""
    generator = torch.Generator().manual_seed(169)
    count = 12_000
    habit = torch.randn(count, 1, 3, generator=generator)
    seen = habit + 0.7 * torch.randn(count, 20, 3, generator=generator)
    begin = torch.randint(2, 18, (count, 1), generator=generator)
    thief = torch.rand(count, 1, generator=generator) < 0.35
    after = ((torch.arange(20) >= begin) & thief).unsqueeze(2)
    other = 1.2 * torch.randn(count, 1, 3, generator=generator)
    seen = torch.where(after, seen + other, seen)
    shop = torch.rand(count, 1, generator=generator) < 0.4
    hour = torch.where(shop.unsqueeze(2), 0.5 * seen[:, :, 1:2] + 0.3, seen[:, :, 1:2])
    seen = torch.cat([seen[:, :, :1], hour, seen[:, :, 2:]], dim=2)
    marks = torch.cat([thief, shop], dim=1).float()
    return Marks(*parts(seen, marks, held_out=1_500), 2, "values")


def gales() -> Data:
    """The next value of a chaotic signal, Lorenz's, at each of 16 noisy points."""
    generator = torch.Generator().manual_seed(170)
    count = 9_000
    state = 8 * torch.randn(3, count, generator=generator) + torch.tensor([[0.0], [0.0], [25.0]])
    shown = []
    for step in range(1_000):
        x, y, z = state
        slope = torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
        state = state + 0.006 * slope
        if step >= 660 and step % 20 == 0:
            shown.append(state[0])
    signal = standard(torch.stack(shown, dim=1).flatten().unsqueeze(1)).view(count, -1)
    seen = signal + 0.1 * torch.randn(signal.shape, generator=generator)
    return Data(
        *parts(seen[:, :16].unsqueeze(2), signal[:, 1:17].unsqueeze(2), held_out=1_200),
        1,
        "values",
    )


# ---- graphs


def clubs() -> Data:
    """10 people and who knows whom: how many know each other in threes, and how alike are those who know
    each other in two habits, with 3 % of noise in the variance."""
    generator = torch.Generator().manual_seed(171)
    count = 9_000
    side = torch.randn(count, 10, 2, generator=generator)
    near = torch.cdist(side, side) + 0.4 * torch.rand(count, 10, 10, generator=generator)
    known = (near < 1.4).float().triu(1)
    known = known + known.transpose(1, 2)
    habits = side + 0.5 * torch.randn(count, 10, 2, generator=generator)
    threes = (known @ known @ known).diagonal(dim1=1, dim2=2).sum(dim=1) / 6
    alike = ((habits @ habits.transpose(1, 2)) * known).sum(dim=(1, 2))
    y = standard(torch.stack([(1 + threes).log(), alike.sign() * (1 + alike.abs()).log()], dim=1))
    y = y + 0.17 * torch.randn(y.shape, generator=generator)
    return Data(*parts(torch.cat([known, habits], dim=2), y, held_out=1_200), 2, "values")


# ---- tables


KINDS = (60, 30, 12, 8)


def clicks() -> Data:
    """Four columns of categories and six of numbers: does somebody click, and does somebody buy?"""
    generator = torch.Generator().manual_seed(172)
    count = 22_000
    meant, codes = [], []
    for kinds in KINDS:
        often = 1 / (2 + torch.arange(float(kinds)))
        codes.append(torch.multinomial(often, count, replacement=True, generator=generator))
        meant.append(torch.randn(kinds, 3, generator=generator)[codes[-1]])
    numbers = torch.randn(count, 6, generator=generator)
    liking = (meant[0] * meant[1]).sum(dim=1) + 0.7 * (meant[2] * numbers[:, :3]).sum(dim=1)
    liking = liking + meant[3][:, 0] + 0.8 * torch.sin(2 * numbers[:, 3]) - 0.5
    buying = 0.7 * liking + (meant[0] * meant[3]).sum(dim=1) - torch.relu(numbers[:, 4]) - 1
    chance = torch.sigmoid(1.2 * torch.stack([liking, buying], dim=1))
    marks = (torch.rand(chance.shape, generator=generator) < chance).float()
    x = torch.cat([torch.stack(codes, dim=1).float(), numbers], dim=1)
    return Marks(*parts(x, marks, held_out=2_000), 2, "values")


def bicycles() -> Data:
    """How many bicycles are lent in an hour, by the hour, the day of the year and seven readings of the
    weather and the place."""
    generator = torch.Generator().manual_seed(173)
    count = 15_000
    hour, day = (2 * torch.rand(count, generator=generator) - 1 for _ in range(2))
    others = torch.randn(count, 7, generator=generator)
    work = (others[:, 0] > -0.6).float()
    rush = torch.exp(-30 * (hour + 0.3) ** 2) + torch.exp(-20 * (hour - 0.45) ** 2)
    walk = torch.exp(-4 * (hour - 0.25) ** 2)
    level = 1.3 * (work * rush + (1 - work) * walk) + 0.6 * torch.cos(3.1416 * day)
    warm = others[:, 1] - 0.6 * torch.cos(3.1416 * day)
    level = level + 0.35 * warm - 0.15 * warm**2 - 0.5 * torch.relu(others[:, 2])
    level = 1.2 + level + 0.3 * others[:, 3] * work
    lent = torch.poisson(level.exp(), generator=generator)
    x = torch.cat([torch.stack([1.7 * hour, 1.7 * day], dim=1), others], dim=1)
    return Counts(*parts(x, lent.unsqueeze(1), held_out=2_000), 1, "values")


def impedance() -> Data:
    """The size and the phase of the impedance of a circuit (Friedman's second and third function), by its
    four parts, with 3 % of noise in the variance."""
    x, size = datasets.make_friedman2(15_000, random_state=174)
    _, phase = datasets.make_friedman3(15_000, random_state=174)  # of the same circuits
    y = standard(torch.from_numpy(np.stack([np.sqrt(size), phase], axis=1)).float())
    y = y + 0.17 * torch.randn(y.shape, generator=torch.Generator().manual_seed(174))
    return Data(*parts(standard(torch.from_numpy(x).float()), y, held_out=2_000), 2, "values")


def crescents() -> Data:
    """Two pairs of crescents, turned into 8 columns: 4 classes that overlap."""
    generator = torch.Generator().manual_seed(175)
    planes, labels = [], torch.zeros(15_000, dtype=torch.long)
    for number in range(2):
        plane, label = datasets.make_moons(15_000, noise=0.2, random_state=175 + number)
        planes.append(torch.from_numpy(plane).float())
        labels = 2 * labels + torch.from_numpy(label)
    both = torch.cat([standard(plane) for plane in planes], dim=1)
    x = both @ torch.randn(4, 8, generator=generator)
    x = standard(x) + 0.1 * torch.randn(x.shape, generator=generator)
    return Data(*parts(x, labels, held_out=2_000), 4, "classes")


def tumours() -> Data:
    """30 readings of a tumour, mixed of two of the 569 that come with scikit-learn, and with noise: is
    the greater part benign? The tumours of each part are others."""
    generator = torch.Generator().manual_seed(176)
    readings, kinds = datasets.load_breast_cancer(return_X_y=True)
    x, kind = standard(torch.from_numpy(readings).float()), torch.from_numpy(kinds)
    order = torch.randperm(len(x), generator=generator)
    pairs = []
    for rows, count in zip(order.split((409, 80, 80)), (11_000, 1_500, 1_500), strict=True):
        first, second = rows[torch.randint(len(rows), (2, count), generator=generator)]
        share = 0.5 + 0.5 * torch.rand(count, 1, generator=generator)
        mixed = share * x[first] + (1 - share) * x[second]
        mixed = mixed + 0.3 * torch.randn(mixed.shape, generator=generator)
        pairs.append((mixed, kind[first]))
    return Data(pairs[0], pairs[1], pairs[2], 2, "classes")


def rolls() -> Data:
    """Where a point is on a rolled sheet, along it and across it, by six noisy columns that are askew,
    with 3 % of noise in the variance."""
    generator = torch.Generator().manual_seed(177)
    points, along = datasets.make_swiss_roll(15_000, noise=0.3, random_state=177)
    points, across = standard(torch.from_numpy(points).float()), points[:, 1]
    y = standard(torch.from_numpy(np.stack([along, across], axis=1)).float())
    y = y + 0.17 * torch.randn(y.shape, generator=generator)
    x = points @ torch.randn(3, 6, generator=generator)
    x = standard(x) + 0.05 * torch.randn(x.shape, generator=generator)
    return Data(*parts(x, y, held_out=2_000), 2, "values")


DATA: dict[str, Callable[[], Data]] = {
    "upright": upright,
    "restored": restored,
    "lookalikes": lookalikes,
    "photographs": photographs,
    "petals": petals,
    "estimators": estimators,
    "unspaced": unspaced,
    "vocabulary": vocabulary,
    "intents": intents,
    "payments": payments,
    "gales": gales,
    "clubs": clubs,
    "clicks": clicks,
    "bicycles": bicycles,
    "impedance": impedance,
    "crescents": crescents,
    "tumours": tumours,
    "rolls": rolls,
}
