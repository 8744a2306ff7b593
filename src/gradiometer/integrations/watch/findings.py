"""What a watch tells a person: findings with their warnings, lines on standard error, the page."""

import logging
import sys
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gradiometer.measurement.finding import Finding
from gradiometer.run.configuration import WatchedConfiguration
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis, diagnose
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
        from gradiometer.report.page.notebook import card  # noqa: PLC0415 (its charts take a second to import)

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


@dataclass(frozen=True)
class Announcements:
    """Prints on standard error where a run is, what is measured and where its page is, and writes
    the page.

    Args:
        page: True to write the page.
        quiet: True to print nothing.
    """

    page: bool = True
    quiet: bool = False

    def say(self, text: object) -> None:
        """Print a line on standard error. A closed or missing one is no error."""
        if not self.quiet and sys.stderr is not None:
            with suppress(OSError, ValueError):
                sys.stderr.write(f"gradiometer: {text}\n")

    def begin(self, path: Path, configuration: WatchedConfiguration) -> None:
        """Print where the run is, what is measured, and how often."""
        if configuration.every is None and not configuration.budget:
            self.say(f"{path}: nothing is measured (budget 0)")
            return
        if not configuration.gauges:
            self.say(
                f"{path}: looks for what limits the run. The gradient noise is not measured: that "
                "needs loss=lambda model, batch: ... and w.step(loss, batch)"
            )
            return
        often = f"in {100 * configuration.budget:.2g} % of the training time"
        if configuration.every is not None:
            often = (
                "at every step"
                if configuration.every == 1
                else f"at one step in {configuration.every}"
            )
        self.say(f"{path}: measures {configuration.gauges.replace(',', ', ')} {often}")

    def show(self, run: Run | None) -> None:
        """Write the page of a run that was measured, and print its path. A page that fails is a
        logged warning."""
        if not (self.page and run is not None and (run.gauges or run.signs)):
            return
        from gradiometer.report.page.page import write_page  # noqa: PLC0415 (its charts take a second to import)

        try:
            self.say(write_page(run, diagnose(run)))
        except Exception as error:
            logging.getLogger("gradiometer").warning("the page was not written: %s", error)
