"""What a watch prints on standard error, and the page that it writes at its end."""

import logging
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gradiometer.run.configuration import WatchedConfiguration
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import diagnose


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
