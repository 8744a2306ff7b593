"""Findings: what a gauge's estimates mean for a person, and how urgent that is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Issue(StrEnum):
    """The four issues of SGD. Each gauge belongs to one."""

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
    """What a gauge's estimates mean for a person.

    Args:
        gauge: Name of the gauge.
        issue: The issue of SGD that it is about.
        state: How urgent it is.
        seen: What was measured: one sentence, with its numbers.
        means: What it would mean.
        advice: What to try, as a command or a line of code; empty if there is nothing to do.
        caveat: What could make it wrong.
        estimates: Names of the estimates that the finding rests on.

    >>> from gradiometer import Finding
    >>> from gradiometer.measurement.finding import Issue, State
    >>> seen, means = "Noise scale 181 [140, 260].", "B = 48 is 3.8 times below it."
    >>> finding = Finding("noise", Issue.ESTIMATION, State.LOOK, seen, means, advice="Try B = 96.")
    >>> print(finding.state.symbol, finding)
    ◆ Noise scale 181 [140, 260]. B = 48 is 3.8 times below it. Try B = 96.
    """

    gauge: str
    issue: Issue
    state: State
    seen: str
    means: str
    advice: str = ""
    caveat: str = ""
    estimates: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary, as in a run's files and in `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        return " ".join(part for part in (self.seen, self.means, self.advice, self.caveat) if part)
