"""A gauge that keeps what a test wants to see of each measured step."""

from collections.abc import Callable
from typing import Any

from gradiometer.measurement import Gauge, Issue, TrainingStep


class Spy(Gauge):
    """Keeps what a function makes of each measured step.

    Args:
        look: The function.
    """

    name = "spy"
    issue = Issue.ESTIMATION
    unit = ""

    def __init__(self, look: Callable[[TrainingStep], Any]) -> None:
        self.look = look
        self.seen: list[Any] = []

    def measure(self, step: TrainingStep) -> dict[str, float]:
        self.seen.append(self.look(step))
        return {"seen": 1.0}

    def estimate(self, series: Any) -> dict[str, Any]:
        return {}

    def judge(self, estimates: Any, run: Any) -> None:
        return None


class SpyUnderP(Spy):
    """The same, for a step whose preconditioner is read."""

    name = "spy_under_p"
    needs_preconditioner = True
