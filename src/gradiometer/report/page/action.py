"""The next action: what the most urgent finding advises, as a line to paste, and what it would gain."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gradiometer.measurement.finding import Finding

_CODE = re.compile(r"`([^`]+)`[,:]?\s*")
_GAIN = re.compile(r"\s*(?=\bForecast\b)")


@dataclass(frozen=True)
class Action:
    """The next action.

    Args:
        state: Class in the stylesheet.
        line: A line to paste; empty if the advice has none.
        words: The rest of the advice.
        gain: The forecast of what it would change, and what a fork found or how to try it; empty if there is none.
    """

    state: str
    line: str
    words: str
    gain: str


def action_of(findings: Iterable[Finding]) -> Action | None:
    """The advice of the most urgent finding that has one; None if no finding advises anything.

    >>> from gradiometer.measurement import Finding, Issue, State
    >>> advice = "`--batch-size 64 --lr 0.03`, if time matters more. Forecast: 0.58 times the updates."
    >>> action = action_of([Finding("noise", Issue.ESTIMATION, State.LOOK, "Seen.", "Means.", advice)])
    >>> action.line, action.words, action.gain
    ('--batch-size 64 --lr 0.03', 'if time matters more.', 'Forecast: 0.58 times the updates.')
    """
    for finding in sorted(findings, key=lambda finding: finding.state.rank):
        if finding.advice:
            words, *gains = _GAIN.split(finding.advice, maxsplit=1)
            code = _CODE.match(words)
            return Action(
                state=finding.state.name.lower(),
                line=code[1] if code else "",
                words=words[code.end() :] if code else words,
                gain=" ".join(text for text in (*gains, finding.tried) if text),
            )
    return None
