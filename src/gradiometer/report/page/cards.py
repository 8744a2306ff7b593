"""A card per question: what was found, each interval against its threshold, or the command that would measure it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradiometer.convergence.certificate.certificate import Certificate
from gradiometer.diagnosis import Diagnosis
from gradiometer.gauges import GAUGES
from gradiometer.measurement.estimate import Estimates
from gradiometer.measurement.finding import Finding
from gradiometer.report.charts.interval_strip import Strip, strips
from gradiometer.report.sections.questions import (
    NOT_MEASURED,
    NOT_MEASURED_SYMBOL,
    QUESTIONS,
    Answer,
    Question,
)
from gradiometer.report.sections.section import Section
from gradiometer.run.reader import Run

SYMBOLS = {
    name: symbol
    for symbols in (Certificate.symbols, *(kind.symbols for kind in GAUGES.values()))
    for name, symbol in symbols.items()
}
"""Quantities in a few letters, for the ticks of a strip."""


@dataclass(frozen=True)
class Told:
    """A finding with the strips of its intervals.

    Attributes:
        finding: In words.
        estimates: In numbers, by name.
        strips: Those of the estimates that can be drawn, by name.
    """

    finding: Finding
    estimates: Estimates
    strips: Mapping[str, Strip]

    @classmethod
    def of(cls, answer: Answer) -> "Told":
        """With every interval the finding names held against every exact number it names."""
        symbols = SYMBOLS if answer.gauge is None else {**SYMBOLS, **answer.gauge.symbols}
        return cls(answer.finding, answer.estimates, strips(answer.estimates, answer.finding.estimates, symbols))


@dataclass(frozen=True)
class Card:
    """What the page says about one question, or beside the questions.

    Attributes:
        name: Its place on the page.
        short: The question in a word or two.
        title: The question.
        state: As the stylesheet names it: ok, look, act, cannot_tell, or not_measured.
        word, symbol: The state as it is read and seen.
        told: What was found, the most urgent first; empty where nothing was measured.
        needs: What an answer would rest on.
        command: What would measure it.
    """

    name: str
    short: str
    title: str
    state: str
    word: str
    symbol: str
    told: tuple[Told, ...]
    needs: str = ""
    command: str = ""


def answers_of(diagnosis: Diagnosis, sections: Iterable[Section]) -> tuple[Answer, ...]:
    """What the gauges found, and what the sections add from beside the readings."""
    gauges = {gauge.name: gauge for gauge in diagnosis.gauges}
    found = [Answer(finding, diagnosis.estimates, gauges.get(finding.gauge)) for finding in diagnosis.findings]
    return (*found, *(answer for section in sections for answer in section.answers))


def cards(run: Run, found: Iterable[Answer]) -> tuple[Card, ...]:
    """One for each question, in their order, whether it has an answer or not."""
    found = tuple(found)
    made = []
    for question in QUESTIONS:
        told = tuple(Told.of(answer) for answer in question.answers(found))
        state = told[0].finding.state if told else None
        made.append(
            Card(
                name=question.name,
                short=question.short,
                title=question.words,
                state="not_measured" if state is None else state.name.lower(),
                word=NOT_MEASURED if state is None else state.value,
                symbol=NOT_MEASURED_SYMBOL if state is None else state.symbol,
                told=told,
                needs=question.needs,
                command=_command(question, run),
            )
        )
    return tuple(made)


def _command(question: Question, run: Run) -> str:
    """What would measure it; of a loop on several processes `watch` measures what it does by itself, and no more."""
    if not run.watched:
        return question.command(run.path, run.configuration)
    return question.in_a_loop if run.manifest.get("ranks", 1) == 1 else ""


def further_cards(found: Iterable[Answer]) -> tuple[Card, ...]:
    """One for each finding that answers none of the questions, the most urgent first."""
    return tuple(
        Card(
            name=f"also-{place}",
            short=answer.finding.issue.value,
            title=answer.question or f"{answer.finding.issue.value} · {answer.finding.gauge.replace('_', ' ')}",
            state=answer.finding.state.name.lower(),
            word=answer.finding.state.value,
            symbol=answer.finding.state.symbol,
            told=(Told.of(answer),),
        )
        for place, answer in enumerate(sorted(found, key=lambda answer: answer.finding.state.rank))
        if not any(question.is_answered_by(answer) for question in QUESTIONS)
    )
