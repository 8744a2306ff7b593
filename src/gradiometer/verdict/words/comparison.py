"""Words for a comparison of two configurations."""

from gradiometer.measurement import Estimate, Finding, significant
from gradiometer.verdict.words.sentences import Sentences


def comparison_of_seeds(finding: Finding) -> Sentences:
    """No setting differs: the two have other seeds, or the same, or seeds that are not known."""
    facts = finding.facts
    first, second = facts["names"]
    seeds = facts["seeds"]
    difference = f"{_sign(facts['difference'])} in {facts['quantity']}"
    same = f"{first} and {second} have the same configuration"
    if None in seeds:
        cause = f"{same}, as far as it is recorded. Their difference is {difference}."
    elif len(set(seeds)) == 1:
        cause = f"{same} and the same seed, {seeds[0]}. Their difference is {difference}."
    else:
        both = " and ".join(map(str, seeds))
        cause = (
            f"{same} with the seeds {both}. Their difference, {difference}, is due to the seeds."
        )
    lead = "No difference is shown"
    return Sentences(
        seen=f"{lead}: {cause}",
        means="To compare configurations, change more than the seed.",
        lead=lead,
    )


def comparison_with_difference(finding: Finding) -> Sentences:
    """The interval excludes "no difference"."""
    facts = finding.facts
    means = (
        "This is about the configurations: the interval includes the spread between these seeds."
    )
    if facts["pairs_needed"] is None:
        means = _about_two_runs(finding)
    if facts["is_ratio"]:
        lead = "There is a difference"
        return Sentences(f"{lead}: {_difference(finding)}.", means, lead=lead)
    first, second = named(finding)
    difference = f"{apart(facts['difference'])} in {facts['quantity']}"
    return Sentences(f"{second} ends {difference} than {first}{_over(finding)}.", means)


def comparison_without_difference(finding: Finding) -> Sentences:
    """The interval contains "no difference"."""
    needed = finding.facts["pairs_needed"]
    means = _about_two_runs(finding)
    if needed is not None:
        means = (
            f"To show a difference of this size with a probability of 80 %, {needed} pairs of "
            "seeds would be needed."
        )
    lead = "No difference is shown"
    return Sentences(f"{lead}: {_difference(finding)}.", means, lead=lead)


def _difference(finding: Finding) -> str:
    facts = finding.facts
    first, second = facts["names"]
    difference = _sign(facts["difference"])
    return (
        f"the {facts['quantity']} of {second} minus that of {first} is {difference}{_over(finding)}"
    )


def _over(finding: Finding) -> str:
    facts = finding.facts
    if not facts["over_seeds"]:
        return ""
    noun = "pairs of seeds" if facts["pairs"] >= 2 else "runs"
    return f", over {facts['difference'].samples} {noun}"


def _about_two_runs(finding: Finding) -> str:
    flag = finding.facts["next_seed"]
    return (
        "This is about these two runs. One run of each does not show how much is due to the "
        "seeds: a conclusion about the configurations needs at least 2 seeds of each"
        f"{'' if flag is None else f' (--seed {flag})'}."
    )


def named(finding: Finding) -> tuple[str, str]:
    """The letters of both groups of a comparison, each with the one setting that differs.

    Args:
        finding: The finding of the comparison.
    """
    first, second = finding.facts["names"]
    if finding.facts["setting"] is None:
        return first, second
    name, values = finding.facts["setting"]
    words = name.replace("_", " ")
    return f"{first} ({words} {values[0]})", f"{second} ({words} {values[1]})"


def apart(difference: Estimate) -> str:
    """The size of a difference with its interval, and its direction: 0.02 [0.01, 0.03] lower."""
    low, high = sorted((abs(difference.low), abs(difference.high)))
    side = "higher" if difference.value > 0 else "lower"
    size = significant(abs(difference.value))
    return f"{size} [{significant(low)}, {significant(high)}] {side}"


def _sign(difference: Estimate) -> str:
    """The difference with its sign: −0.02 [−0.05, 0.01]."""
    plus = "+" if difference.value > 0 else ""
    low, high = significant(difference.low), significant(difference.high)
    return f"{plus}{significant(difference.value)} [{low}, {high}]"


CLAIMS = {
    "comparison_of_seeds": comparison_of_seeds,
    "comparison_with_difference": comparison_with_difference,
    "comparison_without_difference": comparison_without_difference,
}
