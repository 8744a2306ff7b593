"""What a finding says, part by part."""

from collections.abc import Callable
from dataclasses import dataclass

from gradiometer.measurement.estimate import about
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
    """

    seen: str
    means: str = ""
    paste: tuple[str, ...] = ()
    suggestion: str = ""
    forecast: str = ""
    tried: str = ""
    caveat: str = ""
    lead: str = ""

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
        """Seen, meaning, advice with its forecast, what came of it when it was tried, and what
        could make it wrong.

        None is empty.
        """
        advice = self.advice and f"try: {self.advice} {self.forecast}".rstrip()
        caveat = self.caveat and f"caution: {self.caveat}"
        return tuple(text for text in (self.seen, self.means, advice, self.tried, caveat) if text)

    def __str__(self) -> str:
        parts = (self.seen, self.means, self.advice, self.forecast, self.tried, self.caveat)
        return " ".join(part for part in parts if part)


def always(text: str) -> Callable[[object], str]:
    """A function that says a doubt or an observation that has no numbers."""
    return lambda _: text


def fixed(
    seen: Callable[[Finding], str], means: str, suggestion: str = "", caveat: str = ""
) -> Callable[[Finding], Sentences]:
    """A function that says a claim of which only `seen` has numbers."""
    return lambda finding: Sentences(seen(finding), means, suggestion=suggestion, caveat=caveat)


def not_known(quantity: str, seen: str, means: str, needs: str) -> Callable[[Finding], Sentences]:
    """A function that says that a quantity has no interval yet, and after how many steps it has."""

    def sentences(finding: Finding) -> Sentences:
        needed = finding.numbers[quantity].needed
        after = f"; {needs} {about(needed)} more steps" if needed else ""
        return Sentences(f"{seen}{after}.", means)

    return sentences
