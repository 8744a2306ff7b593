"""What was checked on a run before its numbers were shown, with the outcome: the last part of the page's methods."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradiometer.diagnosis import FEWEST, Diagnosis
from gradiometer.run.budget import time_used
from gradiometer.run.reader import Run

SLACK = 0.005
"""Share of the training time beyond its budget that the instrument may use before the page says so."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        passed: Whether it was as it should be.
        words: What was looked at and what was found, with its numbers.
    """

    passed: bool
    words: str


def checks(run: Run, diagnosis: Diagnosis) -> tuple[Check, ...]:
    """Whether the record is whole, its numbers finite, its intervals rested on enough, and the budget kept."""
    return (*_of_the_record(run), *_of_the_intervals(diagnosis), *_of_the_budget(run))


def _of_the_record(run: Run) -> Iterator[Check]:
    steps, losses = run.losses
    if len(steps):
        expected = int(steps[-1] - steps[0]) + 1
        missing = expected - len(steps)
        yield Check(missing == 0, f"The loss of every step is on record: {len(steps):,} of {expected:,}.")
        spoiled = int((~np.isfinite(losses)).sum())
        yield Check(spoiled == 0, f"Losses that are not finite, and in no mean: {spoiled:,}.")
    skipped = [warning for warning in run.warnings if "skipped" in warning]
    yield Check(not skipped, f"Places of the record that could not be used: {len(skipped):,}.")
    if taken_up := [int(event["step"]) for event in run.events if event["event"] == "resumed"]:
        places = ", ".join(f"{step:,}" for step in taken_up)
        yield Check(True, f"Taken up again at step {places}: what the stopped process wrote beyond is dropped.")


def _of_the_intervals(diagnosis: Diagnosis) -> Iterator[Check]:
    rested_on = [estimate.samples for estimate in diagnosis.estimates.values() if 0 < estimate.level < 1]
    if rested_on:
        fewest = min(rested_on)
        yield Check(
            fewest >= FEWEST, f"Readings that an interval of the latest window rests on, at the fewest: {fewest:,}."
        )
    unknown = sum(not estimate.tells for estimate in diagnosis.estimates.values())
    yield Check(True, f"Estimates without an end yet, shown as open: {unknown} of {len(diagnosis.estimates)}.")


def _of_the_budget(run: Run) -> Iterator[Check]:
    used, allowed = run.overhead.get("used"), run.overhead.get("budget")
    if used is None or allowed is None or run.configuration.every is not None or run.overhead.get("mode") == "off":
        return
    yield Check(used <= allowed + SLACK, f"The instrument used {time_used(run.overhead)}.")
