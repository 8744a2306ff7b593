"""A run killed without warning, again and again, ends with the same bits as one that was never
killed."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradiometer.problems import load
from gradiometer.run import Configuration, Run
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.folder import RunFolder
from gradiometer.storage.journal import being_written
from gradiometer.train import resume, train

SETTINGS = [
    "digits",
    "--model",
    "mlp",
    "-e",
    "200",
    "--schedule",
    "cosine",
    "--momentum",
    "0.9",
    "--every",
    "10",
]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "gradiometer", *arguments], stdout=subprocess.DEVNULL
    )


def wait_until_it_writes(process: subprocess.Popen[bytes], out: Path) -> Path:
    """The run's folder, as soon as the process has done with its imports and has the run in its
    hands."""
    while True:
        for manifest in out.glob("*/run.toml"):
            if being_written(manifest.parent / "events.jsonl"):
                return manifest.parent
        assert process.poll() is None, "the process ended before it wrote"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.nightly)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path, kills: int) -> None:
    # A checkpoint after every step or two: many of the kills fall into the writing of one.
    often = ("--set", "checkpoint_seconds=0.005")
    assert start("train", *SETTINGS, "--out", str(tmp_path / "whole")).wait() == 0
    moments = random.Random(0)
    process = start("train", *SETTINGS, *often, "--out", str(tmp_path / "killed"))
    for _ in range(kills):
        folder = wait_until_it_writes(process, tmp_path / "killed")
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        assert process.wait() != 0, "the run ended before it was killed: make it longer"
        process = start("resume", str(folder))
    assert process.wait() == 0
    whole, resumed = (Run.open(next((tmp_path / name).iterdir())) for name in ("whole", "killed"))
    assert resumed.status == "finished"
    assert resumed.losses[0].tolist() == whole.losses[0].tolist()
    assert resumed.losses[1].tolist() == whole.losses[1].tolist()
    assert resumed.series("noise").steps.tolist() == whole.series("noise").steps.tolist()
    ends = [load_latest(RunFolder.open(run.path))[0].tensors for run in (whole, resumed)]
    assert set(ends[0]) == set(ends[1])
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


def test_a_run_killed_before_its_last_event_is_examined_once(tmp_path: Path) -> None:
    run = train(load("digits", model="mlp"), Configuration(epochs=3, every=5), tmp_path)
    path = run.events_path
    *kept, last = path.read_text().splitlines(keepends=True)
    assert '"finished"' in last
    path.write_text("".join(kept))
    resumed = resume(run.path)
    names = [event["event"] for event in resumed.events]
    assert names.count("endpoint") == 1 and resumed.status == "finished"
