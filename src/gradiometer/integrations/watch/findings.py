"""A tuple of findings with their warnings and a readable `print`."""

import textwrap
from collections.abc import Iterable

from gradiometer.measurement.finding import Finding

WIDTH = 88
"""Characters in a printed line."""


class Findings(tuple[Finding, ...]):
    """Findings, the most urgent first. `print` shows the warnings, then the findings, in lines of 88 characters.

    Args:
        findings: The findings.
        warnings: What was wrong with the loop or with measuring it, oldest first.
    """

    warnings: tuple[str, ...]

    def __new__(cls, findings: Iterable[Finding] = (), warnings: Iterable[str] = ()) -> "Findings":
        """Findings and warnings."""
        made = super().__new__(cls, findings)
        made.warnings = tuple(warnings)
        return made

    def __str__(self) -> str:
        warnings = [_filled(f"warning: {warning}", "! ") for warning in self.warnings]
        findings = [
            "\n".join(_filled(text, "  " if place else f"{finding.state.symbol} ") for place, text in enumerate(texts))
            for finding in self
            for texts in (finding.paragraphs,)
        ]
        return "\n".join([*warnings, *findings]) or "Nothing has been measured yet."


def _filled(text: str, first: str) -> str:
    """A paragraph, indented by two. Commands and words with hyphens are not broken."""
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
