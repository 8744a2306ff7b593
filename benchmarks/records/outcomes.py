"""What came of following a claim, one a line of a file that is only appended to."""

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from inspect import getsource, unwrap
from pathlib import Path
from typing import Any

from gradiometer.verdict.triage import (
    course,
    data,
    faults,
    length,
    rate,
    schedule,
    thresholds,
    tried,
)

OUTCOMES = Path(__file__).with_name("outcomes.jsonl")
RECIPES, SMALL = "published recipes", "small trainings"
"""The two populations of trainings."""

HELPED = 0.02
"""Following a claim has helped if it gains this part of the loss above the floor in the mean of the
seeds, and gains on each of them; it has harmed if it loses so much."""

ROOMS = {
    "course": course,
    "data": data,
    "faults": faults,
    "length": length,
    "rate": rate,
    "schedule": schedule,
}


@dataclass(frozen=True)
class Outcome:
    """What came of following a claim.

    Args:
        population: `RECIPES` or `SMALL`.
        group: The set of the recipes or the part of the clinic.
        training: The training without its fault: what is left out together.
        fault: What is wrong with it; "healthy" if nothing is.
        way: "two lines" or "loss".
        stage: "read", or "tested" after `w.test()`.
        claim: The claim, by its public name.
        evidence: What it rests on.
        is_certain: False for a suspect.
        leads: True for the headline.
        change: What it says to change first.
        gains: What the change gains on each seed, a part of the loss above the floor. Empty where
            a state was judged, such as "healthy", which names no change.
        is_right: The claim helped; or the state is true.
        is_harmful: The change made it worse.
        rule: A digest of the rule that made the claim.
    """

    population: str
    group: str
    training: str
    fault: str
    way: str
    stage: str
    claim: str
    evidence: str
    is_certain: bool
    leads: bool
    change: str
    gains: tuple[float, ...]
    is_right: bool
    is_harmful: bool
    rule: str

    @property
    def key(self) -> tuple[str, ...]:
        """The training whose outcome it is, and how it was watched."""
        return self.group, self.training, self.fault, self.way


def helped(gains: tuple[float, ...]) -> bool:
    """True if a change has gained enough, on each seed."""
    return sum(gains) / len(gains) >= HELPED and min(gains) > 0


def harmed(gains: tuple[float, ...]) -> bool:
    """True if a change has lost so much, on each seed."""
    return sum(gains) / len(gains) <= -HELPED and max(gains) < 0


@cache
def digest_of_rules() -> dict[str, str]:
    """A digest of the room of rules that makes each claim: a record begins again where its rule
    changes. Comments and docstrings do not count, and numbers in `thresholds` do."""
    found = {}
    for name, room in ROOMS.items():
        source = _without_docstrings(getsource(unwrap(room)))
        used = sorted(each for each in vars(thresholds) if each.isupper() and f"'{each}'" in source)
        limits = [repr(getattr(thresholds, each)) for each in used]
        found[name] = _digest(source, *limits)
    return found


def rule_of(claim: str, evidence: str) -> str:
    """The digest of what makes a claim with this evidence."""
    digests = digest_of_rules()
    if evidence == "fork":
        return _digest(_without_docstrings(getsource(tried)))
    made_in = [name for name, room in ROOMS.items() if f"Claim.{claim.upper()}" in getsource(room)]
    # a state is what is left when no rule has claimed anything
    return _digest(*(digests[name] for name in made_in or ROOMS))


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        node.body = [  # type: ignore[attr-defined]
            each
            for each in body
            if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        ]
    return ast.dump(tree)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


class Outcomes:
    """All outcomes that were counted, and which trainings were judged."""

    def __init__(self, path: Path = OUTCOMES) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                self.lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed

    def __iter__(self) -> Iterator[Outcome]:
        for line in self.lines:
            for each in line["outcomes"]:
                yield Outcome(**{**each, "gains": tuple(each["gains"])})

    def has(self, key: tuple[str, ...]) -> bool:
        """True if a training was judged."""
        return any(tuple(line["training"]) == key for line in self.lines)

    def add(self, key: tuple[str, ...], outcomes: list[Outcome]) -> None:
        """Keep the outcomes of a training; one without any claim has none."""
        line = {"training": list(key), "outcomes": [asdict(each) for each in outcomes]}
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
