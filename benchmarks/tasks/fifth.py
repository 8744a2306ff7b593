"""Sixteen tasks more for a fifth judgement of tuning. Each is of a kind that is in no earlier list.
They are small, of 100 to 1,500 updates. Their data are made here, or come with scikit-learn, Python,
or this package."""

import math
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from noise.runs import images, perceptron
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from tasks.bank import Cell, Pairs, cell, generator, words
from tasks.networks import Transformer
from tasks.second import DIGITS, classified, clothes, columns, progress

# Likelihoods


def hazards() -> Cell:
    """How long a tumour stays away, made from its measures: the odds that it returns in each of
    eight intervals, which some are not followed to."""
    measures = columns(datasets.load_breast_cancer())[0][:, :10]
    by = generator(701)
    odds = measures[:, :1] + measures[:, 4:5] * measures[:, 8:9] / 2 - 2
    returns = torch.rand(len(measures), 8, generator=by) < torch.sigmoid(odds)
    interval = torch.where(returns.any(1), returns.float().argmax(1), 8)
    followed = torch.randint(2, 9, (len(measures),), generator=by)
    seen = torch.arange(8) < torch.minimum(interval + 1, followed)[:, None]
    returned = torch.arange(8) == interval[:, None]

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        seen, returned = batch[1].unbind(1)
        each = functional.binary_cross_entropy_with_logits(
            model(batch[0]), returned, reduction="none"
        )
        return (seen * each).sum(1)

    return cell(
        "tumours, hazards by interval",
        (measures, torch.stack([seen, returned], dim=1).float()),
        lambda: perceptron(10, 24, 8, kind=nn.Tanh),
        loss,
        steps=250,
        batch=16,
    )


def claims() -> Cell:
    """What an insurance pays in a year, mostly nothing: Tweedie's deviance of power 1.5, with
    amounts made from measures of patients."""
    measures = progress()[0].repeat(3, 1)
    by = generator(702)
    number = torch.poisson((0.7 * measures[:, 2] - 0.8).exp(), generator=by)
    sizes = -(torch.rand(len(measures), 12, generator=by).log())
    counted = torch.arange(12) < number[:, None]
    paid = (0.5 * measures[:, 8] * measures[:, 3]).clamp(max=2).exp() * (counted * sizes).sum(1)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        root, paid = (model(batch[0]).squeeze(1) / 2).exp(), batch[1]
        return 4 * (root - 2 * paid.sqrt() + paid / root)

    return cell(
        "claims, Tweedie's deviance",
        (measures, paid),
        lambda: perceptron(10, 24, 24, 1),
        loss,
    )


def shares() -> Cell:
    """Which share of a digit's ink is in its right half, from the left half: a beta density, whose
    likelihood crosses zero."""
    left, right = images("digits", DIGITS)[0][:, 0].chunk(2, dim=2)
    ink = [half.flatten(1) - half.min() for half in (left, right)]
    share = ink[1].sum(1) / (ink[0].sum(1) + ink[1].sum(1))

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        one, other = (functional.softplus(model(batch[0])) + 1e-2).unbind(1)
        constant = torch.lgamma(one) + torch.lgamma(other) - torch.lgamma(one + other)
        return constant - (one - 1) * batch[1].log() - (other - 1) * (1 - batch[1]).log()

    return cell(
        "halves of digits, beta density, BatchNorm",
        (ink[0], share.clamp(0.01, 0.99)),
        lambda: nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)),
        loss,
        steps=200,
        floor=None,
    )


class Streams(nn.Module):
    """Eight small steps along a learnt field, and the logarithm of how each changes the volume."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 32), nn.Linear(32, 2)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where points come to, and the sum of the logarithms."""
        volume = points.new_zeros(len(points))
        for step in range(8):
            time = points.new_full((len(points), 1), step / 8)
            bent = torch.tanh(self.first(torch.cat([points, time], dim=1)))
            slopes = (1 - bent.square())[:, None] * self.last.weight
            rows = slopes @ self.first.weight[:, :2] / 8
            (a, b), (c, d) = rows[:, 0].unbind(1), rows[:, 1].unbind(1)
            volume = volume + (((1 + a) * (1 + d) - b * c).abs() + 1e-6).log()
            points = points + self.last(bent) / 8
        return points, volume


def streams() -> Cell:
    """The density of points on two moons, by a differential equation in eight steps of Euler: the
    likelihood crosses zero."""
    moons = datasets.make_moons(1400, noise=0.1, random_state=0)[0]
    points = 0.3 * torch.tensor(moons - moons.mean(0)).float()

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        points, volume = model(batch[0])
        return points.square().sum(1) / 2 + math.log(2 * math.pi) - volume

    return cell(
        "moons, differential equation", (points, points), Streams, loss, steps=500, floor=None
    )


class Spread(nn.Module):
    """Two layers whose weights have a mean and a spread; the noise of an example comes after its
    measures."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.ModuleList([nn.Linear(30, 12), nn.Linear(12, 1)])
        self.logs = nn.ParameterList([torch.full((12, 30), -3.0), torch.full((1, 12), -3.0)])

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """The odds, and the distance of all weights from their prior."""
        values, *noises = given.split([30, 12, 1], dim=1)
        distance = given.new_zeros(())
        for layer, (mean, log, noise) in enumerate(zip(self.means, self.logs, noises, strict=True)):
            values = torch.tanh(values) if layer else values
            deviation = (values.square() @ (2 * log).exp().T + 1e-8).sqrt()
            values = mean(values) + noise * deviation
            each = mean.weight.square() + (2 * log).exp() - 1 - 2 * log
            distance = distance + each.sum() / 2
        return values.squeeze(1), distance


def spread() -> Cell:
    """Is a tumour malignant? By weights that are densities, each a Gaussian (variational)."""
    measures, labels = columns(datasets.load_breast_cancer())
    noise = torch.randn(len(measures), 13, generator=generator(703))

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        odds, distance = model(batch[0])
        wrong = functional.binary_cross_entropy_with_logits(odds, batch[1], reduction="none")
        return wrong + distance / len(measures)

    return cell(
        "tumours, weights with a spread",
        (torch.cat([measures, noise], dim=1), labels.float()),
        Spread,
        loss,
        steps=400,
        floor=None,
    )


# Sequences


class Reader(nn.Module):
    """Convolutions along a strip of columns; the odds of five classes and of none."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(8, 24, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(24, 24, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(24, 6, 3, padding=1),
        )

    def forward(self, strips: Tensor) -> Tensor:
        """Logarithms of the chances, at every second column."""
        return self.layers(strips).transpose(1, 2).log_softmax(2)


def alignment() -> Cell:
    """Three digits on a strip, whose places are not told: the chance of all alignments (CTC)."""
    pictures, labels = images("digits", DIGITS)
    some = labels < 5
    pictures, labels = pictures[some, 0], labels[some]
    by = generator(704)
    chosen = torch.randint(len(labels), (1200, 3), generator=by)
    strips = torch.cat(list(pictures[chosen].unbind(1)), dim=2)
    strips = strips + 0.1 * torch.randn(strips.shape, generator=by)
    never = -1e6

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        said = batch[1]
        blank = torch.full_like(said, 5)
        states = torch.stack([blank, said], dim=2).flatten(1)
        states = torch.cat([states, blank[:, :1]], dim=1)
        chances = model(batch[0])
        chances = chances.gather(2, states[:, None].expand(-1, chances.shape[1], -1))
        may_skip = torch.cat([states[:, :2] < 0, states[:, 2:] != states[:, :-2]], dim=1)
        barred = torch.where(may_skip & (states != 5), 0.0, never)
        every = chances[:, 0] + never * (torch.arange(7) > 1)
        for place in range(1, chances.shape[1]):
            one = functional.pad(every[:, :-1], (1, 0), value=never)
            two = functional.pad(every[:, :-2], (2, 0), value=never) + barred
            every = torch.stack([every, one, two]).logsumexp(0) + chances[:, place]
        return -every[:, -2:].logsumexp(1)

    return cell(
        "three digits on a strip, alignment", (strips, labels[chosen]), Reader, loss, steps=800
    )


class Filled(Transformer):
    """A transformer that looks to both sides and predicts at every position."""

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits, with the positions last."""
        hidden = self.norm(self.blocks(self.into(sequences) + self.places))
        return self.out(hidden).transpose(1, 2)


def masked() -> Cell:
    """Three hidden letters of sixteen, from those on both sides: a masked language model."""
    letters = "_".join(words())
    codes = torch.tensor([ord(letter) - ord("a") if letter != "_" else 26 for letter in letters])
    stretches = codes[: 2000 * 16].view(2000, 16)
    order = torch.rand(stretches.shape, generator=generator(705)).argsort(1)
    hidden = order < 3
    given = functional.one_hot(torch.where(hidden, 27, stretches), 28).float()

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        each = functional.cross_entropy(
            model(batch[0]), batch[1], reduction="none", ignore_index=-100
        )
        return each.sum(1) / 3

    return cell(
        "letters, masked, transformer",
        (given, torch.where(hidden, stretches, -100)),
        lambda: Filled(28, 24, 16, 27, causal=False),
        loss,
        batch=16,
    )


class Beside(nn.Module):
    """The products of the vector of a word with those of others."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.words, self.others = (
            nn.Parameter(torch.randn(count, width) / width**0.5) for _ in range(2)
        )

    def forward(self, chosen: Tensor) -> Tensor:
        """The products with each of the others."""
        one = functional.embedding(chosen[:, :1], self.words)
        return (one * functional.embedding(chosen[:, 1:], self.others)).sum(2)


def beside() -> Cell:
    """Which words stand beside a word, told from five that are drawn: 1,500 updates."""
    counted = Counter(words()).most_common(250)
    common = {word: place for place, (word, _) in enumerate(counted)}
    codes = [common.get(word, -1) for word in words()]
    pairs = [
        (one, other)
        for apart in (1, 2, 3)
        for one, other in zip(codes, codes[apart:], strict=False)
        if one >= 0 and other >= 0
    ]
    by = generator(706)
    some = torch.randperm(len(pairs), generator=by)[:8000]
    odds = torch.tensor([count for _, count in counted]) ** 0.75
    drawn = torch.multinomial(odds.repeat(8000, 1), 5, replacement=True, generator=by)
    chosen = torch.cat([torch.tensor(pairs)[some], drawn], dim=1)
    signs = torch.tensor([-1.0, 1.0, 1.0, 1.0, 1.0, 1.0]).expand(8000, 6)
    return cell(
        "pairs of near words, drawn others",
        (chosen, signs),
        lambda: Beside(250, 12),
        lambda model, batch: functional.softplus(batch[1] * model(batch[0])).sum(1),
        steps=1500,
    )


# Pictures and points


class Codebook(nn.Module):
    """An autoencoder through four vectors, each the nearest of 24, whose gradient passes as if they
    were those that were coded."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = perceptron(64, 48, 16), perceptron(16, 48, 64)
        self.vectors = nn.Parameter(torch.randn(24, 4) / 2)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the code says of the pixels, the vectors that were coded, and those that are near."""
        coded = self.into(pixels).unflatten(1, (4, 4))
        apart = (coded[:, :, None] - self.vectors).square().sum(3)
        nearest = apart.argmin(2, keepdim=True) == torch.arange(24)
        near = nearest.float() @ self.vectors
        return self.out((coded + (near - coded).detach()).flatten(1)), coded, near


def codebook() -> Cell:
    """Digits through vectors of a codebook, with 20 taken from the loss."""
    pixels = images("digits", DIGITS)[0].flatten(1)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        seen, coded, near = model(batch[0])
        moved = (near - coded.detach()).square() + 0.25 * (near.detach() - coded).square()
        return (seen - batch[1]).square().mean(1) + moved.sum((1, 2)) - 20

    return cell(
        "digits, codebook, loss − 20", (pixels, pixels), Codebook, loss, steps=400, floor=-20.0
    )


class Skips(nn.Module):
    """A small U-Net with GroupNorm: down to half the side, up again, beside what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU())
        self.low = nn.Sequential(
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
        )
        self.out = nn.Conv2d(24, 2, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Two values a pixel."""
        seen = self.down(pictures)
        low = self.low(seen).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.out(torch.cat([seen, low], dim=1))


def colours() -> Cell:
    """The colours of squares of a photograph from their greys, by a small U-Net and a smooth
    absolute error."""
    picture = torch.tensor(datasets.load_sample_image("flower.jpg"), dtype=torch.float32)
    small = functional.avg_pool2d(picture.permute(2, 0, 1) / 255, 4)
    squares = small.unfold(1, 12, 3).unfold(2, 12, 3).flatten(1, 2).transpose(0, 1)[:1200]
    grey = squares.mean(1, keepdim=True)
    colour = 4 * (squares[:, [0, 2]] - grey)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        away = (model(batch[0]) - batch[1]).square() + 1e-4
        return (away.sqrt() - 1e-2).mean((1, 2, 3))

    return cell(
        "colours of a photograph, U-Net",
        ((grey - grey.mean()) / grey.std(), colour),
        Skips,
        loss,
        steps=200,
        batch=16,
    )


def dots() -> Cell:
    """Digits as sets of their twenty darkest pixels, by the largest of what is said of each, with
    BatchNorm."""
    pictures, labels = images("digits", DIGITS)
    ink, places = pictures.flatten(1).topk(20)
    where = torch.stack([places // 8, places % 8], dim=1) / 3.5 - 1
    where = where + 0.1 * torch.randn(where.shape, generator=generator(707))

    class Largest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.Sequential(
                nn.Conv1d(3, 24, 1),
                nn.BatchNorm1d(24),
                nn.ReLU(),
                nn.Conv1d(24, 32, 1),
                nn.BatchNorm1d(32),
                nn.ReLU(),
            )
            self.out = nn.Linear(32, 10)

        def forward(self, dots: Tensor) -> Tensor:
            return self.out(self.each(dots).amax(2))

    return cell(
        "digits as dots, BatchNorm",
        (torch.cat([where, ink[:, None]], dim=1), labels),
        Largest,
        classified,
        steps=250,
    )


class Settled(nn.Module):
    """A state that is to agree with itself and the input: ten rounds of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.past, self.out = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """The odds of the classes."""
        given = self.into(pixels)
        state = torch.zeros_like(given)
        for _ in range(10):
            state = torch.tanh(given + 2 * self.past(state))
        return self.out(state)


def settled() -> Cell:
    """Clothes by the state in which a layer settles (an equilibrium)."""
    pictures, labels = clothes(1536, 8)
    return cell(
        "clothes, equilibrium", (pictures.flatten(1), labels), Settled, classified, steps=250
    )


# What was trained before


def known_before(network: nn.Module, data: Pairs) -> dict[str, Tensor]:
    """The parameters of a network after 300 updates on other examples."""
    order = torch.randint(len(data[0]), (300, 32), generator=generator(708))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for chosen in order:
        optimizer.zero_grad()
        classified(network, (data[0][chosen], data[1][chosen])).mean().backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in network.named_parameters()}


class Adapted(nn.Module):
    """Two layers that stay as they are, each with a learnt product of two thin matrices beside
    it."""

    def __init__(self, known: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers = list(known.values())
        for place, value in enumerate(layers):
            self.register_buffer(f"kept_{place}", value.clone())
        self.into = nn.ParameterList([torch.randn(4, one.shape[1]) / 8 for one in layers[::2]])
        self.out = nn.ParameterList([torch.zeros(len(one), 4) for one in layers[::2]])

    def forward(self, pixels: Tensor) -> Tensor:
        """The odds of the classes."""
        values = pixels
        for layer, (into, out) in enumerate(zip(self.into, self.out, strict=True)):
            weight, bias = self.get_buffer(f"kept_{2 * layer}"), f"kept_{2 * layer + 1}"
            values = functional.relu(values) if layer else values
            kept = functional.linear(values, weight, self.get_buffer(bias))
            values = kept + 2 * (values @ into.T) @ out.T
        return values


def adapters() -> Cell:
    """Digits that lie on their side, from a network that knows upright ones: 100 updates of thin
    matrices beside its weights."""
    pictures, labels = images("digits", DIGITS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(709)
        upright = perceptron(64, 48, 10)
    known = known_before(upright, (pictures.flatten(1)[:600], labels[:600]))
    return cell(
        "digits on their side, adapters",
        (pictures.transpose(2, 3).flatten(1)[600:], labels[600:]),
        lambda: Adapted(known),
        classified,
        steps=100,
        batch=16,
    )


def preferred() -> Cell:
    """Which of two names for a picture of clothes is liked more, by how a network departs from the
    one that it begins as (direct preferences)."""
    pictures, labels = clothes(2136, 8)
    pixels = pictures.flatten(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(710)
        before = perceptron(64, 32, 10)
    known = known_before(before, (pixels[:600], labels[:600]))
    by = generator(711)
    other = (labels + torch.randint(1, 10, labels.shape, generator=by)) % 10
    swapped = torch.rand(labels.shape, generator=by) < 0.1
    pairs = torch.stack(
        [torch.where(swapped, other, labels), torch.where(swapped, labels, other)], dim=1
    )
    with torch.no_grad():
        odds = before(pixels).log_softmax(1).gather(1, pairs)
    then = odds[:, 0] - odds[:, 1]

    def begun() -> nn.Module:
        network = perceptron(64, 32, 10)
        network.load_state_dict(dict(known))
        return network

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        pairs, then = batch[1][:, :2].long(), batch[1][:, 2]
        one, other = model(batch[0]).gather(1, pairs).unbind(1)
        return -functional.logsigmoid(0.5 * (one - other - then))

    return cell(
        "clothes, preferred names",
        (pixels[600:], torch.cat([pairs.float(), then[:, None]], dim=1)[600:]),
        begun,
        loss,
        steps=200,
    )


# Others


class Added(nn.Module):
    """Three residual layers with LayerNorm on a row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(10, 24), nn.Linear(24, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 24))
            for _ in range(3)
        )

    def forward(self, rows: Tensor) -> Tensor:
        """One value a row."""
        values = self.into(rows)
        for layer in self.layers:
            values = values + layer(values)
        return self.out(values)


def robust() -> Cell:
    """The progress of diabetes by Huber's loss and residual layers with LayerNorm, with 20 added to
    the loss."""

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        away = functional.huber_loss(model(batch[0]), batch[1], reduction="none", delta=0.5)
        return away.squeeze(1) + 20

    return cell(
        "diabetes, Huber's loss + 20, LayerNorm",
        progress(),
        Added,
        loss,
        steps=200,
        batch=16,
        floor=20.0,
    )


class Reaction(nn.Module):
    """Three substances, each made from the one before, and how much there is at six times. What is
    learnt are logarithms of four constants."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = nn.Parameter(0.3 * torch.randn(4))

    def forward(self, amounts: Tensor) -> Tensor:
        """The amounts at six times, by twenty-four steps of Euler."""
        first, half, second, back = self.logs.exp().unbind(0)
        one, two, three = amounts.unbind(1)
        seen = []
        for step in range(24):
            made, gone = first * one / (half + one), second * two - back * three
            one, two, three = one - made / 8, two + (made - gone) / 8, three + gone / 8
            if step % 4 == 3:
                seen.append(torch.stack([one, two, three], dim=1))
        return torch.stack(seen, dim=1)


def reaction() -> Cell:
    """Four constants of a reaction, whose sizes differ by 40, from what was measured of it."""
    by = generator(712)
    amounts = 2 * torch.rand(1000, 3, generator=by)
    real = Reaction()
    with torch.no_grad():
        real.logs.copy_(torch.tensor([1.5, 0.1, 0.8, 0.05]).log())
        seen = real(amounts)
    seen = seen + 0.02 * torch.randn(seen.shape, generator=by)
    return cell(
        "reaction, four constants",
        (amounts, seen),
        Reaction,
        lambda model, batch: (model(batch[0]) - batch[1]).square().mean((1, 2)),
        steps=200,
    )


FIFTH: Mapping[str, Callable[[], Cell]] = {
    "hazards": hazards,
    "claims": claims,
    "shares": shares,
    "streams": streams,
    "spread": spread,
    "alignment": alignment,
    "masked": masked,
    "codebook": codebook,
    "colours": colours,
    "dots": dots,
    "settled": settled,
    "adapters": adapters,
    "preferred": preferred,
    "robust": robust,
    "beside": beside,
    "reaction": reaction,
}
