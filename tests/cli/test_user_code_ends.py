"""What ends a program, or runs out of memory, in the user's code is a sentence with the place, and
an exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from command_line import called
from gradiometer.errors import UserCodeFailed, ran_out_of_memory
from gradiometer.jobs import Job, Pool
from gradiometer.jobs.pool import Here
from gradiometer.jobs.processes import Processes

PROBLEM = """
import sys
import torch
from torch import nn

class Halt(BaseException):
    pass

calls = 0

def problem():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    def loss(model, batch):
        global calls
        calls += 1
        if calls > {after}:
            {ends}
        return ((model(batch) - 1) ** 2).mean(1)
    return nn.Linear(3, 1), loss, x
"""
SHORT = ("--steps", "20", "--every", "5", "--no-open")


@pytest.mark.parametrize("after", [0, 12], ids=["at once", "later"])
@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("sys.exit(3)", 2, "SystemExit: 3 was raised, at {}.py:17, which ends a program."),
        ("sys.exit()", 2, "SystemExit was raised, at {}.py:17, which ends a program."),
        ("raise Halt('enough')", 2, "Halt: enough was raised, at {}.py:17, which ends a program."),
        ("raise MemoryError", 6, "`loss` raised MemoryError, at {}.py:17"),
        ("torch.empty(2**60)", 6, "`loss` raised RuntimeError: "),
    ],
)
def test_what_ends_a_program_in_the_loss_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    ends: str,
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"ends_{abs(hash((ends, after)))}"
    Path(f"{name}.py").write_text(PROBLEM.format(after=after, ends=ends))
    found, out, error = called(capsys, "train", f"{name}:problem", *SHORT, "--json")
    assert found == code and "Traceback" not in error
    assert error.startswith(f"error: {said.format(name)}") and error.count("\n") == 1
    assert json.loads(out) == {"error": error.removeprefix("error: ").rstrip(), "exit_code": code}
    if code == 6:
        assert error.rstrip().endswith(
            "): there is not enough memory: use a smaller batch, fewer examples, or close other "
            "programs."
        )


def test_a_shell_that_completes_a_word_still_can(tmp_path: Path) -> None:
    asked = {"_GRADIOMETER_COMPLETE": "bash_source"}
    script = "import sys; sys.argv[0] = 'gradiometer'; from gradiometer.cli import main; main([])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | asked,
    )
    assert (done.returncode, done.stderr) == (0, "") and "_gradiometer_completion" in done.stdout


class Halt(BaseException):
    pass


def halt() -> None:
    raise Halt("enough")


def leave() -> None:
    sys.exit(3)


@pytest.mark.parametrize(
    "opened",
    [Here, pytest.param(partial(Processes, 1), marks=pytest.mark.slow)],
    ids=["here", "processes"],
)
@pytest.mark.parametrize(("work", "named"), [(halt, "Halt: enough"), (leave, "SystemExit: 3")])
def test_a_job_that_ends_a_program_ends_only_itself(
    opened: Callable[[], Pool], work: object, named: str
) -> None:
    with opened() as pool:
        left, good = pool.run([Job("left", work), Job("good", lambda: 7)])
    assert good.result == 7
    with pytest.raises(
        UserCodeFailed,
        match=rf"the job 'left' raised {named}, at test_user_code_ends.py:\d+, which ends",
    ):
        left.value()


def no_memory() -> None:
    torch.empty(2**60)


def test_memory_that_runs_out_is_seen_through_the_error_that_names_the_place() -> None:
    try:
        try:
            no_memory()
        except RuntimeError as error:
            raise UserCodeFailed("`loss` raised something.") from error
    except UserCodeFailed as error:
        assert ran_out_of_memory(error)
    # another process sends no cause
    assert ran_out_of_memory(UserCodeFailed("`loss` raised MemoryError, at mine.py:3."))
    assert not ran_out_of_memory(UserCodeFailed("`loss` raised ValueError: no memory."))
