"""The rows of the page: a question, its number, its interval and its trend. The evidence is inside,
to be opened."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gradiometer.report.charts.interval_strip import Strip, interval, number
from gradiometer.report.charts.sparklines import Sparkline, sparkline
from gradiometer.report.page.cards import Card, Shown
from gradiometer.report.sections.section import Figure, Section
from gradiometer.verdict.diagnosis import Diagnosis
from gradiometer.verdict.triage.findings import GAUGE as TRIAGE

LOSS = "loss"
"""Name of the section whose first chart is at the top of the page."""

LONGEST_UNIT = 10
"""Most characters of a unit that a row has room for."""


class Small(NamedTuple):
    """The number of a row.

    Attributes:
        words: The number with its interval and unit.
        strip: The interval on a small axis; None if it cannot be drawn.
        quantity: Name of the quantity.
        ruler: What the axis of the strip shows, with its unit.
    """

    words: str
    strip: Strip | None
    quantity: str
    ruler: str


@dataclass(frozen=True)
class Row:
    """One row of the page.

    Attributes:
        name: Its anchor on the page.
        title: The question.
        state: Class in the stylesheet: ok, look, act, cannot_tell or numbers.
        word, symbol: The state as a word and as a symbol; empty if the row has only numbers.
        small: Its number; None if it has none.
        words: The beginning of what was seen, if it has no number.
        trend: The number along the run as a small line; None if there is no curve.
        shown: The findings, the most urgent first.
        section: The charts, numbers and formulas behind it; None if another row has them.
    """

    name: str
    title: str
    state: str
    word: str
    symbol: str
    small: Small | None
    words: str
    trend: Sparkline | None
    shown: tuple[Shown, ...]
    section: Section | None


def rows(
    diagnosis: Diagnosis,
    sections: Sequence[Section],
    asked: Sequence[Card],
    further: Sequence[Card],
) -> tuple[Row, ...]:
    """A row for each answered question, each further finding, and each section that no finding
    belongs to.

    Of these sections, those with words in their row, such as the forks, come first.

    Args:
        diagnosis: The diagnosis of the run.
        sections: The sections of the page.
        asked: The cards of the questions; those without an answer get no row.
        further: The cards of the other findings.
    """
    left = {section.name: section for section in sections}
    placed = [*(card for card in asked if card.shown), *further]
    # what limits the run comes first
    placed.sort(key=lambda card: card.shown[0].finding.gauge != TRIAGE)
    made = [_row(card, left.pop(card.section, None), diagnosis) for card in placed]
    others = [
        _numbers(each) for each in left.values() if _figures(each) or _has_table(each) or each.words
    ]
    return (*made, *sorted(others, key=lambda row: not row.words))


def top_figure(sections: Iterable[Section]) -> Figure | None:
    """The chart at the top of the page: the loss."""
    return next(
        (section.figures[0] for section in sections if section.name == LOSS and section.figures),
        None,
    )


def _row(card: Card, section: Section | None, diagnosis: Diagnosis) -> Row:
    small = _small(card.shown[0], diagnosis)
    return Row(
        name=card.name,
        title=card.title,
        state=card.state,
        word=card.word,
        symbol=card.symbol,
        small=small,
        words="" if small else card.shown[0].said.beginning,
        trend=None if small is None else sparkline(diagnosis.history.get(small.quantity, ())),
        shown=card.shown,
        section=section,
    )


def _small(shown: Shown, diagnosis: Diagnosis) -> Small | None:
    """The first number of a finding that can be drawn, or else the first that it names."""
    names = [*shown.strips, *(name for name in shown.finding.numbers if name in shown.estimates)]
    if not names:
        return None
    estimate = shown.estimates[names[0]]
    unit = f" {estimate.unit}" if len(estimate.unit) <= LONGEST_UNIT else ""
    words = (
        f"{number(estimate.value)} {interval(estimate)}{unit}" if estimate.tells else str(estimate)
    )
    label = diagnosis.labels.get(names[0], names[0].replace("_", " "))
    # the formula in a label is for those who open the row
    ruler = ", ".join(part for part in (label.partition(",")[0], estimate.unit) if part)
    return Small(words, shown.strips.get(names[0]), names[0], ruler)


def _numbers(section: Section) -> Row:
    """The row of a section without a finding."""
    return Row(
        section.name, section.title, "numbers", "", "", None, section.words, None, (), section
    )


def _figures(section: Section) -> tuple[Figure, ...]:
    """The charts of a section that are not at the top of the page."""
    return section.figures[1:] if section.name == LOSS else section.figures


def _has_table(section: Section) -> bool:
    return section.table is not None and bool(section.table.rows)
