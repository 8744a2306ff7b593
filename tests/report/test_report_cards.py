"""The five questions of a run: each has a card, with its interval against its threshold or the
command to measure it."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import unknown_words
from gradiometer import BadArgument, Diagnosis
from gradiometer.cli.outcome import answers
from gradiometer.drift.stability import edge_finding
from gradiometer.measurement import Estimate, Finding, Issue, State
from gradiometer.report.charts.interval_strip import strip
from gradiometer.report.page.cards import answers_of, cards, checks, further_cards, rows
from gradiometer.report.page.page import render
from gradiometer.report.sections.catalogue import sections
from gradiometer.report.sections.questions import QUESTIONS, Answer
from gradiometer.run import Run
from gradiometer.run.folder import WATCHED
from gradiometer.run.problem import IN_YOUR_PROGRAM, problem_of
from report_run import diagnosis_of, run_in


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_in(tmp_path_factory.mktemp("runs"), steps=600)


def interval(value: float, low: float, high: float) -> Estimate:
    return Estimate.interval(value, low, high, level=0.9, method="t", samples=50)


def finding(gauge: str, state: State, estimates: tuple[str, ...] = ()) -> Finding:
    facts = {"seen": f"{gauge} seen.", "means": "It means."}
    numbers = {name: interval(1.0, 0.5, 2.0) for name in estimates}
    return Finding(gauge, Issue.CONVERGENCE, "own", state, numbers, facts)


def test_every_question_has_a_card_in_order_and_one_without_an_answer_names_its_command(
    run: Run,
) -> None:
    made = cards(run, ())
    assert [card.name for card in made] == [question.name for question in QUESTIONS]
    assert {card.word for card in made} == {"not measured"}
    assert all(card.command.startswith("gradiometer ") and card.needs for card in made)
    assert f"sharpness {run.path}" in made[1].command


def test_every_command_a_card_names_is_a_verb_that_knows_its_flags(run: Run) -> None:
    for card in cards(run, ()):
        _, *arguments = shlex.split(card.command)
        assert unknown_words(arguments) == []


def test_the_most_urgent_of_several_answers_gives_a_card_its_state(run: Run) -> None:
    states = (State.OK, State.ACT, State.CANNOT_TELL)
    found = [Answer(finding("batch_sharpness", state), {}) for state in states]
    card = cards(run, found)[1]
    assert (card.state, card.word, card.symbol) == ("act", "act", "▲")
    assert [each.finding.state for each in card.shown] == [State.ACT, State.CANNOT_TELL, State.OK]
    assert cards(run, found[::2])[1].state == "cannot_tell"


def test_a_finding_no_question_asks_for_has_a_card_of_its_own(run: Run) -> None:
    found = [Answer(finding("step_drift", State.LOOK), {}), Answer(finding("noise", State.OK), {})]
    (card,) = further_cards(found)
    assert card.title == "convergence · step drift"
    assert card.state == "look"


def test_the_most_urgent_of_them_comes_first(run: Run) -> None:
    found = [
        Answer(finding(gauge, state), {})
        for gauge, state in (("a", State.OK), ("b", State.CANNOT_TELL))
    ]
    assert [
        card.state for card in further_cards([*found, Answer(finding("c", State.LOOK), {})])
    ] == [
        "look",
        "cannot_tell",
        "ok",
    ]


def test_a_watched_loop_is_told_no_command_that_cannot_know_its_model(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=100)
    run.manifest["problem"] = {"name": "digits", "description": WATCHED}
    made = {card.name: card.command for card in cards(run, ())}
    assert made["batch"] == "watch(…, every=10)" and made["converged"] == "w.certify(train)"
    run.manifest["ranks"] = 2
    assert {card.command for card in cards(run, ())} == {""}
    page = render(run, diagnosis_of())
    assert not re.search("gradiometer (train|certify|sharpness|ensemble)", page)
    assert "not measured" in " ".join(answers(run, diagnosis_of(), sections(run, diagnosis_of())))
    for verb, line in IN_YOUR_PROGRAM.items():
        with pytest.raises(BadArgument, match=f"is a watched run.*{re.escape(line)}"):
            problem_of(run, verb)


def test_a_card_draws_the_interval_against_its_threshold(run: Run) -> None:
    sharpness = Estimate.bound(15.0, low=14.0, high=16.0, method="Lanczos, residual", samples=1)
    answer = Answer(
        edge_finding(sharpness, 0.1), {"sharpness": sharpness, "edge": Estimate.exact(20.0)}
    )
    drawn = cards(run, [answer])[1].shown[0].strips["sharpness"]
    assert [tick.label for tick in drawn.ticks] == ["edge = 20"]
    assert 0 < drawn.left < drawn.right < drawn.ticks[0].place < 100


def test_an_exact_number_is_drawn_against_its_threshold_too(run: Run) -> None:
    estimates = {
        "relative_gradient_norm": Estimate.exact(0.08),
        "certificate_tolerance": Estimate.exact(0.01),
    }
    card = cards(run, [Answer(finding("certificate", State.LOOK, tuple(estimates)), estimates)])[3]
    drawn = card.shown[0].strips["relative_gradient_norm"]
    assert [tick.label for tick in drawn.ticks] == ["tolerance = 0.0100"]
    assert drawn.ticks[0].place < (drawn.point or 0)


def test_an_interval_about_zero_is_drawn_on_a_linear_strip() -> None:
    drawn = strip(interval(0.1, -0.4, 0.6), {})
    assert drawn is not None
    assert [tick.label for tick in drawn.ticks] == ["0"]
    assert drawn.left < drawn.ticks[0].place < (drawn.point or 0) < drawn.right
    assert drawn.ticks[0].place - drawn.left == pytest.approx(
        0.4 * (drawn.right - drawn.left), abs=0.05
    )
    opened = strip(interval(-1.0, -math.inf, 0.5), {"gain": Estimate.exact(2.0)})
    assert opened is not None
    assert (opened.left, opened.open_left, opened.open_right) == (0.0, True, False)
    assert opened.right < opened.ticks[0].place


def test_a_question_without_an_answer_has_no_row_and_its_command_stands_with_the_run(
    run: Run,
) -> None:
    page = render(run, diagnosis_of())
    assert 'id="row-batch"' in page and "not measured" not in page.lower().split("<script")[0]
    assert all(question.words in page for question in QUESTIONS)
    command = "<code>gradiometer train digits --every 10</code>"
    assert command not in page and command in render(run, Diagnosis((), {}, {}, said="Nothing"))


def test_the_charts_of_a_section_are_in_one_row(run: Run) -> None:
    diagnosis = diagnosis_of()
    shown = sections(run, diagnosis)
    found = answers_of(diagnosis, shown)
    made = rows(diagnosis, shown, cards(run, found), further_cards(found))
    homes = [row.section.name for row in made if row.section is not None]
    assert len(homes) == len(set(homes))
    assert {section.name for section in shown if section.figures} <= set(homes)
    assert made[0].section is not None and made[0].section.name == "estimation"


def test_what_was_checked_is_listed_with_its_outcome(run: Run, tmp_path: Path) -> None:
    passed = {check.words: check.passed for check in checks(run, diagnosis_of())}
    assert passed["Steps whose loss is recorded: 600 of 600."]
    assert passed["Parts of the record that could not be read: 0."]
    assert passed["The instrument used 1.3 % of the training time (budget 2 %)."]
    broken = run_in(tmp_path, steps=600)
    text = (broken.path / "readings.jsonl").read_text()
    (broken.path / "readings.jsonl").write_text(
        re.sub(r"\[[\d., ]+\]", "[1.0, 2.0]", text, count=1).replace("0.0131", "0.2")
        + '{"kind":"losses","from":9,"values":["nan"]}\n{"torn'
    )
    few = replace(
        diagnosis_of(), estimates={"noise_scale": replace(interval(2.0, 1.0, 3.0), samples=9)}
    )
    failed = [check.words for check in checks(Run.open(broken.path), few) if not check.passed]
    assert failed == [
        "Steps whose loss is recorded: 3 of 10.",
        "Losses that are not finite: 1.",
        "Parts of the record that could not be read: 1.",
        "Fewest readings behind an interval: 9.",
        "The instrument used 20 % of the training time (budget 2 %).",
    ]
