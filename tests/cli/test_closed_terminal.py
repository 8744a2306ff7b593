"""A terminal that is closed, limits of a process, and names and texts that a shell or a screen
cannot take."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import called
from gradiometer import BadArgument, Interrupted, StorageFailed
from gradiometer.cli.boundary import LONGEST, explain
from gradiometer.run.folder import RunFolder
from gradiometer.storage.disk import interrupted_by_disk, writing
from gradiometer.train.loop import asked_to_stop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals as in a terminal, also if the tests run under `nohup` or in the background, which
    ignore some."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_training_is_asked_to_stop_by_a_signal(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with asked_to_stop() as asked:
        assert not asked.is_set()
        os.kill(os.getpid(), number)
        assert asked.wait(5)
    assert signal.getsignal(number) == before


# The tests may run in the background, where a program is started to ignore Ctrl-C.
HEARING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from gradiometer.cli import main
main()
"""

HANGING = """
import time
import torch
from torch import nn

calls = 0

def problem():
    def loss(model, batch):
        global calls
        calls += 1
        if calls > 30:
            print("hangs", flush=True)
            time.sleep(600)
        return ((model(batch) - 1) ** 2).mean(1)
    return nn.Linear(3, 1), loss, torch.randn(64, 3)
"""


def test_ctrl_c_on_code_that_hangs_answers_at_once_and_the_end_says_how_to_resume(
    tmp_path: Path,
) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    command = ["train", "hanging:problem", "--steps", "200", "--budget", "0", "--no-open"]
    process = subprocess.Popen(
        [sys.executable, "-c", HEARING, *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert any("hangs" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    assert any("Ctrl-C again stops at once" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 5 and "Traceback" not in error
    assert "stopped within step" in error and "gradiometer resume" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_was_ignored_before_the_training_still_is(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with asked_to_stop() as asked:
            os.kill(os.getpid(), number)
            assert not asked.is_set()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.usefixtures("heard")
def test_a_closed_terminal_stops_a_training_at_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradiometer.train.training import Training

    update = Training.update

    def closed(training: Training) -> list[dict[str, Any]]:
        events = update(training)
        if training.step == 5:
            os.kill(os.getpid(), signal.SIGHUP)
        return events

    monkeypatch.setattr(Training, "update", closed)
    flags = ("--steps", "20", "--no-open", "--out", str(tmp_path))
    code, _, error = called(capsys, "train", "quadratic", *flags)
    (run,) = tmp_path.iterdir()
    assert (
        code == 5
        and "error: stopped at step 5 of 20, nothing is lost; continue with: gradiometer" in error
    )
    assert (run / "checkpoints" / "step_000005").is_dir()


def test_a_limit_of_the_size_of_files_is_named(tmp_path: Path) -> None:
    refused = OSError(errno.EFBIG, os.strerror(errno.EFBIG), "page")
    way = "raise the limit of the size of a file with `ulimit -f`"
    with pytest.raises(StorageFailed, match=f"file too large; {way}"), writing(tmp_path):
        raise refused
    with (
        pytest.raises(Interrupted, match=f"{way}, then"),
        interrupted_by_disk(tmp_path, tmp_path, "but all is safe"),
    ):
        raise refused
    sentence, code = explain(OSError(errno.EFBIG, os.strerror(errno.EFBIG), "page"), [])
    assert code == 6 and way in sentence


def test_a_sentence_that_quotes_a_very_long_text_is_short() -> None:
    sentence, code = explain(BadArgument(f"`problem` {'q' * 10**6!r} is unknown: use digits."), [])
    assert code == 2 and len(sentence) < LONGEST + 10
    assert sentence.startswith("`problem` 'qqq") and sentence.endswith(
        "qqq' is unknown: use digits."
    )


@pytest.mark.parametrize("name", ["-x", "-", "..", ".", " x", "a" * 201])
def test_a_name_that_would_be_taken_for_a_flag_or_another_folder_is_refused(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(BadArgument, match="with no dot or dash in front"):
        RunFolder.create(tmp_path, name, {})
    assert RunFolder.create(tmp_path, "a-x", {}).path.name == "a-x-1"
