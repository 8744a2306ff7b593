"""Quadratics whose forks have a known answer: what an alternative does there, exactly and
simulated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cases.quadratic_law import QuadraticLaw
from gradiometer.loop import Alternative, BatchSize, CoolNow, Momentum, Rate
from gradiometer.loop.branch import Branch, BranchResult, tail_factor
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.readout import Readout
from gradiometer_lab.closed_forms import Quadratic

BATCH, UNIT = 8, 4
"""Examples in a batch, and in the smallest batch of any alternative."""
WARM = 200
"""Updates at a constant rate before the fork."""
TEST_EXAMPLES = 100
ENDS = 4000
"""Branches whose ends are the truth under AdamW: their standard error is 3 % of that of a fork."""
FAR = 1e6
"""A branch that ends this far away has diverged."""
GO_ON = GoOn()


@dataclass(frozen=True)
class Setting:
    """A quadratic and the training that is forked on it."""

    name: str
    curvatures: tuple[float, ...]
    noises: tuple[float, ...]
    rate: float
    momentum: float = 0.0
    nesterov: bool = False
    clip: float | None = None
    """Norm to which gradients are clipped, under AdamW without decay; None for SGD."""

    @cached_property
    def quadratic(self) -> Quadratic:
        """The quadratic."""
        return Quadratic(np.array(self.curvatures), np.array(self.noises))

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """Six alternatives of four kinds."""
        other = 0.5 if self.momentum == 0 else 0.5 * self.momentum
        return (Rate(0.5), Rate(2), BatchSize(2), BatchSize(0.5), CoolNow(), Momentum(other))

    def start(self, seed: int, updates: int = WARM) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity after some training at a constant rate, from a distance of 1 along
        each axis."""
        generator = np.random.default_rng(seed)
        noise = generator.standard_normal((1, updates * BATCH // UNIT, self.quadratic.dimension))
        begin = np.sign(generator.standard_normal((1, self.quadratic.dimension)))
        going = Going(self, GO_ON, updates * BATCH, "none", begun=0)
        at_rest = np.zeros_like(begin) if self.clip is None else np.zeros((1, 2, begin.shape[1]))
        position, velocity = going.simulated(begin, at_rest, noise)
        return position[0], velocity[0]


POWER_LAW = tuple(np.geomspace(0.01, 1, 20))
OUTLIERS = (*[1.0] * 3, *[0.03] * 17)
RULES = {
    "plain": (0.15, 0.0, False),
    "heavy ball": (0.015, 0.9, False),
    "Nesterov": (0.015, 0.9, True),
}
SETTINGS = tuple(
    Setting(f"{rule}, {spectrum}", curvatures, noises, *values)
    for rule, values in RULES.items()
    for spectrum, curvatures, noises in (
        ("power law", POWER_LAW, POWER_LAW),
        ("outliers", OUTLIERS, tuple(np.full(20, 0.2))),
    )
)

ADAM = tuple(
    Setting(f"AdamW, clipped, {spectrum}", curvatures, noises, 0.02, 0.9, clip=0.7)
    for spectrum, curvatures, noises in (
        ("power law", POWER_LAW, POWER_LAW),
        ("outliers", OUTLIERS, tuple(np.full(20, 0.2))),
    )
)
"""Settings whose truth is simulated."""


@dataclass(frozen=True)
class Going:
    """The rates, batches and momentum of one branch, worked out apart from the engine."""

    setting: Setting
    alternative: Alternative
    horizon: int
    tail: str = "linear"
    begun: int = WARM
    """Updates before the first, which AdamW counts."""

    @cached_property
    def batch(self) -> int:
        """Examples in an update."""
        kind = self.alternative
        return int(BATCH * kind.factor) if isinstance(kind, BatchSize) else BATCH

    @cached_property
    def momentum(self) -> float:
        """Its momentum."""
        kind = self.alternative
        return float(kind.value) if isinstance(kind, Momentum) else self.setting.momentum

    @cached_property
    def rates(self) -> np.ndarray:
        """The learning rate of every update."""
        kind, factor = self.alternative, 1.0
        if isinstance(kind, Rate | CoolNow):
            factor = float(kind.factor)
        elif isinstance(kind, BatchSize):
            factor = kind.rate_factor
        elif not isinstance(kind, GoOn | Momentum):
            raise TypeError(kind.name)
        places = range(0, self.horizon, self.batch)
        tails = [
            tail_factor(self.tail, place, place + self.batch, self.horizon) for place in places
        ]
        return self.setting.rate * factor * np.array(tails)

    def law(self, position: np.ndarray, velocity: np.ndarray) -> "QuadraticLaw | Ends":
        """The exact law at the end, or under AdamW the ends of many branches."""
        if self.setting.clip is not None:
            size = self.setting.quadratic.dimension
            noise = np.random.default_rng(0).standard_normal((ENDS, self.horizon // UNIT, size))
            position, velocity = (
                np.broadcast_to(each, (ENDS, *each.shape)) for each in (position, velocity)
            )
            return Ends(self.setting, self.simulated(position, velocity, noise)[0])
        start = QuadraticLaw.at(self.setting.quadratic, position, velocity)
        return start.after(
            self.rates,
            batch_size=self.batch,
            momentum=self.momentum,
            nesterov=self.setting.nesterov,
        )

    def simulated(
        self, position: np.ndarray, velocity: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ends of many branches, [branches, params], from standard normal noise, [branches,
        units, params]."""
        curvatures = np.array(self.setting.curvatures)
        sizes = np.sqrt(np.array(self.setting.noises) / UNIT)
        units, momentum = self.batch // UNIT, self.momentum
        for update, rate in enumerate(self.rates):
            drawn = noise[:, update * units : (update + 1) * units].mean(axis=1)
            gradient = curvatures * position + sizes * drawn
            if self.setting.clip is not None:
                position, velocity = self._adam(position, velocity, gradient, update, rate)
                continue
            velocity = momentum * velocity + gradient
            move = gradient + momentum * velocity if self.setting.nesterov else velocity
            position = position - rate * move
        return position, velocity

    def _adam(
        self,
        position: np.ndarray,
        moments: np.ndarray,
        gradient: np.ndarray,
        update: int,
        rate: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """An update of AdamW on a clipped gradient; its moments are [branches, 2, params]."""
        assert self.setting.clip is not None
        norms = np.linalg.norm(gradient, axis=1, keepdims=True)
        clipped = gradient * np.minimum(self.setting.clip / (norms + 1e-6), 1)
        count, momentum, second = self.begun + update + 1, self.momentum, 0.999
        mean = momentum * moments[:, 0] + (1 - momentum) * clipped
        square = second * moments[:, 1] + (1 - second) * clipped**2
        step = (mean / (1 - momentum**count)) / (np.sqrt(square / (1 - second**count)) + 1e-8)
        return position - rate * step, np.stack([mean, square], axis=1)


@dataclass(frozen=True)
class Ends:
    """The ends of many branches, where no law is known."""

    setting: Setting
    positions: np.ndarray

    def excess_loss_from(self, point: np.ndarray) -> float:
        """The mean loss above that of a point."""
        curvatures = np.array(self.setting.curvatures)
        losses = curvatures * (self.positions - point) ** 2 / 2
        return float(losses.sum(axis=1).mean())

    @property
    def excess_loss(self) -> float:
        """The mean loss above the minimum."""
        return self.excess_loss_from(self.setting.quadratic.minimum)


@dataclass(frozen=True)
class HeldOut:
    """Examples that branches are read out on, [examples, params]."""

    setting: Setting
    examples: np.ndarray

    @classmethod
    def drawn(cls, setting: Setting, generator: np.random.Generator) -> "HeldOut":
        """New examples."""
        spread = np.sqrt(setting.noises) / np.array(setting.curvatures)
        return cls(setting, spread * generator.standard_normal((TEST_EXAMPLES, len(spread))))

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean of the examples."""
        return self.examples.mean(axis=0)

    def readout(self, position: np.ndarray) -> Readout:
        """The losses of the examples at this position."""
        away = position - self.examples
        return Readout.of((away**2 * np.array(self.setting.curvatures)).sum(axis=1) / 2)


def results_of(
    setting: Setting,
    test: HeldOut,
    branches: Sequence[Branch],
    start: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> Iterator[BranchResult]:
    """Simulated results of branches from one start. A replicate has the same data in
    all of them."""
    kinds: dict[tuple[str, int], list[Branch]] = {}
    for branch in branches:
        kinds.setdefault((branch.alternative.name, branch.horizon), []).append(branch)
    size = setting.quadratic.dimension
    for same in kinds.values():
        horizon = same[0].horizon
        noise = np.stack(
            [
                np.random.default_rng((seed, branch.replicate)).standard_normal(
                    (horizon // UNIT, size)
                )
                for branch in same
            ]
        )
        going = Going(setting, same[0].alternative, horizon, same[0].tail)
        position, velocity = (np.broadcast_to(each, (len(same), *each.shape)) for each in start)
        ends, _ = going.simulated(position, velocity, noise)
        for branch, end in zip(same, ends, strict=True):
            name, updates = branch.alternative.name, len(going.rates)
            far = not np.abs(end).max() < FAR
            readouts = {} if far else {"test_loss": test.readout(end)}
            diverged = "the loss is not finite" if far else None
            yield BranchResult(
                name, branch.replicate, horizon, updates, horizon, 1.0, (), readouts, diverged
            )
