"""Findings: what the numbers of a run mean, as data. The sentences are in `verdict/words`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from gradiometer.measurement.estimate import Estimate

if TYPE_CHECKING:
    from gradiometer.measurement.counted_claims import Record


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


class Evidence(StrEnum):
    """What a claim rests on. It is said where the claim is made.

    EXACT was counted or seen, such as a layer in eval mode. READING follows from what was measured
    of training, FORECAST from a model of it. FORK was tried on copies of training, and REPLAY was
    seen when kept updates were made again.
    """

    EXACT = "exact"
    READING = "reading"
    FORECAST = "forecast"
    FORK = "fork"
    REPLAY = "replay"


@dataclass(frozen=True)
class Doubt:
    """Something that could make a finding wrong.

    Args:
        kind: Its name in the table of words.
        facts: What fills the slots of its sentence.
    """

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """What came of the cure of a finding in forks of the run, or how to try it.

    Args:
        results: What the newest fork with each change has shown, as facts: the step, the effect,
            the fork, the verdict.
        facts: If there is no result: how to try it, and how often such a cure has helped.
    """

    results: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What the numbers of a run mean, as data. `verdict.words.say` makes sentences of it.

    Args:
        gauge: Name of the gauge.
        issue: The issue of SGD that it is about.
        claim: What is claimed: its name in the table of words. "own" takes its sentences from
            `facts`.
        state: How urgent it is.
        numbers: The estimates that the claim rests on, by name. The page draws their intervals.
        facts: Whatever else the sentences need: counts, names, steps, settings.
        cure: What to change in training, each as the text of a change that a fork can try, such as
            "rate 0.5x".
        forecast: What a model expects of the cure, by name of the quantity.
        trial: What came of the cure when it was tried.
        doubts: What could make the claim wrong.
        evidence: What the claim rests on.
        record: How often such a claim was right; None if nobody has counted.

    >>> from gradiometer import Estimate, Finding, say
    >>> from gradiometer.measurement import Issue, State
    >>> scale = Estimate.interval(181.0, 140.0, 260.0, level=0.9, method="Fieller", samples=40)
    >>> facts = {"seen": "The noise scale is {noise_scale}.", "advice": "Try B = 96."}
    >>> finding = Finding("noise", Issue.ESTIMATION, "own", State.LOOK, {"noise_scale": scale}, facts)
    >>> print(finding.state.symbol, say(finding))
    ◆ The noise scale is 181 [140, 260]. Try B = 96.
    """

    gauge: str
    issue: Issue
    claim: str
    state: State
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    cure: tuple[str, ...] = ()
    forecast: Mapping[str, Estimate] = field(default_factory=dict)
    trial: Trial | None = None
    doubts: tuple[Doubt, ...] = ()
    evidence: Evidence = Evidence.READING
    record: "Record | None" = None
