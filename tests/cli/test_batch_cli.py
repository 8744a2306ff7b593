"""`gradiometer measure batch`: of a run, of a problem, in words and as JSON, and what
it refuses."""

import io
import json
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from gradiometer import BadArgument, Diverged, Run, RunNotFound
from gradiometer.cli import gradiometer
from gradiometer.cli.measure.batch import _choices, _table, batch
from gradiometer.estimation.batch_table import BatchRow, BatchTable
from gradiometer.loop import forks_of
from gradiometer.measurement import Estimate
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train

QUICK = ("--seconds", "0.01")


def called(*arguments: str) -> Result:
    """The verb in this process; an error of ours is raised."""
    return CliRunner().invoke(batch, arguments, standalone_mode=False, catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of 360 steps, every one of them measured."""
    configuration = Configuration(model="mlp", epochs=8, every=1, accumulation=2, learning_rate=0.2)
    return str(
        train(load("digits", model="mlp"), configuration, tmp_path_factory.mktemp("runs")).path
    )


@pytest.mark.slow
def test_every_batch_size_of_a_run_has_factors_with_intervals(run: str) -> None:
    told = json.loads(called(run, "--json", *QUICK).stdout)
    assert [row["batch_size"] for row in told["rows"]] == [2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert (
        told["batch_size"] == 32 and told["learning_rate"] == 0.2 and len(told["noise_scale"]) == 1
    )
    for row in told["rows"]:
        for name in ("learning_rate", "updates", "examples", "time"):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
    updates = [row["updates"]["value"] for row in told["rows"]]
    assert updates == sorted(updates, reverse=True) and updates[4] == 1
    assert set(told["step_seconds"]) == {str(row["batch_size"]) for row in told["rows"]}
    assert told["fastest"] and told["cheapest"][0] == 2


def test_the_output_has_the_table_and_the_choices(run: str) -> None:
    """How fast this machine is decides only what is said of the fastest batch."""
    out = called(run, *QUICK).stdout
    assert "To the same loss, relative to the present batch" in out
    assert "now 32" in out and " time" in out and "Fewest examples: B = 2" in out
    assert "noise scale" in out and "a model of SGD" in " ".join(out.split())


def test_the_line_that_measures_a_larger_batch_by_a_fork_can_be_pasted(
    run: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "a run")
    (line,) = [
        line for line in called(str(copy), *QUICK).stdout.splitlines() if "gradiometer fork" in line
    ]
    asked = [*shlex.split(line)[1:], "--horizon", "16 updates", "--replicates", "2"]
    done = CliRunner().invoke(gradiometer, asked, catch_exceptions=False)
    assert done.exit_code == 0 and "batch 2x, rate 1.4" in done.stdout
    assert [record.finished for record in forks_of(Run.open(copy))] == [True]


def interval(value: float, low: float, high: float) -> Estimate:
    return Estimate.interval(value, low, high, level=0.9, method="median of 9", samples=9)


def table_with(times: dict[int, Estimate | None]) -> BatchTable:
    """Three batch sizes, 32 now, with the time that each needs to the same loss."""
    updates = {16: interval(1.8, 1.7, 1.9), 32: Estimate.exact(1.0), 64: interval(0.6, 0.5, 0.7)}
    examples = {size: Estimate.exact(factor) for size, factor in ((16, 0.9), (32, 1.0), (64, 1.2))}
    return BatchTable(
        32, tuple(BatchRow(b, updates[b], updates[b], examples[b], times.get(b)) for b in updates)
    )


NOW = {32: Estimate.exact(1.0)}


@pytest.mark.parametrize(
    ("at_16", "at_64", "sentence"),
    [
        ((1.7, 1.6, 1.8), (0.5, 0.4, 0.6), "Fastest here: B = 64 (0.50 [0.40, 0.60] of the time)."),
        (
            (0.55, 0.45, 0.7),
            (0.5, 0.4, 0.6),
            "B = 64 (0.50 [0.40, 0.60] of the time); possibly as fast: 16.",
        ),
        (
            (1.7, 1.6, 1.8),
            (0.9, 0.7, 1.1),
            "No other batch size is clearly faster on this machine.",
        ),
        ((1.7, 1.6, 1.8), (1.3, 1.2, 1.4), "Fastest here: B = 32 (the present one)."),
    ],
)
def test_a_sentence_names_the_fastest_batch(at_16: tuple, at_64: tuple, sentence: str) -> None:
    fastest, cheapest = _choices(table_with({16: interval(*at_16), 64: interval(*at_64)} | NOW))
    assert fastest.endswith(sentence)
    assert cheapest == "Fewest examples: B = 16."


def test_without_times_only_the_fewest_examples_are_named() -> None:
    assert _choices(table_with({})) == ["Fewest examples: B = 16."]


def test_no_cell_of_the_table_is_cut_off_at_80_columns() -> None:
    times = {16: interval(0.0001234, 0.00001234, 0.001234), 64: interval(12340.0, 1234.0, 123400.0)}
    drawn = io.StringIO()
    Console(width=80, file=drawn).print(_table(table_with(times | NOW)))
    assert "[1,200, 120,000]" in drawn.getvalue() and "…" not in drawn.getvalue()


def test_without_measuring_time_no_problem_is_loaded_and_no_time_is_printed(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradiometer.train.training.problem_for", None)  # calling it would fail
    told = json.loads(called(run, "--json", "--seconds", "0").stdout)
    assert told["fastest"] == [] and told["step_seconds"] == {}
    assert all(row["time"] is None for row in told["rows"])
    assert "Fastest" not in called(run, "--seconds", "0").stdout


def test_the_whole_run_and_now_differ_if_the_noise_scale_grew(run: str) -> None:
    path, now = (
        json.loads(called(run, "--json", "--seconds", "0", "--of", of).stdout)
        for of in ("run", "now")
    )
    assert len(now["noise_scale"]) == 1
    assert now["rows"][-1]["updates"]["value"] != path["rows"][-1]["updates"]["value"]


@pytest.mark.slow
def test_a_problem_is_trained_briefly_and_measured_at_the_end() -> None:
    arguments = (
        "digits",
        "--steps",
        "220",
        "--set",
        "learning_rate=0.2",
        "--set",
        "accumulation=2",
        "--json",
        *QUICK,
    )
    told = json.loads(called(*arguments).stdout)
    assert told["subject"] == "digits (mlp) after 220 steps"
    assert told["noise_scale"][0]["samples"] == 200 and told["learning_rate"] == 0.2
    assert json.loads(called(*arguments).stdout)["rows"][0]["updates"] == told["rows"][0]["updates"]


def test_a_given_level_is_that_of_every_interval(run: str) -> None:
    told = json.loads(called(run, "--json", "--set", "level=0.8", "--seconds", "0").stdout)
    assert {estimate["level"] for estimate in told["noise_scale"]} == {0.8}


def test_wrong_arguments_of_the_batch_verb_are_refused(run: str, tmp_path: Path) -> None:
    with pytest.raises(
        BadArgument,
        match=(
            "`--set` batch_size cannot be changed for a run: leave it out, or give a problem "
            "instead"
        ),
    ):
        called(run, "--set", "batch_size=64")
    with pytest.raises(BadArgument, match="`level` must lie between 0 and 1, got nan"):
        called(run, "--set", "level=nan")
    with pytest.raises(RunNotFound, match="is not a run folder"):
        called(str(tmp_path / "nowhere"))
    with pytest.raises(BadArgument, match="did you mean digits"):
        called("didgits")
    with pytest.raises(BadArgument, match="so a step has no spread"):
        called("digits", "--set", "batch_size=1")


def test_a_run_without_readings_is_refused(tmp_path: Path) -> None:
    configuration = Configuration(model="mlp", epochs=1, budget=0.0)
    path = train(load("digits", model="mlp"), configuration, tmp_path).path
    with pytest.raises(
        BadArgument, match="has no readings of the noise: train with a `budget` above 0"
    ):
        called(str(path))


def test_a_brief_training_that_diverges_raises() -> None:
    with pytest.raises(
        Diverged, match=r"diverged at step .* with learning rate 10000: .*; try a smaller --lr"
    ):
        called("digits", "--steps", "200", "--set", "learning_rate=1e4")
