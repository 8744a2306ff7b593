"""Findings: what a gauge's estimates mean for a person, and how urgent that is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
        alternatives: What the advice would change in training, each as the text of an alternative of a fork, such as
            "rate 0.5x".
        forecast: What a model expects of it; empty without a forecast.
        tried: What came of it in a fork, or how to try it.
        claim: What limits the training, as the value of a `Claim`; empty for a gauge that makes no claim.

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
    alternatives: Sequence[str] = ()
    forecast: str = ""
    tried: str = ""
    claim: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary, as in a run's files and in `--json`."""
        return asdict(self)

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """Seen, meaning, advice with its forecast, what came of it when it was tried, and what could make it wrong.

        None is empty.
        """
        advice = self.advice and f"try: {self.advice} {self.forecast}".rstrip()
        caveat = self.caveat and f"caution: {self.caveat}"
        return tuple(text for text in (self.seen, self.means, advice, self.tried, caveat) if text)

    def __str__(self) -> str:
        parts = (self.seen, self.means, self.advice, self.forecast, self.tried, self.caveat)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Reservations:
    """What the warnings of a run take from its findings: gauges that have stopped, and verdicts that do not hold.

    Args:
        loss: The warning that the measured loss is not the trained one; empty if there is none.
        stopped: Step and reason, by the name of a gauge that is no longer measured. `all` stands for every gauge.
    """

    loss: str = ""
    stopped: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> "Reservations":
        """Read them from the events of a run. A process that resumes the run begins without any."""
        loss, stopped = "", dict[str, tuple[int, str]]()
        for event in events:
            if event["event"] == "resumed":
                loss, stopped = "", {}
            if event["event"] == "warning" and event.get("withholds") == "loss":
                loss = loss or str(event["text"])
            if event["event"] == "warning" and "stopped" in event:
                stopped.setdefault(str(event["stopped"]), (int(event["step"]), str(event["text"])))
        return cls(loss, stopped)

    def why(self, gauge: str) -> tuple[int, str] | None:
        """The step after which a gauge was not measured, and the reason; None if it did not stop."""
        return self.stopped.get(gauge, self.stopped.get("all"))

    def on(self, finding: Finding, *, uses_loss: bool) -> Finding:
        """The finding with these reservations.

        Args:
            finding: What a gauge found.
            uses_loss: True if the gauge was measured with the loss that the user gave.
        """
        if uses_loss and self.loss:
            return replace(
                finding,
                state=State.CANNOT_TELL,
                seen="No verdict: the readings describe another loss than the one that is trained.",
                means="A warning of this run says how they differ.",
                advice="",
                caveat="",
                forecast="",
                alternatives=(),
            )
        if (why := self.why(finding.gauge)) is None:
            return finding
        step, reason = why
        if finding.state is State.CANNOT_TELL:
            return self.stop_of(finding.gauge, finding.issue)
        caveat = f"{finding.caveat} Not measured after step {step:,}: {_sentence(reason)}".strip()
        return replace(finding, caveat=caveat)

    def stop_of(self, gauge: str, issue: Issue) -> Finding:
        """The finding for a gauge that stopped before it could tell anything."""
        step, reason = self.stopped.get(gauge, self.stopped.get("all", (0, "")))
        return Finding(
            gauge=gauge,
            issue=issue,
            state=State.CANNOT_TELL,
            seen=f"Stopped at step {step:,}: {_sentence(reason)}",
            means="There are too few readings for a verdict, and no more will come.",
        )


def _sentence(text: str) -> str:
    return text.rstrip(".") + "."
