"""How often each kind of advice held when it was followed to the end: what benchmarks/advice.py has kept."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from gradiometer.forks.alternatives.rates import BatchSize, CoolNow, Rate
from gradiometer.forks.alternatives.text import alternative_of

Verdict = Literal["held", "did not hold", "open"]

SCORES = "advice_scores.json"
"""Name of the file of scores, in this package."""

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
    text = files("gradiometer.forks.recorded").joinpath(SCORES).read_text(encoding="utf-8")
    return tuple(json.loads(text))


def track_record(kind: str, scores: Iterable[Mapping[str, Any]] | None = None) -> str:
    """How often advice of this kind held, in a sentence; empty if it was never followed.

    Args:
        kind: The kind: see `kind_of_advice`.
        scores: The scores. Default: those that come with the package.

    >>> track_record("a cut of the rate", [{"kind": "a cut of the rate", "what": "advice", "verdict": "held"}])
    'Such advice held in 1 of 1 trials: benchmarks/advice.py.'
    """
    of_kind = [score for score in (kept_scores() if scores is None else scores) if score["kind"] == kind]
    parts = [_share(of_kind, what) for what in ("advice", "number")]
    if not parts[0]:
        return ""
    number = f", and its forecast number in {parts[1]}" if parts[1] else ""
    return f"Such advice held in {parts[0]}{number}: {SOURCE}."


def _share(scores: Iterable[Mapping[str, Any]], what: str) -> str:
    """How many held, such as "5 of 6 trials (1 undecided)"; empty if none is decided."""
    counts = Counter(score["verdict"] for score in scores if score["what"] == what)
    undecided = f" ({counts['open']} undecided)" if counts["open"] else ""
    return f"{counts['held']} of {counts.total()} trials{undecided}" if counts.total() > counts["open"] else ""
