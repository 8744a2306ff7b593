"""How often each kind of advice held when it was followed to the end: what benchmarks/advice.py has
kept."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from gradiometer.loop.changes.rates import BatchSize, CoolNow, Rate
from gradiometer.loop.changes.text import alternative_of

Verdict = Literal["held", "did not hold", "open"]

# Name of the file of scores, in this package.
SCORES = "advice_scores.json"

SOURCE = "benchmarks/advice.py"

FAMILIES = {"sgd": "SGD", "adaptive": "Adam"}


def kind_of_advice(alternatives: Sequence[str], family: str) -> str:
    """The kind of an advice, as its scores are counted; empty if it has none.

    Args:
        alternatives: What a finding advises, as texts.
        family: The family of the optimizer: "sgd", "adaptive" or "other".

    >>> kind_of_advice(["batch 2x, rate 1.29x"], "sgd")
    'a larger batch under SGD'
    """
    match [alternative_of(text) for text in alternatives[:1]]:
        case [BatchSize() as batch] if family in FAMILIES:
            return f"a {'larger' if batch.factor > 1 else 'smaller'} batch under {FAMILIES[family]}"
        case [CoolNow()]:
            return "a cut of the rate"
        case [Rate() as rate]:
            return f"a {'larger' if rate.factor > 1 else 'smaller'} rate"
    return ""


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
