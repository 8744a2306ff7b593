"""Networks and data of the ninth fresh part, which no other part has. Three of its sets have losses
that ask for an order, for a spread and for quantiles."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinic.data import Data, parts, standard
from clinic.eighth import Marks, OwnLoss, small_clothes
from clinic.networks import Body, Kind, Recurrent, Residual, Transposed, dense
from gradiometer.problems.images import digits, fashion_mnist

# ---- losses


class Spread(OwnLoss):
    """Values whose spread is asked too, with the surprise of a normal distribution. The outputs are
    a mean and the logarithm of a standard deviation."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        mean, spread = outputs[:, :1], outputs[:, 1:].clamp(-4, 4)
        return (spread + ((targets - mean) / spread.exp()) ** 2 / 2).mean() + 0.919

    def constant(self) -> Tensor:
        """The mean and the logarithm of the standard deviation."""
        targets = self.train[1]
        return torch.cat([targets.mean(dim=0), targets.std(dim=0, correction=0).log()])


LEVELS = torch.tensor([0.1, 0.5, 0.9])
"""The quantiles that are asked."""


class Quantiles(OwnLoss):
    """Values of which three quantiles are asked, with the pinball loss."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        error = targets - outputs
        return torch.maximum(LEVELS * error, (LEVELS - 1) * error).mean()

    def constant(self) -> Tensor:
        """The quantiles of all targets."""
        return self.train[1][:, 0].quantile(LEVELS)


# ---- data


def grades() -> Data:
    """14 columns, 8 of which say nothing: is the grade above the first, second, third, fourth of
    five?"""
    generator = torch.Generator().manual_seed(101)
    x = torch.randn(15_000, 14, generator=generator)
    score = torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + torch.relu(x[:, 3] + x[:, 4])
    score = score - x[:, 5].abs() + 0.3 * torch.randn(len(x), generator=generator)
    borders = score.quantile(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    above = (score.unsqueeze(1) > borders).float()
    return Marks(*parts(x, above, held_out=2_000), 4, "values")


def delays() -> Data:
    """A delay in minutes and its spread, by 10 columns, 3 of which say nothing."""
    generator = torch.Generator().manual_seed(102)
    x = torch.randn(15_000, 10, generator=generator)
    mean = 3 * torch.sin(1.5 * x[:, 0]) + 2 * x[:, 1] + 2 * torch.relu(x[:, 2]) - x[:, 3] ** 2
    spread = torch.exp(0.6 * torch.sin(2 * x[:, 4]) + 0.5 * x[:, 5] - 0.3 * x[:, 6].abs())
    y = mean + spread * torch.randn(15_000, generator=generator)
    return Spread(*parts(x, y.unsqueeze(1), held_out=2_000), 2, "values")


def tariffs() -> Data:
    """Three quantiles of a price by 11 columns, the first four of which say how the others count."""
    generator = torch.Generator().manual_seed(103)
    x = torch.randn(15_000, 11, generator=generator)
    kind, rest = x[:, :4], x[:, 4:]
    turn = kind @ torch.randn(4, 7, generator=generator) / 2
    price = torch.sin(1.3 * rest + turn) @ torch.randn(7, generator=generator)
    noise = torch.empty(15_000).exponential_(generator=generator)
    price = standard(price) + 0.25 * noise * (1 + (rest[:, 0] > 0.5).float())
    return Quantiles(*parts(x, price.unsqueeze(1), held_out=2_000), 3, "values")


def hares() -> Data:
    """Hares and lynxes after three years, by how many there were and how they live, with 1 % of
    noise in the variance."""
    generator = torch.Generator().manual_seed(104)
    x = torch.rand(15_000, 6, generator=generator)
    prey, hunters = 0.3 + 2 * x[:, 0], 0.3 + 1.5 * x[:, 1]
    for _ in range(75):
        growth = (0.5 + x[:, 2] - hunters) * prey - 0.3 * x[:, 3] * prey**2
        hunters = hunters + 0.04 * ((0.5 + x[:, 4]) * prey - 0.8) * hunters
        prey = prey + 0.04 * growth
    y = standard(torch.stack([prey, hunters], dim=1).log())
    y = y + 0.1 * torch.randn(y.shape, generator=generator)
    return Data(*parts(standard(x), y, held_out=2_000), 2, "values")


def baskets() -> Data:
    """What 10 goods cost, each with a price, an amount and one of four kinds: three of the second
    kind make all of them cheaper, and the fourth kind is paid by price alone."""
    generator = torch.Generator().manual_seed(105)
    count = 12_000
    numbers = torch.rand(count, 10, 2, generator=generator)
    kinds = functional.one_hot(torch.randint(4, (count, 10), generator=generator), 4).float()
    price, amount = numbers.unbind(dim=2)
    each = price * amount * (kinds @ torch.tensor([1.0, 1.5, 0.5, 0.0])) + price * kinds[..., 3]
    total = each.sum(dim=1) * torch.where(kinds[..., 1].sum(dim=1) >= 3, 0.7, 1.0)
    y = standard(total) + 0.1 * torch.randn(count, generator=generator)
    x = torch.cat([3.5 * (numbers - 0.5), kinds], dim=2)
    return Data(*parts(x, y.unsqueeze(1), held_out=2_000), 1, "values")


def flights() -> Data:
    """8 columns of 15 kinds each: 4 classes, by some columns and some pairs of them. A kind of a
    column is a number of its own."""
    generator = torch.Generator().manual_seed(106)
    x = torch.randint(15, (15_000, 8), generator=generator)
    single = torch.randn(8, 15, 4, generator=generator)
    pairs = 1.6 * torch.randn(2, 15, 15, 4, generator=generator)
    scores = sum((single[column][x[:, column]] for column in range(5)), torch.zeros(15_000, 4))
    scores = scores + pairs[0][x[:, 0], x[:, 1]] + pairs[1][x[:, 2], x[:, 5]]
    scores = scores + 0.5 * torch.randn(scores.shape, generator=generator)
    return Data(
        *parts(x + 15 * torch.arange(8), scores.argmax(dim=1), held_out=2_000), 4, "classes"
    )


READERS, BOOKS = 250, 150


def lendings() -> Data:
    """How well a reader of 250 likes a book of 150, with the reader's age and town and the book's
    kind beside them."""
    generator = torch.Generator().manual_seed(107)
    count = 16_000
    reader = torch.randint(READERS, (count,), generator=generator)
    book = torch.randint(BOOKS, (count,), generator=generator)
    age = torch.randint(8, (READERS,), generator=generator)[reader]
    town = torch.randint(6, (READERS,), generator=generator)[reader]
    kind = torch.randint(10, (BOOKS,), generator=generator)[book]
    taste = torch.randn(READERS, 3, generator=generator)[reader]
    about = torch.randn(BOOKS, 3, generator=generator)[book]
    y = (taste * about).sum(dim=1) + 1.5 * torch.randn(8, 10, generator=generator)[age, kind]
    y = y + torch.randn(6, generator=generator)[town]
    y = standard(y) + 0.3 * torch.randn(count, generator=generator)
    rows = torch.stack([reader, 250 + book, 400 + age, 408 + town, 414 + kind], dim=1)
    return Data(*parts(rows, y.unsqueeze(1), held_out=2_000), 1, "values")


def ordered() -> Data:
    """8 numbers below 10: the same ones, sorted."""
    generator = torch.Generator().manual_seed(108)
    numbers = torch.randint(10, (12_000, 8), generator=generator)
    return Data(*parts(numbers, numbers.sort(dim=1).values, held_out=1_500), 10, "tokens")


def voices() -> Data:
    """24 points of two waves and noise: the waves without it."""
    generator = torch.Generator().manual_seed(109)
    count = 12_000
    speed, phase, size = torch.rand(3, count, 2, 1, generator=generator)
    waves = (0.4 + size) * torch.sin((0.2 + 0.5 * speed) * torch.arange(24.0) + 6.3 * phase)
    clean = waves.sum(dim=1)
    noisy = clean + 0.4 * torch.randn(clean.shape, generator=generator)
    return Data(*parts(noisy.unsqueeze(2), clean, held_out=2_000), 24, "values")


SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def spelled() -> Data:
    """The next character in windows of 24 of sums in words, such as "six plus forty-two is
    forty-eight"."""
    generator = torch.Generator().manual_seed(110)

    def word(number: int) -> str:
        if number < 20:
            return SMALL.split()[number]
        ten = TENS.split()[number // 10 - 2]
        return ten if number % 10 == 0 else f"{ten}-{SMALL.split()[number % 10]}"

    drawn = torch.randint(50, (6_500, 2), generator=generator).tolist()
    text = "".join(f"{word(one)} plus {word(two)} is {word(one + two)}. " for one, two in drawn)
    letters = {letter: place for place, letter in enumerate(sorted(set(text)))}
    codes = torch.tensor([letters[letter] for letter in text]).unfold(0, 25, 25)
    return Data(*parts(codes[:, :-1], codes[:, 1:], held_out=1_200), len(letters), "tokens")


def overlaid() -> Data:
    """Two images of Fashion-MNIST, one over the other, which is turned: 10 classes of the upright
    one."""
    images, generator = small_clothes(111, 14_000)
    other = images[torch.randperm(len(images), generator=generator)].rot90(1, dims=(2, 3))
    labels = small_labels(111, 14_000)
    return Data(*parts(images + 0.6 * other, labels, held_out=2_000), 10, "classes")


def small_labels(seed: int, count: int) -> Tensor:
    """The labels of `small_clothes` of the same seed."""
    rows = torch.randperm(60_000, generator=torch.Generator().manual_seed(seed))[:count]
    return fashion_mnist.load("mlp").train.batch(rows)[1]


def larger() -> Data:
    """Two digits side by side, with noise: the larger of them, of 10 classes."""
    images, labels, held_out = digits.read_digits()
    generator = torch.Generator().manual_seed(112)

    def pairs(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        chosen = rows[torch.randint(len(rows), (count, 2), generator=generator)]
        both = torch.cat([images[chosen[:, 0]], images[chosen[:, 1]]], dim=2).float() / 16
        both = both + 0.15 * torch.randn(both.shape, generator=generator)
        return ((both - 0.3) / 0.4).unsqueeze(1), labels[chosen].long().amax(dim=1)

    trained, unseen = torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()
    return Data(
        pairs(trained, 11_000),
        pairs(unseen[:180], 1_500),
        pairs(unseen[180:], 1_500),
        10,
        "classes",
    )


def plumes() -> Data:
    """Noisy images of 12 × 12 pixels of one plume and three sparks: where its middle is, how wide it
    is and where it points."""
    generator = torch.Generator().manual_seed(113)
    count = 11_000
    place = torch.arange(12.0)

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    high, far, width, angle = drawn(2, 9), drawn(2, 9), drawn(0.8, 2), drawn(-1.5, 1.5)
    down, right = place.view(1, 12, 1) - high, place.view(1, 1, 12) - far
    along = down * angle.sin() + right * angle.cos()
    across = right * angle.sin() - down * angle.cos()
    images = torch.exp(-((along / width) ** 2) / 3 - 2 * (across / width) ** 2)
    sparks = torch.randint(144, (count, 3), generator=generator)
    images = images.flatten(1).scatter(1, sparks, 1.0)
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    images = ((images - images.mean()) / images.std()).view(count, 1, 12, 12)
    y = torch.stack([high, far, width, angle], dim=1).flatten(1)
    return Data(*parts(images, standard(y), held_out=1_500), 4, "values")


def alarms() -> Data:
    """Two channels of 28 points of a machine that works, shakes or fails: which of them it does at
    each point."""
    generator = torch.Generator().manual_seed(114)
    count = 9_000
    state = torch.randint(3, (count,), generator=generator)
    memory = torch.tensor([[0.9, 0.2], [-0.7, 0.5], [0.3, -0.6]])
    loud = torch.tensor([[0.4, 0.6], [0.7, 0.5], [0.6, 0.9]])
    now = torch.randn(count, 2, generator=generator)
    points, states = [], []
    for _ in range(28):
        other = torch.randint(3, (count,), generator=generator)
        state = torch.where(torch.rand(count, generator=generator) < 0.12, other, state)
        noise = torch.randn(count, 2, generator=generator)
        now = memory[state] * now + loud[state] * noise
        points.append(now)
        states.append(state)
    signal, labels = torch.stack(points, dim=1), torch.stack(states, dim=1)
    return Data(*parts(signal, labels, held_out=1_500), 3, "tokens")


# ---- networks


class Flow(nn.Module):
    """Steps of Euler's method along a field that some layers give."""

    def __init__(self, count: int, *layers: nn.Module) -> None:
        super().__init__()
        self.field = nn.Sequential(*layers)
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x."""
        for _ in range(self.count):
            x = x + 2 * self.field(x) / self.count
        return x


class Hats(nn.Module):
    """Hats of each column over an even grid: the basis of straight lines between knots."""

    def __init__(self, knots: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-2.5, 2.5, knots))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, inputs × knots]."""
        width = 5 / (len(self.knots) - 1)
        return torch.relu(1 - (x.unsqueeze(2) - self.knots).abs() / width).flatten(1)


class Trees(nn.Module):
    """Trees whose decisions are soft, the same one at each level."""

    def __init__(self, inputs: int, count: int, depth: int, width: int) -> None:
        super().__init__()
        self.decide = nn.Linear(inputs, count * depth)
        self.leaves = nn.Parameter(torch.randn(count * 2**depth, width) / count**0.5)
        self.shape = count, depth

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, width]."""
        right = torch.sigmoid(2 * self.decide(x)).unflatten(1, self.shape)
        reached = torch.ones_like(right[..., :1])
        for level in right.unsqueeze(3).unbind(dim=2):
            reached = torch.cat([reached * level, reached * (1 - level)], dim=2)
        return reached.flatten(1) @ self.leaves


class Selected(nn.Module):
    """Columns that are chosen several times, each time by shares that depend on all of them."""

    def __init__(self, inputs: int, count: int) -> None:
        super().__init__()
        self.shares = nn.Linear(inputs, count * inputs)
        self.shape = count, inputs

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, count × inputs]."""
        shares = self.shares(x).unflatten(1, self.shape).softmax(dim=2)
        return (self.shape[1] * shares * x.unsqueeze(1)).flatten(1)


class Prototypes(nn.Module):
    """How near a point is to each of some trained ones, as shares."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(count, width))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, width] to [examples, count]."""
        squares = (x**2).sum(dim=1, keepdim=True) + (self.points**2).sum(dim=1)
        return 8 * (2 * x @ self.points.T - squares).div(2).softmax(dim=1)


class Conditioned(nn.Module):
    """Layers of some columns, whose features are scaled and moved by the first columns."""

    def __init__(self, first: int, others: int, width: int, activation: Kind) -> None:
        super().__init__()
        self.first = first
        self.before = nn.Linear(others, width)
        self.change = nn.Sequential(nn.Linear(first, 32), activation(), nn.Linear(32, 4 * width))
        self.between = nn.Linear(width, width)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, first + others] to [examples, width]."""
        changes = self.change(x[:, : self.first]).chunk(4, dim=1)
        x = self.activation((1 + changes[0]) * self.before(x[:, self.first :]) + changes[1])
        return self.activation((1 + changes[2]) * self.between(x) + changes[3])


class Attended(nn.Module):
    """Means over a set, by shares that each head asks for."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.shares = nn.Linear(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, members, width] to [examples, heads × width]."""
        return (self.shares(x).softmax(dim=1).transpose(1, 2) @ x).flatten(1)


class GatedTables(nn.Module):
    """A vector for each kind of each column, weighed by gates that all columns give."""

    def __init__(self, kinds: int, columns: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(kinds, width)
        self.gates = nn.Linear(columns * width, columns * width)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, columns] to [examples, columns × width]."""
        vectors = self.vectors(x).flatten(1)
        return 2 * vectors * torch.sigmoid(self.gates(vectors))


class WithSides(nn.Module):
    """Vectors of readers and books and of what is beside them: their product and their sum."""

    def __init__(self, kinds: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(kinds, width)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, 5] to [examples, 2 × width]."""
        reader, book, age, town, kind = self.vectors(x).unbind(dim=1)
        reader, book = reader + age + town, book + kind
        return torch.cat([reader * book, reader + book], dim=1)


class Translated(nn.Module):
    """A GRU that reads, and one that begins where it ended and writes as many positions."""

    def __init__(self, inputs: int, length: int, width: int) -> None:
        super().__init__()
        self.reads = nn.GRU(inputs, width, batch_first=True)
        self.writes = nn.GRU(16, width, batch_first=True)
        self.positions = nn.Parameter(torch.randn(1, length, 16))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, time, inputs] to [examples, time, width]."""
        _, state = self.reads(x)
        return self.writes(self.positions.expand(len(x), -1, -1), state)[0]


class Past(nn.Module):
    """A convolution over time that sees what is before a point, with gaps."""

    def __init__(self, width: int, gap: int) -> None:
        super().__init__()
        self.layer = nn.Conv1d(width, width, 3, dilation=gap)
        self.gap = gap

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, width, time]."""
        return self.layer(functional.pad(x, (2 * self.gap, 0)))


class Sloped(nn.Module):
    """Attention to the past that is weaker the farther away it is, without positions."""

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(width, 3 * width)
        self.outputs = nn.Linear(width, width)
        self.heads = heads
        distance = torch.arange(length).unsqueeze(1) - torch.arange(length)
        slopes = 2.0 ** -torch.arange(1, heads + 1).view(-1, 1, 1)
        bias = (-slopes * distance).masked_fill(distance < 0, -1e9)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        split = self.inputs(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + self.bias
        return self.outputs((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))


class OverTimeGate(nn.Module):
    """Half of the features, times a mixture over time of the other half, as in gMLP."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.over_time = nn.Linear(length, length)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, time, 2 × width] to [examples, time, width]."""
        kept, mixed = x.chunk(2, dim=2)
        mixed = self.over_time(self.norm(mixed).transpose(1, 2)).transpose(1, 2)
        return kept * (1 + mixed)


class Coordinates(nn.Module):
    """Adds two channels that say where a pixel is."""

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, channels, height, width] to two channels more."""
        examples, _, height, width = x.shape
        down = torch.linspace(-1, 1, height).view(1, 1, -1, 1).expand(examples, 1, height, width)
        right = torch.linspace(-1, 1, width).expand(examples, 1, height, width)
        return torch.cat([x, down, right], dim=1)


class Memory(nn.Module):
    """What a trained memory answers to a question: the values of the keys that are like it."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(count, width))
        self.values = nn.Parameter(torch.randn(count, width))

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, width]."""
        return x + (x @ self.keys.T / x.shape[1] ** 0.5).softmax(dim=1) @ self.values


def euler(data: Data, activation: Kind) -> Body:
    """A layer of 48, and six steps along a field of 64."""
    flow = Flow(6, nn.Linear(48, 64), activation(), nn.Linear(64, 48))
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 48), activation(), flow], 48


def splines(data: Data, activation: Kind) -> Body:
    """Nine hats for each column, and two layers of 48."""
    layers, width = dense(9 * data.shape.numel(), (48, 48), activation)
    return [Hats(9), *layers], width


def soft_trees(data: Data, activation: Kind) -> Body:
    """24 soft trees of depth 5, and a layer of 32."""
    return [Trees(data.shape.numel(), 24, 5, 48), nn.Linear(48, 32), activation()], 32


def selecting(data: Data, activation: Kind) -> Body:
    """Columns chosen four times, and two layers of 64."""
    inputs = data.shape.numel()
    layers, width = dense(4 * inputs, (64, 64), activation)
    return [Selected(inputs, 4), *layers], width


def rms(data: Data, activation: Kind) -> Body:
    """Two residual blocks of 56 with RMS norms."""
    blocks = [
        Residual(nn.RMSNorm(56), nn.Linear(56, 96), activation(), nn.Linear(96, 56))
        for _ in range(2)
    ]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 56), *blocks, nn.RMSNorm(56)], 56


def prototypes(data: Data, activation: Kind) -> Body:
    """Two layers, the shares of 64 prototypes, and a layer of 32."""
    layers, width = dense(data.shape.numel(), (64, 12), activation)
    return [*layers[:-1], Prototypes(width, 64), nn.Linear(64, 32), activation()], 32


def conditioned(data: Data, activation: Kind) -> Body:
    """Two layers of 56 that the first four columns change, and a layer of 40."""
    inputs = data.shape.numel()
    layer = Conditioned(4, inputs - 4, 56, activation)
    return [layer, nn.Linear(56, 40), activation()], 40


def set_attention(data: Data, activation: Kind) -> Body:
    """Two layers of each member, four heads over all, and a layer of 48."""
    layers = [nn.Linear(data.shape[1], 40), activation(), nn.Linear(40, 40), activation()]
    return [*layers, Attended(40, 4), nn.Linear(160, 48), activation()], 48


def gated_tables(data: Data, activation: Kind) -> Body:
    """Gated vectors of 10 of each kind, and a layer of 64."""
    columns = data.shape.numel()
    return [GatedTables(120, columns, 10), nn.Linear(10 * columns, 64), activation()], 64


def sides(data: Data, activation: Kind) -> Body:
    """Vectors of 12 of readers, books and what is beside them, and a layer of 32."""
    return [WithSides(424, 12), nn.Linear(24, 32), activation()], 32


def translated(data: Data, activation: Kind) -> Body:
    """A GRU of 40 that reads, and one that writes."""
    return [nn.Embedding(10, 16), Translated(16, data.shape[0], 40)], 40


def squeezed(data: Data, activation: Kind) -> Body:
    """A GRU of 40, eight numbers, and a layer of 64."""
    layer = Recurrent(nn.GRU(data.shape[1], 40, batch_first=True), last=True)
    return [layer, nn.Linear(40, 8), nn.Linear(8, 64), activation()], 64


def tcn(data: Data, activation: Kind) -> Body:
    """Three residual blocks of convolutions of 24 over the past, with gaps of 1, 2 and 4."""
    blocks = [Residual(Past(24, gap), activation(), nn.Conv1d(24, 24, 1)) for gap in (1, 2, 4)]
    return [Transposed(nn.Conv1d(data.shape[1], 24, 1), *blocks), activation()], 24


def sloped(data: Data, activation: Kind) -> Body:
    """Two blocks of width 32 with attention that is weaker farther away."""
    layers: list[nn.Module] = [nn.Embedding(data.outputs, 32)]
    for _ in range(2):
        layers += [
            Residual(nn.LayerNorm(32), Sloped(32, 4, data.shape[0])),
            Residual(nn.LayerNorm(32), nn.Linear(32, 64), activation(), nn.Linear(64, 32)),
        ]
    return [*layers, nn.LayerNorm(32)], 32


def gates_over_time(data: Data, activation: Kind) -> Body:
    """Two blocks of gMLP of width 28."""
    time, inputs = data.shape
    blocks = [
        Residual(
            nn.LayerNorm(28),
            nn.Linear(28, 80),
            activation(),
            OverTimeGate(time, 40),
            nn.Linear(40, 28),
        )
        for _ in range(2)
    ]
    return [nn.Linear(inputs, 28), *blocks], 28


def inverted(data: Data, activation: Kind) -> Body:
    """Two blocks that widen, look around in each channel alone, and narrow, as in MobileNet."""

    def norm(layer: nn.Conv2d) -> list[nn.Module]:
        return [layer, nn.BatchNorm2d(layer.out_channels)]

    def block() -> nn.Module:
        return Residual(
            *norm(nn.Conv2d(12, 36, 1)),
            activation(),
            *norm(nn.Conv2d(36, 36, 3, padding=1, groups=36)),
            activation(),
            *norm(nn.Conv2d(36, 12, 1)),
        )

    _, height, width = data.shape
    pixels = ((height + 1) // 2) * ((width + 1) // 2)
    stem = [*norm(nn.Conv2d(1, 12, 3, stride=2, padding=1)), activation()]
    return [*stem, block(), block(), nn.Flatten(), nn.Linear(12 * pixels, 40), activation()], 40


def coordinates(data: Data, activation: Kind) -> Body:
    """Three convolutions that know where a pixel is, and a layer of 48."""
    return [
        Coordinates(),
        nn.Conv2d(3, 12, 3, padding=1),
        activation(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        activation(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(216, 48),
        activation(),
    ], 48


def memory(data: Data, activation: Kind) -> Body:
    """A layer of 160, a memory of 16,000 keys and values, and a layer of 64: 5 million
    parameters."""
    inputs = data.shape.numel()
    return [
        nn.Flatten(),
        nn.Linear(inputs, 160),
        activation(),
        Memory(160, 16_000),
        nn.Linear(160, 64),
        activation(),
    ], 64


DATA: dict[str, Callable[[], Data]] = {
    "grades": grades,
    "delays": delays,
    "tariffs": tariffs,
    "hares": hares,
    "baskets": baskets,
    "flights": flights,
    "lendings": lendings,
    "ordered": ordered,
    "voices": voices,
    "spelled": spelled,
    "overlaid": overlaid,
    "larger": larger,
    "plumes": plumes,
    "alarms": alarms,
}
NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "euler": euler,
    "splines": splines,
    "soft_trees": soft_trees,
    "selecting": selecting,
    "rms": rms,
    "prototypes": prototypes,
    "conditioned": conditioned,
    "set_attention": set_attention,
    "gated_tables": gated_tables,
    "sides": sides,
    "translated": translated,
    "squeezed": squeezed,
    "tcn": tcn,
    "sloped": sloped,
    "gates_over_time": gates_over_time,
    "inverted": inverted,
    "coordinates": coordinates,
    "memory": memory,
}
