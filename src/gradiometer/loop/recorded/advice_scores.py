"""How often advice of a kind held when it was followed to the end."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

# Name of the file of scores, in this package.
SCORES = "advice_scores.json"

SOURCE = "benchmarks/advice.py"


@cache
def kept_scores() -> tuple[Mapping[str, Any], ...]:
    """The scores that come with the package, one for each time that an advice was followed."""
    text = files("gradiometer.loop.recorded").joinpath(SCORES).read_text(encoding="utf-8")
    return tuple(json.loads(text))


def track_record(
    kind: str, scores: Iterable[Mapping[str, Any]] | None = None
) -> dict[str, Counter[str]]:
    """How often advice of this kind, and the number that it forecast, held when it was followed to
    the end.

    Args:
        kind: The kind: see `kind_of_advice`.
        scores: The scores. Default: those that come with the package.

    Returns:
        Counts of the verdicts "held", "did not hold" and "open", for "advice" and for "number".

    >>> track_record("a cut of the rate", [{"kind": "a cut of the rate", "what": "advice", "verdict": "held"}])
    {'advice': Counter({'held': 1}), 'number': Counter()}
    """
    of_kind = [
        score for score in (kept_scores() if scores is None else scores) if score["kind"] == kind
    ]
    return {
        what: Counter(str(score["verdict"]) for score in of_kind if score["what"] == what)
        for what in ("advice", "number")
    }


# How much worse a larger batch or a cut may end, as a share of the readout.
#
# Their findings do not promise a better end for the same examples: a larger batch makes fewer
# updates and needs somewhat more examples to the same loss, and before a cut more steps gain
# little. No measurement gives the 1 %; it is the convention of this package for "little", and the
# sentence about the advice names it. A larger batch that ends worse than that is compared with a
# shorter training: see `judged`.
TOLERANCE = 0.01
