"""The demo ends with a verdict, a forecast, and a fork that tested it."""

import json
from pathlib import Path

import pytest

from command_line import called
from gradiometer.cli.demo import DEMO, REPLICATES
from gradiometer.problems import load
from gradiometer.run import Budget, Configuration
from gradiometer.train import Training


def test_the_demo_keeps_the_checkpoint_that_its_fork_begins_at() -> None:
    configuration = Configuration.from_mapping(DEMO, "")
    training = Training(load("digits", model="cnn"), configuration, Budget(0.0), gauges=())
    assert configuration.lasting_checkpoints == {training.steps // 2}


@pytest.mark.slow
def test_the_demo_tries_what_it_advises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = called(capsys, "demo", "--json", "--no-open", "--out", str(tmp_path))
    answer = json.loads(printed)
    assert code == 0 and "test accuracy" in answer["verdict"]
    (record,) = Path(answer["run"]).glob("forks/*/branches.jsonl")
    branches = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(branches) == 3 * REPLICATES  # going on, the advice, and going on for the examples that it promises
    tried = [finding["tried"] for finding in answer["findings"] if finding["tried"]]
    advised = [finding for finding in answer["findings"] if finding["alternatives"]]
    assert all(sentence.startswith("Tried: from step 2,250, ") for sentence in tried) and len(tried) == len(advised)
