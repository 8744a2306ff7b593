"""Words for a gauge of your own: the finding brings its sentences."""

import string

from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Sentences


def own(finding: Finding) -> Sentences:
    """The sentences in `facts`: `seen`, and `means`, `advice`, `forecast` and `caveat` if there are
    any.

    `paste` holds lines that the advice begins with, and `lead` is the first clause of `seen`. Names
    of numbers in braces, such as {noise_scale}, become the estimate with its interval.
    """
    names = ("seen", "means", "advice", "forecast", "caveat", "lead")
    seen, means, advice, forecast, caveat, lead = (
        _fill(str(finding.facts.get(name, "")), finding) for name in names
    )
    paste = tuple(finding.facts.get("paste", ()))
    return Sentences(seen, means, paste, advice, forecast, caveat=caveat, lead=lead)


def _fill(text: str, finding: Finding) -> str:
    """Replace the names that are numbers or facts of the finding, and leave other braces as they
    are."""
    slots = {**finding.facts, **finding.numbers}
    try:
        fields = list(string.Formatter().parse(text))
    except ValueError:  # a single brace, as in a line of code
        return text
    parts = []
    for literal, name, spec, conversion in fields:
        parts.append(literal)
        if name is None:
            continue
        known = name in slots and not spec and conversion is None
        parts.append(str(slots[name]) if known else "{" + name + (f":{spec}" if spec else "") + "}")
    return "".join(parts)


CLAIMS = {"own": own}
