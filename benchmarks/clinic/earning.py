"""Does each sick case earn its place? Its cure must lower the loss on fresh rows on two seeds."""

import json
import statistics
from collections import Counter
from pathlib import Path

from clinic.bench import Bench, Wanted, gain
from clinic.cases import HALVES, LONGER, MILD, Case, partly_cured, seeds_of, sick_cases
from clinic.catalogue import data_of
from clinic.illnesses import PAIR, follow
from clinic.recipe import Recipe, build

EARNED = Path(__file__).with_name("earned.json")
WORTH = dict.fromkeys(HALVES, 0.1) | dict.fromkeys(MILD, 0.02)
"""The share of the loss that a cure must gain on each seed, by part."""
A_THIRD = 0.2
"""A third of the cures should gain less than this."""


def earn(bench: Bench, half: str) -> list[dict[str, object]]:
    """Train every sick case of a half, sick and cured, on its two seeds; a case of two illnesses
    also with each one alone."""
    cases = sick_cases(half)
    wanted = []
    for case in cases:
        for seed in seeds_of(half):
            recipes = [case.recipe, case.healthy, *cures_of_pair(case).values()]
            if len(case.claims) == 2:
                recipes += partly_cured(case)
            wanted += [Wanted(recipe, seed) for recipe in recipes]
    bench.train(wanted)
    return [row_of(bench, case) for case in cases]


def row_of(bench: Bench, case: Case) -> dict[str, object]:
    """What the cure of a case gains, as a row of the kept table."""
    gains = gains_of(bench, case, case.recipe)
    row: dict[str, object] = {
        "case": case.name,
        "half": case.half,
        "claims": list(case.claims),
        "only by a person": case.only_by_a_person,
        "steps": case.recipe.steps,
        "parameters": parameters(case),
        "gains": gains,
    }
    earns = min(gains) >= WORTH[case.half]
    if len(case.claims) == 2:
        alone = [gains_of(bench, case, recipe) for recipe in partly_cured(case)]
        row["gains of each alone"] = alone
        earns = earns and all(min(each) >= WORTH[case.half] for each in alone)
    cures = cures_of_pair(case)
    if cures:
        ends = {
            claim: statistics.fmean(bench.fresh_loss(recipe, seed) for seed in seeds_of(case.half))
            for claim, recipe in cures.items()
        }
        row["ends after each cure"] = {claim: float(f"{end:.4g}") for claim, end in ends.items()}
        earns = earns and min(ends, key=lambda claim: ends[claim]) in case.claims
    row["earns"] = earns
    return row


def cures_of_pair(case: Case) -> dict[str, Recipe]:
    """Both cures of a longer training at a constant rate that has one of two illnesses that are
    confused: it is the one whose cure gains more."""
    if case.half not in LONGER or not set(case.claims) & set(PAIR):
        return {}
    cures = {claim: follow(claim, (), case.recipe) for claim in PAIR}
    return {claim: recipe for claim, recipe in cures.items() if recipe is not None}


def gains_of(bench: Bench, case: Case, sick: object) -> list[float]:
    """By how much of the loss on fresh rows the cure is better, on each seed."""
    return [
        round(gain(bench.fresh_loss(sick, seed), bench.fresh_loss(case.healthy, seed)), 4)  # type: ignore[arg-type]
        for seed in seeds_of(case.half)
    ]


def parameters(case: Case) -> int:
    """Number of parameters of the network of a case."""
    model = build(case.recipe, data_of(case.recipe.data))
    return sum(parameter.numel() for parameter in model.parameters())


def write(rows: list[dict[str, object]]) -> None:
    """Keep the table beside the code, one case a line, with the rows of the other halves that it
    has."""
    earned = {row["half"] for row in rows}
    kept = [row for row in json.loads(EARNED.read_text()) if row["half"] not in earned]
    lines = ",\n".join(json.dumps(row) for row in [*kept, *rows])
    EARNED.write_text(f"[\n{lines}\n]\n")


def show(rows: list[dict[str, object]]) -> None:
    """Print the table, and what the clinic has of each kind."""
    for row in rows:
        mark = " " if row["earns"] else "!"
        gains = " ".join(f"{100 * value:6.1f} %" for value in row["gains"])  # type: ignore[attr-defined]
        alone = row.get("gains of each alone", "")
        print(f"{mark} {gains}  {row['case']}  {alone}")
    earning = [row for row in rows if row["earns"]]
    mild = [row for row in earning if sum(row["gains"]) / 2 < A_THIRD]  # type: ignore[call-overload]
    double = [row for row in earning if len(row["claims"]) == 2]  # type: ignore[arg-type]
    large = [row for row in earning if row["parameters"] >= 5_000_000]  # type: ignore[operator]
    illnesses = Counter(claim for row in earning for claim in row["claims"])  # type: ignore[attr-defined]
    print(
        f"{len(earning)} of {len(rows)} cases earn their place: {len(illnesses)} illnesses, "
        f"{len(double)} cases of"
    )
    print(
        f"two, {len(mild)} mild ones (below {A_THIRD:.0%}), {len(large)} with 5 million parameters or "
        "more."
    )
    print(", ".join(f"{claim} {count}" for claim, count in sorted(illnesses.items())))
