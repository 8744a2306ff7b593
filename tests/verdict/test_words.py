"""Every claim and every doubt has its words, and they are whole sentences."""

import re

import pytest

from finding_samples import ensemble, findings_of_rooms
from finding_samples_of_runs import findings_of_runs
from gradiometer.drift.spikes.cause import Observation
from gradiometer.measurement import Finding, Issue, State
from gradiometer.verdict.words import exploration, spikes
from gradiometer.verdict.words.exploration import ensemble_in_words
from gradiometer.verdict.words.say import WORDS, say

# Those of gradiometer, and those of the laboratory.
TABLES = tuple(WORDS.values())
CLAIMS = {claim for room in TABLES for claim in room.CLAIMS}
DOUBTS = {doubt for room in TABLES for doubt in getattr(room, "DOUBTS", {})}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    rooms, runs = (tmp_path_factory.mktemp(name) for name in ("rooms", "runs"))
    return [*findings_of_rooms(rooms), *findings_of_runs(runs)]


def test_a_claim_and_a_doubt_are_in_one_table_only() -> None:
    assert len(CLAIMS) == sum(len(table.CLAIMS) for table in TABLES)
    assert len(DOUBTS) == sum(len(getattr(table, "DOUBTS", {})) for table in TABLES)
    for name in (*CLAIMS, *DOUBTS):
        assert re.fullmatch("[a-z]+(_[a-z]+)*", name)


def test_every_claim_is_made_by_a_gauge(findings: list[Finding]) -> None:
    # those of triage have a test for each of its rules
    made = {finding.claim for finding in findings if finding.gauge != "triage"}
    added = {claim for room in WORDS.values() for claim in room.CLAIMS} - CLAIMS
    assert made - added == CLAIMS


def test_every_doubt_is_had_by_a_finding(findings: list[Finding]) -> None:
    others = [finding for finding in findings if finding.gauge != "triage"]
    assert {doubt.kind for finding in others for doubt in finding.doubts} == set(DOUBTS)


def test_everything_that_speaks_for_a_cause_is_observed(findings: list[Finding]) -> None:
    evidence = [each for finding in findings for each in finding.facts.get("evidence", ())]
    assert all(isinstance(each, Observation) for each in evidence)
    assert {each.kind for each in evidence} == set(spikes.OBSERVATIONS)


def test_a_finding_is_said_in_whole_sentences(findings: list[Finding]) -> None:
    for finding in findings:
        said = say(finding)
        assert said.seen.endswith(".") and said.means.endswith("."), finding
        texts = (said.seen, said.means, said.advice, said.caveat)
        assert not re.search(
            r"[{}]|  |\bnan\b|\bNone\b|[^.]\.\.(?!\.)| \.|Estimate\(",
            " ".join(text for text in texts if text),
        ), texts
        assert all(text == text.strip() for text in texts)
        if said.lead:
            assert re.match(r"[:.] ", said.seen.removeprefix(said.lead)), (said.lead, said.seen)


def test_the_lines_to_paste_are_not_in_the_rest_of_the_advice(findings: list[Finding]) -> None:
    for finding in findings:
        said = say(finding)
        assert not said.suggestion.startswith("`")
        for line in said.paste:
            assert line not in said.suggestion and f"`{line}`" in said.advice


def test_the_report_on_an_ensemble_is_said_sentence_by_sentence() -> None:
    report = ensemble(0.02, 8, (0.001,))
    sentences = ensemble_in_words(report.finding("runs/a"))
    assert sentences[0] == say(report.finding("runs/a")).seen
    assert sentences[1].startswith("With an eighth member the calibrated log-loss is lower by ")
    assert sentences[2].startswith(
        "Only the last 8 of 12 snapshots are averaged: on 1,000 validation examples"
    )
    assert sentences[3].startswith("The snapshots lie in one basin: ")
    assert sentences[4] == "Number of other runs whose average has the same log-loss: 2 [1, 3]."
    assert sentences[5] == exploration.NO_POSTERIOR and len(sentences) == 6


def test_a_single_brace_in_a_sentence_of_your_own_stays() -> None:
    facts = {"seen": "The block { is open.", "means": "It stays {open}."}
    said = say(Finding("mine", Issue.DRIFT, "own", State.OK, facts=facts))
    assert said.seen == "The block { is open." and said.means == "It stays {open}."
