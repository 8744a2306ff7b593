"""The thermometer on a quadratic: the temperature of the exact law, in standard errors, and
intervals that cover."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gradiometer.exploration.temperature import Temperature
from gradiometer.measurement import Estimate, Objective, Series, TrainingStep
from gradiometer.measurement.motion import Motion
from gradiometer_lab.closed_forms import Quadratic
from gradiometer_lab.closed_forms.quadratic import output_losses
from gradiometer_lab.temperature.stationary_law import (
    SGDRule,
    configurational_temperature,
    small_rate_temperature,
)
from gradiometer_lab.temperature.thermometer import heat_balance
from thermometer import INDEPENDENT, Sgd

QUADRATIC = Quadratic([1.0, 0.3], [1.0, 2.0])


def simulated(
    sgd: Sgd, chains: int, steps: int, seed: int, injected: float = 0.0, burn_in: int = 150
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Moments along stationary chains on the quadratic, [steps, chains], and the tensors behind
    them.

    A batch of 4 fresh examples has the noise N(0, Σ/4), and its halves differ by N(0, Σ),
    independent of their mean.
    """
    draw, spread = np.random.default_rng(seed), np.sqrt(np.diag(QUADRATIC.noise))
    here, velocity = np.zeros((chains, 2)), np.zeros((chains, 2))
    mu, rate = sgd.momentum, sgd.rate
    kept: dict[str, list[np.ndarray]] = {"here": [], "gradient": [], "velocity": [], "apart": []}
    for step in range(burn_in + steps):
        gradient = here @ QUADRATIC.curvature + draw.standard_normal((chains, 2)) * spread / 2
        if step >= burn_in:
            apart = draw.standard_normal((chains, 2)) * spread
            for name, values in zip(kept, (here, gradient, velocity, apart), strict=True):
                kept[name].append(values)
        velocity = mu * velocity + gradient
        here = here - rate * (gradient + mu * velocity if sgd.nesterov else velocity)
        if injected:
            here = here + math.sqrt(2 * rate * injected) * draw.standard_normal((chains, 2))
    parts = {name: np.stack(values) for name, values in kept.items()}
    here, gradient, velocity = (parts[name] for name in ("here", "gradient", "velocity"))
    reach = rate * sgd.gauge.reach
    moments = {
        "configurational": here * gradient,
        "kick": rate / (2 * (1 - mu)) * gradient**2 + reach * velocity * gradient,
        "noise": parts["apart"] ** 2,
        "distance": (here - reach * velocity) ** 2,
        "parameters": np.ones_like(here),
    }
    return {name: values.sum(2) for name, values in moments.items()}, parts


def series_of(moments: dict[str, np.ndarray], chain: int, rate: float) -> Series:
    steps = len(moments["kick"])
    of_chain = {name: values[:, chain, None] for name, values in moments.items()} | {
        "origin": np.zeros(steps)
    }
    return Series(
        "temperature",
        np.arange(steps),
        np.full(steps, 4),
        np.full(steps, rate),
        of_chain,
        INDEPENDENT,
    )


KINDS = pytest.mark.parametrize(
    "sgd",
    [Sgd(0.6), Sgd(0.2, 0.7), Sgd(0.2, 0.7, nesterov=True)],
    ids=["plain", "heavy ball", "nesterov"],
)


@KINDS
def test_simulated_moments_are_those_the_gauge_measures(sgd: Sgd) -> None:
    moments, parts = simulated(sgd, chains=2, steps=6, seed=1)
    objective = Objective(QUADRATIC.problem(8).model(), output_losses)
    for step in range(6):
        here, gradient, velocity = (
            torch.from_numpy(parts[name][step, 1]) for name in ("here", "gradient", "velocity")
        )
        with torch.no_grad():
            objective.parameters[0].copy_(here)
        caught = TrainingStep(
            objective,
            torch.zeros(4, 2, dtype=torch.float64),
            index=step,
            learning_rate=sgd.rate,
            sampling=INDEPENDENT,
            gradient=[gradient],
            motion=Motion([torch.zeros(2, dtype=torch.float64)], 0, [velocity]),
        )
        measured = sgd.gauge.measure(caught)
        for name in ("configurational", "kick", "distance"):
            assert measured[name] == pytest.approx(
                [moments[name][step, 1]], rel=1e-10, abs=1e-14
            ), name


@pytest.mark.parametrize(
    ("sgd", "injected"),
    [(Sgd(0.6), 0.0), (Sgd(0.2, 0.7), 0.0), (Sgd(0.2, 0.7, nesterov=True), 0.0), (Sgd(0.6), 0.5)],
    ids=["plain", "heavy ball", "nesterov", "a sampler's noise"],
)
def test_on_a_quadratic_the_temperature_is_that_of_the_exact_law(sgd: Sgd, injected: float) -> None:
    moments, _ = simulated(sgd, chains=400, steps=200, seed=2, injected=injected)
    noise = QUADRATIC.noise / 4 + 2 * injected / sgd.rate * np.eye(2)
    law = Quadratic(QUADRATIC.curvature, noise).stationary_covariance(
        sgd.rate, 1, sgd.momentum, nesterov=sgd.nesterov
    )
    exact = configurational_temperature(QUADRATIC.curvature, law)
    minibatch = small_rate_temperature(3.0, 2, SGDRule(sgd.rate, 4, sgd.momentum))
    chains = replace(series_of(moments, 0, sgd.rate), moments=moments | {"origin": np.zeros(200)})
    # a chain in place of a layer
    balance = heat_balance(chains, momentum=sgd.momentum, injected=injected)
    expected = {
        "heat": exact,
        "configurational": exact,
        "minibatch": minibatch,
        "step": exact - minibatch - injected,
        "injected": injected,
        "drift": 0.0,
        "residual": 0.0,
    }
    for name, value in expected.items():
        of_chains = getattr(balance, name).mean(0) / 2
        error = of_chains.std() / math.sqrt(400)
        assert abs(of_chains.mean() - value) < 4 * error + 1e-12, name
        assert error < 0.02 * exact, name  # small enough to show a mistake
    assert injected or np.abs(balance.residual).max() < 1e-10
    found = Temperature(sgd.momentum, sgd.nesterov, injected=injected).estimate(
        series_of(moments, 0, sgd.rate)
    )
    assert found["temperature"].value == pytest.approx(balance.heat[:, 0].mean() / 2)
    assert (
        found["temperature_injected"] == Estimate.exact(injected, unit="loss")
        and "forgotten_curvature" not in found
    )


def test_with_clipped_gradients_the_temperature_is_that_of_the_parameters() -> None:
    """96 equal directions, with gradients clipped to half: the balance of the clipped gradient
    would give half of T."""
    chains, dimension, rate, steps = 60, 96, 0.1, 300
    draw, here = np.random.default_rng(7), np.zeros((chains, dimension))
    kept: dict[str, list[np.ndarray]] = {
        name: [] for name in ("configurational", "kick", "distance", "factor")
    }
    for step in range(steps + 100):
        gradient = here + draw.standard_normal((chains, dimension))
        length = np.linalg.norm(gradient, axis=1)
        factor = np.minimum(1, 0.5 * math.sqrt(dimension) / length)
        if step >= 100:
            kept["configurational"].append((here * gradient).sum(1))
            kept["kick"].append(rate * factor * length**2 / 2)
            kept["distance"].append((here**2).sum(1))
            kept["factor"].append(factor)
        here = here - rate * factor[:, None] * gradient
    moments = {name: np.stack(values) for name, values in kept.items()}
    spread = np.full(steps, 4.0 * dimension)  # tr Σ, for noise of 1 per direction in a batch of 4
    heat, inside = [], []
    for chain in range(chains):
        of_chain = {
            name: moments[name][:, chain, None] for name in ("configurational", "kick", "distance")
        }
        of_chain |= {
            "noise": spread[:, None],
            "parameters": np.full((steps, 1), dimension),
            "origin": np.zeros(steps),
        }
        of_chain["factor"] = moments["factor"][:, chain]
        settings = (
            np.arange(steps),
            np.full(steps, 4),
            np.full(steps, rate),
            of_chain,
            INDEPENDENT,
        )
        balance = heat_balance(Series("temperature", *settings))
        assert np.abs(balance.residual).max() < 1e-10
        assert balance.minibatch.mean() == pytest.approx(
            rate * moments["factor"][:-1, chain].mean() * dimension / 2
        )
        heat.append(balance.heat.mean() / dimension)
        inside.append(balance.configurational.mean() / dimension)
    exact = moments["distance"].mean(0) / dimension  # equipartition, at curvature one
    error = np.std(inside - exact) / math.sqrt(chains)
    assert abs(np.mean(inside) - exact.mean()) < 4 * error and error < 0.01 * exact.mean()
    assert np.mean(heat) == pytest.approx(exact.mean(), rel=0.01)


@pytest.mark.nightly
@KINDS
def test_nine_in_ten_intervals_contain_the_temperature_of_the_exact_law(sgd: Sgd) -> None:
    law = QUADRATIC.stationary_covariance(sgd.rate, 4, sgd.momentum, nesterov=sgd.nesterov)
    exact = configurational_temperature(QUADRATIC.curvature, law)
    minibatch = small_rate_temperature(3.0, 2, SGDRule(sgd.rate, 4, sgd.momentum))
    expected = {
        "temperature": exact,
        "temperature_configurational": exact,
        "temperature_minibatch": minibatch,
        "temperature_step": exact - minibatch,
    }
    moments, _ = simulated(sgd, chains=1200, steps=600, seed=5)
    found = [sgd.gauge.estimate(series_of(moments, chain, sgd.rate)) for chain in range(1200)]
    for name, value in expected.items():
        covered = np.mean([each[name].low <= value <= each[name].high for each in found])
        # Drift away is followed by drift back: readings of T_conf are anticorrelated, and its
        # interval is too wide.
        assert 0.87 <= covered <= (0.96 if name == "temperature_configurational" else 0.93), (
            name,
            covered,
        )
