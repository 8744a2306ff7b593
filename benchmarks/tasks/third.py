"""Sixteen further tasks for a third judgement of tuning. Each is of a kind that is in no earlier
list: a loss that no other task has, or a network of another make. They are small."""

import math
from collections.abc import Callable, Mapping

import torch
from noise.runs import images, perceptron
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from tasks.bank import Cell, Pairs, cell, generator, patches, words
from tasks.networks import entropy, gaussian, squared
from tasks.second import DIGITS, classified, clothes, columns, progress

# Losses that no other task has


def halves() -> Cell:
    """Which of eight lower halves of digits belongs to an upper half, by the products of their
    vectors: a contrast of two networks."""
    pixels = images("digits", DIGITS)[0].flatten(1)
    upper, lower = pixels.chunk(2, dim=1)
    others = torch.randint(DIGITS, (DIGITS, 7), generator=generator(501))
    candidates = torch.cat([lower[:, None], lower[others]], dim=1)

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.upper, self.lower = perceptron(32, 32, 12), perceptron(32, 32, 12)

        def forward(self, given: Tensor) -> Tensor:
            one, *others = given.unflatten(1, (9, 32)).unbind(1)
            vectors = torch.stack([self.lower(other) for other in others], dim=1)
            return (vectors * self.upper(one)[:, None]).sum(2) / 12**0.5

    return cell(
        "halves of digits, contrast",
        (
            torch.cat([upper, candidates.flatten(1)], dim=1),
            torch.zeros(DIGITS, dtype=torch.long),
        ),
        Towers,
        classified,
        steps=250,
    )


class Heated(nn.Module):
    """A function of place and time, and what it lacks of the heat equation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, width), nn.Linear(width, 1)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The function, and its derivative in time minus a tenth of the second one in place."""
        bent = torch.tanh(self.first(3 * points))
        slope = 1 - bent.square()
        place, time = 3 * self.first.weight[:, 0], 3 * self.first.weight[:, 1]
        lack = slope * time + 0.2 * bent * slope * place.square()
        return self.last(bent), (lack * self.last.weight[0]).sum(1, keepdim=True)


def heat() -> Cell:
    """The heat equation, by what it lacks within and by its values at the start and the ends."""
    by = generator(502)
    points = 2 * torch.rand(1536, 2, generator=by) - 1
    inside = torch.arange(1536) % 2 == 0
    at_start = torch.arange(1536) % 4 == 1
    points[at_start, 1] = -1
    at_ends = torch.arange(1536) % 4 == 3
    points[at_ends, 0] = points[at_ends, 0].sign()
    known = torch.where(at_start, (math.pi * points[:, 0]).sin(), 0.0)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        value, lack = model(batch[0])
        target, inside = batch[1].chunk(2, dim=1)
        each = inside * lack.square() + (1 - inside) * 4 * (value - target).square()
        return each.squeeze(1)

    return cell(
        "heat equation, by its residual",
        (points, torch.stack([known, inside.float()], dim=1)),
        lambda: Heated(32),
        loss,
        steps=300,
    )


def told_from_noise() -> Cell:
    """The density of pairs of measures of wines, without its constant, told from noise."""
    seen = columns(datasets.load_wine())[0][:, [0, 6, 9]]
    by = generator(503)
    real = seen.repeat(6, 1) + 0.1 * torch.randn(6 * len(seen), 3, generator=by)
    noise = 1.5 * torch.randn(real.shape, generator=by)
    points = torch.cat([real, noise])
    is_real = (torch.arange(len(points)) < len(real)).float()

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        of_noise = -gaussian(batch[0], torch.zeros(3), torch.full((3,), math.log(1.5))).sum(1)
        odds = model(batch[0]).squeeze(1) - of_noise
        return functional.binary_cross_entropy_with_logits(odds, batch[1], reduction="none")

    return cell(
        "wines, told from noise",
        (points, is_real),
        lambda: perceptron(3, 32, 32, 1, kind=nn.SiLU),
        loss,
        steps=250,
        floor=None,
    )


def censored() -> Cell:
    """The progress of diabetes, which above its median is only known to be there."""
    inputs, targets = progress()
    limit = targets.median()
    seen = torch.cat([targets.clamp(max=limit), (targets > limit).float()], dim=1)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        mean, log = model(batch[0]).chunk(2, dim=1)
        value, above = batch[1].chunk(2, dim=1)
        beyond = torch.special.log_ndtr((mean - value) * (-log).exp())
        return ((1 - above) * gaussian(value, mean, log) - above * beyond).squeeze(1)

    return cell(
        "diabetes, censored",
        (inputs, seen),
        lambda: perceptron(10, 24, 2, kind=nn.Tanh),
        loss,
        steps=200,
        batch=16,
        floor=None,
    )


def hinged() -> Cell:
    """The class of a digit by the margins of one linear layer on products of pixels: a hinge."""
    pixels, labels = images("digits", DIGITS)
    small = functional.avg_pool2d(pixels, 2).flatten(1)
    products = (small[:, :, None] * small[:, None]).flatten(1)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        scores = model(batch[0])
        own = scores.gather(1, batch[1][:, None])
        wrong = functional.one_hot(batch[1], 10) == 0
        return ((1 + scores - own).clamp(min=0) * wrong).sum(1)

    return cell(
        "digits, hinge",
        (torch.cat([small, products], dim=1), labels),
        lambda: nn.Linear(272, 10),
        loss,
        steps=200,
    )


def hidden_middle() -> Cell:
    """The middle of a square of a photograph from what is around it, by the absolute error."""
    squares = patches("china.jpg", 8).view(-1, 8, 8)[:1536]
    squares = (squares - squares.mean()) / squares.std()
    around = squares.clone()
    around[:, 2:6, 2:6] = 0
    return cell(
        "photograph, absolute error",
        (around.flatten(1), squares[:, 2:6, 2:6].flatten(1)),
        lambda: perceptron(64, 48, 48, 16, kind=nn.GELU),
        lambda model, batch: (model(batch[0]) - batch[1]).abs().mean(1),
        steps=250,
    )


def logged_actions() -> Cell:
    """What to do for a picture of clothes, from what was tried at random and the reward of it: a
    policy that is weighted by how likely its actions were."""
    pictures, labels = clothes(1536, 8)
    by = generator(504)
    tried = torch.randint(10, (1536,), generator=by)
    tried = torch.where(torch.rand(1536, generator=by) < 0.3, labels, tried)
    likely = torch.where(tried == labels, 0.3 + 0.07, 0.07)
    reward = (tried == labels).float() - 0.2

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        action, likely, reward = batch[1].unbind(1)
        chances = model(batch[0]).softmax(1).gather(1, action.long()[:, None]).squeeze(1)
        return -reward * chances / likely

    return cell(
        "clothes, logged actions",
        (pictures.flatten(1), torch.stack([tried.float(), likely, reward], dim=1)),
        lambda: perceptron(64, 32, 10),
        loss,
        steps=250,
        floor=None,
    )


def angles() -> Cell:
    """Digits by the angles of their vectors to those of the classes, with a margin."""

    class Angles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vector = perceptron(64, 32, 8)
            self.classes = nn.Parameter(torch.randn(10, 8))

        def forward(self, pictures: Tensor) -> Tensor:
            vectors = functional.normalize(self.vector(pictures), dim=1)
            return vectors @ functional.normalize(self.classes, dim=1).T

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        margin = 0.2 * functional.one_hot(batch[1], 10)
        return entropy(12 * (model(batch[0]) - margin), batch[1])

    return cell("digits, angles", images("digits", DIGITS), Angles, loss, steps=200)


# Networks of another make


class Neighbours(nn.Module):
    """Two layers that join a picture with the mean of the pictures beside it in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(64, 24), nn.Linear(64, 24, bias=False)
        self.last = nn.Linear(48, 10)

    def forward(self, group: Tensor) -> Tensor:
        """The odds of the classes, from a picture and its six neighbours."""
        beside = (group.sum(1, keepdim=True) - group) / 6
        seen = functional.relu(self.own(group) + self.others(beside))
        return self.last(torch.cat([seen[:, 0], seen[:, 1:].mean(1)], dim=1))


def graph() -> Cell:
    """Digits as the nodes of a graph of those that look alike; a tenth of the labels is wrong."""
    pixels, labels = images("digits", DIGITS)
    pixels = pixels.flatten(1)
    beside = torch.cdist(pixels, pixels).topk(7, largest=False).indices
    by = generator(505)
    wrong = torch.rand(DIGITS, generator=by) < 0.1
    labels = torch.where(wrong, torch.randint(10, (DIGITS,), generator=by), labels)
    return cell("digits, graph", (pixels[beside], labels), Neighbours, classified, steps=200)


class Dilated(nn.Module):
    """Causal convolutions along a sequence with growing gaps, each with a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 12, 1)
        self.layers = nn.ModuleList(nn.Conv1d(12, 24, 2, dilation=2**k) for k in range(4))
        self.last = nn.Conv1d(12, 8, 1)

    def forward(self, values: Tensor) -> Tensor:
        """The odds of the level that follows each value."""
        seen = self.first(values[:, None])
        for k, layer in enumerate(self.layers):
            signal, gate = layer(functional.pad(seen, (2**k, 0))).chunk(2, dim=1)
            seen = seen + torch.tanh(signal) * torch.sigmoid(gate)
        return self.last(functional.relu(seen))


def rows_of_flower() -> Cell:
    """The next value along rows of a photograph in eight levels, by gated dilated convolutions."""
    grey = torch.tensor(datasets.load_sample_image("flower.jpg")).float().mean(2)
    rows = functional.avg_pool2d(grey[None], 4)[0].unfold(1, 25, 20).reshape(-1, 25)[:1200]
    edges = rows.flatten().quantile(torch.linspace(0, 1, 9)[1:-1])
    levels = torch.bucketize(rows.contiguous(), edges)
    return cell(
        "rows of a photograph, dilated",
        ((levels[:, :-1].float() - 3.5) / 2, levels[:, 1:]),
        Dilated,
        classified,
        steps=200,
    )


class Coded(nn.Module):
    """An autoencoder through a code of signs, whose gradient passes as if they were the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = perceptron(64, 32, 16), perceptron(16, 32, 64)

    def forward(self, pixels: Tensor) -> Tensor:
        """What the code says of the pixels."""
        code = self.into(pixels).tanh()
        return self.out(code + (code.sign() - code).detach())


def signs() -> Cell:
    """Digits through sixteen signs."""
    pixels = images("digits", DIGITS)[0].flatten(1)
    return cell(
        "digits through signs",
        (pixels, pixels),
        Coded,
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=250,
        floor=None,
    )


class Experts(nn.Module):
    """Eight small networks, weighted by what a ninth says of the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(perceptron(inputs, 8, outputs) for _ in range(8))
        self.gate = nn.Linear(inputs, 8)

    def forward(self, values: Tensor) -> Tensor:
        """The weighted outputs."""
        values = values.flatten(1)
        each = torch.stack([expert(values) for expert in self.experts], dim=2)
        return (each * self.gate(values).softmax(1)[:, None]).sum(2)


def experts() -> Cell:
    """Clothes under a mixture of experts."""
    return cell(
        "clothes, experts", clothes(1536, 8), lambda: Experts(64, 10), classified, steps=250
    )


class Tree(nn.Module):
    """A tree of soft decisions: sixteen leaves, each with odds of two classes."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.decisions = nn.Linear(inputs, 15)
        self.leaves = nn.Parameter(torch.zeros(16, 2))

    def forward(self, values: Tensor) -> Tensor:
        """The chance of each class."""
        right = torch.sigmoid(self.decisions(values))
        chances = torch.ones_like(right[:, :1])
        for depth in range(4):
            each = right[:, 2**depth - 1 : 2 ** (depth + 1) - 1]
            chances = torch.stack([chances * (1 - each), chances * each], dim=2).flatten(1)
        return chances @ self.leaves.softmax(1)


def tree() -> Cell:
    """Is a tumour malignant? By a tree of soft decisions on standardised measures."""

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        return functional.nll_loss((model(batch[0]) + 1e-9).log(), batch[1], reduction="none")

    return cell(
        "tumours, soft tree",
        columns(datasets.load_breast_cancer()),
        lambda: Tree(30),
        loss,
        steps=200,
        batch=16,
    )


class StateSpace(nn.Module):
    """Linear states that fade at learnt speeds, between two layers at every step."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(inputs, 32), nn.Linear(32, outputs)
        self.keeps = nn.Parameter(torch.linspace(-1, 4, 32))

    def forward(self, letters: Tensor) -> Tensor:
        """The odds after the last step."""
        keeps = torch.sigmoid(self.keeps)
        state = letters.new_zeros(len(letters), 32)
        for step in range(letters.shape[1]):
            state = keeps * state + (1 - keeps) * self.into(letters[:, step])
        return self.out(functional.gelu(state))


def endings() -> Cell:
    """The last letter of a word from those before it, by a linear state space."""
    long = [word for word in words() if len(word) >= 5][:1536]
    codes = torch.tensor([[ord(letter) - 97 for letter in word[-5:]] for word in long])
    letters = functional.one_hot(codes, 26).float()
    return cell(
        "endings of words, state space",
        (letters[:, :4], codes[:, 4]),
        lambda: StateSpace(26, 26),
        classified,
        steps=250,
    )


def deep_linear() -> Cell:
    """The progress of diabetes and its square, by six linear layers without anything between."""
    inputs, targets = progress()
    return cell(
        "diabetes, six linear layers",
        (inputs, torch.cat([targets, targets.square() - 1], dim=1)),
        lambda: perceptron(10, 16, 16, 16, 16, 16, 2, kind=nn.Identity),
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=250,
        batch=16,
        floor=None,
    )


class Operator(nn.Module):
    """From a function to a function: products of learnt factors with its Fourier coefficients."""

    def __init__(self, waves: int, width: int) -> None:
        super().__init__()
        self.waves = waves
        self.first, self.last = nn.Linear(1, width), nn.Linear(width, 1)
        self.factors = nn.Parameter(torch.randn(2, 2, waves, width, width) / width)
        self.past = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, values: Tensor) -> Tensor:
        """The values of the new function at the same places."""
        seen = self.first(values[:, :, None])
        for layer in range(2):
            waves = torch.fft.rfft(seen, dim=1)[:, : self.waves]
            factors = torch.complex(self.factors[layer, 0], self.factors[layer, 1])
            products = (waves[:, :, :, None] * factors).sum(2)
            back = torch.fft.irfft(products, n=values.shape[1], dim=1)
            seen = functional.gelu(back + self.past[layer](seen))
        return self.last(seen).squeeze(2)


def burgers() -> Cell:
    """Where waves have gone that steepen and fade (Burgers' equation), by a Fourier operator."""
    by = generator(506)
    places = torch.arange(32) * 2 * math.pi / 32
    waves = torch.stack([f(k * places) for k in (1, 2, 3) for f in (torch.sin, torch.cos)])
    start = torch.randn(1024, 6, generator=by) @ waves / 2
    flow = start.double()
    numbers = torch.fft.rfftfreq(32, 1 / 32).double()
    for _ in range(400):
        half = torch.fft.irfft(1j * numbers * torch.fft.rfft(flow.square() / 2), n=32)
        bent = torch.fft.irfft(-numbers.square() * torch.fft.rfft(flow), n=32)
        flow = flow + 0.001 * (0.2 * bent - half)
    return cell(
        "Burgers, Fourier operator",
        (start, flow.float()),
        lambda: Operator(8, 8),
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=200,
    )


THIRD: Mapping[str, Callable[[], Cell]] = {
    "halves": halves,
    "heat": heat,
    "noise": told_from_noise,
    "censored": censored,
    "hinge": hinged,
    "middle": hidden_middle,
    "actions": logged_actions,
    "angles": angles,
    "graph": graph,
    "dilated": rows_of_flower,
    "signs": signs,
    "experts": experts,
    "tree": tree,
    "state space": endings,
    "deep linear": deep_linear,
    "operator": burgers,
}
