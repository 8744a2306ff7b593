"""One card per question: the findings, each interval with its threshold, or the command that
measures it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradiometer.convergence.certificate.certificate import Certificate
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
from gradiometer.report.sections.spikes import NAME as SPIKES
from gradiometer.run.configuration import Configuration
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis
from gradiometer.verdict.triage.findings import GAUGE as TRIAGE
from gradiometer.verdict.words.say import say
from gradiometer.verdict.words.sentences import Sentences

SYMBOLS = {
    name: symbol
    for symbols in (Certificate.symbols, *(kind.symbols for kind in GAUGES.values()))
    for name, symbol in symbols.items()
}
"""Mathematical symbols of quantities, for the ticks of a strip."""

FURTHER = {
    "triage": "What limits this run?",
    "schedule": "Does the learning rate end at zero?",
    "endpoint": "What is special about where training ended?",
    "spikes": "Did the loss spike?",
    "overhead": "Are there enough readings?",
}
"""Titles of findings that come from no gauge and answer none of the five questions."""


@dataclass(frozen=True)
class Shown:
    """A finding with the strips of its intervals.

    Attributes:
        finding: The finding.
        said: The finding in words.
        estimates: Its estimates, by name.
        strips: The strips of the estimates that can be drawn, by name.
    """

    finding: Finding
    said: Sentences
    estimates: Estimates
    strips: Mapping[str, Strip]

    @classmethod
    def of(cls, answer: Answer) -> "Shown":
        """Draw every interval in the finding, with the exact numbers in the finding as
        thresholds."""
        symbols = SYMBOLS if answer.gauge is None else {**SYMBOLS, **answer.gauge.symbols}
        drawn = strips(answer.estimates, tuple(answer.finding.numbers), symbols)
        return cls(answer.finding, say(answer.finding), answer.estimates, drawn)


@dataclass(frozen=True)
class Card:
    """A card of the page: a question with its answers, or a further finding.

    Attributes:
        name: Its anchor on the page.
        short: The question in one or two words.
        title: The question.
        state: Class in the stylesheet: ok, look, act, cannot_tell, or not_measured.
        word, symbol: The state as a word and as a symbol.
        shown: The findings, the most urgent first; empty if nothing was measured.
        section: Name of the section with the charts behind it.
        needs: The measurements that an answer needs.
        command: The command that makes them.
    """

    name: str
    short: str
    title: str
    state: str
    word: str
    symbol: str
    shown: tuple[Shown, ...]
    section: str = ""
    needs: str = ""
    command: str = ""


def answers_of(diagnosis: Diagnosis, sections: Iterable[Section]) -> tuple[Answer, ...]:
    """The findings of the gauges, and those that the sections add."""
    gauges = {gauge.name: gauge for gauge in diagnosis.gauges}
    found = [
        Answer(finding, diagnosis.estimates, gauges.get(finding.gauge))
        for finding in diagnosis.findings
    ]
    return (*found, *(answer for section in sections for answer in section.answers))


def cards(run: Run, found: Iterable[Answer]) -> tuple[Card, ...]:
    """One card per question, in their order, with or without an answer."""
    found = tuple(found)
    made = []
    for question in QUESTIONS:
        shown = tuple(Shown.of(answer) for answer in question.answers(found))
        state = shown[0].finding.state if shown else None
        made.append(
            Card(
                name=question.name,
                short=question.short,
                title=question.words,
                state="not_measured" if state is None else state.name.lower(),
                word=NOT_MEASURED if state is None else state.value,
                symbol=NOT_MEASURED_SYMBOL if state is None else state.symbol,
                shown=shown,
                section=question.section,
                needs=_needs(question, run),
                command=_command(question, run),
            )
        )
    return tuple(made)


def _command(question: Question, run: Run) -> str:
    """The command that measures it; empty if `watch` would refuse the gauge, as it does on several
    processes."""
    if isinstance(run.configuration, Configuration):
        return question.command(run.path, run.configuration)
    known = run.has_program_with_model and run.manifest.get("ranks", 1) == 1
    return question.in_a_loop if known and not _unknown_law(question, run) else ""


def _needs(question: Question, run: Run) -> str:
    """The measurements that an answer needs, or the reason that there is none for the optimizer of
    this run."""
    return _unknown_law(question, run) or question.needs


def _unknown_law(question: Question, run: Run) -> str:
    """A sentence if the gauges of the question rest on a law of SGD and the run has another
    optimizer; else empty."""
    settings = run.hyperparameters
    laws = [
        kind.sgd_only
        for kind in GAUGES.values()
        if kind.question == question.words and kind.sgd_only
    ]
    if not run.watched or not laws or settings is None or settings.family == "sgd":
        return ""
    return f"The {laws[0]} is known for SGD, and not for {' and '.join(settings.names)}."


def further_cards(found: Iterable[Answer]) -> tuple[Card, ...]:
    """One card per finding that answers no question, the most urgent first."""
    return tuple(
        Card(
            name=f"also-{place}",
            short=answer.finding.issue.value,
            title=answer.question
            or FURTHER.get(answer.finding.gauge, _plain_title(answer.finding)),
            state=answer.finding.state.name.lower(),
            word=answer.finding.state.value,
            symbol=answer.finding.state.symbol,
            shown=(Shown.of(answer),),
            section=_section_of(answer.finding),
        )
        for place, answer in enumerate(sorted(found, key=lambda answer: answer.finding.state.rank))
        if not any(question.is_answered_by(answer) for question in QUESTIONS)
    )


def _section_of(finding: Finding) -> str:
    """The section with the charts behind a finding. The picture of a triage claim is at the top."""
    if finding.gauge == TRIAGE:
        return ""
    return SPIKES if finding.gauge == SPIKES else finding.issue.value


def _plain_title(finding: Finding) -> str:
    return f"{finding.issue.value} · {finding.gauge.replace('_', ' ')}"
