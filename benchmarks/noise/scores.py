"""Cases with a known value at the newest reading, and the scores of intervals for it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gradiometer import Estimate

COUNTS = (20, 40, 100, 300)
"""Readings, evenly spaced from the first step to the newest."""
PLACES = np.linspace(0.15, 0.95, 15)
"""Where the value is asked for, as a share of the run."""
SMOOTHED = 0.05
"""The truth is of the full passes within this share of the run to both sides."""
WIDEST = math.log(30)
"""Width of an interval that is open, or whose ends are more than 30 apart."""
PER_MISS = 20.0


@dataclass(frozen=True)
class Case:
    """Readings up to a step, and the truth there: of the means over some passes, and of their
    geometric means."""

    network: str
    truth: float
    geometric: float
    steps: np.ndarray
    learning_rate: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray | None = None


@dataclass(frozen=True)
class Score:
    """What an interval is worth: width + 20 × the distance to the truth if it is missed, in
    logarithms."""

    covers: bool
    covers_geometric: bool
    width: float
    interval_score: float
    is_open: bool


Runs = Mapping[str, Mapping[str, np.ndarray]]


def noise_cases(runs: Runs) -> Iterator[Case]:
    """tr Σ over ‖g‖² of every run."""
    for name, run in runs.items():
        for step in _places(run):
            variance, norm_squared = (
                _near(run, "truths", step)[:, 1],
                _near(run, "norms", step)[:, 1],
            )
            truths = (
                variance.mean() / norm_squared.mean(),
                _geometric(variance) / _geometric(norm_squared),
            )
            for chosen in _chosen(np.arange(step + 1)):
                yield Case(name, *truths, *run["readings"][chosen].T)


def curve(run: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the logarithm of ‖g‖² over tr Σ there, of the means within 5 % of the run."""
    steps = run["truths"][:, 0]
    near = [(_near(run, "norms", step)[:, 1], _near(run, "truths", step)[:, 1]) for step in steps]
    return steps, np.log([norms.mean() / variances.mean() for norms, variances in near])


def sharpness_cases(runs: Runs) -> Iterator[Case]:
    """Batch sharpness of the runs that read it."""
    for name, run in runs.items():
        if not len(products := run["sharpness"]):
            continue
        for step in _places(run):
            sharpness = _near(run, "truths", step)[:, 3]
            for chosen in _chosen(np.flatnonzero(products[:, 0] <= step)):
                steps, curvature, norm_squared = products[chosen].T
                rate = run["readings"][steps.astype(int), 1]
                yield Case(
                    name,
                    sharpness.mean(),
                    _geometric(sharpness),
                    steps,
                    rate,
                    curvature,
                    norm_squared,
                )


def temperature_cases(runs: Runs) -> Iterator[Case]:
    """η E‖ĝ‖², to which the temperature of SGD is proportional, of the runs under SGD."""
    for name, run in runs.items():
        if "AdamW" in name or "RMSprop" in name:
            continue
        batch = run["size"][1]
        steps, rate, variance, norm_squared = run["readings"].T
        heat = rate * (norm_squared + variance / batch)
        for step in _places(run):
            norm, noise = _near(run, "norms", step)[:, 1], _near(run, "truths", step)[:, 1] / batch
            truth = rate[step] * (norm.mean() + noise.mean())
            geometric = rate[step] * (_geometric(norm) + _geometric(noise))
            for chosen in _chosen(np.arange(step + 1)):
                yield Case(
                    name,
                    truth,
                    geometric,
                    steps[chosen],
                    rate[chosen],
                    heat[chosen],
                )


def scored(case: Case, estimate: Estimate) -> Score:
    """The score of an estimate."""
    low, high = estimate.low, estimate.high
    width = math.log(high / low) if low > 0 and math.isfinite(high) else math.inf
    if is_open := width > WIDEST:
        high = math.inf
    below = math.log(low / case.truth) if 0 < low < math.inf else 0.0
    above = math.log(case.truth / high) if math.isfinite(high) else 0.0
    miss = max(below, above, 0.0)
    covers, covers_geometric = (low <= truth <= high for truth in (case.truth, case.geometric))
    return Score(covers, covers_geometric, width, min(width, WIDEST) + PER_MISS * miss, is_open)


def row(scores: list[Score]) -> str:
    """Coverage of both truths, interval score, median ratio of the ends, share of
    open intervals."""
    covers, geometric, open_share = (
        np.mean([getattr(each, name) for each in scores])
        for name in ("covers", "covers_geometric", "is_open")
    )
    score = np.mean([each.interval_score for each in scores])
    width = float(np.median([min(each.width, 700.0) for each in scores]))
    ratio = f"{math.exp(width):.1f}" if width <= WIDEST else "open"
    return f"{covers:.2f} | {geometric:.2f} | {score:.2f} | {ratio} | {open_share:.0%}"


def _places(run: Mapping[str, np.ndarray]) -> list[int]:
    return [int(share * len(run["readings"])) for share in PLACES]


def _near(run: Mapping[str, np.ndarray], passes: str, step: int) -> np.ndarray:
    return run[passes][np.abs(run[passes][:, 0] - step) <= SMOOTHED * len(run["readings"])]


def _geometric(values: np.ndarray) -> float:
    return math.exp(float(np.log(values).mean()))


def _chosen(available: np.ndarray) -> Iterator[np.ndarray]:
    """Evenly spaced readings, the newest included, for each count that there is."""
    for count in COUNTS:
        if count <= len(available):
            yield available[np.linspace(0, len(available) - 1, count).round().astype(int)]
