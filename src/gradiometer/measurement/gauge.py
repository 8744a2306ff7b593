"""The gauge: frozen settings and three verbs, `measure`, `estimate`, `interpret`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradiometer.measurement.estimate import Estimates
from gradiometer.measurement.finding import Finding, Issue
from gradiometer.measurement.reading import Moments, Series

if TYPE_CHECKING:  # a gauge is read, a year later, on a machine without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class Gauge(ABC):
    """Something that is read off a training step.

    A gauge holds settings only: its `repr` recreates it, and it is written into the run. It never keeps
    a tensor, and `measure` never changes training.
    """

    name: ClassVar[str]
    issue: ClassVar[Issue]
    unit: ClassVar[str]
    one_in: ClassVar[int] = 1
    """Asked at one in so many measured steps: more than one where it costs more than a step. At every one, where none
    beside it is asked at each."""

    looks_back: ClassVar[bool] = False
    """Whether the step needs a `motion`: where training stood earlier, and its velocity."""

    own_steps: ClassVar[bool] = False
    """Whether it is asked at the steps it wants, whatever the cadence: for what costs next to nothing."""

    @abstractmethod
    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """The raw moments of this one step, each unbiased and additive over steps."""

    def wants(self, step: int) -> bool:
        """Whether it is to be asked at this step, where it has steps of its own: a pure function of the step."""
        return True

    @abstractmethod
    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """The gauge's quantities over a window of steps, each with its interval at `level`."""

    @abstractmethod
    def interpret(self, estimates: Estimates) -> Finding | None:
        """What the estimates say to a person, or None where there is nothing to say."""
