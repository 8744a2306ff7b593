"""Networks and data of the seventh fresh part, which no other part has."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinic.data import Data, parts, standard
from clinic.networks import Body, Kind, Recurrent, Transposed, dense

# ---- data


def wines() -> Data:
    """Readings of 11 instruments on a wine, with uneven errors: 4 vineyards, which overlap."""
    generator = torch.Generator().manual_seed(71)
    count = 15_000
    hidden = torch.randn(count, 5, generator=generator)
    scores = torch.stack(
        [
            hidden[:, 0] * hidden[:, 1],
            hidden[:, 1] ** 2 - 1,
            torch.sin(2 * hidden[:, 2]) + hidden[:, 3],
            hidden[:, 3] * hidden[:, 4] + 0.5 * hidden[:, 0],
        ],
        dim=1,
    )
    labels = (scores + 0.3 * torch.randn(count, 4, generator=generator)).argmax(dim=1)
    mixture = torch.randn(5, 11, generator=generator)
    errors = 0.2 + 0.3 * torch.rand(11, generator=generator)
    seen = hidden @ mixture + errors * torch.randn(count, 11, generator=generator)
    return Data(*parts(standard(seen), labels, held_out=2_000), 4, "classes")


def options() -> Data:
    """The price and the sensitivity of an option by 7 settings, one without a meaning, with 4 % of
    noise in the variance."""
    generator = torch.Generator().manual_seed(72)
    x = torch.randn(15_000, 7, generator=generator)
    strength, time = 0.2 + 0.1 * x[:, 0].abs(), 0.3 + x[:, 1].abs()
    distance = 0.25 * x[:, 2] + 0.05 * x[:, 3] * x[:, 4]
    first = distance / (strength * time.sqrt()) + strength * time.sqrt() / 2
    normal = torch.distributions.Normal(0.0, 1.0)
    price = distance.exp() * normal.cdf(first) - normal.cdf(first - strength * time.sqrt())
    sensitive = normal.cdf(first) * (1 + 0.4 * torch.tanh(2 * x[:, 5]))
    y = standard(torch.stack([price.clamp(-2, 2), sensitive], dim=1))
    y = y + 0.2 * torch.randn(y.shape, generator=generator)
    return Data(*parts(x, y, held_out=2_000), 2, "values")


PEOPLE = 50
"""People who rate, and things that are rated."""


def ratings() -> Data:
    """Marks that people give to things: products of three hidden properties and two tastes, with 10 % of
    noise in the variance. The inputs are the numbers of the person and of the thing."""
    generator = torch.Generator().manual_seed(73)
    count = 16_000
    person = torch.randint(PEOPLE, (count,), generator=generator)
    thing = torch.randint(PEOPLE, (count,), generator=generator)
    of_people = torch.randn(PEOPLE, 4, generator=generator)
    of_things = torch.randn(PEOPLE, 4, generator=generator)
    value = (of_people[person, :3] * of_things[thing, :3]).sum(dim=1)
    value = value + of_people[person, 3] + torch.relu(of_things[thing, 3])
    value = standard(value) + 0.33 * torch.randn(count, generator=generator)
    pairs = torch.stack([person, PEOPLE + thing], dim=1)
    return Data(*parts(pairs, standard(value).unsqueeze(1), held_out=2_000), 1, "values")


def tiles() -> Data:
    """Noisy images of 12 × 12 pixels of a floor whose tiles are laid in one of five ways."""
    generator = torch.Generator().manual_seed(74)
    count = 13_000
    kind = torch.randint(5, (count,), generator=generator).view(-1, 1, 1)
    shift = torch.randint(6, (count, 2, 1, 1), generator=generator)
    down = torch.arange(12).view(1, 12, 1) + shift[:, 0]
    right = torch.arange(12).view(1, 1, 12) + shift[:, 1]
    row = down.div(3, rounding_mode="floor")
    laid = torch.where(
        kind == 0,
        (row + right.div(3, rounding_mode="floor")) % 2,
        torch.where(
            kind == 1,
            row % 2,
            torch.where(
                kind == 2,
                ((right + 3 * (row % 2)) % 6 < 1).long(),
                torch.where(
                    kind == 3, ((down + right) % 4 < 2).long(), ((down - right) % 5 < 2).long()
                ),
            ),
        ),
    )
    images = laid.float() + 0.7 * torch.randn(laid.shape, generator=generator)
    return Data(
        *parts(standard(images.flatten()).view(count, 1, 12, 12), kind.flatten(), held_out=2_000),
        5,
        "classes",
    )


def walks() -> Data:
    """The places of a walk at 24 times, with errors: 5 ways of turning."""
    generator = torch.Generator().manual_seed(75)
    count = 13_000
    kind = torch.randint(5, (count,), generator=generator)
    time = torch.arange(24.0)
    wave = torch.sin(0.5 * time + 6.3 * torch.rand(count, 1, generator=generator))
    noise = torch.randn(count, 24, generator=generator)
    turns = torch.stack(
        [
            0.25 * noise,
            0.12 + 0.15 * noise,
            0.3 * wave,
            0.5 * noise.sign() * 0.6,
            0.02 * time - 0.2 + 0.1 * noise,
        ]
    )[kind, torch.arange(count)]
    angle = turns.cumsum(dim=1) + 6.3 * torch.rand(count, 1, generator=generator)
    places = torch.stack([angle.cos(), angle.sin()], dim=2).cumsum(dim=1)
    places = places - places.mean(dim=1, keepdim=True)
    places = places + 0.25 * torch.randn(places.shape, generator=generator)
    return Data(*parts(standard(places), kind, held_out=2_000), 5, "classes")


def beats() -> Data:
    """The time between beats and their strength, from 32 noisy values of a pulse."""
    generator = torch.Generator().manual_seed(76)
    count = 13_000
    between = 4 + 8 * torch.rand(count, 1, generator=generator)
    strength = 0.7 + torch.rand(count, 1, generator=generator)
    time = torch.arange(32.0) + between * torch.rand(count, 1, generator=generator)
    seen = strength * torch.exp(-((time % between) ** 2) / 2)
    seen = standard(seen + 0.15 * torch.randn(count, 32, generator=generator))
    y = standard(torch.cat([between, strength], dim=1))
    return Data(*parts(seen.unsqueeze(2), y, held_out=2_000), 2, "values")


# ---- networks


class Glu(nn.Module):
    """A linear layer whose second half opens the first."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, width]."""
        return functional.glu(self.layer(x))


class And(nn.Module):
    """The output of some layers, and their input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, width + inputs]."""
        return torch.cat([self.layers(x), x], dim=1)


class Agreement(nn.Module):
    """The vectors of a person and of a thing, and their product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(2 * PEOPLE, width)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, 2] to [examples, 3 × width]."""
        one, other = self.table(x).unbind(dim=1)
        return torch.cat([one, other, one * other], dim=1)


class Moments(nn.Module):
    """Mean and spread over the positions."""

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, positions, width] to [examples, 2 × width]."""
        return torch.cat([x.mean(dim=1), x.var(dim=1).add(1e-4).sqrt()], dim=1)


def celu(data: Data, activation: Kind) -> Body:
    """Layers of 64, 48 and 32, with CELU in place of ReLU."""
    kind = nn.CELU if activation is nn.ReLU else activation
    return dense(data.shape.numel(), (64, 48, 32), kind)


def glu(data: Data, activation: Kind) -> Body:
    """Two gated layers of 48, and a layer of 32."""
    inputs = data.shape.numel()
    return [nn.Flatten(), Glu(inputs, 48), Glu(48, 48), nn.Linear(48, 32), activation()], 32


def wide_and_deep(data: Data, activation: Kind) -> Body:
    """Two layers of 64, and the inputs once more."""
    inputs = data.shape.numel()
    layers = And(nn.Linear(inputs, 64), activation(), nn.Linear(64, 64), activation())
    return [nn.Flatten(), layers], 64 + inputs


def batch_normed(data: Data, activation: Kind) -> Body:
    """Two layers of 72 with BatchNorm after the activation."""
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = data.shape.numel()
    for _ in range(2):
        layers += [nn.Linear(inputs, 72), activation(), nn.BatchNorm1d(72)]
        inputs = 72
    return layers, 72


def factors(data: Data, activation: Kind) -> Body:
    """Vectors of 12 for people and things, their product, and layers of 64 and 32."""
    layers, width = dense(36, (64, 32), activation)
    return [Agreement(12), *layers], width


def pooled(data: Data, activation: Kind) -> Body:
    """Two convolutions, each with a pool of maxima, and a layer of 48."""
    return [
        nn.Conv2d(1, 12, 3, padding=1),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 20, 3, padding=1),
        activation(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(180, 48),
        activation(),
    ], 48


def summary(data: Data, activation: Kind) -> Body:
    """Two convolutions along the time, their mean and spread, and a layer of 32."""
    first = Transposed(
        nn.Conv1d(data.shape[1], 20, 5, padding=2),
        activation(),
        nn.Conv1d(20, 24, 5, padding=2),
        activation(),
    )
    return [first, Moments(), nn.Linear(48, 32), activation()], 32


def mean_gru(data: Data, activation: Kind) -> Body:
    """A GRU of 28, whose mean and spread over the time a layer of 32 takes."""
    layer = nn.GRU(data.shape[1], 28, batch_first=True)
    return [Recurrent(layer), Moments(), nn.Linear(56, 32), activation()], 32


def bulky(data: Data, activation: Kind) -> Body:
    """Two layers of 1,200: 1.5 million parameters."""
    return dense(data.shape.numel(), (1_200,) * 2, activation)


DATA: dict[str, Callable[[], Data]] = {
    "wines": wines,
    "options": options,
    "ratings": ratings,
    "tiles": tiles,
    "walks": walks,
    "beats": beats,
}
NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "celu": celu,
    "glu": glu,
    "wide_and_deep": wide_and_deep,
    "batch_normed": batch_normed,
    "factors": factors,
    "pooled": pooled,
    "summary": summary,
    "mean_gru": mean_gru,
    "bulky": bulky,
}
