"""The critical batch of a run by branching: measured, kept on disk, and compared with the noise
scale there."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from forked_run import critical_batch_of
from gradiometer import BadArgument, Run
from gradiometer.cli.measure.batch import batch
from gradiometer.jobs.pool import Here
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train
from gradiometer.train.batch_comparison import noise_scale_at


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    configuration = Configuration(
        problem="quadratic", batch_size=4, epochs=1, every=8, learning_rate=0.1
    )
    return train(load("quadratic"), configuration, tmp_path_factory.mktemp("runs"))


def test_the_forecast_is_the_noise_scale_of_that_step(run: Run) -> None:
    early, late = noise_scale_at(run, 100), noise_scale_at(run, 500)
    assert early is not None and late is not None
    assert early.samples < late.samples
    assert noise_scale_at(run, -1) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"at": 500}, "`at` 500 is the end of the run"),
        (
            {"at": 480},
            "`horizon` is 20 examples, too few for two lengths of 12 updates with two batches: "
            "give at least 96",
        ),
        (
            {"at": 400, "horizon": "900 examples"},
            "`horizon` is 900 examples, and 400 are left of the training",
        ),
        ({"at": 0, "replicates": 1}, "`replicates` must be at least 2, got 1"),
    ],
)
def test_what_a_run_cannot_show_is_refused(
    run: Run, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(BadArgument, match=message):
        critical_batch_of(run, **settings)


def test_a_pool_that_is_given_stays_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Here, "close", lambda _: closed.append("closed"))
    for pool in (Here(), "here"):
        with pytest.raises(BadArgument, match="`replicates`"):  # from inside of the pool
            critical_batch_of(run, at=0, replicates=1, pool=pool)
        assert len(closed) == (pool == "here")


def test_a_problem_has_no_branches() -> None:
    with pytest.raises(BadArgument, match="`--branch` needs a run, and 'digits' is none"):
        CliRunner().invoke(
            batch, ["digits", "--branch"], standalone_mode=False, catch_exceptions=False
        )


WRONG_FLAGS = {
    "--at 100": "`--at` is about branches: give it with --branch",
    "--batches 1x": "`--batches` is about branches",
    "--branch --batches 1x,two": "`--batches` must be multiples such as 0.25x,1x,4x, got '1x,two'",
    "--branch --batches 1x": "`factors` must be at least two different multiples",
    "--branch --set learning_rate=0.1": "`--set` learning_rate cannot be changed for a run",
    "--branch --horizon soon": "`horizon`",
}


@pytest.mark.parametrize(("flags", "message"), WRONG_FLAGS.items())
def test_flags_of_branches_are_checked(run: Run, flags: str, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        CliRunner().invoke(
            batch, [str(run.path), *flags.split()], standalone_mode=False, catch_exceptions=False
        )


@pytest.mark.slow
def test_it_is_measured_once_and_told_by_the_command(run: Run) -> None:
    done = []
    first = critical_batch_of(run, at=250, progress=done.append)
    assert len(done) == len(first.results) and first.forecast == noise_scale_at(run, 250)
    again: list[object] = []
    assert critical_batch_of(run, at=250, progress=again.append).estimate == first.estimate
    ledger = Path(run.path) / "forks" / "critical-250-0.jsonl"
    assert len(ledger.read_text(encoding="utf-8").splitlines()) == len(done)

    def printed(*flags: str) -> str:
        arguments = [str(run.path), "--branch", "--at", "250", *flags]
        return (
            CliRunner()
            .invoke(batch, arguments, standalone_mode=False, catch_exceptions=False)
            .stdout
        )

    stored = json.loads(printed("--json"))
    assert stored["critical_batch"]["value"] == pytest.approx(first.estimate.value)
    assert "Critical batch, measured by" in printed() and "a factor of 2" in " ".join(
        printed().split()
    )
