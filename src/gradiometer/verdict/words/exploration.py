"""Words for exploration: the temperature of SGD, and snapshots as an ensemble."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gradiometer.exploration.ensembles.ensemble_report import negative
from gradiometer.measurement.estimate import Estimate, counted, significant
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.verdict.words.sentences import Sentences, not_known

# Ratio of the temperature to the posterior's above which no learning rate is suggested.
FAR = 10.0

ORDINALS = (
    *("first", "second", "third", "fourth", "fifth"),
    *("sixth", "seventh", "eighth", "ninth", "tenth"),
)

NO_POSTERIOR = (
    "This is a cheap ensemble, not a posterior: it has few members, the schedule decided where "
    "they are, and their spread is not a credible interval."
)


# The temperature


def temperature(finding: Finding) -> Sentences:
    """The temperature, its source, the posterior's, and if the parameters still move."""
    facts, number = finding.facts, finding.numbers["temperature"]
    known = f"The temperature SGD runs at is {number}"
    if facts["posterior"] is not None:
        examples = f"N = {facts['examples']:,.0f}"
        known += f", {facts['posterior']} in posterior units ({examples})"
    share = facts["minibatch_share"]
    amount = "all" if share > 0.995 else f"{share:.0%}"
    measured = counted(number.samples, "measured step")
    seen = f"{known}; {amount} of it is mini-batch noise ({measured})."
    clipping = facts["clipping"]
    if clipping is None:
        parts = [
            "It is proportional to η/(B(1 − μ)): half the learning rate or twice the batch "
            "halves it.",
            _against_the_posterior(facts["times_of_posterior"]),
            _motion(facts["motion"], facts["drift_share"]),
        ]
    else:
        parts = [
            f"Gradients were clipped, to {clipping} of their length on average. The temperature is "
            "that of a learning rate smaller by this factor. It is proportional to η; its "
            "dependence on B is limited by clipping. If the noise has few directions, the "
            "parameters are a little hotter.",
            _against_the_posterior(facts["times_of_posterior"]),
        ]
    return Sentences(seen, " ".join(part for part in parts if part))


def _against_the_posterior(times: float | None) -> str:
    """How far SGD is from the posterior's temperature, and the learning rate for it."""
    if times is None:
        return ""
    hotter = times > 1
    side = "hotter" if hotter else "colder"
    factor = max(times, 1 / times)
    if factor > FAR:
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


def one_temperature(doubt: Doubt) -> str:
    """The temperature is effective; how far layers differ; the effect of reshuffled epochs."""
    facts = doubt.facts
    layers = ""
    if "coldest" in facts:
        low, high = (
            f"{significant(value, 2)} in {layer}"
            for layer, value in (facts["coldest"], facts["hottest"])
        )
        layers = f" (by layer from {low} to {high})"
    words = (
        "It is an effective temperature: one number, although each direction has a different "
        f"one{layers}."
    )
    forgotten = facts["forgotten_curvature"]
    if forgotten is None:
        return words
    return (
        f"{words} Epochs in random order undo their own noise: a direction of curvature "
        f"{significant(forgotten, 2)} runs at a quarter of this temperature, flatter directions "
        "are colder in proportion, and much steeper ones have all of it. With --set sampling="
        "replacement all directions have all of it."
    )


# The ensemble


def ensemble_better(finding: Finding) -> Sentences:
    """The average predicts better."""
    command = f"gradiometer ensemble {finding.facts['run']} --export ensemble.pt2"
    return _ensemble(finding, "predicts better than", command)


def _ensemble(finding: Finding, verdict: str, suggestion: str = "") -> Sentences:
    facts = finding.facts
    lead = f"The average of {facts['chosen']} snapshots {verdict} the last snapshot alone"
    seen = (
        f"{lead}: its calibrated log-loss is {_lower_by(finding.numbers['gain'])}, and its error "
        f"is {_lower_by(facts['gain_in_error'])}."
    )
    means = " ".join(part for part in (_last_member(facts), _basin(facts["basin"])) if part)
    return Sentences(seen, means, suggestion=suggestion, lead=lead)


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


def cheap_ensemble(doubt: Doubt) -> str:
    """Few members, of one run."""
    scored = doubt.facts["scored"]
    return f"{NO_POSTERIOR} The intervals are over {scored:,} test examples, for this one run."


CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {
    "ensemble_better": ensemble_better,
    "ensemble_unclear": partial(_ensemble, verdict="shows no clear difference from"),
    "ensemble_worse": partial(_ensemble, verdict="predicts worse than"),
    "temperature": temperature,
    "temperature_unknown": not_known(
        "temperature",
        "The temperature SGD runs at is not known yet",
        "How widely SGD explores is not known yet.",
        "an interval needs",
    ),
}

DOUBTS = {
    "cheap_ensemble": cheap_ensemble,
    "one_temperature": one_temperature,
}
