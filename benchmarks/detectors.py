"""Has this learning rate stopped paying off? The interface of all tests that answer this question.

A detector takes many runs at once. A rate has stopped paying off when the excess loss is at most twice its floor, the
value at which the gradient noise keeps it at this rate: more steps at this rate then gain less than a cut.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from gradiometer.convergence.plateau import Extrapolation


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


class Ours(Detector):
    """The library's own test, as a detector."""

    name: ClassVar[str] = "extrapolation"

    def __init__(self, test: Extrapolation) -> None:
        self.test = test

    def observe(self, seen: Observation) -> Bool[Tensor, " runs"]:
        """All it needs of a step is the iterate."""
        return self.test.take(seen.position)
