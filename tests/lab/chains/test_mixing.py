"""Mixing of known chains, the interval of the mean, the pictures, and the verb that draws them."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gradiometer import BadArgument
from gradiometer.exploration.chains import mixing
from gradiometer.report.charts import save_png
from gradiometer_lab.chains.mixing import rank_counts
from gradiometer_lab.chains.mixing_charts import autocorrelation_chart, rank_chart, trace_chart
from gradiometer_lab.learn.sample import sample

MEMORY = 0.6


def autoregressive(draws: int, chains: int, seed: int = 0) -> np.ndarray:
    """x' = ρx + √(1 − ρ²) ξ from its stationary law N(0, 1): mn(1 − ρ)/(1 + ρ) effective draws."""
    noise = np.random.default_rng(seed).standard_normal((draws, chains))
    values = noise.copy()
    for step in range(1, draws):
        values[step] = MEMORY * values[step - 1] + np.sqrt(1 - MEMORY**2) * noise[step]
    return values


def test_chains_of_one_law_have_mixed_and_their_mean_is_found() -> None:
    (found,) = mixing({"loss": autoregressive(2000, 4)})
    # 1 + (4 − 1)/2000, for 4 steps make a draw
    assert found.mixed and found.rhat.low < 1.0015 < found.rhat.high
    assert found.mean.low < 0 < found.mean.high
    assert "no sign that the chains have not mixed" in str(found)


def test_chains_of_two_laws_have_not_mixed() -> None:
    found = mixing({"loss": autoregressive(2000, 4) + np.array([0, 0, 0, 1.0])})[0]
    assert not found.mixed and found.rhat.value > 1.05 and "the chains have not mixed" in str(found)
    few = mixing({"loss": autoregressive(200, 4)})[0]
    assert not few.mixed and "too few draws to tell if the chains mixed" in str(few)
    scales = mixing({"loss": autoregressive(2000, 4) * np.array([1, 1, 1, 3.0])})[0]
    assert not scales.mixed  # folded ranks see chains of unlike spread


@pytest.mark.parametrize("apart", [0.0, 0.3])
@pytest.mark.nightly
def test_the_interval_of_the_mean_covers_for_mixed_and_unmixed_chains(apart: float) -> None:
    """The interval is for the mean over infinitely many chains, whose levels scatter by `apart`
    about zero."""
    runs, covered = 100, 0
    for seed in range(runs):
        levels = apart * np.random.default_rng(10_000 + seed).standard_normal(6)
        found = mixing({"x": autoregressive(400, 6, seed) + levels})[0]
        covered += found.mean.low <= 0 <= found.mean.high
    assert abs(covered / runs - 0.9) <= 3 * np.sqrt(0.09 / runs)


def test_ranks_are_counted_once_each() -> None:
    counts = rank_counts(autoregressive(1000, 3), bins=20)
    assert counts.sum(0).tolist() == [1000, 1000, 1000] and counts.sum(1).tolist() == [150] * 20
    apart = rank_counts(np.stack([np.arange(10.0), 100 + np.arange(10.0)], axis=1), bins=2)
    assert apart.tolist() == [[10, 0], [0, 10]]


@pytest.mark.parametrize("chains", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_chains_are_drawn(tmp_path: Path, chains: int) -> None:
    draws = autoregressive(100, chains)
    for chart in (
        trace_chart("loss", draws, np.arange(100)),
        rank_chart("loss", draws),
        autocorrelation_chart("loss", draws),
    ):
        assert save_png(chart, tmp_path / "chart.png", "loss").stat().st_size > 5000


@pytest.mark.slow
def test_the_verb_runs_chains_and_draws_them(tmp_path: Path) -> None:
    arguments = [
        "linear-regression",
        "--sampler",
        "sghmc",
        "--lr",
        "0.05",
        "-b",
        "100",
        "--steps",
        "200",
    ]
    more = ["--burn-in", "100", "--chains", "2", "--png", str(tmp_path / "drawn")]
    result = CliRunner().invoke(sample, arguments + more, catch_exceptions=False)
    assert "chain 1, 200 steps after 100" in " ".join(result.output.split())
    assert "train_loss: R-hat" in result.output
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {
        f"{name}_{kind}.png"
        for name in ("train_loss", *(f"slope_{k}" for k in range(1, 6)))
        for kind in ("trace", "ranks", "autocorrelation")
    }
    with pytest.raises(
        BadArgument, match="`--png` compares chains with each other: add --chains 4"
    ):
        CliRunner().invoke(
            sample, ["linear-regression", "--png", str(tmp_path)], catch_exceptions=False
        )


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (
            np.zeros((100, 1)),
            r"`x` must be at least 8 draws of 2 chains, \[draws, chains\], got shape \[100, 1\]",
        ),
        (np.zeros((7, 2)), r"got shape \[7, 2\]"),
        (np.full((9, 2), np.nan), "`x` must be finite: leave out chains that diverged"),
        (np.ones((9, 2)), "`x` must vary, got 1 in every draw"),
    ],
)
def test_bad_draws_are_refused(draws: np.ndarray, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        mixing({"x": draws})
