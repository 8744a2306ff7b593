"""The double well: crossings against the exact answer in standard errors, and Kramers' line over
three decades."""

import math

import numpy as np
import pytest
import torch

from gradiometer import BadArgument
from gradiometer.measurement import Estimate, Objective
from gradiometer.measurement.uncertainty import weighted_slope
from gradiometer.problems import registry
from gradiometer_lab.closed_forms.double_well import DoubleWell
from gradiometer_lab.temperature.stationary_law import passage_steps

RATE = 0.05


def well_at(barrier_over_temperature: float, rate: float = RATE) -> DoubleWell:
    """A barrier of 1, with noise that gives SGD at this rate and batch size 1 this temperature."""
    return DoubleWell(variance=2 / (barrier_over_temperature * rate))


def standard_errors(found: Estimate, expected: float) -> float:
    """The deviation in standard errors: each end of the 90 % interval of many walkers is 1.645 of
    them away."""
    away = 1 / found.value - 1 / expected
    return abs(away) / ((1 / found.low - 1 / found.high) / (2 * 1.6449))


@pytest.mark.parametrize(("rate", "over"), [(0.05, 2.0), (0.05, 4.0), (0.1, 4.0)])
def test_simulated_crossings_take_the_exact_number_of_steps(rate: float, over: float) -> None:
    well = well_at(over, rate)
    found = well.crossing_steps(rate, 1, walkers=600, steps=9_000, seed=1)
    assert standard_errors(found, well.exact_steps(rate, 1)) < 4
    assert found.high / found.low < 1.2


def test_at_low_temperature_and_rate_the_exact_time_is_that_of_kramers() -> None:
    """π/(2√2 η) · exp(ΔL/T)(1 + 3T/8) for ΔL = w = 1: the factor with T is of Kramers'
    next order."""
    for over, tolerance in ((5, 0.03), (8, 0.015), (12, 0.007)):
        without = math.pi / (2 * math.sqrt(2)) * math.exp(over) / 0.005
        exact = well_at(over, 0.005).exact_steps(0.005, 1)
        assert exact == pytest.approx(without * (1 + 3 / (8 * over)), rel=tolerance)
    assert (
        well_at(8, 0.005).exact_steps(0.005, 1)
        > 1.03 * math.pi / (2 * math.sqrt(2)) * math.exp(8) / 0.005
    )


def test_the_passage_of_a_walker_in_a_bowl_is_the_known_integral() -> None:
    steps = passage_steps(lambda x: x, 1e-3, 1.0, start=0.0, end=1.0, lowest=-8.0)
    # ∫ exp(y²/2) ∫ exp(−z²/2) of the Ornstein-Uhlenbeck process, with the end 0.5826 step widths
    # further away
    late = 1 + 0.5826 * math.sqrt(2e-3)
    grid = np.linspace(-8, late, 40_001)
    inner = np.cumsum(np.exp(-(grid**2) / 2)) * (grid[1] - grid[0])
    expected = np.sum((np.exp(grid**2 / 2) * inner)[grid >= 0]) * (grid[1] - grid[0])
    assert steps * 1e-3 == pytest.approx(expected, rel=3e-3)


@pytest.mark.nightly
def test_crossings_over_three_decades_take_the_exact_number_of_steps() -> None:
    rate, walkers = 0.025, 4000
    for place, over in enumerate((5.0, 6.5, 8.0, 10.0, 12.0)):
        well = well_at(over, rate)
        exact = well.exact_steps(rate, 1)
        steps = int(exact * (1500 if over < 9 else 80) / walkers)
        found = well.crossing_steps(rate, 1, walkers=walkers, steps=steps, seed=place)
        assert standard_errors(found, exact) < 4


def test_the_interval_of_a_slope_through_estimates_covers() -> None:
    draw, places, covered = np.random.default_rng(0), [0.0, 1.0, 3.0], 0
    errors = np.array([0.1, 0.3, 0.2])
    for _ in range(2000):
        values = 2.0 * np.array(places) + 1 + draw.standard_normal(3) * errors
        points = [
            Estimate.interval(
                v, v - 1.6449 * e, v + 1.6449 * e, level=0.9, method="Gauss", samples=9
            )
            for v, e in zip(values, errors, strict=True)
        ]
        found = weighted_slope(places, points)
        covered += found.low <= 2.0 <= found.high
    assert 0.88 < covered / 2000 < 0.92


def test_the_double_well_is_a_problem_by_name_whose_gradient_is_the_one_written_out() -> None:
    problem = registry.load("double-well", seed=1)
    objective = Objective(problem.model(), problem.loss)
    with torch.no_grad():
        objective.parameters[0].fill_(0.7)
    batch = problem.train.batch(torch.arange(len(problem.train)))
    (gradient,), well = objective.gradient(batch), DoubleWell()
    assert gradient.item() == pytest.approx(well.gradient(np.array([0.7])).item(), rel=1e-12)
    (each,) = objective.per_example_gradients(batch)
    assert each.var().item() == pytest.approx(1.0, abs=4 * math.sqrt(2 / 1000))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DoubleWell().exact_steps(0.25, 1), "between 0 and 2/curvature = 0.25, got 0.25"),
        (
            lambda: DoubleWell().temperature(-1.0, 1),
            "`learning_rate` must be positive and finite, got -1.0",
        ),
        (
            lambda: DoubleWell().crossing_steps(0.01, 8, walkers=9, steps=50),
            "9 walkers made 0 crossings",
        ),
        (
            lambda: DoubleWell().crossing_steps(0.24, 1, walkers=99, steps=999),
            "made a walker diverge",
        ),
        (lambda: DoubleWell().exact_steps(1e-8, 1), "steps too short for an exact solution"),
        (
            lambda: weighted_slope([1.0, 1.0], [Estimate.exact(1.0)] * 2),
            "at least two different places",
        ),
        (
            lambda: weighted_slope([1.0, 2.0], [Estimate.exact(1.0)] * 2),
            "intervals of finite width, got 0",
        ),
    ],
)
def test_bad_arguments_raise(build, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        build()
