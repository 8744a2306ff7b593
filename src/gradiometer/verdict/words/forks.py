"""Words about forks: what they decided, and what came of an advice that was tried."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gradiometer.loop.recorded.advice_scores import SOURCE, TOLERANCE, track_record
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.finding import Doubt, Finding, Trial
from gradiometer.run.reader import NEEDED_FOR_TESTS
from gradiometer.verdict.words.sentences import Words, always

LOSS, DATA, STATES = NEEDED_FOR_TESTS

BY_TEST = (
    "Not tested. To test it on copies, add `print(w.test())` after the training; it takes up to "
    "half of its time."
)

COMPARED = (
    "Forks compared keeping the rate for a share of the branch (hold) with taking it to zero from "
    "its start."
)


def _by_fork(event: Mapping[str, Any]) -> str:
    """What a fork showed, after the decision that it led to."""
    if event["fork"] is None:
        return "; `cool_budget` did not pay for a fork."
    return f": {event['outcome']} in training loss (fork {event['fork']})."


def to_zero(finding: Finding) -> Mapping[str, str]:
    """From which step the rate goes to zero, as forks decided it, and what they cost."""
    facts = finding.facts
    decisions = []
    for event in facts["decisions"]:
        step, begins = event["step"], event["begins"]
        decision = f"From step {step:,} the rate goes to zero"
        if event["fork"] is not None and begins != step:
            to_the_end = " to the end" if begins == facts["steps"] else ""
            decision = f"At step {step:,} the rate was kept{to_the_end}"
        decisions.append((decision, _by_fork(event)))
    means = "No fork was made: the rate goes to zero over the last fifth."
    if facts["spent"] is not None:
        means = (
            f"{COMPARED} They cost {significant(facts['spent'], 2)} times the updates of the run."
        )
    return {"seen": " ".join(map("".join, decisions)), "means": means, "first": decisions[0][0]}


def changes(finding: Finding) -> Mapping[str, str]:
    """How forks changed the rate on the way."""
    decisions = []
    for event in finding.facts["decisions"]:
        change = "stayed" if event["factor"] == 1 else f"was multiplied by {event['factor']:g}"
        decisions.append((f"At step {event['step']:,} the rate {change}", _by_fork(event)))
    return {"seen": " ".join(map("".join, decisions)), "first": decisions[0][0]}


def trial_in_words(trial: Trial) -> str:
    """What came of the cure of a finding, or how to try it."""
    if trial.results:
        first, *others = [_result(result) for result in trial.results]
        return " ".join((f"Tested: {first}", *(each[0].upper() + each[1:] for each in others)))
    facts = trial.facts
    if "forecasts" in facts:
        held, scored = facts["held"], facts["forecasts"]
        return (
            f"Tested: {held} of {scored} such forecasts of this run were confirmed in a fork."
            if scored
            else "Not tested."
        )
    record = record_of(facts.get("advice", ""))
    return f"{_how(facts)} {record}".rstrip()


def _how(facts: Mapping[str, Any]) -> str:
    """The command or the call that tries it."""
    if "alternatives" not in facts:
        return f"Not tested: {facts['call']}." if "call" in facts else "Not tested."
    missing = facts["missing"]
    if facts["by_test"]:
        return f"{BY_TEST}{_needs(missing, (LOSS, DATA))}"
    given = [f"alternatives={facts['alternatives']}", f"horizon={facts['horizon']!r}"]
    if DATA in missing:
        given.insert(0, "batches=loader")
    where, needed = "in the `with` block", [LOSS]
    if "at" in facts:
        given.append(f"at={facts['at']}")
        where = "as the last line of the `with` block"
        needed.append(STATES)
    return f"Not tested. To test it, add `print(w.fork({', '.join(given)}))` {where}.{_needs(missing, needed)}"


def _needs(missing: Sequence[str], needed: Sequence[str]) -> str:
    """What a test or a fork needs besides, as a sentence after another one."""
    named = [name for name in needed if name in missing]
    if not named:
        return ""
    batch = ", and `w.step(loss, batch)`" if LOSS in named else ""
    return f" It needs {' and '.join(f'`{name}`' for name in named)} in `watch`{batch}."


def record_of(kind: str, scores: Iterable[Mapping[str, Any]] | None = None) -> str:
    """How often advice of this kind held, in a sentence; empty if it was never followed.

    Arguments as in `track_record`.

    >>> record_of("a cut of the rate")[:24]
    'Such advice held in 5 of'
    """
    counts = track_record(kind, scores)
    advice, number = _share(counts["advice"]), _share(counts["number"])
    if not advice:
        return ""
    also = f", and its forecast number in {number}" if number else ""
    return f"Such advice held in {advice}{also}: {SOURCE}."


def _share(counts: Counter[str]) -> str:
    """How many held, such as "5 of 6 trials (1 undecided)"; empty if none is decided."""
    undecided = f" ({counts['open']} undecided)" if counts["open"] else ""
    return (
        f"{counts['held']} of {counts.total()} trials{undecided}"
        if counts.total() > counts["open"]
        else ""
    )


def _result(result: Mapping[str, Any]) -> str:
    from gradiometer.loop.branches import label_of, outcome, place  # noqa: PLC0415 (few runs have forks)

    effect, ends_after = result["effect"], result["ends_after"]
    shown = outcome(effect, is_at_end=ends_after is None)
    return (
        f"{place(result['step'], ends_after)}, {effect.alternative} {shown} in "
        f"{label_of(effect.readout)}{_levels(result)} (fork {result['fork']}). "
        f"{verdict_in_words(result)}"
    )


def _levels(result: Mapping[str, Any]) -> str:
    """Both levels, as a part of a sentence: ", 5 % lower: 0.188 for 0.198"; empty if they are not
    known."""
    effect, level = result["effect"], result.get("level", 0.0)
    is_decided = effect.verdict in ("better", "worse")
    if not (is_decided and level > 0 and effect.lower_is_better):
        return ""
    change = effect.estimate.value
    side = "lower" if change < 0 else "higher"
    return (
        f", {abs(change) / level:.0%} {side}: {significant(level + change)} for "
        f"{significant(level)}"
    )


def verdict_in_words(result: Mapping[str, Any]) -> str:
    """Whether an advice held in a fork, as a sentence."""
    verdict = result["verdict"]
    if verdict == "leaning":
        return f"Its branches lean to {result['to']} rates, so it does not decide if the advice is right."
    why, share = "", result["share"]
    than = "" if share is None else f"a training on {significant(share, 2)} of the examples"
    if verdict == "held":
        if than:
            end = f"with fewer updates it ends better than {than}"
            why = f": {end}, so it needs no more than forecast"
        elif result["not_better"]:
            gain = "with fewer updates"
            if result["is_cut"]:
                gain = "so more steps at this rate gain little"
            why = f": it ends at most {TOLERANCE:.0%} worse, {gain}"
        return f"The test confirms the advice{why}."
    if verdict == "did not hold":
        if than:
            why = f": it ends worse than {than}, so it needs more than forecast"
        elif result["may_be_worse"]:
            why = f": it ends more than {TOLERANCE:.0%} worse"
        return f"The test contradicts the advice{why}."
    if result["uncompared"]:
        return (
            "Whether it needs more examples than forecast is seen with `--advice`, which adds a "
            "shorter training."
        )
    return "This fork does not decide if the advice is right."


CLAIMS: Mapping[str, Words] = {
    "rate_goes_to_zero": Words("{seen}", "{means}", lead="{first}", slots=to_zero),
    "rate_by_forks": Words(
        "{seen}",
        "Forks compared half and twice the rate with going on. They cost {spent:2} times the "
        "updates of the run.",
        lead="{first}",
        slots=changes,
    ),
    "loss_if_cooled": Words(
        "The training loss of the average was {averaged:3} at step {step:,}.",
        "Forecast: if the rate went to zero from there, the loss would be {if_cooled}. The "
        "training can be stopped at any step, and counts at its average.",
    ),
}

DOUBTS: Mapping[str, Callable[[Doubt], str]] = {
    "cooling_forks": always(
        "The forks compared the training loss, and no other ways to lower the rate. Each end of "
        "their intervals is a one-sided bound at the level of the run."
    ),
    "rate_forks": always(
        "The branches take a fifth of what was left of the run, and shorter branches lean to small "
        "rates."
    ),
    "next_fifth": always(
        "The forecast is for a fall of the rate over the next fifth of the steps so far, on "
        "training examples."
    ),
}
