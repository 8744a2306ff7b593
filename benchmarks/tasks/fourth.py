"""Sixteen tasks more for a fourth judgement of tuning. Each is of a kind that is in no earlier
list. They are small. Their data are made here, or come with scikit-learn or with this package."""

import math
from collections.abc import Callable, Mapping

import torch
from noise.runs import images, perceptron
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from tasks.bank import Cell, Pairs, cell, generator
from tasks.networks import squared
from tasks.second import DIGITS, columns, progress

# Losses that saturate


def focal() -> Cell:
    """The class of a digit by the focal loss, in which an example that is right counts little."""

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        chance = model(batch[0]).log_softmax(1).gather(1, batch[1][:, None]).squeeze(1)
        return -(1 - chance.exp()).square() * chance

    return cell(
        "digits, focal loss",
        images("digits", DIGITS),
        lambda: perceptron(64, 32, 10),
        loss,
        steps=200,
    )


def overlap() -> Cell:
    """Which pixels of a noisy digit are ink, by how the two sets overlap: one value a picture."""
    pictures, _ = images("digits", DIGITS)
    ink = (pictures > pictures.mean()).float()
    noisy = ink + torch.randn(ink.shape, generator=generator(601))

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        said, real = torch.sigmoid(model(batch[0])).flatten(1), batch[1].flatten(1)
        return 1 - 2 * (said * real).sum(1) / (said + real).sum(1)

    return cell(
        "ink of digits, overlap",
        (noisy, ink),
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1)
        ),
        loss,
        steps=150,
    )


def bids() -> Cell:
    """What to bid for a thing whose value is known in part, if the highest other bid is seen later:
    the gain of a bid, which vanishes for one that is too low."""
    by = generator(602)
    known = torch.randn(1200, 6, generator=by)
    value = (known[:, 0] + known[:, 1] * known[:, 2] / 2).exp()
    other = (known[:, 0] / 2 + torch.randn(1200, generator=by) / 2).exp()

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        bid = functional.softplus(model(batch[0]).squeeze(1))
        value, other = batch[1].unbind(1)
        return -torch.sigmoid(8 * (bid - other)) * (value - bid)

    return cell(
        "bids, gain",
        (known, torch.stack([value, other], dim=1)),
        lambda: perceptron(6, 24, 1, kind=nn.Tanh),
        loss,
        steps=200,
        floor=None,
    )


def walker() -> Cell:
    """A way through a field with a pit, by the exact return of the chances of each step: an example
    is a place to start from."""
    side = 6
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    steps = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])
    ends = (places[:, None] + steps).clamp(0, side - 1)
    moves = functional.one_hot(ends[:, :, 0] * side + ends[:, :, 1], side**2).float()
    reward = torch.full((side**2,), -0.05)
    reward[-1], reward[side + 2], reward[3 * side + 3] = 1.0, -1.0, -1.0
    seen = torch.cat([places / 2.5 - 1, torch.sin(places.float())], dim=1)
    starts = torch.arange(side**2).repeat(20)

    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odds = perceptron(4, 24, 4, kind=nn.Tanh)

        def forward(self, starts: Tensor) -> Tensor:
            chances = (self.odds(seen).softmax(1)[:, :, None] * moves).sum(1)
            value = torch.zeros(side**2)
            for _ in range(12):
                value = chances @ (reward + 0.9 * value)
            return functional.one_hot(starts, side**2).float() @ value

    return cell(
        "walker, exact return",
        (starts, starts),
        Policy,
        lambda model, batch: -model(batch[0]),
        steps=200,
        floor=None,
    )


# Likelihoods


def tags() -> Cell:
    """The hidden states along a chain of noisy signs, by a linear chain with chances of passing
    from one state to the next (a conditional random field)."""
    by = generator(603)
    keeps = torch.rand(1000, 8, generator=by) < 0.8
    states = [torch.randint(4, (1000,), generator=by)]
    for place in range(1, 8):
        new = torch.randint(4, (1000,), generator=by)
        states.append(torch.where(keeps[:, place], states[-1], new))
    labels = torch.stack(states, dim=1)
    signs = functional.one_hot(labels, 4) + 0.8 * torch.randn(1000, 8, 4, generator=by)

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
            self.passing = nn.Parameter(torch.zeros(4, 4))

        def forward(self, signs: Tensor, labels: Tensor) -> Tensor:
            """Minus the log of the chance of these labels."""
            odds, hot = self.each(signs), functional.one_hot(labels, 4).float()
            own = (odds * hot).sum((1, 2))
            own = own + ((hot[:, :-1] @ self.passing) * hot[:, 1:]).sum((1, 2))
            every = odds[:, 0]
            for place in range(1, 8):
                every = (every[:, :, None] + self.passing).logsumexp(1) + odds[:, place]
            return every.logsumexp(1) - own

    return cell(
        "tags along a chain",
        (signs, labels),
        Chain,
        lambda model, batch: model(batch[0], batch[1]),
        steps=150,
    )


def lifetimes() -> Cell:
    """How long wines last, made from their measures, some of them only seen for a while: Weibull's
    density, whose likelihood crosses zero."""
    measures = columns(datasets.load_wine())[0].repeat(5, 1)
    by = generator(604)
    scale = (measures[:, :3].sum(1) / 3).exp()
    life = scale * (-torch.rand(len(measures), generator=by).log()) ** 0.4
    seen = 2 * torch.rand(len(measures), generator=by)
    times = torch.stack([torch.minimum(life, seen), (life <= seen).float()], dim=1)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        log_scale, log_shape = model(batch[0]).unbind(1)
        time, ended = batch[1].unbind(1)
        ratio = (time + 1e-3).log() - log_scale
        shape = log_shape.exp()
        density = log_shape - log_scale + (shape - 1) * ratio
        return (shape * ratio).exp() - ended * density

    return cell(
        "wines, lifetimes",
        (measures, times),
        lambda: perceptron(13, 16, 2, kind=nn.Tanh),
        loss,
        steps=200,
        floor=None,
    )


def outliers() -> Cell:
    """The progress of diabetes, a tenth of it wrong, by Student's density with a learnt number of
    degrees of freedom."""
    inputs, targets = progress()
    by = generator(605)
    wrong = torch.rand(targets.shape, generator=by) < 0.1
    targets = torch.where(wrong, 10 * torch.randn(targets.shape, generator=by), targets)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        mean, log_scale, log_degrees = model(batch[0]).unbind(1)
        degrees = 1 + functional.softplus(log_degrees)
        away = (batch[1].squeeze(1) - mean) * (-log_scale).exp()
        constant = torch.lgamma(degrees / 2) - torch.lgamma((degrees + 1) / 2)
        tail = (degrees + 1) / 2 * (away.square() / degrees).log1p()
        return constant + (degrees * math.pi).log() / 2 + log_scale + tail

    return cell(
        "diabetes, Student's density",
        (inputs, targets),
        lambda: perceptron(10, 16, 3, kind=nn.SiLU),
        loss,
        steps=150,
        batch=16,
        floor=None,
    )


def counts() -> Cell:
    """Counts with more spread than Poisson's, made from measures of tumours: the negative binomial
    law."""
    measures = columns(datasets.load_breast_cancer())[0][:, :8]
    by = generator(606)
    mean = (0.5 * measures[:, :2].sum(1) + 1).clamp(max=5).exp()
    drawn = torch.distributions.Gamma(2.0, 2.0 / mean)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(606)
        rate = drawn.sample()
    number = torch.poisson(rate, generator=by)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        log_mean, log_size = model(batch[0]).unbind(1)
        size, number = log_size.exp(), batch[1]
        log_both = torch.logaddexp(log_mean, log_size)
        made = torch.lgamma(number + 1) + torch.lgamma(size) - torch.lgamma(number + size)
        return made + size * (log_both - log_size) + number * (log_both - log_mean)

    return cell(
        "counts, negative binomial",
        (measures, number),
        lambda: perceptron(8, 16, 2, kind=nn.Tanh),
        loss,
        steps=200,
        batch=16,
    )


def directions() -> Cell:
    """By which angle a digit was turned, as a density on the circle."""
    pictures, _ = images("digits", DIGITS)
    angle = 2 * math.pi * torch.rand(DIGITS, generator=generator(607)) - math.pi
    cosine, sine = angle.cos(), angle.sin()
    zero = torch.zeros(DIGITS)
    turn = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)
    places = functional.affine_grid(turn, [DIGITS, 1, 8, 8], align_corners=False)
    turned = functional.grid_sample(pictures, places, align_corners=False)

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        x, y, log_width = model(batch[0]).unbind(1)
        width = functional.softplus(log_width)
        away = 1 - torch.cos(torch.atan2(y, x + 1e-6) - batch[1])
        return torch.special.i0e(width).log() + width * away + math.log(2 * math.pi)

    return cell(
        "turned digits, density on the circle",
        (turned, angle),
        lambda: perceptron(64, 32, 3),
        loss,
        steps=250,
        floor=None,
    )


def scores() -> Cell:
    """The slope of the log density of points on two circles, by its square and its divergence: no
    density is computed, and the loss crosses zero."""
    points = torch.tensor(
        datasets.make_circles(1200, factor=0.4, noise=0.15, random_state=0)[0]
    ).float()

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 48), nn.Linear(48, 2)

        def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
            bent = torch.tanh(self.first(points))
            rows = (self.last.weight.T * self.first.weight).sum(1)
            return self.last(bent), (1 - bent.square()) @ rows

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        slope, divergence = model(batch[0])
        return slope.square().sum(1) / 2 + divergence

    return cell("circles, slope of the density", (points, points), Slope, loss, floor=None)


# Others


def distances() -> Cell:
    """Are two digits of one class? By the distance of their vectors, with a margin."""
    pixels, labels = images("digits", DIGITS)
    other = torch.randperm(DIGITS, generator=generator(608))
    near = torch.arange(DIGITS) % 2 == 0
    same = torch.stack([(labels == label).float() for label in labels])
    other = torch.where(near, torch.multinomial(same, 1, generator=generator(609))[:, 0], other)
    pairs = torch.cat([pixels.flatten(1), pixels[other].flatten(1)], dim=1)

    class Siblings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vector = perceptron(64, 24, 6)

        def forward(self, pairs: Tensor) -> Tensor:
            one, two = pairs.chunk(2, dim=1)
            return ((self.vector(one) - self.vector(two)).square().sum(1) + 1e-6).sqrt()

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        distance = model(batch[0])
        apart = (1 - distance).clamp(min=0).square()
        return batch[1] * distance.square() + (1 - batch[1]) * apart

    return cell(
        "pairs of digits, distance",
        (pairs, (labels == labels[other]).float()),
        Siblings,
        loss,
        steps=200,
    )


def energy() -> Cell:
    """The form of a loaded membrane, by its energy (Ritz): an example is a point inside."""
    points = torch.rand(1200, 2, generator=generator(610))
    load = 8 * (-20 * (points - 0.4).square().sum(1)).exp()

    class Membrane(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 32), nn.Linear(32, 1)

        def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
            """The form, which is zero at the rim, and its slope."""
            x, y = points.unbind(1)
            bent = torch.tanh(self.first(2 * points - 1))
            free = self.last(bent).squeeze(1)
            slope = 2 * ((1 - bent.square()) * self.last.weight[0]) @ self.first.weight
            rim = 16 * x * (1 - x) * y * (1 - y)
            rim_slope = 16 * torch.stack(
                [(1 - 2 * x) * y * (1 - y), x * (1 - x) * (1 - 2 * y)], dim=1
            )
            return rim * free, rim[:, None] * slope + rim_slope * free[:, None]

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        form, slope = model(batch[0])
        return slope.square().sum(1) / 2 - batch[1] * form

    return cell("membrane, energy", (points, load), Membrane, loss, steps=250, floor=None)


def pointer() -> Cell:
    """Which of nine numbers is the middle one, by a set that looks at itself."""
    numbers = torch.randn(1500, 9, generator=generator(611))
    middle = numbers.argsort(dim=1)[:, 4]

    class Pointer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(1, 16)
            self.asked, self.offered, self.value = (nn.Linear(16, 16) for _ in range(3))
            self.out = perceptron(32, 24, 1)

        def forward(self, numbers: Tensor) -> Tensor:
            each = torch.tanh(self.into(numbers[:, :, None]))
            weights = (self.asked(each) @ self.offered(each).transpose(1, 2) / 4).softmax(2)
            seen = torch.cat([each, weights @ self.value(each)], dim=2)
            return self.out(seen.flatten(0, 1)).view(numbers.shape)

    return cell(
        "middle of nine numbers, attention",
        (numbers, middle),
        Pointer,
        lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1], reduction="none"),
        steps=250,
    )


def adding() -> Cell:
    """The sum of two marked numbers of a sequence, by a plain recurrent network."""
    by = generator(612)
    numbers = torch.rand(1200, 12, generator=by)
    marks = torch.zeros(1200, 12)
    first, second = (torch.randint(6, (1200, 1), generator=by) for _ in range(2))
    marks.scatter_(1, first, 1.0).scatter_(1, 6 + second, 1.0)
    total = (numbers * marks).sum(1, keepdim=True)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.past, self.out = nn.Linear(2, 24), nn.Linear(24, 24), nn.Linear(24, 1)

        def forward(self, sequence: Tensor) -> Tensor:
            state = torch.zeros(len(sequence), 24)
            for step in range(12):
                state = torch.tanh(self.into(sequence[:, step]) + self.past(state))
            return self.out(state)

    return cell(
        "sum of two marked numbers, recurrent",
        (torch.stack([numbers, marks], dim=2), total),
        Plain,
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=250,
    )


def ratings() -> Cell:
    """What people say of things, from a vector and a level of each: squared errors."""
    by = generator(613)
    people, things = torch.randn(60, 3, generator=by), torch.randn(40, 3, generator=by)
    chosen = torch.randperm(2400, generator=by)[:1400]
    who, what = chosen // 40, chosen % 40
    said = 3 + (people[who] * things[what]).sum(1) + 0.3 * torch.randn(1400, generator=by)

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.people, self.things = nn.Embedding(60, 5), nn.Embedding(40, 5)

        def forward(self, pairs: Tensor) -> Tensor:
            one, two = self.people(pairs[:, 0]), self.things(pairs[:, 1])
            return (one[:, :4] * two[:, :4]).sum(1) + one[:, 4] + two[:, 4]

    return cell(
        "ratings, factors",
        (torch.stack([who, what], dim=1), said),
        Factors,
        lambda model, batch: (model(batch[0]) - batch[1]).square(),
        steps=250,
    )


def raw_wines() -> Cell:
    """Thirteen measures of wines as they are, whose sizes differ by 10^3, through four numbers."""
    measures = torch.tensor(datasets.load_wine().data, dtype=torch.float32)
    return cell(
        "wines as they are, autoencoder",
        (measures, measures),
        lambda: perceptron(13, 16, 4, 16, 13, kind=nn.Tanh),
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=200,
        batch=16,
    )


FOURTH: Mapping[str, Callable[[], Cell]] = {
    "focal": focal,
    "overlap": overlap,
    "bids": bids,
    "walker": walker,
    "tags": tags,
    "lifetimes": lifetimes,
    "outliers": outliers,
    "counts": counts,
    "directions": directions,
    "scores": scores,
    "distances": distances,
    "energy": energy,
    "pointer": pointer,
    "adding": adding,
    "ratings": ratings,
    "raw wines": raw_wines,
}
