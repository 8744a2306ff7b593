"""The data of the recipes: what this machine has, and nothing that is downloaded.

Fashion-MNIST (Debian's `dataset-fashion-mnist`), the data and the two photographs that come with
scikit-learn, Python's reference manual and the source of its standard library, and the licences
in /usr/share/common-licenses. A loader whose source is missing raises `Absent`, with the way out.
"""

import math
import re
import sysconfig
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import torch
from sklearn import datasets
from torch import Tensor
from torch.nn import functional

from gradiometer.errors import BadArgument
from gradiometer.problems.images.fashion_mnist import find, read_idx

Rows = tuple[Tensor, ...]

LICENCES = Path("/usr/share/common-licenses")


class Absent(RuntimeError):
    """The data of a recipe are not on this machine."""


@dataclass(frozen=True)
class Data:
    """The rows of a training.

    Args:
        train: Tensors with one entry a row.
        held_out: The same for rows that are never trained on.
        order: A key of the training rows: sorted by it they are as a file has them that nobody
            shuffled, by class or by place in the text.
        source: What the loader found.
    """

    train: Rows
    held_out: Rows
    order: Tensor
    source: str


def divided(rows: Rows, held_out: int, key: Tensor, source: str, seed: int = 0) -> Data:
    """Rows in a random order, the last `held_out` of them kept apart."""
    order = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(seed))
    train, kept = order[:-held_out], order[-held_out:]
    return Data(
        tuple(part[train] for part in rows), tuple(part[kept] for part in rows), key[train], source
    )


# ---- pictures


@cache
def _fashion(part: str) -> tuple[Tensor, Tensor]:
    try:
        folder = find()
    except BadArgument as error:
        raise Absent(str(error)) from error
    arrays = []
    for kind, axes in (("images-idx3-ubyte", 3), ("labels-idx1-ubyte", 1)):
        name = f"{part}-{kind}"
        path = folder / name if (folder / name).exists() else folder / f"{name}.gz"
        arrays.append(torch.from_numpy(read_idx(path, axes).copy()))
    images, labels = arrays
    return images.unsqueeze(1).float() / 255, labels.long()


@cache
def fashion(size: int = 14, classes: tuple[int, ...] = tuple(range(10))) -> Data:
    """Clothes at 14 × 14 or 28 × 28 pixels in [0, 1], with classes numbered from 0."""
    parts = []
    for part, most in (("train", 60_000), ("t10k", 2_000)):
        images, labels = _fashion(part)
        chosen = torch.isin(labels, torch.tensor(classes))
        images, labels = images[chosen][:most], labels[chosen][:most]
        number = torch.zeros(10, dtype=torch.long)
        number[list(classes)] = torch.arange(len(classes))
        parts.append((functional.avg_pool2d(images, 28 // size), number[labels]))
    return Data(parts[0], parts[1], parts[0][1], f"Fashion-MNIST, {size} × {size}")


@cache
def standard_fashion(size: int = 14) -> Data:
    """Clothes with mean 0 and variance 1 over all pixels."""
    data = fashion(size)
    mean, deviation = data.train[0].mean(), data.train[0].std()
    scaled = [((x - mean) / deviation, y) for x, y in (data.train, data.held_out)]
    return Data(scaled[0], scaled[1], data.order, data.source)


@cache
def dressed_pairs() -> Data:
    """Two pictures of clothes and 1.0 if they show the same kind, half of the pairs."""
    parts = []
    for (images, labels), count in ((fashion().train, 30_000), (fashion().held_out, 2_000)):
        generator = torch.Generator().manual_seed(1)
        first = torch.randint(len(images), (count,), generator=generator)
        second = torch.randint(len(images), (count,), generator=generator)
        by_class = [(labels == kind).nonzero().flatten() for kind in range(10)]
        for pair in range(0, count, 2):
            others = by_class[int(labels[first[pair]])]
            second[pair] = others[int(second[pair]) % len(others)]
        same = (labels[first] == labels[second]).float()
        parts.append((images[first], images[second], same))
    return Data(parts[0], parts[1], parts[0][2], "Fashion-MNIST, pairs")


@cache
def photographs(side: int = 16) -> Data:
    """Grey patches of the two photographs of scikit-learn: at half the size, and as they are."""
    patches = []
    for name in ("china.jpg", "flower.jpg"):
        photograph = torch.from_numpy(datasets.load_sample_image(name).copy()).float() / 255
        grey = photograph.mean(dim=2)
        windows = grey.unfold(0, side, 8).unfold(1, side, 8)
        patches.append(windows.reshape(-1, 1, side, side))
    # Patches overlap: whole bands of the photographs are kept apart, not single patches.
    train = torch.cat([part[:-1_000] for part in patches])
    kept = torch.cat([part[-900:] for part in patches])
    rows = [(functional.avg_pool2d(part, 2), part) for part in (train, kept)]
    return Data(rows[0], rows[1], torch.arange(len(train)), "two photographs of scikit-learn")


@cache
def pixels() -> Data:
    """Places in a photograph of 96 × 96 pixels in [-1, 1], and their colours; a quarter is kept."""
    photograph = torch.from_numpy(datasets.load_sample_image("china.jpg").copy()).float() / 255
    small = functional.adaptive_avg_pool2d(photograph.permute(2, 0, 1), 96)
    line = torch.linspace(-1, 1, 96)
    places = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)
    colours = small.reshape(3, -1).T.contiguous()
    return divided(
        (places, colours), 2_304, torch.arange(len(places)), "a photograph of scikit-learn"
    )


# ---- text


@cache
def manual() -> str:
    """Python's reference manual, as `help()` has it."""
    return "\n".join(topics[name] for name in sorted(topics))


@cache
def licences() -> str:
    """The licences that Debian installs."""
    files = sorted(path for path in LICENCES.glob("*") if path.is_file() and not path.is_symlink())
    if not files:
        raise Absent(f"No licences in {LICENCES}: this recipe needs Debian's package base-files.")
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


@cache
def library(package: str) -> str:
    """The source of a package of Python's standard library."""
    folder = Path(sysconfig.get_paths()["stdlib"]) / package
    files = sorted(path for path in folder.rglob("*.py") if "test" not in path.parts)
    if not files:
        raise Absent(f"No sources in {folder}: this recipe needs Python's standard library.")
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


def coded(tokens: list[str], size: int) -> Tensor:
    """Numbers of the `size` - 1 commonest tokens; 0 is any other."""
    common = [token for token, _ in Counter(tokens).most_common(size - 1)]
    number = {token: index for index, token in enumerate(common, start=1)}
    return torch.tensor([number.get(token, 0) for token in tokens])


def windows(codes: Tensor, length: int, stride: int, source: str, held_out: int = 600) -> Data:
    """Windows of a text and the same one token later; the last tenth of the text is kept apart."""
    end = len(codes) * 9 // 10
    parts = []
    for text in (codes[:end], codes[end:]):
        cut = text.unfold(0, length + 1, stride)
        parts.append((cut[:, :-1], cut[:, 1:]))
    spread = torch.linspace(0, len(parts[1][0]) - 1, min(held_out, len(parts[1][0]))).long()
    kept = tuple(part[spread] for part in parts[1])
    return Data(parts[0], kept, torch.arange(len(parts[0][0])), source)


@cache
def manual_characters(length: int = 32) -> Data:
    """The next of 64 characters of Python's manual."""
    return windows(coded(list(manual()[:400_000]), 64), length, 7, "Python's manual, characters")


@cache
def source_characters(length: int = 32) -> Data:
    """The next of 64 characters of the source of asyncio."""
    text = library("asyncio")[:400_000]
    return windows(coded(list(text), 64), length, 9, "source of asyncio, characters")


@cache
def licence_words(size: int = 1_000) -> Tensor:
    """The licences as numbers of words and marks."""
    return coded(re.findall(r"[a-z]+|[^\sa-z]", licences().lower()), size)


@cache
def licence_text(length: int = 20, columns: int = 20) -> Data:
    """Pieces of the licences in the order of a language model that carries its state: row
    i · columns + j goes on where row (i - 1) · columns + j ends."""
    codes = licence_words()
    codes, kept = codes[: len(codes) * 9 // 10], codes[len(codes) * 9 // 10 :]
    each = (len(codes) - 1) // columns // length * length
    streams = torch.stack([codes[j * each : (j + 1) * each + 1] for j in range(columns)])
    cut = streams.unfold(1, length + 1, length).transpose(0, 1).reshape(-1, length + 1)
    rest = kept.unfold(0, length + 1, length)
    return Data(
        (cut[:, :-1], cut[:, 1:]),
        (rest[:, :-1], rest[:, 1:]),
        torch.arange(len(cut)),
        "licences of Debian, words",
    )


@cache
def neighbours() -> Data:
    """A word of the licences and one at most three places away, for word2vec."""
    codes = licence_words()
    codes = codes[codes > 0]
    pairs = []
    for distance in (1, 2, 3):
        pairs.append(torch.stack([codes[:-distance], codes[distance:]], dim=1))
    rows = torch.cat(pairs)
    return divided((rows[:, 0], rows[:, 1]), 4_000, rows[:, 0], "licences of Debian, pairs")


@cache
def words() -> list[str]:
    """Words of 3 to 10 letters in Python's manual and its library, each once."""
    text = " ".join((manual(), library("asyncio"), library("email"), library("tkinter")))
    return sorted(set(re.findall(r"(?<![a-z])[a-z]{3,10}(?![a-z])", text.lower())))


@cache
def spelling(block: int = 3) -> Data:
    """The next letter of a word after its last three (makemore)."""
    contexts, following = [], []
    for word in words():
        letters = [0] * block + [ord(letter) - 96 for letter in word] + [0]
        for place in range(len(letters) - block):
            contexts.append(letters[place : place + block])
            following.append(letters[place + block])
    rows = (torch.tensor(contexts), torch.tensor(following))
    return divided(rows, 4_000, torch.arange(len(contexts)), "words of Python's manual")


@cache
def pig_latin() -> Data:
    """Words and the same in pig latin: ended by 27, filled with 0, which no loss counts."""

    def translated(word: str) -> str:
        first = next((i for i, letter in enumerate(word) if letter in "aeiou"), 0)
        return f"{word[first:]}{word[:first]}ay" if first else f"{word}way"

    def numbers(word: str, length: int) -> list[int]:
        return ([ord(letter) - 96 for letter in word] + [27] + [0] * length)[:length]

    pairs = [(numbers(word, 11), numbers(translated(word), 14)) for word in words()]
    rows = (torch.tensor([a for a, _ in pairs]), torch.tensor([b for _, b in pairs]))
    return divided(rows, 800, torch.arange(len(pairs)), "words of Python's manual, pig latin")


PACKAGES = ("asyncio", "email", "http", "json", "logging", "tkinter", "unittest", "xml")


@cache
def packages(length: int = 24) -> Data:
    """Stretches of 24 words of source, and the package of the standard library they are from."""
    texts = [re.findall(r"[a-z]+", library(name).lower())[:40_000] for name in PACKAGES]
    codes = coded([word for text in texts for word in text], 2_000)
    stretches, labels, begin = [], [], 0
    for label, text in enumerate(texts):
        part = codes[begin : begin + len(text)].unfold(0, length, 12)
        stretches.append(part)
        labels.append(torch.full((len(part),), label))
        begin += len(text)
    x, y = torch.cat(stretches), torch.cat(labels)
    # Stretches overlap by half: a block of every ten is kept apart, not single stretches.
    block = torch.arange(len(x)) // 40
    kept, used = block % 10 == 9, block % 10 != 9
    return Data((x[used], y[used]), (x[kept], y[kept]), y[used], "source of eight packages")


# ---- tables and others


@cache
def friedman() -> Data:
    """Friedman's first function of 10 columns, with noise: a standard table of regression."""
    x, y = datasets.make_friedman1(n_samples=12_000, noise=1.0, random_state=0)
    x, y = torch.tensor(x).float(), torch.tensor(y).float()
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    return divided((x, y), 2_000, y, "Friedman's function 1 of scikit-learn")


@cache
def digits() -> Data:
    """1,797 digits of 8 × 8 pixels, as scikit-learn has them, in [0, 1]."""
    x, y = datasets.load_digits(return_X_y=True)
    rows = (torch.tensor(x).float() / 16, torch.tensor(y))
    return divided(rows, 397, rows[1], "digits of scikit-learn")


@cache
def digit_graph() -> tuple[Tensor, Tensor]:
    """The pixels of all digits, and the normalised adjacency of five nearest neighbours of each.

    Source: Kipf & Welling (2017), Semi-Supervised Classification with Graph Convolutional
        Networks, equation 2.
    """
    x = torch.tensor(datasets.load_digits().data).float() / 16
    nearest = torch.cdist(x, x).argsort(dim=1)[:, :6]
    joined = torch.zeros(len(x), len(x)).scatter_(1, nearest, 1.0)
    joined = torch.maximum(joined, joined.T)
    scale = joined.sum(1).rsqrt()
    return x, (scale.unsqueeze(1) * joined * scale).to_sparse().coalesce()


@cache
def labelled_nodes() -> Data:
    """Twelve nodes of each digit to train on, 1,000 others to judge, as indices and labels."""
    labels = torch.tensor(datasets.load_digits().target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = torch.cat([order[labels[order] == digit][:12] for digit in range(10)])
    kept = order[~torch.isin(order, chosen)][:1_000]
    return Data(
        (chosen, labels[chosen]), (kept, labels[kept]), labels[chosen], "digits of scikit-learn"
    )


@cache
def balancing() -> Data:
    """States and actions of a pole on a cart that is pushed at random, and the discounted return.

    Source: Barto, Sutton & Anderson (1983); constants of Gymnasium's CartPole-v1.
    """
    generator = torch.Generator().manual_seed(0)
    count, steps, discount = 6_000, 60, 0.95
    state = (torch.rand(count, 4, generator=generator) - 0.5) * torch.tensor([2.0, 2.0, 0.3, 2.0])
    begun, first = state.clone(), torch.randint(2, (count,), generator=generator)
    returns, alive = torch.zeros(count), torch.ones(count)
    for step in range(steps):
        # After the first push the cart is pushed to where the pole falls, four times of five.
        wise = (state[:, 2] + 0.5 * state[:, 3] > 0).long()
        random = torch.randint(2, (count,), generator=generator)
        careless = torch.rand(count, generator=generator) < 0.2
        action = first if step == 0 else torch.where(careless, random, wise)
        state = _pushed(state, action)
        alive = alive * (state[:, 2].abs() < 0.21) * (state[:, 0].abs() < 2.4)
        returns += discount**step * alive
    return divided((begun, first, returns), 1_000, returns, "a pole on a cart, computed")


def _pushed(state: Tensor, action: Tensor) -> Tensor:
    """The state 0.02 s after a push of 10 N to one side."""
    x, speed, angle, turning = state.T
    force = 20.0 * action - 10.0
    inner = (force + 0.05 * turning**2 * angle.sin()) / 1.1
    top = 9.8 * angle.sin() - angle.cos() * inner
    turned = top / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
    pushed = inner - 0.05 * turned * angle.cos() / 1.1
    moved = [x + 0.02 * speed, speed + 0.02 * pushed, angle + 0.02 * turning]
    return torch.stack([*moved, turning + 0.02 * turned], dim=1)


def available(load: Callable[[], Data]) -> str | None:
    """None if these data are on this machine, else the sentence that says what is missing."""
    try:
        load()
    except Absent as error:
        return str(error)
    return None


def alphas(steps: int = 200) -> Tensor:
    """ᾱ_t of a linear schedule of noise from 0.0001 to 0.02.

    Source: Ho, Jain & Abbeel (2020), Denoising Diffusion Probabilistic Models, section 4.
    """
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, steps), 0)


def positions(length: int, width: int) -> Tensor:
    """Sines and cosines of places or of times.

    Source: Vaswani et al. (2017), Attention Is All You Need, section 3.5.
    """
    place = torch.arange(length).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    return torch.cat([(place * frequency).sin(), (place * frequency).cos()], dim=1)
