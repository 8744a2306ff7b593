"""A method that knows how the noise scale drifts and estimates only its size: its errors are those
of the readings."""

import math
from collections.abc import Callable

import numpy as np

from gradiometer import Estimate
from gradiometer.measurement.uncertainty import mean
from gradiometer.measurement.uncertainty.means import finite_samples
from noise.scores import COUNTS, Case, Runs, Score, curve, row, scored

WIDENED = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
"""Factors on the standard error. The one with the best score is taken, after the fact."""

OTHERS = np.array([1.0] * 7 + [0.0] + [1.0] * 7)
"""The neighbours by whose mean size a reading is divided: without itself, which would bias it."""


def nearby(readings: np.ndarray) -> np.ndarray:
    """The mean size of the neighbours of each reading."""
    return np.convolve(np.abs(readings), OTHERS, "same") / np.convolve(
        np.ones(len(readings)), OTHERS, "same"
    )


def oracle(runs: Runs, widened: float) -> Callable[[Case], Estimate]:
    """The estimate of a case from ‖g‖² over tr Σ of all its readings, each divided by the true
    drift since then."""
    curves = {name: curve(run) for name, run in runs.items()}

    def estimate(case: Case) -> Estimate:
        assert case.denominator is not None
        steps, logs = curves[case.network]
        drift = np.exp(np.interp(case.steps, steps, logs)) * case.truth
        sizes = np.sqrt(nearby(case.numerator) * nearby(case.denominator))
        units = case.numerator * drift / sizes
        values = case.denominator / sizes
        inverse = values.sum() / units.sum()
        residual = mean(finite_samples((values - inverse * units) / units.mean(), "residual"))
        error = widened * (residual.high - residual.low) / 2
        low, high = inverse - error, inverse + error
        ends = (1 / high if high > 0 else math.inf), (1 / low if low > 0 else math.inf)
        value = 1 / inverse if inverse > 0 else math.inf
        return Estimate.interval(value, *ends, level=0.9, method="oracle", samples=len(values))

    return estimate


def oracle_rows(runs: Runs, cases: list[Case]) -> list[str]:
    """Rows of the table of scores."""
    rows, everything = [], list[Score]()
    for count in COUNTS:
        some = [case for case in cases if len(case.steps) == count]
        tried = [
            [scored(case, oracle(runs, widened)(case)) for case in some] for widened in WIDENED
        ]
        best = min(
            tried, key=lambda scores: float(np.mean([score.interval_score for score in scores]))
        )
        rows.append(f"| knows the drift | {count} | {row(best)} |")
        everything += best
    return [*rows, f"| knows the drift | all | {row(everything)} |"]
