"""Words for a gauge of your own: the finding brings its sentences."""

import string

from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Sentences


def own(finding: Finding) -> Sentences:
    """The sentences in `facts`: `seen`, and `means`, `advice` and `caveat` if there are any.

    Names of numbers in braces, such as {noise_scale}, become the estimate with its interval.
    """
    seen, means, advice, caveat = (
        _filled(str(finding.facts.get(name, "")), finding) for name in ("seen", "means", "advice", "caveat")
    )
    return Sentences(seen, means, suggestion=advice, caveat=caveat)


def _filled(text: str, finding: Finding) -> str:
    """Replace the names that are numbers or facts of the finding, and leave other braces as they are."""
    slots = {**finding.facts, **finding.numbers}
    parts = []
    for literal, name, spec, conversion in string.Formatter().parse(text):
        parts.append(literal)
        if name is None:
            continue
        known = name in slots and not spec and conversion is None
        parts.append(str(slots[name]) if known else "{" + name + (f":{spec}" if spec else "") + "}")
    return "".join(parts)


CLAIMS = {"own": own}
