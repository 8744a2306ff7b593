"""The table of claims, the one function that makes sentences of a finding, and the verdict on a run
in one sentence: how it ended, and what leads."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.extensions import Registry
from gradiometer.measurement.counted_claims import Record
from gradiometer.measurement.estimate import Estimate, counted
from gradiometer.measurement.finding import Doubt, Finding, State
from gradiometer.run.configuration import Configuration, WatchedConfiguration
from gradiometer.verdict.claims import GAUGE, Claim
from gradiometer.verdict.words import (
    batch,
    convergence,
    drift,
    estimation,
    exploration,
    forks,
    incidents,
    own,
    paths,
    run,
    spikes,
    triage,
)
from gradiometer.verdict.words.records import UNCOUNTED, record_in_words
from gradiometer.verdict.words.sentences import Sentences, inside_a_sentence

ROOMS: tuple[ModuleType, ...] = (
    batch,
    convergence,
    drift,
    estimation,
    exploration,
    forks,
    incidents,
    own,
    paths,
    run,
    spikes,
)

Says = Callable[[Finding], Sentences]
SaysDoubt = Callable[[Doubt], str]

# Modules with a table CLAIMS, and one of DOUBTS where there are any.
WORDS: Registry[ModuleType] = Registry(
    "gradiometer.words",
    "table of words",
    {room.__name__.rpartition(".")[2]: room for room in ROOMS},
    lambda name, found: "" if isinstance(getattr(found, "CLAIMS", None), Mapping) else NO_CLAIMS,
)
NO_CLAIMS = "has no table CLAIMS"


def claims_of_gauges() -> Mapping[str, Says]:
    """A function that says each claim of a gauge. Those of triage are in a table of their own: both
    say `batch_small`, from other numbers."""
    return {claim: words for room in WORDS.values() for claim, words in room.CLAIMS.items()}


def _words_of(claim: str) -> Says | None:
    """The function that says a claim of a gauge. Packages are asked for what is not built in."""
    for name in WORDS:
        room = WORDS.get(name)
        if room is not None and claim in room.CLAIMS:
            found: Says = room.CLAIMS[claim]
            return found
    return None


def _words_of_doubt(kind: str) -> SaysDoubt | None:
    """The function that says a doubt of a gauge."""
    for name in WORDS:
        doubts: Mapping[str, SaysDoubt] = getattr(WORDS.get(name), "DOUBTS", {})
        if kind in doubts:
            return doubts[kind]
    return None


def say(finding: Finding) -> Sentences:
    """A finding in sentences: no other place makes them.

    Args:
        finding: The finding.

    Raises:
        BadArgument: The claim or a doubt is not in the table.

    >>> from gradiometer import Estimate, Finding, say
    >>> from gradiometer.measurement import Issue, State
    >>> numbers = {"batch_size": Estimate.exact(32.0), "noise_scale": Estimate.exact(40.0)}
    >>> finding = Finding("noise", Issue.ESTIMATION, "batch_near", State.OK, numbers, {"kind": "gradient"})
    >>> say(finding).seen
    'B = 32 is near the gradient noise scale 40.0 [40.0, 40.0] (0 measured steps).'
    """
    of_triage = finding.gauge == GAUGE
    words = triage.CLAIMS.get(finding.claim) if of_triage else _words_of(finding.claim)
    if words is None:
        raise BadArgument(
            f"`claim` must be in the table of words or 'own', got {finding.claim!r}: a gauge of "
            "your own says 'own' and gives its sentences in `facts`, or its package adds words."
        )
    sentences = words(finding)
    if finding.facts.get("withheld"):  # triage found something that comes first
        sentences = replace(sentences, paste=(), suggestion="", forecast="")
    caveats = [sentences.caveat]
    for doubt in finding.doubts:
        says = triage.DOUBTS.get(doubt.kind) if of_triage else _words_of_doubt(doubt.kind)
        if says is None:
            raise BadArgument(f"`doubts` must be in the table of words, got {doubt.kind!r}.")
        caveats.append(says(doubt))
    return replace(
        sentences,
        caveat=" ".join(text for text in caveats if text),
        tried=forks.trial_in_words(finding.trial) if finding.trial else "",
        record=UNCOUNTED if finding.facts.get("uncounted") else record_in_words(finding.record),
    )


def in_brief(finding: Finding | None) -> str:
    """The claim of a headline in at most four words.

    Args:
        finding: The finding that leads; None if nothing was measured.
    """
    if finding is None:
        return "nothing was measured"
    # a gauge and triage have the same words for a claim of the same name
    words = triage.WORDS.get(Claim(finding.claim)) if finding.claim in triage.CLAIMS else None
    if finding.claim == Claim.UNDECIDED and finding.doubts:
        words = triage.MAY_END_LOWER
    brief = getattr(words or _words_of(finding.claim), "brief", "")
    if brief:
        return str(brief)
    if finding.state is State.CANNOT_TELL:
        return "cannot tell yet"
    if finding.state is State.OK:
        return "no sign of limits"
    return f"look at {finding.gauge.replace('_', ' ')}"


def as_dict(finding: Finding) -> dict[str, Any]:
    """A finding as `--json` prints it: the data, and the sentences."""
    sentences = say(finding)
    return {
        "gauge": finding.gauge,
        "issue": finding.issue,
        "claim": finding.claim,
        "state": finding.state,
        "evidence": finding.evidence,
        "seen": sentences.seen,
        "means": sentences.means,
        "advice": sentences.advice,
        "forecast": sentences.forecast,
        "tried": sentences.tried,
        "caveat": sentences.caveat,
        "record": None if finding.record is None else _record_as_dict(finding.record),
        "record_in_words": sentences.record,
        "numbers": {name: estimate.to_dict() for name, estimate in finding.numbers.items()},
        "cure": list(finding.cure),
        "doubts": [doubt.kind for doubt in finding.doubts],
    }


def _record_as_dict(record: Record) -> dict[str, Any]:
    helped, counted_in_all = record.total
    return {
        "probability": record.probability,
        "helped": helped,
        "counted": counted_in_all,
        "populations": {name: list(counts) for name, counts in record.counts.items()},
        "gain": None if math.isnan(record.gain) else record.gain,
        "harmed": record.harmed,
    }


def ending(status: str, steps: int) -> str:
    """How a run ended, or where it is."""
    if status == "diverged":
        return f"Training diverged at step {steps:,} and was stopped"
    if status == "finished":
        return f"Trained for {counted(steps, 'step')}"
    return f"{'Stopped' if status == 'interrupted' else 'In progress'} at step {steps:,}"


def provisional(steps: int, planned: int | None) -> str:
    """That a training goes on, and what its final answer waits for.

    Args:
        steps: Its number of steps so far.
        planned: Its number of steps in all; None if that is not known.

    >>> provisional(450, 4000)
    'Provisional: the training is at step 450 of 4,000.'
    """
    if planned is not None:
        return f"Provisional: the training is at step {steps:,} of {planned:,}."
    return (
        f"Provisional: the training is at step {steps:,}, and its length is not known. Print the "
        "findings after the `with` block, or give `steps=` to `watch`."
    )


def outcome_of(ended: str, estimates: Mapping[str, Estimate]) -> str:
    """The state of the run and its test score.

    Args:
        ended: How it ended.
        estimates: The estimates of the run, among them those of its last evaluation.
    """
    accuracy, loss = estimates.get("test_accuracy"), estimates.get("test_loss")
    if accuracy is not None:
        return (
            f"{ended}; test accuracy {accuracy.value:.1%} [{accuracy.low:.1%}, {accuracy.high:.1%}]"
        )
    if loss is not None:
        return f"{ended}; " + (
            f"test loss {loss}" if loss.tells else f"test loss not known ({loss.method})"
        )
    return ended


def headline_in_words(
    finding: Finding | None, configuration: Configuration | WatchedConfiguration, *, is_over: bool
) -> str:
    """The finding that leads, or why none does, as it follows the outcome after a
    semicolon.

    Only its first clause: the finding has the numbers. If there is no verdict, the reason belongs
    to it. What a run that is over cannot tell, it never will.
    """
    if finding is None and configuration.budget == 0:
        return "measuring was off (budget 0)"
    if finding is None and configuration.every is not None:
        return "nothing was measured"
    if finding is None:
        return (
            f"nothing was measured: the budget of {100 * configuration.budget:.2g} % has not yet "
            "covered one measurement (set a larger `budget`, or `every` = 1 to measure every step, "
            "at any cost)"
        )
    sentences = say(finding)
    if finding.claim in ("another_loss", "misplaced"):
        return inside_a_sentence(sentences.seen.removesuffix("."))
    seen = inside_a_sentence(sentences.beginning)
    if finding.state is not State.CANNOT_TELL:
        return seen
    return f"cannot tell: {seen}" if is_over else f"cannot tell yet: {seen}"
