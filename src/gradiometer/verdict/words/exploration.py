"""Words for exploration: the temperature of SGD, and snapshots as an ensemble."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from gradiometer.exploration.ensembles.ensemble_report import negative
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.verdict.words.sentences import Sentences, Words, not_known, sentence

ORDINALS = (
    *("first", "second", "third", "fourth", "fifth"),
    *("sixth", "seventh", "eighth", "ninth", "tenth"),
)

NO_POSTERIOR = (
    "This is a cheap ensemble, not a posterior: it has few members, the schedule decided where "
    "they are, and their spread is not a credible interval."
)


CLIPPED = (
    "Gradients were clipped, to {} of their length on average. The temperature is that of a "
    "learning rate smaller by this factor. It is proportional to η; its dependence on B is limited "
    "by clipping. If the noise has few directions, the parameters are a little hotter."
)

RESHUFFLED = (
    " Epochs in random order undo their own noise: a direction of curvature {} runs at a quarter "
    "of this temperature, flatter directions are colder in proportion, and much steeper ones have "
    "all of it. With --set sampling=replacement all directions have all of it."
)

# The temperature


def heat(finding: Finding) -> Mapping[str, str]:
    """The source of the heat, the temperature of the posterior, and if the parameters still
    move."""
    facts = finding.facts
    posterior = ""
    if facts["posterior"] is not None:
        posterior = f", {facts['posterior']} in posterior units (N = {facts['examples']:,.0f})"
    share = facts["minibatch_share"]
    parts = [
        "It is proportional to η/(B(1 − μ)): half the learning rate or twice the batch halves it.",
        _against_the_posterior(facts["times_of_posterior"]),
        _motion(facts["motion"], facts["drift_share"]),
    ]
    if facts["clipping"] is not None:
        parts = [CLIPPED.format(facts["clipping"]), parts[1]]
    return {
        "posterior": posterior,
        "amount": "all" if share > 0.995 else f"{share:.0%}",
        "means": " ".join(part for part in parts if part),
    }


def _against_the_posterior(times: float | None) -> str:
    """How far SGD is from the posterior's temperature, and the learning rate for it."""
    if times is None:
        return ""
    hotter = times > 1
    side = "hotter" if hotter else "colder"
    factor = max(times, 1 / times)
    if factor > 10:  # too far for a learning rate to be suggested
        return f"The posterior has temperature 1: SGD is far {side}."
    rate = f"{significant(factor, 2)} times {'smaller' if hotter else 'larger'}"
    condition = "" if hotter else ", if training is stable there"
    return (
        f"The posterior has temperature 1: SGD is {side}, and would match it at a learning rate "
        f"about {rate}{condition}."
    )


def _motion(motion: str, share: float) -> str:
    """If the parameters still move."""
    if motion == "none":
        return ""
    if motion == "unknown":
        return "It is not known yet if the parameters still move or stay around one place."
    amount = "more than all" if abs(share) > 1 else f"{abs(share):.0%}"
    if motion == "away":
        way = f"away from their earlier place, which takes {amount}"
    else:
        way = f"back, which adds {amount}"
    return (
        f"The parameters still move {way} of the heat, so the heat put in is not yet their "
        "temperature."
    )


def temperatures(doubt: Doubt) -> Mapping[str, str]:
    """How far layers differ, and the effect of reshuffled epochs."""
    layers, reshuffled = "", ""
    if "coldest" in doubt.facts:
        low, high = (
            f"{significant(value, 2)} in {layer}"
            for layer, value in (doubt.facts["coldest"], doubt.facts["hottest"])
        )
        layers = f" (by layer from {low} to {high})"
    if doubt.facts["forgotten_curvature"] is not None:
        reshuffled = RESHUFFLED.format(significant(doubt.facts["forgotten_curvature"], 2))
    return {"layers": layers, "reshuffled": reshuffled}


# The ensemble


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
    "temperature": Words(
        "The temperature SGD runs at is {temperature}{posterior}; {amount} of it is mini-batch "
        "noise ({temperature.samples:measured step}).",
        "{means}",
        slots=heat,
    ),
    "temperature_unknown": not_known(
        "temperature",
        "The temperature SGD runs at is not known yet",
        "How widely SGD explores is not known yet.",
        "an interval needs",
    ),
}

DOUBTS = {
    "cheap_ensemble": sentence(
        f"{NO_POSTERIOR} The intervals are over {{scored:,}} test examples, for this one run."
    ),
    "one_temperature": sentence(
        "It is an effective temperature: one number, although each direction has a different "
        "one{layers}.{reshuffled}",
        temperatures,
    ),
}
