"""A check: the expected value, the measured value, and the verdict."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SelfTest:
    """One statement about the noise gauge, tested on this machine.

    Args:
        problem: Name of the problem.
        batch_size: B.
        quantity: The measured quantity.
        expected: Its expected value, as text.
        measured: Its measured value.
        low, high: Interval of the measured value.
        passed: True if it is as expected.
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
