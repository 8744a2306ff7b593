"""A tuple of findings with their warnings, a readable `print`, and a card in notebooks."""

import textwrap
from collections.abc import Iterable

from gradiometer.measurement.finding import Finding
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis
from gradiometer.verdict.words.say import say

WIDTH = 80
"""Maximum length of a printed line, in characters."""


class Findings(tuple[Finding, ...]):
    """Findings, the most urgent first. `print` shows the warnings, then the findings, in lines of
    80 characters.

    A notebook shows a card in which the intervals are drawn as bars.

    Args:
        findings: The findings.
        warnings: What was wrong with the loop or with measuring it, oldest first.
        diagnosis: The diagnosis with their estimates, which are drawn in a notebook.
    """

    warnings: tuple[str, ...]
    diagnosis: Diagnosis | None

    def __new__(
        cls,
        findings: Iterable[Finding] = (),
        warnings: Iterable[str] = (),
        diagnosis: Diagnosis | None = None,
    ) -> "Findings":
        """Findings and warnings."""
        made = super().__new__(cls, findings)
        made.warnings = tuple(warnings)
        made.diagnosis = diagnosis
        return made

    def __str__(self) -> str:
        warnings = [_filled(f"warning: {warning}", "! ") for warning in self.warnings]
        findings = [
            "\n".join(
                _filled(text, "  " if place else f"{finding.state.symbol} ")
                for place, text in enumerate(texts)
            )
            for finding in self
            for texts in (say(finding).paragraphs,)
        ]
        return "\n".join([*warnings, *findings]) or "Nothing has been measured yet."

    def card_of(self, run: Run | None) -> str:
        """The findings as HTML for a notebook: without scripts, and in the colours of the notebook.

        Args:
            run: The run that is named on the card; None for no name.
        """
        from gradiometer.report.page.page import card  # noqa: PLC0415 (its charts take a second to import)

        return card(self, self.warnings, self.diagnosis, run)

    def _repr_html_(self) -> str:
        return self.card_of(None)


def _filled(text: str, first: str) -> str:
    """A paragraph, indented by two. Commands and words with hyphens are not broken."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
