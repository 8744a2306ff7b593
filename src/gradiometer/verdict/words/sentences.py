"""What a finding says, part by part."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradiometer.measurement.estimate import Estimate, about, counted, significant
from gradiometer.measurement.finding import Finding


@dataclass(frozen=True)
class Sentences:
    """A finding in words. Any part but the first may be empty.

    Args:
        seen: What was measured: one sentence, with its numbers.
        means: What it would mean.
        paste: Lines of code or commands that the advice begins with, to be pasted.
        suggestion: What to try, or what follows the lines to paste.
        forecast: What a model expects of the advice.
        tried: What came of the advice in a fork, or how to try it.
        caveat: What could make it wrong.
        lead: The first clause of `seen`, for a row or a headline. Default: all of it.
        record: How often such a finding was right.
    """

    seen: str
    means: str = ""
    paste: tuple[str, ...] = ()
    suggestion: str = ""
    forecast: str = ""
    tried: str = ""
    caveat: str = ""
    lead: str = ""
    record: str = ""

    @property
    def advice(self) -> str:
        """What to try, with the lines to paste."""
        return " with ".join(f"`{line}`" for line in self.paste) + self.suggestion

    @property
    def beginning(self) -> str:
        """The first clause of `seen`, without a full stop."""
        return (self.lead or self.seen).removesuffix(".")

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """Seen, meaning, advice with its forecast, how often it was right, what came of it when it
        was tried, and what could make it wrong.

        None is empty.
        """
        advice = self.advice and f"try: {self.advice} {self.forecast}".rstrip()
        caveat = self.caveat and f"caution: {self.caveat}"
        return tuple(
            text
            for text in (self.seen, self.means, advice, self.record, self.tried, caveat)
            if text
        )

    def __str__(self) -> str:
        advice = f"{self.advice} {self.forecast}".strip()
        parts = (self.seen, self.means, advice, self.record, self.tried, self.caveat)
        return " ".join(part for part in parts if part)


class _Slots(string.Formatter):
    """Fills the slots of a sentence.

    `{rate:3}` has three significant digits, `{share:%}` is a percentage, `{steps:step}` is a number
    of things, such as "1 step". Without a form, a whole number has no decimals and an estimate has
    its interval. Every other form is one of Python.
    """

    def format_field(self, value: Any, form: str) -> str:
        """A value in this form."""
        if isinstance(value, str | Estimate):
            return str(value)
        if form.isdigit():
            return significant(value, int(form))
        if form == "%":
            return f"{significant(100 * value, 2)} %"
        if len(form) > 1 and form.replace(" ", "").isalpha():
            return counted(int(value) if float(value).is_integer() else value, form)
        if form:
            return format(value, form)
        return f"{value:,.0f}" if float(value).is_integer() else significant(value)


def fill(text: str, slots: Mapping[str, Any]) -> str:
    """A text with a value in each of its slots.

    >>> fill("{rate:3} for {steps:step}, or {share:%}", {"rate": 0.1, "steps": 1, "share": 0.25})
    '0.100 for 1 step, or 25 %'
    """
    return _Slots().vformat(text, (), slots)


@dataclass(frozen=True)
class Words:
    """The words of a claim. Called with a finding, they are its sentences.

    All are texts with slots: the facts and the numbers of a finding by their names, what `slots`
    makes of the finding, and the lead. `brief` is the claim in at most four words, for lists.
    """

    seen: str
    means: str = ""
    suggestion: str = ""
    caveat: str = ""
    lead: str = ""
    paste: tuple[str, ...] = ()
    brief: str = ""
    slots: Callable[[Finding], Mapping[str, Any]] = lambda _: {}

    def __call__(self, finding: Finding) -> Sentences:
        """The sentences of a finding with this claim."""
        slots = {**finding.facts, **finding.numbers, **self.slots(finding)}
        lead = fill(self.lead, slots)
        seen, means, suggestion, caveat, *paste = (
            fill(text, {**slots, "lead": lead})
            for text in (self.seen, self.means, self.suggestion, self.caveat, *self.paste)
        )
        return Sentences(seen, means, tuple(paste), suggestion, caveat=caveat, lead=lead)


def always(text: str) -> Callable[[object], str]:
    """A function that says a doubt or an observation that has no numbers."""
    return lambda _: text


def sentence(
    text: str, slots: Callable[[Any], Mapping[str, Any]] = lambda _: {}
) -> Callable[[Any], str]:
    """A function that says a doubt or an observation: a text with its facts and `slots` in it."""
    return lambda said: fill(text, {**said.facts, **slots(said)})


def not_known(quantity: str, seen: str, means: str, needs: str) -> Words:
    """The words of a quantity that has no interval yet, with the steps after which it has one."""

    def later(finding: Finding) -> Mapping[str, str]:
        needed = finding.numbers[quantity].needed
        return {"later": f"; {needs} {about(needed)} more steps" if needed else ""}

    return Words(seen + "{later}.", means, slots=later)


def inside_a_sentence(sentence: str) -> str:
    """A sentence whose first letter is lower-case unless it starts a symbol."""
    first, _, _ = sentence.partition(" ")
    if len(first) > 1 and first.isalpha() and first.istitle():
        return sentence[0].lower() + sentence[1:]
    return sentence
