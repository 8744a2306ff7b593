"""How often each claim of triage was right, from the counts that come with the package."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from gradiometer.measurement.counted_claims import Record
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.claims import GAUGE, Claim

# Name of the file of counts, in this package. `python -m records pool` makes it, from the folder
# `benchmarks`.
RECORDS = "records.json"


@cache
def records() -> Mapping[str, Any]:
    """The counts that come with the package, by claim, evidence and strength."""
    text = files("gradiometer.verdict").joinpath(RECORDS).read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)["cells"]
    return found


def with_record(finding: Finding) -> Finding:
    """A finding with the record of its claim. One that was made by another package has none.

    Args:
        finding: A finding of triage; others stay as they are.
    """
    if finding.gauge != GAUGE or (finding.claim == Claim.UNDECIDED and not finding.cure):
        return finding
    strength = "suspect" if finding.facts.get("is_possible") else "claim"
    names = (f"{finding.claim} {finding.evidence} {strength}", f"any {finding.evidence} {strength}")
    found = next((records()[name] for name in names if name in records()), None)
    if found is None:
        return finding
    gain = float("nan") if found["gain"] is None else found["gain"]
    counts = {name: (helped, counted) for name, (helped, counted) in found["counts"].items()}
    return replace(finding, record=Record(found["probability"], counts, gain, found["harmed"]))
