"""How often a claim was right: the counts that ship, how they lean, and what is said of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records.outcomes import RECIPES, SMALL, Outcome, Outcomes, harmed, helped, rule_of
from records.pooling import FILE, Cell, Pool, counted, pooled, told_from_others, valid
from records.reliability import compared

from gradiometer.measurement.counted_claims import Record
from gradiometer.measurement.finding import Evidence, Finding, Issue, State
from gradiometer.verdict.claims import Claim, Claimed, Code
from gradiometer.verdict.records import records, with_record
from gradiometer.verdict.triage.level import level_of
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import Triage, findings_of
from gradiometer.verdict.words.records import record_in_words
from gradiometer.verdict.words.say import as_dict, say

OUTCOME = Outcome(
    RECIPES, "records", "vit", "rate x0.5", "loss", "read", "rate_low", "reading", True, True,
    "rate 2x", (0.1, 0.2), True, False, "",
)  # fmt: skip


def outcomes(population: str, right: int, wrong: int, claim: str = "rate_low") -> list[Outcome]:
    return [
        replace(
            OUTCOME, population=population, claim=claim, training=f"{claim} {n}", is_right=n < right
        )
        for n in range(right + wrong)
    ]


def finding(claim: Claim, evidence: Evidence = Evidence.READING, cure: str = "rate 2x") -> Finding:
    return Finding("triage", Issue.CONVERGENCE, claim, State.ACT, cure=(cure,), evidence=evidence)


def test_the_counts_that_ship_are_those_of_the_outcomes_and_of_the_rules_of_today() -> None:
    shipped = json.loads(FILE.read_text(encoding="utf-8"))
    found = pooled(valid(counted(Outcomes())))
    assert {"made": shipped["made"], **found} == shipped, "run `python -m records pool`"


def test_no_record_is_counted_on_the_recipes_that_are_judged() -> None:
    assert not any(each.group == "judged" for each in counted(Outcomes()))


def test_outcomes_of_another_rule_do_not_count() -> None:
    today = replace(OUTCOME, rule=rule_of("rate_low", "reading"))
    assert valid([OUTCOME, today]) == [today]
    assert rule_of("rate_low", "reading") != rule_of("rate_low", "fork")
    assert rule_of("rate_low", "reading") != rule_of("no_decay", "reading")


@pytest.mark.parametrize(
    ("gains", "has_helped", "has_harmed"),
    [
        ((0.03, 0.02), True, False),
        ((0.2, -0.01), False, False),
        ((0.01, 0.02), False, False),
        ((-0.05, -0.01), False, True),
    ],
)
def test_a_gain_must_be_large_enough_and_on_each_seed(
    gains: tuple[float, ...], has_helped: bool, has_harmed: bool
) -> None:
    assert (helped(gains), harmed(gains)) == (has_helped, has_harmed)


def test_few_counts_lean_towards_similar_claims_and_many_stand_for_themselves() -> None:
    many = outcomes(RECIPES, 0, 200) + outcomes(RECIPES, 40, 0, "rate_high")
    pool = Pool(many + outcomes(RECIPES, 1, 0, "momentum_rate"), 8.0)
    low, high, few = (
        pool.probability(Cell(claim, "reading", True))
        for claim in ("rate_low", "rate_high", "momentum_rate")
    )
    assert low < 0.02 < few < 0.5 < high


def test_a_published_recipe_weighs_more_than_a_small_training() -> None:
    cell = Cell("rate_low", "reading", True)
    disagreeing = Pool(outcomes(RECIPES, 10, 0) + outcomes(SMALL, 0, 10), 4.0)
    assert disagreeing.probability(cell) > 0.6
    assert Pool(outcomes(SMALL, 10, 0) + outcomes(RECIPES, 0, 10), 4.0).probability(cell) < 0.4


def test_an_outcome_is_told_from_other_trainings() -> None:
    alone = [*outcomes(RECIPES, 5, 0), replace(OUTCOME, training="odd", is_right=False)]
    told = dict(told_from_others(alone, 4.0))
    assert min(told.values()) < told[alone[-1]]  # its own failure is not counted against it


def test_probabilities_that_know_more_than_the_base_rate_have_a_smaller_score() -> None:
    made = outcomes(RECIPES, 10, 10)
    known = [(each, (0.9 - 0.01 * n) if each.is_right else 0.1) for n, each in enumerate(made)]
    score, base, (low, high) = compared(known)
    assert score < 0.03 and base > 0.25
    assert low < score - base < high < 0


def test_a_finding_has_the_record_of_its_claim_and_evidence() -> None:
    name = next(name for name in records() if name.startswith("rate_low reading claim"))
    found = with_record(finding(Claim.RATE_LOW)).record
    assert found is not None and found.probability == records()[name]["probability"]
    assert found.total[1] == sum(n for _, n in records()[name]["counts"].values()) > 0
    never_counted = with_record(finding(Claim.NO_GRADIENT, Evidence.FORK)).record
    assert never_counted is not None and never_counted.total == (0, 0)
    assert with_record(replace(finding(Claim.RATE_LOW), gauge="noise")).record is None
    assert with_record(replace(finding(Claim.UNDECIDED), cure=())).record is None


def test_the_words_have_the_counts_of_each_population() -> None:
    counts = {"published recipes": (3, 10)}
    assert record_in_words(None) == ""
    assert "ended worse in 2" in record_in_words(Record(0.3, counts, 0.1, 2))
    both = {**counts, "small trainings": (20, 20)}
    assert (
        "in 23 of 30 such trainings (3 of 10 published recipes and 20 of 20 small trainings), by 10 % of"
        in record_in_words(Record(0.3, both, 0.1))
    )
    assert "by less than 1 % of the loss" in record_in_words(Record(0.3, counts, -0.002))
    assert record_in_words(Record(0.3, counts, 0.1)).endswith("It is worth a try.")
    assert record_in_words(Record(1.0, counts, 0.1)).startswith("Confidence: 99 %.")
    assert "No listed change gained 5 % in 3 of 10 published recipes" in record_in_words(
        Record(0.3, counts)
    )


def test_sentences_and_json_have_the_record() -> None:
    signs = Signs(losses=np.ones(10))
    claimed = Claimed(Claim.UNSHUFFLED, {"share": 0.9}, (Code("DataLoader(..., shuffle=True)"),))
    (found,) = findings_of(Triage((claimed,), level_of(signs), {}))
    found = with_record(found)
    answer = as_dict(found)
    assert answer["record_in_words"] == say(found).record != ""
    assert answer["record_in_words"] in say(found).paragraphs
    assert answer["record"]["counted"] == sum(
        n for _, n in answer["record"]["populations"].values()
    )


def test_the_readme_has_the_record_of_its_demo() -> None:
    record = with_record(finding(Claim.RATE_LOW, Evidence.FORK)).record
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert record_in_words(record) in " ".join(readme.replace("> ", "").replace("**", "").split())


def test_what_was_collected_is_not_trained_again(tmp_path: Path) -> None:
    kept = Outcomes(tmp_path / "outcomes.jsonl")
    kept.add(OUTCOME.key, [OUTCOME])
    with kept.path.open("a", encoding="utf-8") as file:
        file.write('{"training": ["records", "a li')  # as a kill leaves it
    again = Outcomes(kept.path)
    assert again.has(OUTCOME.key) and list(again) == [OUTCOME]
