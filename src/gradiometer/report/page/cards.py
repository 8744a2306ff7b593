"""The content of the page: the next action, a card for each question with its findings, a row for
each of them, and the checks of the record."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from gradiometer.convergence.certificate.certificate import Certificate
from gradiometer.gauges import GAUGES
from gradiometer.measurement import Estimates, Finding
from gradiometer.report.charts.interval_strip import (
    Sparkline,
    Strip,
    interval,
    number,
    sparkline,
    strips,
)
from gradiometer.report.charts.theme import LISTS
from gradiometer.report.sections.loss import NAME as SPIKES
from gradiometer.report.sections.questions import (
    NOT_MEASURED,
    NOT_MEASURED_SYMBOL,
    QUESTIONS,
    Answer,
    Question,
    title_of,
)
from gradiometer.report.sections.section import Figure, Section
from gradiometer.run import Configuration, Run
from gradiometer.run.cadence.overhead import of_the_budget, time_used
from gradiometer.verdict import Diagnosis, say
from gradiometer.verdict.claims import GAUGE as TRIAGE
from gradiometer.verdict.words.sentences import Sentences

# Mathematical symbols of quantities, for the ticks of a strip.
SYMBOLS = {
    name: symbol
    for symbols in (Certificate.symbols, *(kind.symbols for kind in GAUGES.values()))
    for name, symbol in symbols.items()
}


@dataclass(frozen=True)
class Shown:
    """A finding with the strips of its intervals.

    Attributes:
        finding: The finding.
        said: Its sentences.
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


class Small(NamedTuple):
    """The number of a row.

    Attributes:
        words: The number with its interval and unit.
        strip: The interval on a small axis; None if it cannot be drawn.
        quantity: Name of the quantity.
        ruler: What the axis of the strip shows, with its unit.
        ends: What a value at the left and at the right end of the axis means; empty if that is not
            known.
    """

    words: str
    strip: Strip | None
    quantity: str
    ruler: str
    ends: tuple[str, ...] = ()


# What the ends of an axis mean, by quantity.
ENDS = {
    "noise_scale": ("left of B: mostly signal", "right of B: mostly noise"),
    "preconditioned_noise_scale": ("left of B: mostly signal", "right of B: mostly noise"),
    "batch_sharpness": ("flatter", "sharper"),
}


@dataclass(frozen=True)
class Card:
    """A row of the page: a question with its answers, a further finding, or numbers without a
    finding. The evidence is inside, to be opened.

    Attributes:
        name: Its anchor on the page.
        title: The question.
        state: Class in the stylesheet: ok, look, act, cannot_tell, not_measured, or numbers.
        word, symbol: The state as a word and as a symbol; empty if there are only numbers.
        shown: The findings, the most urgent first; empty if nothing was measured.
        words: The beginning of what was seen, if it has no number.
        small: Its number; None if it has none.
        trend: The number along the run as a small line; None if there is no curve.
        section: The charts, numbers and formulas behind it; None if another row has them.
        home: Name of that section.
        short: The question in one or two words.
        needs: The measurements that an answer needs.
        command: The command that makes them.
    """

    name: str
    title: str
    state: str = "numbers"
    word: str = ""
    symbol: str = ""
    shown: tuple[Shown, ...] = ()
    words: str = ""
    small: Small | None = None
    trend: Sparkline | None = None
    section: Section | None = None
    home: str = ""
    short: str = ""
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
    return tuple(
        Card(
            name=question.name,
            title=question.words,
            home=question.section,
            short=question.short,
            needs=_unknown_law(question, run) or question.needs,
            command=_command(question, run),
            **_answer(question.answers(found)),
        )
        for question in QUESTIONS
    )


def _answer(answers: Iterable[Answer]) -> dict[str, Any]:
    """The findings of a card, with the state of the first one."""
    shown = tuple(Shown.of(answer) for answer in answers)
    if not shown:
        return {"state": "not_measured", "word": NOT_MEASURED, "symbol": NOT_MEASURED_SYMBOL}
    state = shown[0].finding.state
    return {
        "state": state.name.lower(),
        "word": state.value,
        "symbol": state.symbol,
        "shown": shown,
    }


def _command(question: Question, run: Run) -> str:
    """The command that measures it; empty if `watch` would refuse the gauge, as it does on several
    processes."""
    if isinstance(run.configuration, Configuration):
        return question.command_for(run.path, run.configuration)
    known = run.has_program_with_model and run.manifest.get("ranks", 1) == 1
    return question.in_a_loop if known and not _unknown_law(question, run) else ""


def _unknown_law(question: Question, run: Run) -> str:
    """A sentence if the gauges of the question rest on a law of SGD and the run has another
    optimizer; else empty."""
    settings = run.hyperparameters
    kinds = [kind for kind in GAUGES.values() if kind.question == question.words]
    laws = [kind.sgd_only for kind in kinds if kind.sgd_only]
    if not run.watched or not laws or settings is None or settings.family == "sgd":
        return ""
    if settings.family == "adaptive" and any(kind.needs_preconditioner for kind in kinds):
        return ""
    return f"The {laws[0]} is known for SGD, and not for {' and '.join(settings.names)}."


def further_cards(found: Iterable[Answer]) -> tuple[Card, ...]:
    """One card per finding that answers no question, the most urgent first."""
    made = []
    for place, answer in enumerate(sorted(found, key=lambda answer: answer.finding.state.rank)):
        if any(question.is_answered_by(answer) for question in QUESTIONS):
            continue
        finding = answer.finding
        # the section with the charts behind it; the picture of a triage claim is at the top
        if finding.gauge == TRIAGE:
            home = ""
        else:
            home = SPIKES if finding.gauge == SPIKES else finding.issue.value
        made.append(Card(f"also-{place}", title_of(answer), home=home, **_answer([answer])))
    return tuple(made)


# Name of the section whose first chart is at the top of the page.
LOSS = "loss"


def rows(
    diagnosis: Diagnosis,
    sections: Sequence[Section],
    asked: Sequence[Card],
    further: Sequence[Card],
    at_top: Sequence[Figure] = (),
) -> tuple[Card, ...]:
    """A row for each answered question, each further finding, and each section that no finding
    belongs to.

    Of these sections, those with words in their row, such as the forks, come first.

    Args:
        diagnosis: The diagnosis of the run.
        sections: The sections of the page.
        asked: The cards of the questions; those without an answer get no row.
        further: The cards of the other findings.
        at_top: The figures of the first screen, which need no row.
    """
    left = {section.name: section for section in sections}
    placed = [*(card for card in asked if card.shown), *further]
    # what limits the run comes first, and then what may
    placed.sort(key=lambda card: (card.shown[0].finding.gauge != TRIAGE, _is_suspect(card)))
    # a second claim is asked for in other words
    placed[1:] = [
        replace(card, title="What may limit it?" if _is_suspect(card) else "What else limits it?")
        if card.shown[0].finding.gauge == TRIAGE
        else card
        for card in placed[1:]
    ]
    answered = [_row(card, left.pop(card.home, None), diagnosis) for card in placed]
    drawn = {figure.name for figure in at_top}
    others = [
        Card(each.name, each.title, words=each.words, section=each)
        for each in left.values()
        if any(figure.name not in drawn for figure in each.figures)
        or (each.table is not None and each.table.rows)
        or each.words
    ]
    return (*answered, *sorted(others, key=lambda row: not row.words))


def _is_suspect(card: Card) -> bool:
    """True for an illness whose signs are weak."""
    return bool(card.shown[0].finding.facts.get("is_possible"))


def top_figure(sections: Iterable[Section]) -> Figure | None:
    """The chart at the top of the page: the loss."""
    return next(
        (section.figures[0] for section in sections if section.name == LOSS and section.figures),
        None,
    )


def _row(card: Card, section: Section | None, diagnosis: Diagnosis) -> Card:
    """A card with the first number of its finding that can be drawn, or else the first that it
    names."""
    shown = card.shown[0]
    names = [*shown.strips, *(name for name in shown.finding.numbers if name in shown.estimates)]
    if not names:
        return replace(card, section=section, words=shown.said.beginning)
    estimate = shown.estimates[names[0]]
    unit = f" {estimate.unit}" if len(estimate.unit) <= LISTS.unit else ""
    words = (
        f"{number(estimate.value)} {interval(estimate)}{unit}" if estimate.tells else str(estimate)
    )
    label = diagnosis.labels.get(names[0], names[0].replace("_", " "))
    # the formula in a label is for those who open the row
    ruler = ", ".join(part for part in (label.partition(",")[0], estimate.unit) if part)
    return replace(
        card,
        section=section,
        small=Small(words, shown.strips.get(names[0]), names[0], ruler, ENDS.get(names[0], ())),
        trend=sparkline(diagnosis.history.get(names[0], ())),
    )


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        passed: True if it passed.
        words: The check and its result, with numbers.
    """

    passed: bool
    words: str


def checks(run: Run, diagnosis: Diagnosis) -> Iterator[Check]:
    """Check that the record is complete, its numbers finite, its intervals based on enough data,
    and the budget kept."""
    steps, losses = run.losses
    if len(steps):
        expected = int(steps[-1] - steps[0]) + 1
        missing = expected - len(steps)
        yield Check(missing == 0, f"Steps whose loss is recorded: {len(steps):,} of {expected:,}.")
        spoiled = int((~np.isfinite(losses)).sum())
        yield Check(spoiled == 0, f"Losses that are not finite: {spoiled:,}.")
    skipped = [warning for warning in run.warnings if "skipped" in warning]
    yield Check(not skipped, f"Parts of the record that could not be read: {len(skipped):,}.")
    resumed = [event["step"] for event in run.events if event["event"] == "resumed"]
    if resumed:
        places = ", ".join(f"{step:,}" for step in resumed)
        yield Check(
            True,
            f"Resumed at step {places}. What the stopped process wrote after that step is not "
            "used.",
        )
    estimates = diagnosis.estimates.values()
    samples = [estimate.samples for estimate in estimates if 0 < estimate.level < 1]
    if samples:
        fewest = min(samples)
        # With fewer than 40, an interval is wide mostly for want of readings.
        yield Check(fewest >= 40, f"Fewest readings behind an interval: {fewest:,}.")
    unknown = sum(not estimate.tells for estimate in estimates)
    yield Check(True, f"Estimates whose interval is still open: {unknown} of {len(estimates)}.")
    used, allowed = run.overhead.get("used"), run.overhead.get("budget")
    is_budgeted = run.configuration.every is None and run.overhead.get("mode") != "off"
    if used is not None and allowed is not None and is_budgeted:
        yield Check(
            # half a percent of the training time more does not fail the check
            of_the_budget(run.overhead) <= allowed + 0.005,
            f"The instrument used {time_used(run.overhead)}.",
        )


def action_of(findings: Iterable[Finding]) -> Shown | None:
    """The most urgent finding that advises something; None if no finding does.

    >>> from gradiometer.measurement import Finding, Issue, State
    >>> facts = {"seen": "Seen.", "means": "Means.", "advice": "Less noise, if time matters more."}
    >>> action = action_of([Finding("mine", Issue.ESTIMATION, "own", State.LOOK, facts=facts)])
    >>> action.said.seen, action.said.advice
    ('Seen.', 'Less noise, if time matters more.')
    """
    for finding in sorted(findings, key=lambda finding: finding.state.rank):
        said = say(finding)
        if said.advice:
            return Shown(finding, said, {}, {})
    return None
