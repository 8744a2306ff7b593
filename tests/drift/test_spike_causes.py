"""Why a loss spiked: branches on the same batches and on others name the cause."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from command_line import called
from gradiometer import BadArgument, Configuration, Run, diagnose
from gradiometer.drift.spikes.detection import Spike
from gradiometer.loop.recorded.incidents import CauseTrial, SpikeCauses, causes_of, spikes_of
from gradiometer.problems import load
from gradiometer.train import spike_causes, train
from gradiometer.verdict import say

SPIKE = Spike(
    first=100, peak=101, last=101, level=1.0, height=9.0, score=50.0, limit=9.0, ended=True
)


def trained(problem: str, out: Path, rate: float = 0.02, **settings: Any) -> Run:
    settings = {
        "every": 10,
        "gauges": "noise",
        "check_edge": False,
        "check_endpoint": False,
        **settings,
    }
    configuration = Configuration(
        problem=f"spiking:{problem}", learning_rate=rate, batch_size=8, epochs=1, **settings
    )
    return train(load(configuration.problem), configuration, out)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained("bad_example", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def unstable(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained("edge", tmp_path_factory.mktemp("runs"), rate=0.1, budget=0.0, every=None)


def test_a_bad_batch_is_named_as_the_cause(run: Run) -> None:
    spike = spikes_of(run)[0]
    found = spike_causes(run, spike.peak)
    trials = {trial.name: trial for trial in found.trials}
    assert found.cause == "these batches" and found.step == spike.first - 8
    assert trials["again"].has_spike and trials["again"].peaks[0] == pytest.approx(
        spike.height, rel=1e-6
    )
    assert not trials[f"skip {spike.first}:{spike.last + 1}"].has_spike
    assert trials["half the rate"].has_spike and any(name.startswith("clip ") for name in trials)
    # it may come by chance
    assert len(trials["other data"].peaks) == 4 and trials["other data"].spiked <= 1
    assert "Cause: these batches." in found.sentence and "other data" in found.sentence


def test_an_instability_is_named_as_the_cause(unstable: Run) -> None:
    spike = min(spikes_of(unstable), key=lambda each: each.score)
    found = spike_causes(unstable, spike.peak)
    assert found.cause == "instability" and [trial.spiked for trial in found.trials] == [
        1,
        1,
        0,
        4,
        0,
    ]
    assert found.sentence.endswith(
        "It did not come with half the rate or half the rate on other data."
    )


def test_the_finding_has_the_cause_as_soon_as_its_spike_was_tried(unstable: Run) -> None:
    def tried() -> str:
        return next(
            say(finding).tried
            for finding in diagnose(unstable).findings
            if finding.gauge == "spikes"
        )

    *others, clearest = sorted(spikes_of(unstable), key=lambda each: each.score)
    spike_causes(unstable, others[0].peak)
    assert causes_of(unstable, clearest) is None
    assert tried() == f"Not tried: `gradiometer fork {unstable.path} --spike {clearest.peak}`."
    found = spike_causes(unstable, clearest.peak)
    assert tried() == f"Tried: {found.words} (forks {' and '.join(found.forks)})"
    assert causes_of(unstable, clearest) == found
    (unstable.path / "forks" / found.forks[1] / "branches.jsonl").write_text("")
    assert tried().startswith("Not tried"), "its branches are gone"


@pytest.mark.slow
def test_a_long_spike_among_high_single_losses_is_looked_for_in_means(tmp_path: Path) -> None:
    run = trained("bad_stretch", tmp_path, rate=0.01, budget=0.0, every=None)
    spike = max(spikes_of(run), key=lambda each: each.length)
    found = spike_causes(run, spike.peak)
    assert spike.length >= 50 and found.window == spike.length and found.cause == "these batches"
    assert [trial.spiked for trial in found.trials] == [1, 0, 1, 0, 0]
    assert found.trials[0].peaks[0] < (spike.level + spike.height) / 2, (
        "a single loss would be judged otherwise"
    )


@pytest.mark.slow
def test_the_batches_at_the_end_of_a_run_are_not_judged_by_leaving_them_out(tmp_path: Path) -> None:
    run = trained("bad_example", tmp_path, budget=0.0, every=None, steps=501)
    found = spike_causes(run, 500)
    assert [trial.name for trial in found.trials] == [
        "again",
        "half the rate",
        "other data",
        "half the rate on other data",
    ]
    assert found.cause == "unknown" and "It did not come with other data" in found.sentence


@pytest.mark.slow
def test_the_command_says_it_in_words_and_as_one_object(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    step = str(spikes_of(run)[0].peak)
    code, printed, told = called(capsys, "fork", str(run.path), "--spike", step)
    assert code == 0, told
    assert code == 0 and "Cause: these batches." in " ".join(printed.split())
    assert [
        line.split()[-1] for line in printed.splitlines() if line.startswith(("again", "skip"))
    ] == ["yes", "no"]
    code, printed, _ = called(capsys, "fork", str(run.path), "--spike", step, "--json")
    answer = json.loads(printed)
    assert (
        answer["cause"] == "these batches"
        and answer["trials"][0]["name"] == "again"
        and len(answer["forks"]) == 2
    )


def test_a_step_without_a_spike_is_refused_with_the_places(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        BadArgument, match=r"`spike` is 3, where the loss has none: \d+ spikes? found, at "
    ):
        spike_causes(run, 3)
    code, _, told = called(capsys, "fork", str(run.path), "--spike", "3", "rate 2x")
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
    def trial(name: str, *peaks: float) -> CauseTrial:
        return CauseTrial(name, peaks, sum(peak >= 5.0 for peak in peaks))

    trials = (
        trial("again", again),
        trial("skip 100:102", skipped),
        trial("half the rate", slower),
        trial("other data", *others),
    )
    found = SpikeCauses(SPIKE, 92, trials, ("0001", "0002"))
    assert found.cause == cause
    assert found.sentence.startswith(
        "The loss spiked from 1.00 to 9.00 at steps 100 to 101. Cause: "
    )


def test_a_rise_that_is_less_than_half_as_high_is_not_called_gone() -> None:
    peaks = {"again": 9.0, "skip 100:102": 1.5, "half the rate": 3.5, "other data": 1.1}
    trials = tuple(CauseTrial(name, (peak,), int(peak >= 5.0)) for name, peak in peaks.items())
    found = SpikeCauses(SPIKE, 92, trials, ("0001", "0002"))
    assert found.words.endswith(
        "It did not come with skip 100:102 or other data. It came less than half as high with half "
        "the rate."
    )
