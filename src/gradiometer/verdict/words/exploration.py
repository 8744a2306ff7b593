"""Words for exploration: snapshots as an ensemble."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from gradiometer.measurement.estimate import Estimate, negative
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Sentences, Words, sentence

ORDINALS = (
    *("first", "second", "third", "fourth", "fifth"),
    *("sixth", "seventh", "eighth", "ninth", "tenth"),
)

NO_POSTERIOR = (
    "This is a cheap ensemble, not a posterior: it has few members, the schedule decided where "
    "they are, and their spread is not a credible interval."
)


def gains(finding: Finding) -> Mapping[str, str]:
    """By how much the average is better, what its last member adds, and if it is one basin."""
    facts = finding.facts
    basin = _basin(facts["basin"])
    return {
        "loss": _lower_by(finding.numbers["gain"]),
        "error": _lower_by(facts["gain_in_error"]),
        "last": _last_member(facts),
        "basin": f" {basin}" if basin else "",
    }


def _ensemble(verdict: str, suggestion: str = "") -> Words:
    return Words(
        "{lead}: its calibrated log-loss is {loss}, and its error is {error}.",
        "{last}{basin}",
        suggestion,
        lead=f"The average of {{chosen}} snapshots {verdict} the last snapshot alone",
        slots=gains,
    )


def ensemble_in_words(finding: Finding) -> list[str]:
    """Everything that the report on an ensemble says, one sentence each.

    Args:
        finding: The finding of an `EnsembleReport`.
    """
    facts = finding.facts
    sentences = [CLAIMS[finding.claim](finding).seen, _last_member(facts)]
    if facts["chosen"] < facts["snapshots"]:
        sentences.append(
            f"Only the last {facts['chosen']} of {facts['snapshots']} snapshots are averaged: on "
            f"{facts['validation']:,} validation examples the earlier ones did not help."
        )
    if facts["basin"] is not None:
        sentences.append(_basin(facts["basin"]))
    equivalent = facts["deep_ensemble_equivalent"]
    if equivalent is not None:
        value, low, high = (
            "more than were given" if number == math.inf else f"{number:.2g}"
            for number in (equivalent.value, equivalent.low, equivalent.high)
        )
        sentences.append(
            f"Number of other runs whose average has the same log-loss: {value} [{low}, {high}]."
        )
    return [*sentences, NO_POSTERIOR]


def _last_member(facts: Mapping[str, Any]) -> str:
    chosen = facts["chosen"]
    name = ORDINALS[chosen - 1] if chosen <= len(ORDINALS) else f"{chosen}th"
    article = "an" if name.startswith("e") else "a"
    gain = _lower_by(facts["gain_of_last_member"])
    return f"With {article} {name} member the calibrated log-loss is {gain}."


def _basin(basin: Mapping[str, Any] | None) -> str:
    if basin is None:
        return ""
    verdict = {
        True: "The snapshots lie in one basin",
        False: "The snapshots lie in different basins",
        None: "It is unclear if the snapshots lie in one basin",
    }[basin["is_one"]]
    return (
        f"{verdict}: the highest error barrier to the last snapshot is {basin['barrier']}, from "
        f"snapshot {basin['snapshot']}, and its error is {basin['error']:.3g}."
    )


def _lower_by(gain: Estimate) -> str:
    words = f"lower by {gain}" if gain.value >= 0 else f"higher by {negative(gain)}"
    return words if gain.low > 0 or gain.high < 0 else f"{words} (no clear difference)"


CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {
    "ensemble_better": _ensemble(
        "predicts better than", "gradiometer ensemble {run} --export ensemble.pt2"
    ),
    "ensemble_unclear": _ensemble("shows no clear difference from"),
    "ensemble_worse": _ensemble("predicts worse than"),
}

DOUBTS = {
    "cheap_ensemble": sentence(
        f"{NO_POSTERIOR} The intervals are over {{scored:,}} test examples, for this one run."
    ),
}
