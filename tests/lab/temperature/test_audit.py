"""The audit finds samplers at a wrong temperature, wrong by as much as theory says."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from gradiometer import BadArgument, Diverged
from gradiometer.exploration.samplers import SGHMC, SGLD, SGNHT
from gradiometer.exploration.temperature import Audit, audit
from gradiometer_lab.temperature.stationary_law import SGDRule, stationary_covariance

CURVATURES = (0.3, 1.0, 3.0)
NAN = math.nan


def langevin(
    params: Tensor, gradient, generator: torch.Generator, *, rate: float, temperature: float
) -> Tensor:
    """Plain Langevin dynamics, Φ − ηĝ + √(2ηT)ξ, at a temperature of T/(1 − ηh/2) along curvature
    h."""
    noise = torch.randn(params.shape, dtype=params.dtype, generator=generator)
    return params - rate * gradient(params) + math.sqrt(2 * rate * temperature) * noise


class Langevin(torch.optim.Optimizer):
    """The same as an optimizer, in posterior units, with torch's global generator."""

    def __init__(self, params, lr: float, examples: int) -> None:
        super().__init__(params, {"lr": lr, "examples": examples})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                noise = torch.randn_like(param) * math.sqrt(2 * group["lr"] / group["examples"])
                param.add_(noise - group["lr"] * param.grad)


def in_standard_errors(found: Audit, expected: list[float]) -> float:
    """The largest deviation over the directions. The interval is Student's at 90 %, with many
    copies."""
    return max(
        abs(each.value - value) / ((each.high - each.low) / (2 * 1.67))
        for (_, each), value in zip(found.by_curvature, expected, strict=True)
    )


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_sgd_runs_at_the_temperature_of_the_exact_law(momentum: float) -> None:
    rate, noise = 0.3 * (1 - momentum), 5.0
    asked = rate * noise / (2 * (1 - momentum))
    make = partial(torch.optim.SGD, lr=rate, momentum=momentum)
    found = audit(make, temperature=asked, noise=noise, curvatures=CURVATURES, steps=1200)
    h = np.array(CURVATURES)
    law = stationary_covariance(np.diag(h), noise * np.eye(len(h)), SGDRule(rate, 1, momentum))
    exact = (h * np.diag(law)).tolist()
    assert in_standard_errors(found, exact) < 4
    assert (
        found.settled and found.temperature.low <= np.mean(exact) <= found.temperature.high * 1.01
    )


def test_a_plain_langevin_sampler_is_too_hot_by_its_finite_step() -> None:
    step = partial(langevin, rate=0.3, temperature=2.0)
    found = audit(step, temperature=2.0, curvatures=CURVATURES, steps=1200)
    assert in_standard_errors(found, [2.0 / (1 - 0.15 * h) for h in CURVATURES]) < 4
    assert not found.keeps and found.ratio.low > 1.1
    assert "it runs at 2.6" in str(found) or "it runs at 2.7" in str(found)


def test_a_sampler_in_posterior_units_gets_the_gradient_of_the_mean_loss() -> None:
    make = partial(Langevin, lr=100 * 0.02, examples=100)
    found = audit(make, examples=100, curvatures=CURVATURES, steps=3000)
    assert in_standard_errors(found, [1 / (1 - 0.01 * h) for h in CURVATURES]) < 4
    hotter = audit(make, examples=100, curvatures=CURVATURES, steps=3000, noise=0.01)
    # T_minibatch = ηN tr Σ/(2Bd)
    expected = [(1 + 2.0 * 0.01 * 100 / 2) / (1 - 0.01 * h) for h in CURVATURES]
    assert in_standard_errors(hotter, expected) < 4 and hotter.ratio.low > 1.5


@pytest.mark.slow
def test_our_samplers_keep_the_temperature_asked_for() -> None:
    rate, examples, of_curvature = 5.0, 100, np.array([1 / (1 - 0.025 * h) for h in CURVATURES])
    settings = {"examples": examples, "curvatures": CURVATURES, "steps": 2000, "copies": 100}
    held = audit(
        partial(SGLD, lr=rate, examples=examples, temperature=2.0), temperature=2.0, **settings
    )
    # It corrects for finite steps in the mean over directions; the differences between directions
    # remain.
    assert in_standard_errors(held, list(2 * of_curvature / of_curvature.mean())) < 4
    assert held.ratio.low > 0.96 and held.ratio.high < 1.04
    as_published = audit(partial(SGLD, lr=rate, examples=examples, hold=False), **settings)
    assert in_standard_errors(as_published, list(of_curvature)) < 4 and not as_published.keeps
    for sampler in (SGHMC, SGNHT):
        found = audit(partial(sampler, lr=rate, examples=examples), **settings)
        assert found.ratio.low > 0.96 and found.ratio.high < 1.04, sampler.__name__


def test_an_exact_sampler_keeps_its_temperature_in_nine_of_ten_audits() -> None:
    h = torch.tensor(CURVATURES, dtype=torch.float64).repeat(16)

    def exact(params: Tensor, gradient, generator: torch.Generator) -> Tensor:
        """Autoregressive draws from exp(−U)."""
        fresh = torch.randn(48, dtype=params.dtype, generator=generator) / h.sqrt()
        return 0.9 * params + math.sqrt(1 - 0.81) * fresh

    kept = [
        audit(exact, curvatures=CURVATURES, steps=100, copies=16, seed=seed).keeps
        for seed in range(100)
    ]
    assert 0.82 < np.mean(kept) < 0.98  # 90 % ± 2.7 standard errors


def test_a_sampler_that_has_not_settled_is_reported() -> None:
    frozen = audit(partial(torch.optim.SGD, lr=1e-3), curvatures=CURVATURES, steps=400)
    assert not frozen.settled and "It had not settled" in str(frozen)


def test_the_audit_leaves_torch_s_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()
    audit(partial(Langevin, lr=0.1, examples=1), steps=8)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: audit(partial(torch.optim.SGD, lr=0.1), temperature=NAN),
            "`temperature` must be positive and finite",
        ),
        (
            lambda: audit(partial(torch.optim.SGD, lr=0.1), curvatures=[1.0, -1.0]),
            "`curvatures` must be positive",
        ),
        (
            lambda: audit(partial(torch.optim.SGD, lr=0.1), noise=-1.0),
            "`noise` must be at least 0 and finite, got -1.0",
        ),
        (
            lambda: audit(partial(torch.optim.SGD, lr=0.1), examples=0),
            "`examples` must be at least 1, got 0",
        ),
        (
            lambda: audit(partial(torch.optim.SGD, lr=0.1), steps=1),
            "`steps` must be at least 8, got 1",
        ),
        (
            lambda: audit(partial(torch.optim.SGD, lr=0.1), copies=1),
            "`copies` must be at least 4, got 1",
        ),
        (
            lambda: audit(partial(torch.optim.SGD, lr=0.1), steps=8, burn_in=7),
            "`burn_in` must lie between 0 and",
        ),
        (
            lambda: audit(lambda params, gradient: params),
            "`sampler` must take 1 argument .* got 2 arguments",
        ),
        (
            lambda: audit(lambda params: params),
            "`sampler` must make a torch.optim.Optimizer, got a list",
        ),
    ],
)
def test_invalid_arguments_are_named(build, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        build()


def test_a_sampler_that_diverges_raises() -> None:
    with pytest.raises(Diverged, match="iterates are not finite after"):
        audit(partial(torch.optim.SGD, lr=50.0), curvatures=[1.0], steps=2000)
