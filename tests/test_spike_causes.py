"""Why a loss spiked: branches on the same batches and on others name the cause."""

import json
import math
from pathlib import Path

import pytest

from command_line import called
from gradiometer import BadArgument, Configuration, Run
from gradiometer.drift.spikes.detection import Spike
from gradiometer.problems import load
from gradiometer.run.spikes import spikes_of
from gradiometer.train import SpikeCauses, Trial, spike_causes, train

SPIKE = Spike(first=100, peak=101, last=101, level=1.0, height=9.0, score=50.0, limit=9.0, ended=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    configuration = Configuration(
        problem="bad_batch:problem", learning_rate=0.02, batch_size=8, epochs=1, every=10, gauges="noise"
    )
    return train(load("bad_batch:problem"), configuration, tmp_path_factory.mktemp("runs"))


def test_a_bad_batch_is_named_as_the_cause(run: Run) -> None:
    spike = spikes_of(run)[0]
    found = spike_causes(run, spike.peak)
    trials = {trial.name: trial for trial in found.trials}
    assert found.cause == "these batches" and found.step == spike.first - 8
    assert trials["again"].has_spike and trials["again"].peaks[0] == pytest.approx(spike.height, rel=1e-6)
    assert not trials[f"skip {spike.first}:{spike.last + 1}"].has_spike
    assert trials["half the rate"].has_spike and any(name.startswith("clip ") for name in trials)
    assert len(trials["other data"].peaks) == 4 and trials["other data"].spiked <= 1  # it may come by chance
    assert "Cause: these batches." in found.sentence and "other data" in found.sentence


def test_the_command_says_it_in_words_and_as_one_object(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    step = str(spikes_of(run)[0].peak)
    code, printed, told = called(capsys, "fork", str(run.path), "--spike", step)
    assert code == 0, told
    assert code == 0 and "Cause: these batches." in " ".join(printed.split())
    assert [line.split()[-1] for line in printed.splitlines() if line.startswith(("again", "skip"))] == ["yes", "no"]
    code, printed, _ = called(capsys, "fork", str(run.path), "--spike", step, "--json")
    answer = json.loads(printed)
    assert answer["cause"] == "these batches" and answer["trials"][0]["name"] == "again" and len(answer["forks"]) == 2


def test_a_step_without_a_spike_is_refused_with_the_places(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadArgument, match=r"`spike` is 3, where the loss has none: \d+ spikes? found, at "):
        spike_causes(run, 3)
    code, _, told = called(capsys, "fork", str(run.path), "--spike", "3", "--rate", "2x")
    assert code == 2 and "`--spike` chooses the branches itself" in told


def test_a_run_without_spikes_is_refused(tmp_path: Path) -> None:
    quiet = train(load("digits"), Configuration(steps=60, budget=0.0, check_edge=False), tmp_path)
    with pytest.raises(BadArgument, match="has no spike"):
        spike_causes(quiet, 3)


@pytest.mark.parametrize(
    ("again", "skipped", "slower", "others", "cause"),
    [
        (9.0, 1.0, 9.0, (1.0, 1.0, 1.0, 1.0), "these batches"),
        (9.0, 9.0, 1.0, (9.0, 1.0, 9.0, 1.0), "instability"),
        (9.0, 9.0, 9.0, (9.0, math.inf, 9.0, 1.0), "instability"),
        (9.0, 1.0, 1.0, (1.0, 1.0, 1.0, 1.0), "both"),
        (1.0, 1.0, 1.0, (1.0, 1.0, 1.0, 1.0), "chance"),
        (9.0, 9.0, 9.0, (1.0, 1.0, 1.0, 9.0), "unknown"),
    ],
)
def test_the_cause_is_what_removes_the_spike(
    again: float, skipped: float, slower: float, others: tuple[float, ...], cause: str
) -> None:
    def trial(name: str, *peaks: float) -> Trial:
        return Trial(name, peaks, sum(peak >= 5.0 for peak in peaks))

    trials = (
        trial("again", again), trial("skip 100:102", skipped), trial("half the rate", slower),
        trial("other data", *others),
    )  # fmt: skip
    found = SpikeCauses(SPIKE, 92, trials, ("0001", "0002"))
    assert found.cause == cause
    assert found.sentence.startswith("The loss spiked from 1.00 to 9.00 at steps 100 to 101. Cause: ")
