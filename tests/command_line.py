"""The command line, in this process or in its own."""

import os
import subprocess
import sys

import pytest

from gradiometer.cli import main


def run_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "gradiometer", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def spent() -> float:
    """Processor time, in seconds, of all processes that this one has waited for. A busy machine hardly changes it."""
    times = os.times()
    return times.children_user + times.children_system


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err
