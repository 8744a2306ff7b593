"""Whether chains have mixed: R-hat and effective sizes against known chains and arviz, and their pictures."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gradiometer.cli.sample import sample
from gradiometer.errors import BadInput
from gradiometer.exploration.mixing import autocorrelations, mixing, rank_counts
from gradiometer.report.charts import save_png
from gradiometer.report.mixing_charts import autocorrelation_chart, rank_chart, trace_chart

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
    assert found.mixed and found.rhat.low < 1.0015 < found.rhat.high  # 1 + (4 − 1)/2000, for 4 steps make a draw
    assert found.mean.low < 0 < found.mean.high
    assert "no sign that they have not mixed" in str(found)


def test_chains_of_two_laws_have_not_mixed() -> None:
    found = mixing({"loss": autoregressive(2000, 4) + np.array([0, 0, 0, 1.0])})[0]
    assert not found.mixed and found.rhat.value > 1.05 and "they have not mixed" in str(found)
    scales = mixing({"loss": autoregressive(2000, 4) * np.array([1, 1, 1, 3.0])})[0]
    assert not scales.mixed  # folded ranks see chains of unlike spread


def test_intervals_of_the_mean_and_of_the_effective_size_cover() -> None:
    expected, runs = 400 * 6 * (1 - MEMORY) / (1 + MEMORY), 30
    found = [mixing({"x": autoregressive(400, 6, seed)})[0] for seed in range(runs)]
    of_mean = sum(each.mean.low <= 0 <= each.mean.high for each in found) / runs
    of_size = sum(each.bulk.low <= expected <= each.bulk.high for each in found) / runs
    assert of_mean >= 0.9 - 3 * np.sqrt(0.09 / runs)
    assert of_size >= 0.9 - 4 * np.sqrt(0.09 / runs)  # the jackknife's, over six chains, covers in 80 to 90 %
    assert np.mean([each.bulk.value for each in found]) == pytest.approx(expected, rel=0.05)


def test_autocorrelations_are_those_of_the_formula() -> None:
    draws = autoregressive(500, 2)
    away = draws - draws.mean(0)
    expected = [(away[lag:] * away[: 500 - lag]).sum(0) / (away**2).sum(0) for lag in range(5)]
    np.testing.assert_allclose(autocorrelations(draws, 5), expected, atol=1e-12)


def test_ranks_are_counted_once_each() -> None:
    counts = rank_counts(autoregressive(1000, 3), bins=20)
    assert counts.sum(0).tolist() == [1000, 1000, 1000] and counts.sum(1).tolist() == [150] * 20
    apart = rank_counts(np.stack([np.arange(10.0), 100 + np.arange(10.0)], axis=1), bins=2)
    assert apart.tolist() == [[10, 0], [0, 10]]


@pytest.mark.parametrize("chains", [2, 7])
def test_chains_are_drawn(tmp_path: Path, chains: int) -> None:
    draws = autoregressive(300, chains)
    for chart in (
        trace_chart("loss", draws, np.arange(300)),
        rank_chart("loss", draws),
        autocorrelation_chart("loss", draws),
    ):
        assert save_png(chart, tmp_path / "chart.png", "loss").stat().st_size > 5000


def test_the_verb_runs_chains_and_draws_them(tmp_path: Path) -> None:
    arguments = ["linear-regression", "--sampler", "sghmc", "--lr", "0.05", "-b", "100", "--steps", "200"]
    more = ["--burn-in", "100", "--chains", "2", "--png", str(tmp_path / "drawn")]
    result = CliRunner().invoke(sample, arguments + more, catch_exceptions=False)
    assert "chain 1, 200 steps after 100" in " ".join(result.output.split())
    assert "train_loss: R-hat" in result.output
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {
        f"train_loss_{kind}.png" for kind in ("trace", "ranks", "autocorrelation")
    }
    with pytest.raises(BadInput, match="`--png` draws chains against one another: add --chains 4"):
        CliRunner().invoke(sample, ["linear-regression", "--png", str(tmp_path)], catch_exceptions=False)


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (np.zeros((100, 1)), r"`x` is of shape \[100, 1\]: at least 8 draws of 2 chains are needed"),
        (np.zeros((7, 2)), r"`x` is of shape \[7, 2\]: at least 8 draws"),
        (np.full((9, 2), np.nan), "`x` must be finite: leave chains out that diverged"),
        (np.ones((9, 2)), "`x` never varies, so there is nothing that could mix"),
    ],
)
def test_draws_that_cannot_be_judged_are_refused_by_name(draws: np.ndarray, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        mixing({"x": draws})
