"""The next action: what the most urgent finding advises, as lines to paste, and what it would gain."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gradiometer.measurement.finding import Finding

_LINES = re.compile(r"`([^`]+)`(?: with `([^`]+)`)?[,:]?\s*")


@dataclass(frozen=True)
class Action:
    """The next action.

    Args:
        state: Class in the stylesheet.
        seen: What it answers to.
        lines: Lines to paste; empty if the advice does not begin with any.
        words: The rest of the advice.
        forecast: What it is expected to change; empty if there is none.
        tried: What a fork found, or how to try it; empty if there is neither.
    """

    state: str
    seen: str
    lines: str
    words: str
    forecast: str
    tried: str


def action_of(findings: Iterable[Finding]) -> Action | None:
    """The advice of the most urgent finding that has one; None if no finding advises anything.

    >>> from gradiometer.measurement import Finding, Issue, State
    >>> advice = "`batch_size = 64` with `lr = 0.03`, if time matters more."
    >>> action = action_of([Finding("noise", Issue.ESTIMATION, State.LOOK, "Seen.", "Means.", advice)])
    >>> action.lines, action.words
    ('batch_size = 64\\nlr = 0.03', 'if time matters more.')
    """
    for finding in sorted(findings, key=lambda finding: finding.state.rank):
        if finding.advice:
            lines = _LINES.match(finding.advice)
            return Action(
                state=finding.state.name.lower(),
                seen=finding.seen,
                lines="\n".join(filter(None, lines.groups())) if lines else "",
                words=finding.advice[lines.end() :] if lines else finding.advice,
                forecast=finding.forecast,
                tried=finding.tried,
            )
    return None
