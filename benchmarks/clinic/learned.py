"""How much of the causes is in the record at all? A classifier learns them from the runs of other parts
of the clinic, from every number that the rules can see."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import ExtraTreesClassifier

from clinic.bench import Bench
from clinic.cases import Case, sick_cases, well_cases
from clinic.judging import QUIET, watched
from gradiometer import Run
from gradiometer.verdict.triage.level import Level, level_of
from gradiometer.verdict.triage.rate import direction_of, usual_reach
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import ORDER, triage_of

LEARNT_FROM = (
    *("fourth_fresh", "fifth_fresh", "sixth_fresh", "seventh_fresh"),
    *("eighth_fresh", "ninth_fresh", "tenth_fresh", "eleventh_fresh"),
)
"""Parts whose cures earned their place with a gain of 2 % (the fourth: 10 %)."""
STRETCHES = (0.0, 0.02, 0.06, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.95, 1.0)
"""The mean loss of each of these shares of a training is a number of its record."""
TREES = 600
LIMITS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""A cause is named if healthy has less than the rest of this chance."""
HEALTHY = "healthy"


@dataclass(frozen=True)
class Row:
    """A watched training, as a classifier sees it.

    Args:
        case: The case.
        numbers: What was recorded, by name.
        claims: What each rule said: 0 nothing, 1 weakly, 2 surely, by name.
        headline: The first claim of the verdict.
    """

    case: Case
    numbers: dict[str, float]
    claims: dict[str, float]
    headline: str

    @classmethod
    def of(cls, case: Case, signs: Signs) -> "Row":
        """The row of a training from its signs."""
        with np.errstate(all="ignore"):
            level = level_of(signs)
            made = {rule.__name__: rule(signs, level) for rule in ORDER}
            claims = {
                name: 0.0 if claim is None else 1.0 + claim.is_certain
                for name, claim in made.items()
            }
            headline = str(triage_of(signs).claims[0].claim)
            return cls(case, numbers_of(signs, level), claims, headline)


def numbers_of(signs: Signs, level: Level) -> dict[str, float]:
    """Everything that is recorded of a training, as numbers by name."""
    numbers = {
        **_course(signs, level),
        **_settings(signs),
        **_readings(signs),
        **_tensors(signs),
        **_evaluations(signs, level),
    }
    for name in signs.single:
        series = signs.series(name)
        if len(series):
            numbers |= {
                f"{name}, first": float(series[0]),
                f"{name}, last": float(np.median(series[-5:])),
                f"{name}, largest": float(series.max()),
            }
    return numbers


def _course(signs: Signs, level: Level) -> dict[str, float]:
    """The loss in guesses along the training, its falls, its noise and its jumps."""
    losses = signs.finite
    if len(losses) < 10:
        return {}
    edges = [int(share * len(losses)) for share in STRETCHES]
    means = [
        _log(losses[start : max(end, start + 3)].mean() / level.value)
        for start, end in pairwise(edges)
    ]
    late = losses[len(losses) // 2 :]
    return {
        **{f"loss {place}": mean for place, mean in enumerate(means)},
        **{f"fall {place}": -fall for place, fall in enumerate(np.diff(means))},
        "fall of the second half": means[6] - means[-1],
        "fall after a quarter": means[4] - means[-1],
        "noise": _log(np.diff(late).std() / abs(late.mean())),
        "jump": _log(late.max() / np.median(late)),
        "highest": _log(losses.max() / level.value),
        "below zero": float(signs.has_no_floor),
        "not finite": float(signs.steps - len(losses)),
        "level": float([*type(level.known_by)].index(level.known_by)),
    }


def _settings(signs: Signs) -> dict[str, float]:
    """Optimizer, schedule, batch, length and network."""
    rates = signs.rates if len(signs.rates) else np.array([np.nan])
    highest = np.nanmax(rates, initial=0.0)
    sizes = signs.facts.get("sizes") or [0]
    return {
        **{
            f"rate {share}": _log(rates[int(share * (len(rates) - 1))] / highest)
            for share in (0, 0.25, 0.5, 0.75, 1)
        },
        "rate": _log(highest),
        "mean rate": _log(rates.mean() / highest),
        "high rate": (signs.high_until or 0) / max(signs.steps, 1),
        "changes of the rate": float((np.diff(rates) != 0).mean()) if len(rates) > 1 else 0.0,
        "momentum": signs.momentum,
        "weight decay": signs.weight_decay,
        "family": float(("sgd", "adaptive", "other").index(signs.family)),
        "batch": _log(signs.batch_size),
        "examples": _log(signs.examples or np.nan),
        "epochs": _log(signs.epochs),
        "steps": _log(signs.steps),
        "tensors": float(len(sizes)),
        "parameters": _log(sum(sizes)),
        "normalised": float(signs.is_normalised),
    }


def _readings(signs: Signs) -> dict[str, float]:
    """Edge, reach, direction, strides, growth, and what successive gradients share."""
    shares = signs.edges[np.isfinite(signs.edges[:, 1]), 1]
    direction = direction_of(signs)
    strides = signs.strides[np.isfinite(signs.strides)]
    numbers = {
        "edge": _log(signs.edge),
        "highest edge": _log(signs.highest_edge),
        "reach": _log(signs.reach),
        "share of the reach": _log(signs.reach / usual_reach(signs)),
        "travel": _log(signs.travel),
        "growth": _log(signs.growth),
        "cosine": signs.cosine,
        "cosine of the second half": signs.cosine_since(signs.steps // 2),
    }
    if len(strides):
        numbers |= {"stride": _log(np.median(strides)), "leap": _log(strides.max())}
    if len(shares):
        numbers |= {"first edge": _log(shares[0]), "last edge": _log(shares[-1])}
        numbers["middle edge"] = _log(np.median(shares))
    if direction is not None:
        numbers |= {"direction": float(direction.value), "direction, low": float(direction.low)}
    return numbers


def _tensors(signs: Signs) -> dict[str, float]:
    """Gradients by layer and their zeros."""
    gradient, nonzero = signs.tensors.get("gradient"), signs.tensors.get("nonzero")
    numbers: dict[str, float] = {}
    if gradient is not None and len(gradient):
        norms = np.sqrt(np.nansum(gradient**2, axis=1))
        weights = gradient[:, signs.weights]
        numbers |= {
            "gradient, first": _log(np.median(norms[:5])),
            "gradient, last": _log(np.median(norms[-5:])),
            "gradient, largest": _log(norms.max()),
            "spread of layers": _log(np.nanmedian(weights.max(axis=1) / weights.min(axis=1))),
        }
    if nonzero is not None and len(nonzero):
        weights = nonzero[:, signs.weights]
        numbers |= {
            "nonzero, first": float(weights[0].min()),
            "nonzero, last": float(weights[-1].min()),
            "nonzero, middle layer": float(np.median(weights[-1])),
        }
    return numbers


def _evaluations(signs: Signs, level: Level) -> dict[str, float]:
    """Test loss against its best, the training loss and its own middle."""
    test = signs.test[np.isfinite(signs.test)]
    train = signs.train[np.isfinite(signs.train)]
    if not len(test):
        return {}
    numbers = {
        "test": _log(test[-1] / level.value),
        "test over its best": _log(test[-1] / test.min()),
        "best test at": float(np.argmin(test)) / len(test),
        "test over training": _log(test[-1] / signs.end()),
        "fall of the test loss": _log(test[len(test) // 2] / test[-1]),
        "evaluations": float(len(test)),
    }
    if len(train):
        numbers["test over evaluated training"] = _log(test[-1] / train[-1])
        numbers["evaluated over training"] = _log(train[-1] / signs.end())
    return numbers


def _log(value: float) -> float:
    """The logarithm; NaN of what is not finite."""
    return float(np.log(max(value, 1e-12))) if np.isfinite(value) else float("nan")


def judge_learned(bench: Bench, half: str) -> None:
    """Print what a classifier names in a part from what it learnt from others, beside the rules.

    Args:
        bench: Has the runs, or trains them.
        half: The part. If it is one of `LEARNT_FROM`, each of them is judged by the others.
    """
    judged = LEARNT_FROM if half in LEARNT_FROM else (half,)
    parts = dict.fromkeys((*LEARNT_FROM, *judged))
    cases = [case for part in parts for case in (*sick_cases(part), *well_cases(part))]
    bench.train(watched(case) for case in cases)
    rows = [Row.of(case, Signs.of(Run.open(bench.run(watched(case))))) for case in cases]
    show_learned(rows, judged)


def show_learned(rows: Sequence[Row], judged: Sequence[str]) -> None:
    """The tables: the classifier sees the record alone, and with what each rule said."""
    of_judged = [row for row in rows if row.case.half in judged]
    said = [row.headline if row.headline not in QUIET else HEALTHY for row in of_judged]
    _show("rules", of_judged, said)
    for name, with_rules in (("record", False), ("record and rules", True)):
        chances: list[dict[str, float]] = []
        for part in dict.fromkeys(row.case.half for row in of_judged):
            left_out = [row for row in of_judged if row.case.half == part]
            others = [row for row in rows if row.case.half != part]
            chances += learned(others, left_out, with_rules=with_rules)
        for limit in LIMITS:
            _show(f"{name}, at {limit:g}", of_judged, [_named(each, limit) for each in chances])


def learned(
    others: Sequence[Row], rows: Sequence[Row], *, with_rules: bool
) -> list[dict[str, float]]:
    """The chances of each cause in `rows` by a classifier that learnt from `others`.

    A training with two illnesses counts half as each.
    """
    names = sorted({name for row in others for name in row.numbers})
    rules = sorted(others[0].claims) if with_rules else []

    def table(of: Sequence[Row]) -> Float[np.ndarray, "rows numbers"]:
        values = [
            [row.numbers.get(name, np.nan) for name in names] + [row.claims[name] for name in rules]
            for row in of
        ]
        # a number that is missing is a sign, too
        return np.nan_to_num(np.array(values), nan=-99.0, posinf=99.0, neginf=-99.0)

    pairs = [
        (place, claim, 1 / len(row.case.claims or (HEALTHY,)))
        for place, row in enumerate(others)
        for claim in (row.case.claims or (HEALTHY,))
    ]
    places, claims, shares = zip(*pairs, strict=True)
    trees = ExtraTreesClassifier(TREES, max_features=0.3, random_state=0)
    trees.fit(table(others)[list(places)], claims, sample_weight=shares)
    chances = trees.predict_proba(table(rows))
    return [dict(zip(trees.classes_, row, strict=True)) for row in chances]


def _named(chances: dict[str, float], limit: float) -> str:
    """The likeliest cause, or healthy."""
    causes = {claim: chance for claim, chance in chances.items() if claim != HEALTHY}
    return max(causes, key=causes.__getitem__) if sum(causes.values()) > limit else HEALTHY


def _show(name: str, rows: Sequence[Row], said: Sequence[str]) -> None:
    sick = [(row, claim) for row, claim in zip(rows, said, strict=True) if row.case.claims]
    well = [claim for row, claim in zip(rows, said, strict=True) if not row.case.claims]
    right = sum(claim in row.case.claims for row, claim in sick)
    other = sum(claim not in (*row.case.claims, HEALTHY) for row, claim in sick)
    alarms = sum(claim != HEALTHY for claim in well)
    print(
        f"{name:<24} right {right / len(sick):>4.0%}  another {other / len(sick):>4.0%}  of "
        f"{len(sick)};  a claim on {alarms / len(well):>4.0%} of {len(well)} healthy"
    )
