"""Data of the eleventh fresh part, which no other part has: texts of generated languages, masks,
graphs, tables with categories, and the losses that people use for answers with several branches,
pairs, short lists, survival and several heads."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from clinic.data import Data, parts, standard
from clinic.eighth import Marks, OwnLoss

# ---- losses


class Branches(OwnLoss):
    """One value with several likely answers: the negative log-likelihood of a mixture of normal
    distributions, each with a weight, a centre and the logarithm of its width."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        weights, centres, widths = outputs.unflatten(1, (3, -1)).unbind(dim=1)
        widths = widths.clamp(-4, 4)
        errors = (targets - centres) * torch.exp(-widths)
        likelihoods = -0.5 * errors**2 - widths - 0.919
        return -torch.logsumexp(weights.log_softmax(dim=1) + likelihoods, dim=1).mean()

    def constant(self) -> Tensor:
        """The mixture of the targets themselves, by expectation and maximisation."""
        targets = self.train[1]
        count = self.outputs // 3
        places = (torch.arange(count) + 0.5) / count
        weights, centres = torch.full((count,), 1 / count), targets.quantile(places)
        widths = targets.std().expand(count)
        for _ in range(200):
            likelihoods = torch.exp(-0.5 * ((targets - centres) / widths) ** 2) / widths
            shares = weights * likelihoods / (weights * likelihoods).sum(dim=1, keepdim=True)
            total = shares.sum(dim=0)
            weights, centres = total / len(targets), (shares * targets).sum(dim=0) / total
            widths = ((shares * (targets - centres) ** 2).sum(dim=0) / total).sqrt()
        return torch.cat([weights.log(), centres, widths.log()])


class SameOrNot(Data):
    """Pairs that are of the same kind or not, with a loss of the distance between their two vectors:
    its square, or the square of what it lacks to 1."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        squares = ((outputs[:, 0] - outputs[:, 1]) ** 2).sum(dim=1)
        lacks = torch.relu(1 - (squares + 1e-6).sqrt()) ** 2
        return torch.where(targets == 1, squares, lacks).mean()

    def guess(self) -> float:
        """The loss of the best distance that is the same for all pairs: the share of other kinds."""
        share = float(self.train[1].double().mean())
        return share * (1 - share)


class ShortLists(Data):
    """Which of some candidates is taken: the cross-entropy over their scores."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return functional.cross_entropy(outputs.squeeze(2), targets)


class Hazards(OwnLoss):
    """When something happens, or until when it was not seen to: the cross-entropy of every interval
    of time that was lived through. A target is an interval and 1 if it ended there."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        last, happened = targets[:, :1], targets[:, 1:]
        interval = torch.arange(outputs.shape[1])
        ends = (interval == last) * happened
        costs = functional.binary_cross_entropy_with_logits(outputs, ends, reduction="none")
        return (costs * (interval <= last)).sum(dim=1).mean()

    def constant(self) -> Tensor:
        """The logarithm of the odds of each interval, of those that came so far."""
        last, happened = self.train[1].unbind(dim=1)
        interval = torch.arange(self.outputs).unsqueeze(1)
        share = ((interval == last) * happened).sum(dim=1) / (interval <= last).sum(dim=1)
        return share.logit()


class ThreeHeads(OwnLoss):
    """A value, one of four kinds and a mark: the sum of their three losses."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        value = functional.mse_loss(outputs[:, 0], targets[:, 0])
        kind = functional.cross_entropy(outputs[:, 1:5], targets[:, 1].long())
        mark = functional.binary_cross_entropy_with_logits(outputs[:, 5], targets[:, 2])
        return value + kind + mark

    def constant(self) -> Tensor:
        """The mean, the logarithms of the shares, and the logarithm of the odds."""
        value, kind, mark = self.train[1].unbind(dim=1)
        shares = kind.long().bincount() / len(kind)
        return torch.cat([value.mean().view(1), shares.log(), mark.mean().logit().view(1)])


class Amounts(OwnLoss):
    """Positive amounts, with the deviance of the gamma distribution. An output is the logarithm of
    the mean."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        ratio = targets * torch.exp(-outputs)
        return 2 * (ratio - 1 - ratio.log()).mean()

    def constant(self) -> Tensor:
        """The logarithm of the mean."""
        return self.train[1].mean(dim=0).log()


# ---- sequences


def ledgers() -> Data:
    """The next symbol of running accounts: a sign, an amount and the balance, counted round a ring of
    six, in turn. 3 % of the balances are misread."""
    generator = torch.Generator().manual_seed(141)
    count = 12_000
    balance = torch.randint(6, (count,), generator=generator)
    symbols = [balance]
    for _ in range(8):
        chance = torch.where(balance < 3, 0.85, 0.15)
        adds = torch.rand(count, generator=generator) < chance
        amount = torch.randint(6, (2, count), generator=generator).amin(dim=0)
        balance = (balance + torch.where(adds, amount, -amount)) % 6
        misread = torch.rand(count, generator=generator) < 0.03
        balance = torch.where(misread, torch.randint(6, (count,), generator=generator), balance)
        symbols += [6 + adds.long(), amount, balance]
    rows = torch.stack(symbols, dim=1)
    return Data(*parts(rows[:, :-1], rows[:, 1:], held_out=1_500), 8, "tokens")


def dialects() -> Data:
    """The next letter in 24 of a text in one of three dialects, each with 25 words of its own of one
    to three syllables, the first ones more often."""
    generator = torch.Generator().manual_seed(142)
    count = 9_000
    consonants, vowels = "bdfgklmnprst", "aeiou"

    def drawn(letters: str) -> str:
        return letters[int(torch.randint(len(letters), (1,), generator=generator))]

    dialects = [
        [
            "".join(drawn(consonants) + drawn(vowels) for _ in range(1 + word % 3))
            for word in range(25)
        ]
        for _ in range(3)
    ]
    often = 1 / (1 + torch.arange(25.0))
    picks = torch.multinomial(often, count * 12, replacement=True, generator=generator)
    picks = picks.view(count, 12).tolist()
    letters = {letter: place for place, letter in enumerate(f" {consonants}{vowels}")}
    rows = []
    for row, words in enumerate(picks):
        text = " ".join(dialects[row % 3][word] for word in words)
        begin = row * 7 % 8  # a window begins anywhere in a word
        rows.append([letters[letter] for letter in text[begin : begin + 25]])
    codes = torch.tensor(rows)
    return Data(*parts(codes[:, :-1], codes[:, 1:], held_out=1_200), len(letters), "tokens")


def heating() -> Data:
    """What a house needs for heating in each of the next six hours, by 24 hours of the need and of the
    temperature outside, with 5 % of noise in the variance."""
    generator = torch.Generator().manual_seed(143)
    count = 12_000
    hour = torch.arange(36.0) + 24 * torch.rand(count, 1, generator=generator)
    turns = torch.randn(count, 36, generator=generator).cumsum(dim=1)
    outside = 3 * torch.cos(6.283 * hour / 24) + 0.4 * turns
    outside = outside + 4 * torch.randn(count, 1, generator=generator)
    leaks = 0.5 + torch.rand(count, 1, generator=generator)
    day = ((hour % 24) > 7).float()
    # the walls follow the temperature slowly
    wall, need = outside[:, :1], []
    for now in outside.split(1, dim=1):
        wall = wall + 0.3 * (now - wall)
        need.append(wall)
    needs = torch.relu(leaks * (6 - torch.cat(need, dim=1))) * (0.5 + 0.5 * day)
    shown = torch.stack([needs[:, 6:30], outside[:, 6:30]], dim=2)
    shown = (shown - shown.mean(dim=(0, 1))) / shown.std(dim=(0, 1))
    y = standard(needs[:, 30:])
    y = y + 0.22 * torch.randn(y.shape, generator=generator)
    return Data(*parts(shown, y, held_out=1_500), 6, "values")


# ---- masks and images


def cells() -> Data:
    """Noisy images of 12 × 12 pixels, lit from one side, of up to three faint cells among bright dust:
    which pixels are of a cell?"""
    generator = torch.Generator().manual_seed(144)
    count = 6_000
    place = torch.arange(12.0)
    mask = torch.zeros(count, 12, 12, dtype=torch.bool)
    light = torch.zeros(count, 12, 12)
    for _ in range(3):
        middle = 12 * torch.rand(2, count, 1, 1, generator=generator)
        size = 1.5 + 2 * torch.rand(2, count, 1, 1, generator=generator)
        down = (place.view(1, 12, 1) - middle[0]) / size[0]
        right = (place.view(1, 1, 12) - middle[1]) / size[1]
        squares = down**2 + right**2
        inside = (squares < 1) & (torch.rand(count, 1, 1, generator=generator) < 0.7)
        strength = 0.6 + 0.6 * torch.rand(count, 1, 1, generator=generator)
        light = torch.where(inside, strength * (1.2 - 0.4 * squares), light)
        mask = mask | inside
    slope = 0.08 * torch.randn(2, count, 1, 1, generator=generator)
    light = light + slope[0] * place.view(1, 12, 1) + slope[1] * place.view(1, 1, 12)
    light = light + 1.5 * (torch.rand(light.shape, generator=generator) < 0.04)
    light = light + 0.3 * torch.randn(light.shape, generator=generator)
    images = ((light - light.mean()) / light.std()).unsqueeze(1)
    return Data(*parts(images, mask.flatten(1).long(), held_out=1_000), 2, "tokens")


def fields() -> Data:
    """Noisy images of 12 × 12 pixels of two fields with a straight border, each of one of three
    patterns: the pattern of each pixel."""
    generator = torch.Generator().manual_seed(145)
    count = 6_000
    place = torch.arange(12)
    down, right = place.view(12, 1).expand(12, 12), place.view(1, 12).expand(12, 12)
    patterns = torch.stack([down // 2 % 2, right // 2 % 2, (down + right) // 2 % 2]).float()
    kinds = torch.randint(3, (count, 2), generator=generator)
    angle = 6.283 * torch.rand(count, 1, 1, generator=generator)
    border = 3 * torch.randn(count, 1, 1, generator=generator)
    side = (angle.cos() * (down - 5.5) + angle.sin() * (right - 5.5) > border).long()
    labels = kinds.gather(1, side.flatten(1))
    flips = torch.randint(2, (count, 3, 1, 1), generator=generator).float()
    shown = (patterns - flips).abs().flatten(2).gather(1, labels.unsqueeze(1)).view(count, 12, 12)
    images = 2 * shown - 1 + 0.7 * torch.randn(count, 12, 12, generator=generator)
    return Data(*parts(images.unsqueeze(1), labels, held_out=1_000), 3, "tokens")


def glyphs() -> Data:
    """Noisy images of 12 × 12 pixels of 8 signs of four strokes, bent, moved and of any size."""
    generator = torch.Generator().manual_seed(146)
    count = 9_000
    corners = 2 * torch.rand(8, 5, 2, generator=generator) - 1
    labels = torch.randint(8, (count,), generator=generator)
    bent = corners[labels] + 0.15 * torch.randn(count, 5, 2, generator=generator)
    size = 3 + 1.5 * torch.rand(count, 1, 1, generator=generator)
    points = size * bent + 5.5 + torch.randn(count, 1, 2, generator=generator)
    along = torch.linspace(0, 1, 7).view(1, 1, 7, 1)
    strokes = points[:, :-1].unsqueeze(2) * (1 - along) + points[:, 1:].unsqueeze(2) * along
    place = torch.arange(12.0)
    down = torch.exp(-((strokes.flatten(1, 2)[:, :, :1] - place) ** 2))
    right = torch.exp(-((strokes.flatten(1, 2)[:, :, 1:] - place) ** 2))
    ink = (down.transpose(1, 2) @ right).clamp(max=1.5)
    images = ink + 0.25 * torch.randn(ink.shape, generator=generator)
    images = ((images - images.mean()) / images.std()).unsqueeze(1)
    return Data(*parts(images, labels, held_out=1_500), 8, "classes")


# ---- graphs


def outbreaks() -> Data:
    """A graph of 12 places with how many are ill at each, and how careful it is: is it well, at risk or
    ill two days later? The columns are the roads of a place and its three readings."""
    generator = torch.Generator().manual_seed(147)
    count = 8_000
    where = torch.rand(count, 12, 2, generator=generator)
    roads = (torch.cdist(where, where) < 0.38).float() * (1 - torch.eye(12))
    ill = torch.randn(count, 12, generator=generator)
    care = torch.rand(count, 12, generator=generator)
    level = torch.relu(ill)
    for _ in range(2):
        level = level + (1 - care) * 0.4 * torch.tanh((roads @ level.unsqueeze(2)).squeeze(2))
    level = level + 0.1 * torch.randn(level.shape, generator=generator)
    labels = (level > 0.5).long() + (level > 1.2).long()
    beside = torch.randn(count, 12, generator=generator)
    x = torch.cat([roads, torch.stack([ill, 3.5 * (care - 0.5), beside], dim=2)], dim=2)
    return Data(*parts(x, labels, held_out=1_200), 3, "tokens")


def circuits() -> Data:
    """The logarithm of the resistance between two marked knots of a graph of 10, with wires of any
    strength, with 1 % of noise in the variance."""
    generator = torch.Generator().manual_seed(148)
    count = 9_000
    wired = torch.rand(count, 10, 10, generator=generator) < 0.25
    wired = wired | torch.diag(torch.ones(9, dtype=torch.bool), 1)
    wires = (wired * (0.2 + torch.rand(count, 10, 10, generator=generator))).triu(1)
    wires = wires + wires.transpose(1, 2)
    laplacians = torch.diag_embed(wires.sum(dim=2)) - wires
    inverses = torch.linalg.pinv(laplacians.double(), hermitian=True)
    ends = torch.rand(count, 10, generator=generator).argsort(dim=1)[:, :2]
    marks = functional.one_hot(ends, 10).sum(dim=1).float()
    signs = functional.one_hot(ends, 10).double() * torch.tensor([[1.0], [-1.0]])
    current = signs.sum(dim=1).unsqueeze(1)
    y = standard((current @ inverses @ current.transpose(1, 2)).flatten(1).log().float())
    y = y + 0.1 * torch.randn(y.shape, generator=generator)
    x = torch.cat([wires, marks.unsqueeze(2), 1 - marks.unsqueeze(2)], dim=2)
    return Data(*parts(x, y, held_out=1_200), 1, "values")


# ---- tables, pairs and lists


def coded(seed: int, count: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Three columns of 24, 6 and 12 categories and seven of numbers, and what each category means, [rows,
    3, 2]."""
    generator = torch.Generator().manual_seed(seed)
    meant, codes = [], []
    for kinds in (24, 6, 12):
        often = 1 / (1 + torch.arange(float(kinds)))
        code = torch.multinomial(often, count, replacement=True, generator=generator)
        meant.append(torch.randn(kinds, 2, generator=generator)[code])
        codes.append(code.float())
    numbers = torch.randn(count, 7, generator=generator)
    return torch.cat([torch.stack(codes, dim=1), numbers], dim=1), torch.stack(meant, 1), generator


def flats() -> Data:
    """Ten columns of a flat, three of them categories: its rent, which of four sorts of people take it,
    and if it is let within a week."""
    x, meant, generator = coded(149, 14_000)
    numbers = x[:, 3:]
    value = (
        meant[:, 0, 0] + meant[:, 1, 0] * numbers[:, 0] + torch.tanh(numbers[:, 1] + meant[:, 2, 0])
    )
    value = standard(value) + 0.3 * torch.randn(len(x), generator=generator)
    pull = torch.stack(
        [meant[:, 0, 1] + numbers[:, 2], meant[:, 1, 1] - value, numbers[:, 3] ** 2 - 1, value],
        dim=1,
    )
    kind = (pull + 0.7 * torch.randn(pull.shape, generator=generator)).argmax(dim=1)
    mark = (
        numbers[:, 4] + meant[:, 2, 1] - value + 0.7 * torch.randn(len(x), generator=generator) > 0
    )
    y = torch.stack([value, kind.float(), mark.float()], dim=1)
    return ThreeHeads(*parts(x, y, held_out=2_000), 6, "values")


def trips() -> Data:
    """Ten columns of a trip, three of them categories: which of five means of travel is taken."""
    x, meant, generator = coded(150, 14_000)
    numbers = x[:, 3:]
    score = torch.cat([meant.sum(dim=1), meant[:, 0] * numbers[:, :2]], dim=1)
    score = torch.cat([score, (numbers[:, 2] * numbers[:, 3] + meant[:, 1, 0]).unsqueeze(1)], dim=1)
    score = standard(score) + 0.4 * torch.randn(score.shape, generator=generator)
    return Data(*parts(x, score.argmax(dim=1), held_out=2_000), 5, "classes")


def patients() -> Data:
    """Ten columns of a patient, three of them categories: in which of eight months something happens;
    half of them leave before."""
    x, meant, generator = coded(151, 14_000)
    numbers = x[:, 3:]
    risk = (
        0.6 * meant[:, :, 0].sum(dim=1) + numbers[:, 0] * numbers[:, 1] + torch.relu(numbers[:, 2])
    )
    shape = torch.exp(0.4 * meant[:, 0, 1])
    drawn = -torch.rand(len(x), generator=generator).clamp_min(1e-6).log()
    time = 6 * (drawn * torch.exp(-risk)) ** (1 / shape)
    leaves = 12 * torch.rand(len(x), generator=generator)
    seen = (time <= leaves) & (time < 8)
    last = torch.minimum(time, leaves).floor().clamp(max=7)
    y = torch.stack([last, seen.float()], dim=1)
    return Hazards(*parts(x, y, held_out=2_000), 8, "values")


def premiums() -> Data:
    """How much a claim costs, by nine columns of the insured."""
    generator = torch.Generator().manual_seed(152)
    x = torch.randn(14_000, 9, generator=generator)
    level = 0.6 * torch.sin(2 * x[:, 0]) + 0.4 * x[:, 1] * x[:, 2] + 0.4 * (x[:, 3] + x[:, 4]).abs()
    noise = torch.empty(4, 14_000).exponential_(generator=generator).mean(dim=0)
    y = (level.exp() * noise).clamp_min(0.01)
    return Amounts(*parts(x, y.unsqueeze(1), held_out=2_000), 1, "values")


def forks_of_a_road() -> Data:
    """Where a traveller is, by six readings: on one of up to three roads."""
    generator = torch.Generator().manual_seed(153)
    x = torch.randn(14_000, 6, generator=generator)
    roads = torch.stack(
        [torch.sin(x[:, 0] + x[:, 1]), 2 + 0.7 * x[:, 2] * x[:, 3], -2 + torch.cos(2 * x[:, 4])],
        dim=1,
    )
    pull = torch.stack([x[:, 5], x[:, 0], x[:, 2]], dim=1)
    taken = torch.multinomial(pull.softmax(dim=1), 1, generator=generator)
    y = roads.gather(1, taken) + 0.25 * torch.randn(14_000, 1, generator=generator)
    return Branches(*parts(x, standard(y), held_out=2_000), 12, "values")


def portraits() -> Data:
    """Pairs of portraits of 20 readings: is it the same one of 150 people, seen from another side?"""
    generator = torch.Generator().manual_seed(154)
    count = 12_000
    people = torch.randn(150, 5, generator=generator)
    first = torch.randint(150, (count,), generator=generator)
    other = torch.randint(150, (count,), generator=generator)
    same = torch.rand(count, generator=generator) < 0.5
    who = torch.stack([first, torch.where(same, first, other)], dim=1)
    side = torch.randn(count, 2, 5, generator=generator)
    mixed = torch.cat([people[who], side], dim=2)
    seen = torch.tanh(mixed @ torch.randn(10, 20, generator=generator) / 2)
    seen = seen + 0.1 * torch.randn(seen.shape, generator=generator)
    labels = (who[:, 0] == who[:, 1]).long()
    return SameOrNot(*parts(seen / seen.std(), labels, held_out=2_000), 6, "classes")


def shortlists() -> Data:
    """Eight offers of six columns each: which one is taken, by what it is and what the others are."""
    generator = torch.Generator().manual_seed(155)
    x = torch.randn(12_000, 8, 6, generator=generator)
    worth = x[:, :, 0] * x[:, :, 1] + torch.sin(2 * x[:, :, 2]) - torch.relu(x[:, :, 3])
    cheap = x[:, :, 4] < x[:, :, 4].mean(dim=1, keepdim=True)
    worth = 1.5 * (worth + cheap)
    drawn = torch.rand(worth.shape, generator=generator).clamp_min(1e-6)
    taken = (worth - (-drawn.log()).log()).argmax(dim=1)
    return ShortLists(*parts(x, taken, held_out=2_000), 1, "classes")


GUESTS, ROOMS = 250, 180


def bookings() -> Data:
    """Does a guest of 250 book a room of 180? The rooms have numbers after those of the guests."""
    generator = torch.Generator().manual_seed(156)
    count = 40_000
    guests, rooms = (torch.randn(many, 3, generator=generator) for many in (GUESTS, ROOMS))
    often = 1 / (10 + torch.arange(float(ROOMS)))
    room = torch.multinomial(often, count, replacement=True, generator=generator)
    guest = torch.randint(GUESTS, (count,), generator=generator)
    liking = (guests[guest] * rooms[room]).sum(dim=1) + 0.7 * rooms[room, 0] - 0.5
    books = torch.rand(count, generator=generator) < torch.sigmoid(2 * liking)
    x = torch.stack([guest, GUESTS + room], dim=1)
    return Marks(*parts(x, books.float().unsqueeze(1), held_out=3_000), 1, "values")


def currents() -> Data:
    """The clean shape of a noisy curve of 32 points, which has four hidden properties."""
    generator = torch.Generator().manual_seed(157)
    hidden = torch.randn(12_000, 4, 1, generator=generator)
    time = torch.linspace(-1, 1, 32)
    curve = hidden[:, 0] * torch.exp(-4 * (time - 0.4 * hidden[:, 1]) ** 2)
    curve = curve + 0.7 * torch.sin(4 * time + 1.5 * hidden[:, 2]) + 0.5 * hidden[:, 3] * time
    curve = curve / curve.std()
    noisy = curve + 0.5 * torch.randn(curve.shape, generator=generator)
    return Data(*parts(noisy, curve, held_out=2_000), 32, "values")


DATA: dict[str, Callable[[], Data]] = {
    "ledgers": ledgers,
    "dialects": dialects,
    "heating": heating,
    "cells": cells,
    "fields": fields,
    "glyphs": glyphs,
    "outbreaks": outbreaks,
    "circuits": circuits,
    "flats": flats,
    "trips": trips,
    "patients": patients,
    "premiums": premiums,
    "forks_of_a_road": forks_of_a_road,
    "portraits": portraits,
    "shortlists": shortlists,
    "bookings": bookings,
    "currents": currents,
}
