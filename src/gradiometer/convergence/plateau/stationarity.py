"""Has this learning rate stopped paying? What a detector sees of a run, and what it answers.

All detectors are asked the same question in the same way, for many runs beside each other: a study is vectorised over
its runs, and a training is a study of one. "Stopped paying" means that the excess loss has come down to twice its
floor, the level at which the noise of the gradient holds it at this rate: what is then left to gain by going on is
less than what a cut of the rate gains.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from gradiometer.errors import BadArgument


@dataclass(frozen=True)
class Observation:
    """One step of some runs beside each other, all at the same learning rate.

    Args:
        learning_rate: η of this step.
        momentum: μ of PyTorch's heavy ball, v ← μv + ĝ, Φ ← Φ − ηv.
        loss: Of each run's batch, at Φ.
        position: Φ before the update.
        gradient: ĝ at Φ, weight decay included.
        velocity: v after ĝ has come in, the step that is about to be made; without momentum ĝ.
    """

    learning_rate: float
    momentum: float
    loss: Float[Tensor, " runs"]
    position: Float[Tensor, "runs params"]
    gradient: Float[Tensor, "runs params"]
    velocity: Float[Tensor, "runs params"]


class Detector(ABC):
    """Watches runs from their first step at a constant learning rate, and says when they have stopped paying.

    A detector keeps its state: make a new one for other runs, or for another rate.
    """

    name: ClassVar[str]

    @abstractmethod
    def observe(self, seen: Observation) -> Bool[Tensor, " runs"]:
        """Take in the next step; whether each run is said, at this step, to have stopped paying."""


class Looks:
    """Steps at which a detector looks: geometrically spaced, so that a run of any length is looked at a few times.

    Args:
        first: Step of the first look.
        per_octave: Looks while the number of steps doubles.
    """

    def __init__(self, first: int, per_octave: int) -> None:
        if not first >= 1:
            raise BadArgument(f"`first` must be at least 1 step, got {first}.")
        if not per_octave >= 1:
            raise BadArgument(f"`per_octave` must be at least 1 look, got {per_octave}.")
        self.first, self.per_octave = first, per_octave
        self.taken = 0

    @property
    def next(self) -> int:
        """Step of the look to come."""
        return max(round(self.first * 2 ** (self.taken / self.per_octave)), self.first + self.taken)

    def due(self, step: int) -> bool:
        """Whether this step is one; it then counts as taken."""
        if step < self.next:
            return False
        self.taken += 1
        return True
