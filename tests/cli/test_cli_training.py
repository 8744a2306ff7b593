"""The command line as it trains: configuration, refusals, exit codes, and runs that are resumed."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from command_line import called


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "didgits"], "did you mean digits?"),
        (["train", "digits", "--model", "cn"], "cnn"),
        (
            ["train", "digits", "--lr", "nan"],
            "`learning_rate` must be positive and finite, got nan",
        ),
        (["train", "digits", "--lr", "0"], "`learning_rate` must be positive and finite, got 0"),
        (["train", "digits", "--lr", "-1"], "`learning_rate` must be positive and finite, got -1"),
        (["train", "digits", "--batch-size", "0"], "`batch_size` must be at least 1, got 0"),
        (["train", "digits", "--batch-size", "2000"], "`batch_size` must lie between 1 and the"),
        (["train", "digits", "--batch-size", "1"], "so a step has no spread"),
        (["train", "nowhere:problem"], "nowhere"),
        (["train", "json:nothing"], "nothing"),
        (["show", "no-such-run"], "is not a run folder"),
        (["resume", "no-such-run"], "is not a run folder"),
        (["train", "--set", "level=1.5"], "`level` must lie between 0 and 1, got 1.5"),
        (["train", "--set", "levle=0.5"], "unknown key `levle`: did you mean level?"),
        (
            ["train", "--set", "level"],
            "`--set` must be NAME=VALUE, such as --set nesterov=yes, got 'level'",
        ),
        (["train", "--set", "level=0.5", "--set", "level=0.6"], "`--set` gives level twice"),
        (
            ["train", "--lr", "1", "--set", "learning_rate=2"],
            "`learning_rate` is given by its flag and by --set",
        ),
        (["train", "--set", "parts=few"], "'few' is not a valid integer"),
        (
            ["tune", "--set", "learning_rate=1"],
            "`--set` learning_rate: a tuning chooses or does not use it",
        ),
        (["show", "--port", "80"], "`--port` is where --live serves the page"),
        (
            ["show", "--live", "--png", "charts"],
            "`--live` serves the page: leave out --png, --gauge, --json and --fail-on",
        ),
        (
            ["show", "--live", "--fail-on", "act"],
            "`--live` serves the page: leave out --png, --gauge, --json and --fail-on",
        ),
        (["show", "a", "b"], "`RUNS` must be one run without --live, got 2"),
    ],
)
def test_bad_input_is_named_in_a_sentence_and_exits_with_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = called(capsys, *arguments)
    assert code == 2
    assert message in err and "Traceback" not in err and out == ""


def test_a_folder_that_cannot_be_written_to_exits_with_6(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = called(capsys, "train", "digits", "--out", "/dev/null/x")
    assert (
        code == 6 and "`/dev/null/x` could not be written" in err and "choose another folder" in err
    )


def test_a_configuration_file_is_read_and_flags_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.toml").write_text(
        'problem = "digits"\nmodel = "mlp"\nepochs = 1\nbatch_size = 64\n'
    )
    code, out, _ = called(
        capsys,
        "train",
        "--config",
        str(tmp_path / "train.toml"),
        "-b",
        "128",
        "--every",
        "1",
        "--out",
        str(tmp_path),
        "--json",
    )
    assert code == 0
    assert json.loads(out)["estimates"]["batch_size"]["value"] == 128.0


def test_a_misspelt_key_in_a_configuration_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.toml").write_text('problem = "digits"\nlerning_rate = 0.1\n')
    code, _, err = called(capsys, "train", "--config", str(tmp_path / "train.toml"))
    assert code == 2
    assert "train.toml:2: unknown key `lerning_rate`: did you mean learning_rate?" in err


def test_divergence_exits_with_4_and_says_so_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = called(
        capsys, "train", "digits", "--model", "mlp", "--lr", "1e4", "--out", str(tmp_path), "--json"
    )
    assert code == 4
    assert "the update was not applied" in err and json.loads(out)["exit_code"] == 4


def test_a_flag_that_cannot_be_read_is_told_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capsys, "train", "digits", "--lr", "fast", "--json")
    assert code == 2 and "'fast' is not a valid float" in err
    assert json.loads(out) == {
        "error": err.splitlines()[-1].removeprefix("Error: "),
        "exit_code": 2,
    }


def test_a_run_that_measured_nothing_says_why_and_cannot_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (
        "--model",
        "mlp",
        "-e",
        "1",
        "--budget",
        "0",
        "--out",
        str(tmp_path),
        "--fail-on",
        "cannot tell",
    )
    code, out, _ = called(capsys, "train", "digits", *settings)
    assert code == 3 and "measuring was off" in " ".join(out.split())
    (run,) = tmp_path.glob("digits*")
    for state, expected in (("cannot tell", 3), ("look", 0), ("act", 0)):
        for shape in ((), ("--json",)):
            arguments = ("show", str(run), "--no-open", "--fail-on", state, *shape)
            assert called(capsys, *arguments)[0] == expected


@pytest.mark.slow
def test_a_finding_at_or_above_fail_on_exits_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--model", "mlp", "-e", "1", "--every", "1", "--out", str(tmp_path))
    code, _, _ = called(capsys, "train", "digits", *settings, "--fail-on", "cannot tell")
    assert code == 3


def test_a_problem_of_ones_own_is_named_module_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_problem_file.py").write_text(
        "import torch\nfrom torch import nn\nfrom gradiometer import supervised\ndef problem():\n  "
        "  data = (torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), "
        "torch.arange(64) % 2)\n    return (lambda: nn.Linear(3, 2)), "
        "supervised(nn.CrossEntropyLoss(reduction='none')), data\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = called(
        capsys,
        "train",
        "my_problem_file:problem",
        "-e",
        "3",
        "--every",
        "1",
        "--set",
        "parts=2",
        "--json",
        "-b",
        "16",
        "--out",
        "runs",
    )
    assert code == 0, err
    assert json.loads(out)["estimates"]["noise_scale"]["samples"] == 12


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_to_resume_and_exits_with_5(tmp_path: Path) -> None:
    import signal

    command = [
        sys.executable,
        "-m",
        "gradiometer",
        "train",
        "digits",
        "--model",
        "mlp",
        "-e",
        "100000",
    ]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("*/checkpoints/step_*")):
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 5
    assert "continue with: gradiometer resume" in err


def test_a_torn_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", "checkpoint_seconds=0", "--budget", "0", "--model", "mlp", "-e", "2")
    called(capsys, "train", "digits", *settings, "--out", str(tmp_path / "whole"))
    (whole,) = (tmp_path / "whole").iterdir()
    torn = shutil.copytree(whole, tmp_path / "torn")
    events = [
        line
        for line in (torn / "events.jsonl").read_text().splitlines()
        if '"finished"' not in line
    ]
    # as if it had been killed before its end
    (torn / "events.jsonl").write_text("\n".join(events) + "\n")
    last = max((torn / "checkpoints").iterdir())
    content = (last / "tensors.safetensors").read_bytes()
    (last / "tensors.safetensors").write_bytes(content[: len(content) // 2])
    code, out, _ = called(capsys, "resume", str(torn), "--json")
    told = json.loads(out)
    assert code == 0 and told["status"] == "finished"
    assert any(last.name in warning for warning in told["warnings"])
    ends = [
        load_file(run / "checkpoints" / last.name / "tensors.safetensors") for run in (whole, torn)
    ]
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0] if name.startswith("model."))


@pytest.mark.slow
def test_a_full_disk_ends_with_a_run_to_resume_and_exits_with_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = os.write, []

    def until_full(descriptor: int, content: bytes) -> int:
        written.append(len(content))
        if sum(written) > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", until_full)
    code, _, err = called(
        capsys, "train", "digits", "-e", "3", "--every", "1", "--out", str(tmp_path)
    )
    monkeypatch.undo()
    assert code == 5
    assert "gradiometer resume" in err and "Traceback" not in err
    code, out, _ = called(capsys, "resume", str(next(tmp_path.iterdir())), "--json")
    assert code == 0 and json.loads(out)["status"] == "finished"


@pytest.mark.slow
def test_what_was_watched_and_still_pays_is_not_called_unmeasured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [
        "--out",
        str(tmp_path),
        "--no-open",
        "--set",
        "check_edge=no",
        "-e",
        "8",
        "--every",
        "10000",
    ]
    code, told, _ = called(capsys, "train", "digits", "--cool", "watch", *out)
    assert code == 0 and "✓ plateau        ok" in told
    assert "the loss still moves. A cut to 0.0100 is predicted to" in " ".join(told.split())
    assert "--cool watch" not in told
    called(capsys, "train", "digits", "--model", "mlp", *out)
    code, told, _ = called(
        capsys,
        "runs",
        "compare",
        *map(str, sorted(tmp_path.iterdir())),
        "--out",
        str(tmp_path / "page"),
    )
    assert code == 0 and "cool watch → off" in told and "model" not in told, (
        "left out, or by its name, it is the same"
    )


@pytest.mark.parametrize("verb", ["measure batch", "measure sharpness", "learn sample"])
def test_a_path_to_no_run_is_not_taken_for_a_problem(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = called(capsys, *verb.split(), str(tmp_path / "nowhere"))
    assert code == 2 and "is not a run folder: there is no such folder" in err
