"""Has this learning rate stopped paying off? The interface of all tests that answer this question.

A detector takes many runs at once: a study is vectorised over its runs, and a training is a study of one. A rate has
stopped paying off when the excess loss is at most twice its floor, the value at which the gradient noise keeps it at
this rate: more steps at this rate then gain less than a cut.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from gradiometer.errors import BadArgument


@dataclass(frozen=True)
class Observation:
    """One step of several runs, all at the same learning rate.

    Args:
        learning_rate: η of this step.
        momentum: μ of PyTorch's heavy ball, v ← μv + ĝ, Φ ← Φ − ηv.
        loss: Loss of each run's batch, at Φ.
        position: Φ before the update.
        gradient: ĝ at Φ, weight decay included.
        velocity: v after ĝ was added, for the update that follows; without momentum ĝ.
    """

    learning_rate: float
    momentum: float
    loss: Float[Tensor, " runs"]
    position: Float[Tensor, "runs params"]
    gradient: Float[Tensor, "runs params"]
    velocity: Float[Tensor, "runs params"]


class Detector(ABC):
    """Observes runs from their first step at a constant learning rate, and decides when the rate stops paying off.

    A detector has state: make a new one for other runs, or for another rate.
    """

    name: ClassVar[str]

    @abstractmethod
    def observe(self, seen: Observation) -> Bool[Tensor, " runs"]:
        """Take the next step. True for each run whose rate, at this step, has stopped paying off."""


class Looks:
    """The steps at which a detector decides. Their spacing is geometric, so a run of any length has only a few.

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
        """Step of the next look."""
        return max(round(self.first * 2 ** (self.taken / self.per_octave)), self.first + self.taken)

    def due(self, step: int) -> bool:
        """True if there is a look at this step, which then counts as taken."""
        if step < self.next:
            return False
        self.taken += 1
        return True
