"""The sentences that a gauge says about its estimates, and how urgent they are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Issue(StrEnum):
    """The four issues of SGD: each gauge belongs to one."""

    ESTIMATION = "estimation"
    DRIFT = "drift"
    CONVERGENCE = "convergence"
    EXPLORATION = "exploration"


class State(StrEnum):
    """How urgent a finding is."""

    OK = "ok"
    CANNOT_TELL = "cannot tell"
    LOOK = "look"
    ACT = "act"

    @property
    def rank(self) -> int:
        """Position in the order of urgency: 0 for ACT, then LOOK, CANNOT_TELL and OK."""
        return (State.ACT, State.LOOK, State.CANNOT_TELL, State.OK).index(self)

    @property
    def symbol(self) -> str:
        """A sign for the state, for readers who cannot see its colour."""
        return {"ok": "✓", "cannot tell": "?", "look": "◆", "act": "▲"}[self.value]


@dataclass(frozen=True)
class Finding:
    """What a gauge's estimates say to a person.

    Args:
        gauge: Name of the gauge.
        issue: Which of the four issues it is about.
        state: What it asks of the reader.
        seen: What was seen: one sentence, with its numbers.
        means: What it would mean.
        advice: What to try, as a command or a line of code; empty where there is nothing to do.
        caveat: What could make it wrong.
    """

    gauge: str
    issue: Issue
    state: State
    seen: str
    means: str
    advice: str = ""
    caveat: str = ""
    estimates: Sequence[str] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as they are written in a run and printed by `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        return " ".join(part for part in (self.seen, self.means, self.advice, self.caveat) if part)
