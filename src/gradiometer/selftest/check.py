"""A check: what was expected, what was measured, and whether they agree."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One statement about the instrument, tested on this machine.

    Args:
        problem: On which problem.
        batch_size: B.
        quantity: What was measured.
        expected: What it should be, in words.
        measured: What it was.
        low, high: Interval of what was measured.
        passed: Whether it is as expected.
    """

    problem: str
    batch_size: int
    quantity: str
    expected: str
    measured: float
    low: float
    high: float
    passed: bool

    @property
    def name(self) -> str:
        """The check in a few words."""
        return f"{self.quantity}, {self.problem}, B = {self.batch_size}"
