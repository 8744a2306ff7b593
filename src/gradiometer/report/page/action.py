"""The next action: what the most urgent finding advises, as lines to paste, and what it
would gain."""

from collections.abc import Iterable
from dataclasses import dataclass

from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.say import say


@dataclass(frozen=True)
class Action:
    """The next action.

    Args:
        state: Class in the stylesheet.
        seen: What it answers to.
        lead: The first clause of that.
        lines: Lines to paste; empty if the advice does not begin with any.
        words: The rest of the advice.
        forecast: What it is expected to change; empty if there is none.
        tried: What a fork found, or how to try it; empty if there is neither.
    """

    state: str
    seen: str
    lead: str
    lines: str
    words: str
    forecast: str
    tried: str


def action_of(findings: Iterable[Finding]) -> Action | None:
    """The advice of the most urgent finding that has one; None if no finding advises anything.

    >>> from gradiometer.measurement import Finding, Issue, State
    >>> facts = {"seen": "Seen.", "means": "Means.", "advice": "Less noise, if time matters more."}
    >>> action = action_of([Finding("mine", Issue.ESTIMATION, "own", State.LOOK, facts=facts)])
    >>> action.seen, action.words
    ('Seen.', 'Less noise, if time matters more.')
    """
    for finding in sorted(findings, key=lambda finding: finding.state.rank):
        said = say(finding)
        if said.advice:
            return Action(
                state=finding.state.name.lower(),
                seen=said.seen,
                lead=said.beginning,
                lines="\n".join(said.paste),
                words=said.suggestion.lstrip(",: ") if said.paste else said.suggestion,
                forecast=said.forecast,
                tried=said.tried,
            )
    return None
