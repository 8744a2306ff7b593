"""The checks of a run before its numbers are shown, with their results. They are at the end of the
page's methods."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradiometer.run.cadence.overhead import of_the_budget, time_used
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

FEWEST = 40
"""With fewer readings, an interval is wide mostly for want of readings."""

SLACK = 0.005
"""Share of the training time by which the instrument may exceed its budget before the
check fails."""


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        passed: True if it passed.
        words: The check and its result, with numbers.
    """

    passed: bool
    words: str


def checks(run: Run, diagnosis: Diagnosis) -> tuple[Check, ...]:
    """Check that the record is complete, its numbers finite, its intervals based on enough data,
    the budget kept."""
    return (*_of_the_record(run), *_of_the_intervals(diagnosis), *_of_the_budget(run))


def _of_the_record(run: Run) -> Iterator[Check]:
    steps, losses = run.losses
    if len(steps):
        expected = int(steps[-1] - steps[0]) + 1
        missing = expected - len(steps)
        yield Check(missing == 0, f"Steps whose loss is recorded: {len(steps):,} of {expected:,}.")
        spoiled = int((~np.isfinite(losses)).sum())
        yield Check(spoiled == 0, f"Losses that are not finite, and not in any mean: {spoiled:,}.")
    skipped = [warning for warning in run.warnings if "skipped" in warning]
    yield Check(not skipped, f"Parts of the record that could not be read: {len(skipped):,}.")
    if resumed := [event["step"] for event in run.events if event["event"] == "resumed"]:
        places = ", ".join(f"{step:,}" for step in resumed)
        yield Check(
            True,
            f"Resumed at step {places}. What the stopped process wrote after that step is not "
            "used.",
        )


def _of_the_intervals(diagnosis: Diagnosis) -> Iterator[Check]:
    samples = [
        estimate.samples for estimate in diagnosis.estimates.values() if 0 < estimate.level < 1
    ]
    if samples:
        fewest = min(samples)
        yield Check(
            fewest >= FEWEST, f"Smallest number of readings behind an interval: {fewest:,}."
        )
    unknown = sum(not estimate.tells for estimate in diagnosis.estimates.values())
    yield Check(
        True, f"Estimates whose interval is still open: {unknown} of {len(diagnosis.estimates)}."
    )


def _of_the_budget(run: Run) -> Iterator[Check]:
    used, allowed = run.overhead.get("used"), run.overhead.get("budget")
    if (
        used is None
        or allowed is None
        or run.configuration.every is not None
        or run.overhead.get("mode") == "off"
    ):
        return
    yield Check(
        of_the_budget(run.overhead) <= allowed + SLACK,
        f"The instrument used {time_used(run.overhead)}.",
    )
