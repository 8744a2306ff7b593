"""Coverage of the intervals of `sample`, on a conjugate Gaussian, in hundreds of runs at once.

The mean of a Gaussian of variance 1, with a Gaussian prior: exp(−U/T) is N(x̄/(1 + λ), T/(N(1 +
λ))). Each run is one parameter group of one sampler, with its own heat and batches. The estimates
are made by the code that `sample` uses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import nn

from gradiometer.exploration.chains import sample
from gradiometer.exploration.samplers import SGHMC, SGLD, SGNHT
from gradiometer.measurement import Estimate
from gradiometer_lab.chains.mixing import size_of_one, size_of_slowest
from gradiometer_lab.chains.sampling import Moment
from gradiometer_lab.samplers.sampler import Sampler
from gradiometer_lab.temperature.equipartition import Virial

EXAMPLES, BATCH_SIZE, DIMENSION, DECAY, TEMPERATURE = 200, 100, 8, 0.25, 2.0
DATA = torch.randn(
    EXAMPLES, DIMENSION, generator=torch.Generator().manual_seed(5), dtype=torch.float64
)
MEAN = DATA.mean(0) / (1 + DECAY)
SPREAD = math.sqrt(TEMPERATURE / (EXAMPLES * (1 + DECAY)))
STEPS, EVERY, RUNS = 480, 4, 600
WITHIN = (0.87, 0.93)
"""Accepted coverage over all parameters of all runs."""
OF_RUNS = (0.9 - 3 * math.sqrt(0.09 / RUNS), 0.9 + 3 * math.sqrt(0.09 / RUNS))
"""Accepted coverage of one number per run: 90 % ± three binomial standard errors."""


@dataclass(frozen=True)
class Coverage:
    """The share of runs whose interval contains the true value."""

    temperature: float
    mean: float
    spread: float
    average: float
    """The mean measured temperature, divided by the one asked for."""


def coverage(kind: Callable[..., Sampler], runs: int, burn_in: int, **settings: Any) -> Coverage:
    """Coverage of the temperature, and of the posterior mean and spread of each parameter."""
    rows = [nn.Parameter(MEAN.clone()) for _ in range(runs)]
    sampler = kind(
        [{"params": [row]} for row in rows],
        examples=EXAMPLES,
        temperature=TEMPERATURE,
        weight_decay=DECAY,
        **settings,
    )
    generator = torch.Generator().manual_seed(1)
    virials, draws = [Virial(row.detach(), STEPS) for row in rows], []
    for step in range(-burn_in, STEPS):
        batches = torch.randint(EXAMPLES, (runs, BATCH_SIZE), generator=generator)
        positions = torch.stack([row.detach() for row in rows])
        gradients = positions - DATA[batches].mean(1)
        for row, gradient in zip(rows, gradients, strict=True):
            row.grad = gradient
        if step >= 0:
            for virial, position, gradient in zip(
                virials, positions, gradients + DECAY * positions, strict=True
            ):
                virial.add(position, gradient)
        sampler.step()
        if step >= 0 and step % EVERY == 0:
            draws.append(torch.stack([row.detach() for row in rows]).numpy())
    temperatures = [virial.temperature(EXAMPLES) for virial in virials]
    moments = [
        [Moment.of(values) for values in run] for run in np.stack(draws, axis=-1).swapaxes(0, 1)
    ]
    return Coverage(
        share(temperatures, TEMPERATURE),
        float(
            np.mean(
                [
                    share([m.mean for m in each], float(truth))
                    for each, truth in zip(moments, MEAN, strict=True)
                ]
            )
        ),
        float(np.mean([share([m.spread for m in each], SPREAD) for each in moments])),
        float(np.mean([each.value for each in temperatures])) / TEMPERATURE,
    )


def share(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([each.low <= truth <= each.high for each in estimates if each.tells]))


def chains_of(times: float, draws: int = 500, chains: int = 100) -> list[Moment]:
    """Autoregressive chains of N(0, 1) that are so many autocorrelation times long."""
    memory = (draws / times - 1) / (draws / times + 1)
    noise = np.random.default_rng(0).standard_normal((draws, chains))
    noise[1:] *= math.sqrt(1 - memory**2)
    return [Moment.of(lfilter([1], [1, -memory], each), every=10) for each in noise.T]


@pytest.mark.parametrize(
    ("times", "least", "most"),
    [(2.5, 0, 2), (5, 0, 5), (10, 0, 15), (80, 90, 100), (500, 100, 100)],
)
def test_a_chain_that_is_short_for_its_correlation_has_no_interval(
    times: float, least: int, most: int
) -> None:
    """With 2.5 autocorrelation times 33 of 100 intervals of means would miss, with 5 of them 27."""
    found = chains_of(times)
    told = [each for each in found if each.mean.tells]
    assert least <= len(told) <= most
    assert all(each.spread.tells == each.mean.tells for each in found)
    wrong = [
        not each.mean.low <= 0 <= each.mean.high or not each.spread.low <= 1 <= each.spread.high
        for each in told
    ]
    assert sum(wrong) <= 26  # two intervals at 90 %


def test_a_slow_direction_that_no_parameter_shows_is_found() -> None:
    """Two parameters are mostly the fast one of two numbers, and little the slow one, of 2.5
    autocorrelation times."""
    noise = np.random.default_rng(1).standard_normal((2, 500))
    fast, slow = noise[0], lfilter([1], [1, -0.99], noise[1] / 10)
    path = torch.from_numpy(np.stack([fast + 0.3 * slow, 0.5 * slow - fast], axis=1))
    alone = [size_of_one(each) for each in path.T.numpy()]
    assert (
        size_of_slowest(list(path)) == pytest.approx(size_of_one(slow), rel=0.5) and min(alone) > 60
    )
    assert size_of_slowest(list(path)) < 15
    assert size_of_slowest(list(path[:19])) == size_of_slowest([]) == math.inf  # too few positions
    assert size_of_slowest([torch.ones(2)] * 40) == math.inf  # nothing moves
    assert not Moment.of(fast, slowest=12.0).mean.tells and Moment.of(fast).mean.tells


@pytest.mark.slow
def test_a_function_of_a_fast_parameter_waits_for_the_slow_one() -> None:
    """Two parameters with curvatures 1 and 0.005: 1,000 steps at η = 0.2 are one relaxation time of
    the second."""
    curvature, data = (
        torch.tensor([1.0, 0.005]),
        torch.randn(50, 2, generator=torch.Generator().manual_seed(0)),
    )

    (found,) = sample(
        lambda: nn.Linear(2, 1, bias=False),
        lambda model, batch: (curvature * (model.weight - batch[0]) ** 2).sum(1) / 2,
        (data,),
        lambda parameters, seed: SGLD(parameters, 0.2, examples=50, seed=seed),
        batch_size=50,
        steps=1000,
        burn_in=100,
        every=4,
        watch={"fast": (lambda model, _: model.weight[0, 0], (data,))},
    )
    fast = found.draws["fast"]
    assert Moment.of(fast).mean.tells and not found.moments["fast"].mean.tells
    assert found.moments["fast"].effective < 20 and size_of_one(fast) > 50


def test_a_short_chain_says_how_many_more_steps_may_do() -> None:
    found = chains_of(5)[0]
    assert str(found) == f"cannot tell: {found.effective:.3g} effective draws, fewer than 30"
    assert found.mean.needed == math.ceil(5000 * (30 / found.effective - 1))
    assert str(chains_of(500)[0]).startswith("mean ") and ", spread " in str(chains_of(500)[0])


def test_the_temperature_of_a_run_is_the_virial_about_its_mean() -> None:
    positions = 3 + torch.randn(
        96, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    gradients = 0.1 * positions.square()
    virial = Virial(positions[0], steps=96)
    for position, gradient in zip(positions, gradients, strict=True):
        virial.add(position, gradient)
    found = virial.temperature(examples=7)
    assert found.value == pytest.approx(
        7 * ((positions - positions.mean(0)) * gradients).mean().item(), rel=1e-12
    )
    assert found.low < found.value < found.high


def test_the_temperature_about_the_mean_is_low_by_the_autocorrelation_time_over_the_steps() -> None:
    """Autoregressive draws of N(0, 1) in 20,000 directions, so that T is 1 to 0.0014."""
    memory, steps = 0.9, 480
    noise = torch.randn(
        steps, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    position, virial = noise[0], Virial(noise[0], steps)
    virial.add(position, position)
    for drawn in noise[1:]:
        position = memory * position + math.sqrt(1 - memory**2) * drawn
        virial.add(position, position)
    time = (1 + memory) / (1 - memory)
    assert virial.temperature(examples=1).value == pytest.approx(1 - time / steps, abs=4 * 0.0014)


class Place(nn.Module):
    """½‖Φ − x‖²."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(MEAN.clone())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (self.place - inputs).square().sum(1) / 2


@pytest.mark.slow
def test_sample_finds_the_temperature_mean_and_spread_of_a_posterior_with_a_prior() -> None:
    (found,) = sample(
        Place,
        lambda model, batch: model(batch[0]),
        (DATA,),
        lambda parameters, seed: SGHMC(
            parameters,
            0.3,
            momentum=0.5,
            examples=EXAMPLES,
            temperature=TEMPERATURE,
            weight_decay=DECAY,
            seed=seed,
        ),
        batch_size=BATCH_SIZE,
        watch={"first": (lambda model, _: model.place[0], (DATA,))},
        burn_in=100,
        steps=1000,
        every=4,
        known={"first": float(MEAN[0])},
        seeds=[3],
    )
    first = found.moments["first"]
    # without the prior it would be a fifth too low
    assert found.kept and found.bounds.high - found.bounds.low < 0.2 * TEMPERATURE
    assert first.known is not None and first.mean.low < first.known < first.mean.high
    assert first.spread.low < SPREAD < first.spread.high


STUDIES = {
    "sgld": (SGLD, 100, {"lr": 0.2}, OF_RUNS),
    "sghmc": (SGHMC, 100, {"lr": 0.3, "momentum": 0.5}, OF_RUNS),
    # A thermostat corrects errors of the very number that is measured, so the mean is more certain
    # than a mean of independent blocks.
    "sgnht": (SGNHT, 300, {"lr": 0.3, "momentum": 0.5, "relaxation": 8}, (0.9, 0.98)),
}


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "burn_in", "settings", "held"), STUDIES.values(), ids=STUDIES)
def test_intervals_of_samplers_cover(
    kind: Callable[..., Sampler],
    burn_in: int,
    settings: dict[str, Any],
    held: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the shape checker, which users do not run
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    found = coverage(kind, RUNS, burn_in, **settings)
    assert held[0] <= found.temperature <= held[1], found
    assert WITHIN[0] <= found.mean <= WITHIN[1], found
    assert WITHIN[0] <= found.spread <= WITHIN[1], found
    # biased low, by the autocorrelation time over the steps
    assert 0.98 <= found.average <= 1, found
