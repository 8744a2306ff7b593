"""The critical batch by branching: known from a made-up law of the loss, with tuned rates and an
interval."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradiometer import BadArgument, Estimate, supervised
from gradiometer.loop import BatchSize, Loop
from gradiometer.loop.branch import Branch, BranchResult
from gradiometer.loop.critical.batch import Cell, CriticalBatch, critical_batch, critical_batch_by
from gradiometer.loop.critical.fit import batch_fit
from gradiometer.loop.readout import Readout

BATCH, HORIZONS = 16, (2_000, 4_000, 8_000)


class Law:
    """Branches whose loss at the best rate is 0.3 + 40 (D/(1 + B/B_c))^-0.6, and whose best rate
    grows as B^power."""

    def __init__(
        self,
        critical: float = 100.0,
        *,
        power: float = 0.2,
        noise: float = 0.0,
        seed: int = 0,
        edge: float = math.inf,
        lower: bool = True,
    ) -> None:
        self.critical, self.power, self.noise, self.seed = critical, power, noise, seed
        self.edge, self.lower, self.tried = edge, lower, list[float]()

    def __call__(self, branches: Sequence[Branch]) -> Iterator[BranchResult]:
        for branch in branches:
            kind = branch.alternative
            assert isinstance(kind, BatchSize)
            batch = BATCH * kind.factor
            enough = branch.horizon / (1 + batch / self.critical)
            off = math.log(kind.rate_factor / (1.5 * kind.factor**self.power))
            key = (
                self.seed,
                branch.replicate,
                branch.horizon,
                int(64 * kind.factor),
                int(1e6 * kind.rate_factor),
            )
            drawn = np.random.default_rng(key).standard_normal()
            loss = 0.3 + 40 * enough**-0.6 * (1 + 0.1 * off**2) + self.noise * drawn
            diverged = kind.rate_factor > self.edge
            readouts = (
                {}
                if diverged
                else {"test_loss": Readout(loss if self.lower else -loss, None, self.lower)}
            )
            self.tried.append(kind.rate_factor)
            yield BranchResult(
                kind.name,
                branch.replicate,
                branch.horizon,
                20,
                branch.horizon,
                1.0,
                (),
                readouts,
                "the loss is nan" if diverged else None,
            )


def measured(law: Law, **settings: object) -> CriticalBatch:
    return critical_batch_by(law, BATCH, HORIZONS, **{"factors": (0.25, 1, 4, 16), **settings})


def test_the_fit_finds_the_law_again() -> None:
    batches, examples = np.repeat([4.0, 16, 64, 256], 3), np.tile([2e3, 4e3, 8e3], 4)
    for critical, power in ((30.0, 0.4), (300.0, 1.2)):
        fit = batch_fit(
            batches, examples, 0.5 + 9 * (examples / (1 + batches / critical)) ** -power
        )
        assert (fit.critical, fit.power) == (
            pytest.approx(critical, rel=0.02),
            pytest.approx(power, rel=0.02),
        )
        assert fit.misfit < 1e-3
        assert fit.loss(64, 4e3) == pytest.approx(
            0.5 + 9 * (4e3 / (1 + 64 / critical)) ** -power, rel=1e-3
        )


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("power", [-0.3, 1.0])
def test_it_is_found_whatever_the_best_rate_does_with_the_batch(power: float, lower: bool) -> None:
    found = measured(Law(power=power, noise=1e-6, lower=lower))
    assert found.estimate.value == pytest.approx(100, rel=0.05)
    assert all(cell.is_bracketed for cell in found.cells)
    for batch, rate in found.best_rates.items():
        assert abs(math.log2(rate / (1.5 * (batch / BATCH) ** power))) <= 0.5 + 1e-9
    assert (found.largest.value, found.tolerance) == (
        pytest.approx(0.2 * found.estimate.value),
        0.2,
    )


def test_its_interval_covers_and_tells_how_little_is_known() -> None:
    found = [measured(Law(noise=2e-3, seed=seed)).estimate for seed in range(10)]
    assert sum(each.low <= 100 <= each.high for each in found) >= 7
    assert np.median([each.high / each.low for each in found]) < 2
    flat = measured(Law(critical=1e6, noise=2e-3)).estimate
    assert flat.high == math.inf and flat.low > 256
    below = measured(Law(critical=2.0, noise=1e-4)).estimate
    assert below.low == 0 and 8 <= below.high < 16


def test_rates_beyond_the_edge_diverge_and_are_not_chosen() -> None:
    found = measured(Law(power=0.5, edge=2.0, noise=1e-6))
    assert max(found.best_rates.values()) <= 2.0
    assert sum(result.diverged is not None for result in found.results) > 0
    assert math.isfinite(found.estimate.value)


def test_a_huge_loss_beside_the_edge_does_not_lower_the_best_loss() -> None:
    cell = Cell(1, 16, 1000, {0.5: np.array([1.1]), 1.0: np.array([1.0]), 2.0: np.array([1e30])})
    assert 0.98 < cell.loss(np.array([0])) < 1.0
    even = Cell(1, 16, 1000, {0.5: np.array([1.2]), 1.0: np.array([1.0]), 2.0: np.array([1.1])})
    assert even.loss(np.array([0])) == pytest.approx(1.0 - 0.1**2 / (8 * 0.3))


def test_batches_with_too_few_updates_are_left_out() -> None:
    found = measured(Law(noise=1e-6))
    assert {(cell.batch_size, cell.horizon) for cell in found.cells if cell.batch_size == 256} == {
        (256, 4_000),
        (256, 8_000),
    }
    assert len(found.results) == sum(len(cell.losses) for cell in found.cells) * 4


def forecast(*ends: float) -> Estimate:
    value, low, high = map(float, ends)
    return Estimate.interval(
        value, low, high, level=0.9, method="Fieller", samples=40, unit="examples"
    )


@pytest.mark.parametrize(
    ("scale", "held"),
    [
        (forecast(110, 90, 130), "held"),
        (forecast(900, 700, 1200), "did not hold"),
        (forecast(190, 90, 400), "open"),
        (forecast(math.inf, 300, math.inf), "open"),
        (None, None),
    ],
)
def test_a_forecast_is_judged_by_a_factor_of_two(scale: Estimate | None, held: str | None) -> None:
    found = measured(Law(noise=1e-5), forecast=scale)
    assert found.held == held
    if held == "held":
        assert found.ratio is not None and found.ratio.value == pytest.approx(1.1, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"horizons": (500,)},
            "`horizons` must give two batches at least two lengths of 12 updates",
        ),
        ({"replicates": 1}, "`replicates` must be at least 2, got 1"),
        ({"tolerance": math.nan}, "`tolerance` must be positive and finite"),
        ({"factors": (1, 1e308)}, "`horizons` must give two batches at least two lengths"),
    ],
)
def test_branchings_that_cannot_show_it_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(BadArgument, match=message):
        critical_batch_by(Law(), BATCH, **{"horizons": HORIZONS, **settings})


def test_a_loop_of_your_own_is_measured_once_and_not_touched(tmp_path: Path) -> None:
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, done = [each.clone() for each in model.parameters()], list[BranchResult]()
    random_state = torch.get_rng_state()
    loss = supervised(torch.nn.MSELoss(reduction="none"))
    loop = Loop(model, optimizer, loss=loss, batches=(inputs, inputs.sum(dim=1)), batch_size=2)
    given: dict[str, Any] = {
        "factors": [0.5, 1],
        "replicates": 2,
        "out": tmp_path,
        "progress": done.append,
    }
    found = critical_batch(loop, horizon="24 updates", **given)
    assert all((now == then).all() for now, then in zip(model.parameters(), before, strict=True))
    assert (torch.get_rng_state() == random_state).all()
    assert sorted(found.best_rates) == [1, 2] and {cell.horizon for cell in found.cells} == {
        12,
        24,
        48,
    }
    (ledger,) = (tmp_path / "forks").glob("critical-*.jsonl")
    assert len(ledger.read_text(encoding="utf-8").splitlines()) == len(done) == len(found.results)
    with pytest.raises(
        BadArgument, match="`horizon` is 40 examples, too few for two lengths of 12 updates"
    ):
        critical_batch(loop, horizon="20 updates", **given)
    for factors, message in (
        ([2, 2], r"`factors` must be at least two different multiples of the batch, got \[2, 2\]"),
        ([1, -2], "`factors` must be positive and finite, got -2"),
        ([1, math.nan], "`factors` must be positive and finite, got nan"),
    ):
        with pytest.raises(BadArgument, match=message):
            critical_batch(loop, **{**given, "factors": factors})


def test_losses_that_cannot_be_fitted_are_refused() -> None:
    with pytest.raises(BadArgument, match="`losses` must be at least four"):
        batch_fit(np.ones(5), np.arange(1.0, 6), np.ones(5))
