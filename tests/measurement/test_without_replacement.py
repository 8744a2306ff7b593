"""Batches without replacement: exact, over all batches of a tiny training set."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import BadArgument
from gradiometer.drift import CurvatureAlongGradient, StepDrift
from gradiometer.measurement import (
    Draw,
    Gauge,
    Objective,
    Reading,
    Sampling,
    Series,
    TrainingStep,
    supervised,
)

N = 5
SAMPLING = Sampling(Draw.RESHUFFLED, N)


class Tiny:
    """A network of 11 parameters on five examples."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
        self.data = torch.randn(N, 2, dtype=torch.float64), torch.randn(N, 1, dtype=torch.float64)
        loss = supervised(nn.MSELoss(reduction="none"))
        self.objective = Objective(model, lambda model, batch: loss(model, batch).mean(dim=1))
        self.each = torch.stack([self.gradient([place]) for place in range(N)])
        self.mean = self.each.mean(0)

    def batch(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        return self.data[0][chosen], self.data[1][chosen]

    def gradient(self, chosen: list[int]) -> Tensor:
        return torch.cat([part.flatten() for part in self.objective.gradient(self.batch(chosen))])

    def hessian_product(self, vectors: Tensor) -> Tensor:
        step = self.step(list(range(N)))
        return step.graph.products(vectors)

    def step(self, chosen: list[int], *, probe: bool = False) -> TrainingStep:
        """One step, always with the same random division into parts, and with the whole set as its
        probe."""
        judge = (lambda: self.data) if probe else None
        return TrainingStep(
            self.objective,
            self.batch(chosen),
            index=0,
            learning_rate=0.1,
            sampling=SAMPLING,
            probe=judge,
        )

    def over_all_batches(self, gauge: Gauge, size: int, *, probe: bool = False) -> Series:
        batches = [list(chosen) for chosen in permutations(range(N), size)]
        steps = (self.step(chosen, probe=probe) for chosen in batches)
        readings = [
            Reading(gauge.name, place, size, 0.1, gauge.measure(step))
            for place, step in enumerate(steps)
        ]
        return Series.of(readings, SAMPLING)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


def test_the_curvature_along_the_gradient_is_that_of_the_training_set(tiny: Tiny) -> None:
    along = float(tiny.mean @ tiny.hessian_product(tiny.mean[None])[0])
    noise = float((tiny.hessian_product(tiny.each - tiny.mean) * (tiny.each - tiny.mean)).sum()) / N
    gauge = CurvatureAlongGradient()
    series = tiny.over_all_batches(gauge, 2, probe=True)
    train, population = (
        CurvatureAlongGradient(whose).estimate(series) for whose in ("train", "population")
    )
    assert train["gradient_curvature"].value == pytest.approx(along, rel=1e-9)
    assert train["noise_curvature"].value == pytest.approx(noise, rel=1e-9)
    uncorrected = population["gradient_curvature"].value
    assert (
        uncorrected == pytest.approx(along - noise / (N - 1), rel=1e-9)
        and abs(uncorrected / along - 1) > 0.1
    )


def test_the_gradient_that_a_drift_is_relative_to_is_that_of_the_training_set(tiny: Tiny) -> None:
    series = tiny.over_all_batches(StepDrift(), 4)
    moments, signal = series.moments, float(tiny.mean @ tiny.mean)
    noise = float(tiny.each.T.cov().trace())
    assert moments["gradient_variance"].mean() == pytest.approx(noise, rel=1e-9)
    assert moments["gradient_norm_squared"].mean() == pytest.approx(signal - noise / N, rel=1e-9)
    drift = moments["drift"].mean() + moments["drift_variance"].mean() / N
    assert StepDrift().estimate(series)["step_drift"].value == pytest.approx(
        drift / signal, rel=1e-9
    )
    assert moments["drift_variance"].mean() > 0


def test_a_drift_judged_by_independent_examples_needs_no_correction(tiny: Tiny) -> None:
    series = tiny.over_all_batches(StepDrift(), 2, probe=True)
    assert (
        not series.moments["drift_variance"].any() and not series.moments["gradient_variance"].any()
    )


def test_the_size_of_the_training_set_must_be_known() -> None:
    moments = {"gradient_curvature": np.ones(5), "noise_curvature": np.ones(5)}
    steps = np.arange(5)
    series = Series("x", steps, np.full(5, 4), np.ones(5), moments, Sampling(Draw.RESHUFFLED))
    with pytest.raises(BadArgument, match="training set of unknown size"):
        CurvatureAlongGradient().estimate(series)
    assert CurvatureAlongGradient("population").estimate(series)["gradient_curvature"].value == 1.0
