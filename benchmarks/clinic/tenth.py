"""Networks and data of the tenth fresh part, which no other part has: stiff and smooth values,
rare classes, large counts, and networks that begin near the edge of stability."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinic.data import Data, Pairs, parts, standard
from clinic.eighth import Counts, Marks
from clinic.networks import Body, Kind, Mean, Positions, Recurrent, Residual, dense
from clinic.ninth import Past
from gradiometer.problems.images import digits

# ---- data


def assays() -> Data:
    """A value of 8 hidden properties, from 16 readings in which the weakest property is a 30th as
    strong as the strongest, with 2 % of noise in the variance."""
    generator = torch.Generator().manual_seed(121)
    hidden = torch.randn(15_000, 8, generator=generator)
    turned, _ = torch.linalg.qr(torch.randn(16, 8, generator=generator))
    x = 4 * (hidden * torch.logspace(0, -1.5, 8)) @ turned.T
    x = x + 0.01 * torch.randn(x.shape, generator=generator)
    y = torch.sin(hidden[:, 0] + hidden[:, 1]) + 0.5 * hidden[:, 2] * hidden[:, 3]
    y = standard(y + 0.5 * torch.tanh(2 * hidden[:, 4]))
    y = y + 0.14 * torch.randn(15_000, generator=generator)
    return Data(*parts(x, y.unsqueeze(1), held_out=2_000), 1, "values")


def beams() -> Data:
    """How far a beam on two supports bends at six places, by the places and weights of three loads and
    how stiff the beam is, with 0.3 % of noise in the variance."""
    generator = torch.Generator().manual_seed(122)
    x = torch.rand(15_000, 7, generator=generator)
    at = 0.1 + 0.8 * x[:, :3].unsqueeze(2)
    load = x[:, 3:6].unsqueeze(2) ** 2
    looked = torch.tensor([0.1, 0.25, 0.4, 0.6, 0.75, 0.9])
    # left of a load the formula of a beam of length 1; right of it the same one, mirrored
    is_left = looked <= at
    near = torch.where(is_left, looked, 1 - looked)
    rest = torch.where(is_left, 1 - at, at)
    bent = (load * rest * near * (1 - rest**2 - near**2)).sum(dim=1)
    y = standard(bent / (0.5 + x[:, 6:]))
    y = y + 0.05 * torch.randn(y.shape, generator=generator)
    return Data(*parts(standard(x), y, held_out=2_000), 6, "values")


def calls() -> Data:
    """How many people call in an hour, 12 on the average, by the time, the day, three readings of
    the weather and a sale."""
    generator = torch.Generator().manual_seed(123)
    hour = torch.randint(24, (15_000,), generator=generator)
    day = torch.randint(7, (15_000,), generator=generator)
    weather = torch.randn(15_000, 3, generator=generator)
    sale = (torch.rand(15_000, generator=generator) < 0.2).float()
    busy = torch.exp(-((hour - 10) ** 2) / 10) + 0.8 * torch.exp(-((hour - 17) ** 2) / 6)
    weekend = (day >= 5).float()
    level = 1.7 + (1.6 - weekend) * busy + 0.3 * torch.sin(2 * weather[:, 0])
    level = level + sale * (0.5 + 0.4 * weather[:, 1]) - 0.3 * weekend * weather[:, 2].abs()
    counts = torch.poisson(level.clamp(max=4.5).exp(), generator=generator)
    angle = 6.283 * hour / 24
    clock = torch.stack([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], dim=1)
    days = functional.one_hot(day, 7).float()
    x = torch.cat([standard(torch.cat([clock, days, sale.unsqueeze(1)], dim=1)), weather], dim=1)
    return Counts(*parts(x, counts.unsqueeze(1), held_out=2_000), 1, "values")


def instruments() -> Data:
    """36 points of a noisy spectrum: which of 7 instruments sound, each at its own pitch."""
    generator = torch.Generator().manual_seed(124)
    count = 12_000
    sounds = torch.rand(count, 7, generator=generator) < 0.35
    spectrum = torch.zeros(count, 36)
    for each in range(7):
        shape = torch.zeros(32)
        shape[torch.randperm(32, generator=generator)[:6]] = 1 + torch.rand(6, generator=generator)
        shapes = torch.stack([functional.pad(shape, (move, 4 - move)) for move in range(5)])
        pitch = torch.randint(5, (count,), generator=generator)
        strength = sounds[:, each] * (0.4 + torch.rand(count, generator=generator))
        spectrum = spectrum + strength.unsqueeze(1) * shapes[pitch]
    spectrum = spectrum + 0.2 * torch.randn(spectrum.shape, generator=generator)
    spectrum = (spectrum - spectrum.mean()) / spectrum.std()
    return Marks(*parts(spectrum.unsqueeze(2), sounds.float(), held_out=2_000), 7, "values")


def quilts() -> Data:
    """A table of 7 columns: 4 classes, by the patch of a quilt in a plane that lies askew in them."""
    generator = torch.Generator().manual_seed(125)
    x = torch.randn(16_000, 7, generator=generator)
    axes, _ = torch.linalg.qr(torch.randn(7, 2, generator=generator))
    across, down = (x @ axes / 1.3 + 0.4).floor().long().unbind(dim=1)
    return Data(*parts(x, (across + 2 * down) % 4, held_out=2_000), 4, "classes")


def faults() -> Data:
    """A table of 18 columns: 88 % works, 8 % has one fault and 4 % another."""
    generator = torch.Generator().manual_seed(126)
    x = torch.randn(16_000, 18, generator=generator)
    noise = 0.4 * torch.randn(16_000, 2, generator=generator)
    first = x[:, 0] * x[:, 1] + x[:, 2] + noise[:, 0]
    second = x[:, 3].abs() + torch.relu(x[:, 4]) - x[:, 5] + noise[:, 1]
    labels = (first > first.quantile(0.92)).long()
    labels[second > second.quantile(0.96)] = 2
    return Data(*parts(x, labels, held_out=2_000), 3, "classes")


PEOPLE = 60


def crews() -> Data:
    """How well five people of 60 work, by each of them and by each pair, with 6 % of noise in the
    variance."""
    generator = torch.Generator().manual_seed(127)
    people = torch.rand(16_000, PEOPLE, generator=generator).argsort(dim=1)[:, :5]
    manner = torch.randn(PEOPLE, 4, generator=generator)[people]
    skill = torch.randn(PEOPLE, generator=generator)[people].sum(dim=1)
    pairs = manner.sum(dim=1) ** 2 - (manner**2).sum(dim=1)
    y = standard(skill + 0.4 * pairs.sum(dim=1))
    y = y + 0.25 * torch.randn(16_000, generator=generator)
    return Data(*parts(people, y.unsqueeze(1), held_out=2_000), 1, "values")


def carries() -> Data:
    """Two numbers of 14 digits, the last digits first: an input is the sum of two digits, and the
    target is the digit of the sum of the numbers. 3 % of the targets are at random."""
    generator = torch.Generator().manual_seed(128)
    sums = torch.randint(10, (12_000, 14, 2), generator=generator).sum(dim=2)
    carry, answers = torch.zeros(12_000, dtype=torch.long), []
    for column in sums.unbind(dim=1):
        answers.append((column + carry) % 10)
        carry = (column + carry) // 10
    asked = torch.stack(answers, dim=1)
    drawn = torch.randint(10, asked.shape, generator=generator)
    asked = torch.where(torch.rand(asked.shape, generator=generator) < 0.03, drawn, asked)
    return Data(*parts(sums, asked, held_out=1_500), 10, "tokens")


ROMAN = {
    1000: "M", 900: "CM", 500: "D", 400: "CD", 100: "C", 90: "XC",
    50: "L", 40: "XL", 10: "X", 9: "IX", 5: "V", 4: "IV", 1: "I",
}  # fmt: skip


def romans() -> Data:
    """The next character in windows of 24 of numbers in two notations, such as "1984 is
    MCMLXXXIV"."""
    generator = torch.Generator().manual_seed(129)

    def roman(number: int) -> str:
        for value, letters in ROMAN.items():
            if number >= value:
                return letters + roman(number - value)
        return ""

    drawn = torch.randint(1, 2_500, (16_000,), generator=generator).tolist()
    text = "".join(f"{number} is {roman(number)}. " for number in drawn)
    letters = {letter: place for place, letter in enumerate(sorted(set(text)))}
    codes = torch.tensor([letters[letter] for letter in text]).unfold(0, 25, 25)
    return Data(*parts(codes[:, :-1], codes[:, 1:], held_out=1_200), len(letters), "tokens")


def faded() -> Data:
    """The digits that ship with the package, anywhere on 10 × 10 pixels, of any contrast and
    brightness, behind a bar: 10 classes."""
    images, labels, held_out = digits.read_digits()
    generator = torch.Generator().manual_seed(130)

    def drawn(rows: Tensor, count: int) -> Pairs:
        chosen = rows[torch.randint(len(rows), (count,), generator=generator)]
        canvas = torch.zeros(count, 10, 10)
        moves = torch.randint(3, (count, 2), generator=generator)
        for down in range(3):
            for right in range(3):
                here = (moves == torch.tensor([down, right])).all(dim=1)
                canvas[here, down : down + 8, right : right + 8] = images[chosen[here]].float() / 16
        bar = torch.randint(10, (count,), generator=generator)
        canvas[torch.arange(count), bar] = 0.5
        contrast, bright = torch.rand(2, count, 1, 1, generator=generator)
        canvas = (0.4 + contrast) * canvas + bright
        canvas = canvas + 0.1 * torch.randn(canvas.shape, generator=generator)
        return ((canvas - 0.8) / 0.5).unsqueeze(1), labels[chosen].long()

    trained, unseen = torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()
    return Data(
        drawn(trained, 11_000),
        drawn(unseen[:180], 1_500),
        drawn(unseen[180:], 1_500),
        10,
        "classes",
    )


def shadows() -> Data:
    """Noisy images of 12 × 12 pixels of a ball in the light of a lamp: the direction of the lamp and
    the size of the ball."""
    generator = torch.Generator().manual_seed(131)
    count = 10_000
    size = 3 + 2.5 * torch.rand(count, 1, 1, generator=generator)
    middle = 4.5 + 2 * torch.rand(2, count, 1, 1, generator=generator)
    lamp = functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    lamp[:, 2] = lamp[:, 2].abs()
    place = torch.arange(12.0)
    down = (place.view(1, 12, 1) - middle[0]) / size
    right = (place.view(1, 1, 12) - middle[1]) / size
    near = (1 - down**2 - right**2).clamp_min(0).sqrt()
    first, second, third = lamp.view(count, 3, 1, 1).unbind(dim=1)
    light = torch.relu(first * down + second * right + third * near) * (near > 0)
    images = light + 0.15 * torch.randn(light.shape, generator=generator)
    images = ((images - images.mean()) / images.std()).unsqueeze(1)
    y = torch.cat([lamp[:, :2], standard(size.flatten(1))], dim=1)
    return Data(*parts(images, standard(y), held_out=1_500), 3, "values")


def gestures() -> Data:
    """The places of a hand at 24 times, from any side, with errors: 6 kinds of gestures."""
    generator = torch.Generator().manual_seed(132)
    count = 10_000
    labels = torch.randint(6, (count,), generator=generator)
    speed, begin = torch.rand(2, count, 1, generator=generator)
    angle = (0.25 + 0.2 * speed) * torch.arange(24.0) + 6.3 * begin
    flat = torch.zeros_like(angle)
    kinds = [
        (angle.cos(), angle.sin(), flat),
        (angle.cos(), 0.5 * angle.sin(), flat),
        (angle.cos(), flat, flat),
        (angle.sin(), (2 * angle).sin(), flat),
        (angle.cos(), angle.sin(), 0.1 * (torch.arange(24.0) - 12).expand_as(angle)),
        (angle.cos().sign(), angle.sin().sign(), flat),
    ]
    paths = torch.stack([torch.stack(kind, dim=2) for kind in kinds])[labels, torch.arange(count)]
    sides, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    paths = paths @ sides + 0.25 * torch.randn(paths.shape, generator=generator)
    return Data(*parts(paths / paths.std(), labels, held_out=1_500), 6, "classes")


def journals() -> Data:
    """16 events of 12 kinds: does one come twice, does one come before another? 6 marks."""
    generator = torch.Generator().manual_seed(133)
    events = torch.randint(12, (12_000, 16), generator=generator)
    twice = [(events == kind).sum(dim=1) >= 2 for kind in (0, 3, 7)]
    times = torch.where(
        events.unsqueeze(2) == torch.arange(12), torch.arange(16).view(1, 16, 1), 99
    )
    first = times.amin(dim=1)
    before = [first[:, one] < first[:, other] for one, other in ((1, 2), (4, 5), (8, 2))]
    marks = torch.stack([*twice, *before], dim=1).float()
    return Marks(*parts(events, marks, held_out=2_000), 6, "values")


# ---- networks


class Bumps(nn.Module):
    """Bumps around trained points, with trained widths."""

    def __init__(self, inputs: int, count: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(count, inputs))
        self.widths = nn.Parameter(torch.full((count,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, count]."""
        squares = ((x.unsqueeze(1) - self.points) ** 2).mean(dim=2)
        return torch.exp(-squares / (2 * self.widths**2 + 0.05))


class Squared(nn.Module):
    """The square of an activation."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x."""
        return self.activation(x) ** 2


class Winners(nn.Module):
    """Of each four neighbours the largest stays, and the others are zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, width]."""
        groups = x.unflatten(1, (-1, 4))
        return (groups * (groups == groups.amax(dim=2, keepdim=True))).flatten(1)


class MaxPlus(nn.Module):
    """The largest of the inputs, each plus a trained number."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.added = nn.Parameter(torch.randn(width, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, width]."""
        return (x.unsqueeze(1) + self.added).amax(dim=2)


class Settling(nn.Module):
    """A layer of the input and of its own output, used again and again."""

    def __init__(self, inputs: int, width: int, count: int, activation: nn.Module) -> None:
        super().__init__()
        self.given = nn.Linear(inputs, width)
        self.again = nn.Linear(width, width, bias=False)
        self.activation = activation
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, width]."""
        given = self.given(x)
        state = self.activation(given)
        for _ in range(self.count):
            state = self.activation(given + self.again(state))
        return state


class Cosines(nn.Module):
    """The angles between the input and trained directions: no size of a weight counts."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(width, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, width]."""
        angles = functional.normalize(x, dim=1) @ functional.normalize(self.directions, dim=1).T
        return x.shape[1] ** 0.5 * angles + self.bias


class Pairings(nn.Module):
    """The sum of the vectors of some people, and the sum of the products of all pairs of them."""

    def __init__(self, people: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(people, width)
        with torch.no_grad():
            self.vectors.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, people] to [examples, 2 × width]."""
        vectors = self.vectors(x)
        total = vectors.sum(dim=1)
        return torch.cat([total, (total**2 - (vectors**2).sum(dim=1)) / 2], dim=1)


class Gates(nn.Module):
    """Gates of convolutions over the past, which say what a state forgets, as in a QRNN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Past(width, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        new, keep, shown = (layer(x.transpose(1, 2)) for layer in self.layers)
        keep = torch.sigmoid(keep)
        added = (1 - keep) * torch.tanh(new)
        state, states = torch.zeros_like(added[..., 0]), []
        for kept, more in zip(keep.unbind(dim=2), added.unbind(dim=2), strict=True):
            state = kept * state + more
            states.append(state)
        return (torch.sigmoid(shown) * torch.stack(states, dim=2)).transpose(1, 2)


class Rotary(nn.Module):
    """Attention to the past whose questions and keys are turned by their positions."""

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(width, 3 * width)
        self.outputs = nn.Linear(width, width)
        self.heads = heads
        half = width // heads // 2
        angles = torch.arange(length).unsqueeze(1) * 30.0 ** -(torch.arange(half) / half)
        self.register_buffer("sine", angles.sin())
        self.register_buffer("cosine", angles.cos())

    def turned(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, heads, time, width of a head]."""
        one, other = x.chunk(2, dim=3)
        return torch.cat(
            [one * self.cosine - other * self.sine, one * self.sine + other * self.cosine], dim=3
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        split = self.inputs(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split
        mixed = functional.scaled_dot_product_attention(
            self.turned(query), self.turned(key), value, is_causal=True
        )
        return self.outputs(mixed.transpose(1, 2).flatten(2))


class Latents(nn.Module):
    """What some trained questions find among the positions, one after the other."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.questions = nn.Parameter(torch.randn(count, width))
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, time, width] to [examples, count, width]."""
        scores = self.questions @ self.keys(x).transpose(1, 2) / x.shape[2] ** 0.5
        return scores.softmax(dim=2) @ self.values(x)


class Grown(nn.Module):
    """The channels, and the channels that some layers make of them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, channels, ...] to more channels."""
        return torch.cat([x, self.layers(x)], dim=1)


class BothSigns(nn.Module):
    """An activation of the channels, and one of their negatives."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, channels, ...] to twice the channels."""
        return self.activation(torch.cat([x, -x], dim=1))


class AllProducts(nn.Module):
    """Sums of the products of all pairs of features."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, width * inputs) / inputs)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, width]."""
        return ((x @ self.weight).unflatten(1, (self.width, -1)) @ x.unsqueeze(2)).squeeze(2)


def first_vectors(data: Data, kinds: int, width: int) -> nn.Module:
    """Vectors of symbols, or a layer of the values of each position."""
    if data.train[0].is_floating_point():
        return nn.Linear(data.shape[-1], width)
    return nn.Embedding(kinds, width)


def softsign(data: Data, activation: Kind) -> Body:
    """Three layers of 64, with Softsign in place of ReLU."""
    kind = nn.Softsign if activation is nn.ReLU else activation
    return dense(data.shape.numel(), (64, 64, 64), kind)


def bumps(data: Data, activation: Kind) -> Body:
    """A layer of 8, 80 bumps, and a layer of 32."""
    first = nn.Linear(data.shape.numel(), 8)
    return [nn.Flatten(), first, Bumps(8, 80), nn.Linear(80, 32), activation()], 32


def squared(data: Data, activation: Kind) -> Body:
    """Two layers of 64, with the square of ReLU in place of ReLU."""
    return dense(data.shape.numel(), (64, 64), lambda: Squared(activation()))


def doubled(data: Data, activation: Kind) -> Body:
    """Three layers of 48, each the product of two matrices."""
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = data.shape.numel()
    for _ in range(3):
        layers += [nn.Linear(inputs, 48, bias=False), nn.Linear(48, 48), activation()]
        inputs = 48
    return layers, 48


def winners(data: Data, activation: Kind) -> Body:
    """Two layers of 80 in groups of four that one wins, and a layer of 32."""
    layers, width = dense(data.shape.numel(), (80, 80), Winners)
    return [*layers, nn.Linear(width, 32), activation()], 32


def max_plus(data: Data, activation: Kind) -> Body:
    """A layer of 32, 64 maxima of sums, and a layer of 40."""
    first = nn.Linear(data.shape.numel(), 32)
    return [nn.Flatten(), first, MaxPlus(32, 64), nn.Linear(64, 40), activation()], 40


def settling(data: Data, activation: Kind) -> Body:
    """A layer of 48 used seven times, with Tanh in place of ReLU."""
    kind = nn.Tanh if activation is nn.ReLU else activation
    return [nn.Flatten(), Settling(data.shape.numel(), 48, 6, kind())], 48


def cosines(data: Data, activation: Kind) -> Body:
    """A layer of 64, and two of 64 angles."""
    return [
        nn.Flatten(),
        nn.Linear(data.shape.numel(), 64),
        activation(),
        Cosines(64, 64),
        activation(),
        Cosines(64, 64),
        activation(),
    ], 64


def norm_after(data: Data, activation: Kind) -> Body:
    """Three residual blocks of 52, each with LayerNorm after it."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(data.shape.numel(), 52)]
    for _ in range(3):
        layers += [
            Residual(nn.Linear(52, 80), activation(), nn.Linear(80, 52)),
            nn.LayerNorm(52),
        ]
    return layers, 52


def pairings(data: Data, activation: Kind) -> Body:
    """Vectors of 16 of people, their sum and that of their products, and a layer of 32."""
    return [Pairings(PEOPLE, 16), nn.Linear(32, 32), activation()], 32


def identity_rnn(data: Data, activation: Kind) -> Body:
    """A recurrent layer of 40 with ReLU that begins by keeping its state."""
    layer = nn.RNN(16, 40, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        nn.init.eye_(layer.weight_hh_l0)
    last = data.kind != "tokens"
    return [first_vectors(data, 19, 16), Recurrent(layer, last=last)], 40


def conv_gates(data: Data, activation: Kind) -> Body:
    """A convolution over the past with gates of 36, and a layer of 40 of each position."""
    layers = [first_vectors(data, 19, 36), Gates(36), nn.Linear(36, 40), activation()]
    return layers, 40


def rotary(data: Data, activation: Kind) -> Body:
    """Two blocks of width 32 with turned questions and keys, and RMSNorm."""
    layers: list[nn.Module] = [nn.Embedding(data.outputs, 32)]
    for _ in range(2):
        layers += [
            Residual(nn.RMSNorm(32), Rotary(32, 4, data.shape[0])),
            Residual(nn.RMSNorm(32), nn.Linear(32, 72), activation(), nn.Linear(72, 32)),
        ]
    return [*layers, nn.RMSNorm(32)], 32


def latents(data: Data, activation: Kind) -> Body:
    """Eight questions to all positions of width 28, a layer of each answer, and one of all."""
    return [
        first_vectors(data, 12, 28),
        Positions(data.shape[0], 28),
        Residual(nn.LayerNorm(28), nn.Linear(28, 56), activation(), nn.Linear(56, 28)),
        Latents(28, 8),
        nn.LayerNorm(28),
        nn.Flatten(),
        nn.Linear(224, 48),
        activation(),
    ], 48


def dense_convolutions(data: Data, activation: Kind) -> Body:
    """Two pairs of convolutions with BatchNorm that see all before them, as in DenseNet."""
    layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, stride=2, padding=1)]
    channels = 12
    for _ in range(2):
        for _ in range(2):
            conv = nn.Conv2d(channels, 12, 3, padding=1)
            layers.append(Grown(nn.BatchNorm2d(channels), activation(), conv))
            channels += 12
        layers.append(nn.AvgPool2d(2))
    return [*layers, nn.BatchNorm2d(channels), activation(), Mean()], channels


def both_signs(data: Data, activation: Kind) -> Body:
    """Three convolutions whose both signs are kept, and a layer of 40."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (6, 10, 16):
        layers += [
            nn.Conv2d(channels, width, 3, stride=1 if channels == 1 else 2, padding=1),
            BothSigns(activation()),
        ]
        channels = 2 * width
    return [*layers, nn.Flatten(), nn.Linear(288, 40), activation()], 40


def all_products(data: Data, activation: Kind) -> Body:
    """A layer of 160, 200 sums of products of all pairs, and a layer of 64: 5 million
    parameters."""
    return [
        nn.Flatten(),
        nn.Linear(data.shape.numel(), 160),
        activation(),
        AllProducts(160, 200),
        nn.Linear(200, 64),
        activation(),
    ], 64


def heavy_block(data: Data, activation: Kind) -> Body:
    """A residual block of 512 with LayerNorm that widens to 5,000: 5 million parameters."""
    block = Residual(nn.LayerNorm(512), nn.Linear(512, 5_000), activation(), nn.Linear(5_000, 512))
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 512), block, nn.LayerNorm(512)], 512


DATA: dict[str, Callable[[], Data]] = {
    "assays": assays,
    "beams": beams,
    "calls": calls,
    "instruments": instruments,
    "quilts": quilts,
    "faults": faults,
    "crews": crews,
    "carries": carries,
    "romans": romans,
    "faded": faded,
    "shadows": shadows,
    "gestures": gestures,
    "journals": journals,
}
NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "softsign": softsign,
    "bumps": bumps,
    "squared": squared,
    "doubled": doubled,
    "winners": winners,
    "max_plus": max_plus,
    "settling": settling,
    "cosines": cosines,
    "norm_after": norm_after,
    "pairings": pairings,
    "identity_rnn": identity_rnn,
    "conv_gates": conv_gates,
    "rotary": rotary,
    "latents": latents,
    "dense_convolutions": dense_convolutions,
    "both_signs": both_signs,
    "all_products": all_products,
    "heavy_block": heavy_block,
}
