"""Commands that work in one folder at the same time: one goes on, others read or are refused, and
no bit changes."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from works import branches, of_a_training

from gradiometer import Run
from gradiometer.loop import forks_of
from trainings import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX"),
]

TRAIN = (
    "train",
    "digits",
    "--model",
    "mlp",
    "--set",
    "checkpoint_seconds=0.2",
    "--every",
    "200",
    "--no-open",
)
FORK = ("rate 2x", "--horizon", "20 updates", "--replicates", "2", "--json")
TUNE = ("tune", "digits", "--model", "mlp", "--steps", "60", "--json")
RUN = "runs/digits-mlp-1"


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Any]:
    """A function that starts a command in a folder. Those that still work at the end are killed."""
    with ExitStack() as started:

        def start(folder: str, *arguments: str) -> subprocess.Popen[str]:
            (tmp_path / folder).mkdir(exist_ok=True)
            command = [sys.executable, "-u", "-m", "gradiometer", *arguments]
            process = subprocess.Popen(
                command,
                cwd=tmp_path / folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


def ended(*processes: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """The exit codes and what was said, without tracebacks."""
    said = [process.communicate(timeout=300) for process in processes]
    assert not any("Traceback" in err for _, err in said), said
    return [(each.returncode, out + err) for each, (out, err) in zip(processes, said, strict=True)]


def refused(results: Sequence[tuple[int, str]]) -> list[str]:
    """What the commands said that were refused; the others have ended well."""
    assert {code for code, _ in results} <= {0, 2}, results
    return [said for code, said in results if code == 2]


def test_a_tuning_that_is_started_twice_is_one_tuning(begin: Any, tmp_path: Path) -> None:
    alone = ended(begin("alone", *TUNE))
    together = ended(*(begin("together", *TUNE) for _ in range(3)))
    assert all(
        "is being written by another process: wait until" in said for said in refused(together)
    )
    again = ended(begin("together", *TUNE))
    chosen = {json.loads(said)["line"] for code, said in (*alone, *together, *again) if code == 0}
    assert len(chosen) == 1 and alone[0][0] == again[0][0] == 0
    folder = "runs/digits-mlp-tuning"
    assert branches(tmp_path / "together" / folder) == branches(tmp_path / "alone" / folder) != {}


def test_a_resume_that_is_started_twice_is_one_training(begin: Any, tmp_path: Path) -> None:
    assert ended(begin("alone", *TRAIN, "--steps", "1500"))[0][0] == 0
    training = begin("together", *TRAIN, "--steps", "1500")
    until(lambda: [*(tmp_path / "together").glob("runs/*/checkpoints/step_*")])
    training.kill()
    results = ended(*(begin("together", "resume", RUN, "--no-open") for _ in range(3)))
    for said in refused(results):
        assert "is being written by another process" in said or "there is nothing to resume" in said
    assert any(code == 0 for code, _ in results)
    assert of_a_training(tmp_path / "together") == of_a_training(tmp_path / "alone")


def test_forks_and_viewers_beside_a_training_change_no_bit_of_it(
    begin: Any, tmp_path: Path
) -> None:
    assert ended(begin("alone", *TRAIN, "--steps", "40000"))[0][0] == 0
    training = begin("together", *TRAIN, "--steps", "40000")
    folder = tmp_path / "together" / RUN
    until(lambda: [*folder.glob("checkpoints/step_*")])
    shown = begin("together", "show", "--live", RUN, "--no-open")
    address = re.search(r"http://\S+", shown.stdout.readline())[0]
    with ExitStack() as viewers:
        pages = [
            viewers.enter_context(urllib.request.urlopen(f"{address}run/0/events"))
            for _ in range(50)
        ]
        forks = ended(
            begin("together", "fork", RUN, *FORK),
            begin("together", "fork", RUN, *FORK, "--seed", "1"),
        )
        assert training.poll() is None, "the training ended before the forks"
        assert ended(
            begin("together", "runs", "export", RUN, "--out", "table.csv"),
            begin("together", "show", RUN, "--no-open"),
        )
        assert ended(training)[0][0] == 0
        for page in pages:
            assert any(line.startswith(b"data: ") for line in page)
    assert refused(forks) == []
    assert of_a_training(tmp_path / "together") == of_a_training(tmp_path / "alone")
    kept = forks_of(Run.open(folder))
    assert len(kept) == 2 and all(each.finished and len(each.fork.results) == 4 for each in kept)
