"""The command line as a person and a program meet it: words, JSON, files, exit codes."""

import csv
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

from gradiometer.cli import main
from gradiometer.cli.outcome import cost_sentence
from gradiometer.convergence.trajectory.trajectory import kept_steps


def run_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "gradiometer", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A short run through the command line, and what it printed."""
    out = tmp_path_factory.mktemp("runs")
    done = run_cli(
        *(
            "train",
            "digits",
            "--model",
            "mlp",
            "--epochs",
            "8",
            "--every",
            "2",
            "--out",
            str(out),
            "--json",
            "--no-open",
        )
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_is_one_object_with_estimates_that_have_intervals(trained: dict) -> None:
    assert {"run", "report", "findings", "estimates", "overhead", "verdict"} <= set(trained)
    assert {"noise_scale", "gradient_variance", "gradient_norm_squared", "signal_to_noise"} <= set(trained["estimates"])
    for estimate in trained["estimates"].values():
        assert {"value", "low", "high", "level", "samples"} <= set(estimate)
    assert Path(trained["report"]).is_file()
    assert trained["overhead"]["measured_steps"] == 180


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = (
        "import sys, gradiometer.cli\n"
        "heavy = {'torch', 'numpy', 'scipy', 'altair', 'rich', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        assert "selftest" in run_cli("--help").stdout
        times.append(time.perf_counter() - began)
    assert (
        min(times) < 1.0
    )  # 0.2 s alone on a core; this guards against an import of seconds, not against a busy machine


def test_reading_a_run_needs_no_torch(trained: dict) -> None:
    script = (
        "import sys\n"
        "from gradiometer.run.reader import Run\n"
        "from gradiometer.diagnosis import diagnose\n"
        "assert 'noise_scale' in diagnose(Run.open(sys.argv[1])).estimates\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, trained["run"]], check=True)


def test_report_says_in_words_what_was_found(trained: dict, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "report", trained["run"])
    assert code == 0
    assert "noise scale" in out and "report.html" in out and "of the training time" in out


def test_findings_are_told_also_where_the_page_cannot_be_written(
    trained: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gradiometer.report.page.page.replace_file", full)
    code, out, err = called(capsys, "report", trained["run"])
    assert code == 2 and "noise scale" in out and "page " not in out
    assert f"no space left on device; mend that, then `gradiometer report {trained['run']}`" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_behind_standard_output_is_a_sentence_and_no_bug(trained: dict, flags: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gradiometer", "schedule", "1/t", *flags],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    assert done.returncode == 2 and "no space left on device" in done.stderr and "Traceback" not in done.stderr


def test_whoever_stops_reading_our_output_is_no_bug(trained: dict) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "gradiometer", "report", trained["run"]],
        stdout=theirs,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_was_watched_and_still_pays_is_not_called_unmeasured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path), "--no-open", "-q", "--no-check-edge"]
    code, told, _ = called(capsys, "train", "digits", "--cool", "watch", *out)
    assert code == 0 and "✓ still paying   ok" in told
    assert "the loss still moves. A cut to 0.0100 is predicted to" in " ".join(told.split())
    assert "--cool watch" not in told
    called(capsys, "train", "digits", "--model", "mlp", *out)
    code, told, _ = called(capsys, "compare", *map(str, sorted(tmp_path.iterdir())), "--out", str(tmp_path / "page"))
    assert code == 0 and "cool watch → off" in told and "model" not in told, "left out, or by its name, it is the same"


def test_numbers_fit_the_terminal_too(
    trained: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for verb in (["sharpness", trained["run"], "--top", "2"], ["certify", trained["run"]]):
        _, out, _ = called(capsys, *verb)
        assert max(len(line) for line in out.splitlines() if not line.startswith("page ")) <= 60


@pytest.mark.parametrize("verb", ["batch", "sharpness", "sample"])
def test_a_path_to_no_run_is_not_taken_for_a_problem(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = called(capsys, verb, str(tmp_path / "nowhere"))
    assert code == 2 and "is not a run folder: there is no such folder" in err


def test_sentences_fit_the_terminal(
    trained: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = called(capsys, "report", trained["run"])
    assert max(len(line) for line in out.splitlines() if not line.startswith(("run ", "page "))) <= 60


@pytest.mark.parametrize("what", ["readings", "losses", "evaluations"])
def test_export_writes_every_row_as_csv_and_parquet(
    trained: dict, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet

    for ending in ("csv", "parquet"):
        code, out, _ = called(capsys, "export", trained["run"], "--what", what, "--out", str(tmp_path / f"t.{ending}"))
        assert code == 0 and "rows in" in out
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == {"readings": 180 + 180 // 16 + len(kept_steps(360)), "losses": 360, "evaluations": 16}[what]
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table.num_rows == len(rows) and table.column_names == list(rows[0])


def test_export_refuses_a_format_it_does_not_know(
    trained: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = called(capsys, "export", trained["run"], "--out", str(tmp_path / "t.xlsx"))
    assert code == 2 and "name a file that ends in .csv or .parquet" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "didgits"], "did you mean digits?"),
        (["train", "digits", "--model", "cn"], "cnn"),
        (["train", "digits", "--lr", "nan"], "`learning_rate` must be positive and finite, got nan"),
        (["train", "digits", "--lr", "0"], "`learning_rate` must be positive and finite, got 0"),
        (["train", "digits", "--lr", "-1"], "`learning_rate` must be positive and finite, got -1"),
        (["train", "digits", "--batch-size", "0"], "`batch_size` must be at least 1, got 0"),
        (["train", "digits", "--batch-size", "2000"], "`batch_size` must lie between 1 and the"),
        (["train", "digits", "--batch-size", "1"], "there is no spread within a step to see"),
        (["train", "nowhere:problem"], "nowhere"),
        (["train", "json:nothing"], "nothing"),
        (["report", "no-such-run"], "is not a run folder"),
        (["resume", "no-such-run"], "is not a run folder"),
        (["report", "--level", "1.5", "x"], "`--level` must lie between 0 and 1, got 1.5"),
        (["train", "digits", "--out", "/dev/null/x"], "no run can be made in"),
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


def test_a_configuration_file_is_read_and_flags_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.toml").write_text('problem = "digits"\nmodel = "mlp"\nepochs = 1\nbatch_size = 64\n')
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
        "-q",
    )
    assert code == 0
    assert json.loads(out)["estimates"]["batch_size"]["value"] == 128.0


def test_a_misspelt_key_in_a_configuration_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.toml").write_text('problem = "digits"\nlerning_rate = 0.1\n')
    code, _, err = called(capsys, "train", "--config", str(tmp_path / "train.toml"))
    assert code == 2
    assert "train.toml:2: lerning_rate: unknown key; did you mean learning_rate?" in err


def test_divergence_exits_with_4_and_says_so_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(
        capsys, "train", "digits", "--model", "mlp", "--lr", "1e4", "--out", str(tmp_path), "--json"
    )
    assert code == 4
    assert "the update was not applied" in err and json.loads(out)["exit_code"] == 4


def test_a_flag_that_cannot_be_read_is_told_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capsys, "train", "digits", "--lr", "fast", "--json")
    assert code == 2 and "'fast' is not a valid float" in err
    assert json.loads(out) == {"error": err.splitlines()[-1].removeprefix("Error: "), "exit_code": 2}


def test_a_run_that_measured_nothing_says_why_and_cannot_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--model", "mlp", "-e", "1", "--budget", "0", "--out", str(tmp_path), "--fail-on", "cannot tell")
    code, out, _ = called(capsys, "train", "digits", *settings, "-q")
    assert code == 3 and "the instrument was off" in " ".join(out.split())


def test_the_cost_of_a_short_run_is_stated_with_a_way_to_measure_more() -> None:
    overhead = {"budget": 0.02, "used": 0.15, "measured_steps": 1, "every": None, "mode": "apart"}
    assert "That is few" in cost_sentence(overhead, None) and "--every 1" in cost_sentence(overhead, None)
    assert "as asked for" in cost_sentence(overhead | {"measured_steps": 9, "every": 1.0}, 1)


def test_a_finding_at_or_above_fail_on_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = called(
        capsys,
        "train",
        "digits",
        "--model",
        "mlp",
        "-e",
        "2",
        "--every",
        "1",
        "--out",
        str(tmp_path),
        "-q",
        "--fail-on",
        "cannot tell",
    )
    assert code == 3


def test_a_problem_of_ones_own_is_named_module_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_problem_file.py").write_text(
        "import torch\nfrom torch import nn\nfrom gradiometer import supervised\n"
        "def problem():\n"
        "    data = (torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2)\n"
        "    return (lambda: nn.Linear(3, 2)), supervised(nn.CrossEntropyLoss(reduction='none')), data\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = called(
        capsys, "train", "my_problem_file:problem", "-e", "3", "--every", "1", "--json", "-b", "16", "--out", "runs"
    )
    assert code == 0, err
    assert json.loads(out)["estimates"]["noise_scale"]["samples"] == 12


def test_ctrl_c_leaves_a_run_to_resume_and_exits_with_5(tmp_path: Path) -> None:
    import signal

    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gradiometer",
            "train",
            "digits",
            "--model",
            "mlp",
            "-e",
            "100000",
            "--out",
            str(tmp_path),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("*/checkpoints/step_*")):
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 5
    assert "go on with: gradiometer resume" in err


def test_a_run_of_a_newer_version_is_refused_in_a_sentence(
    trained: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(trained["run"], tmp_path / "copy"))
    manifest = copy / "run.toml"
    manifest.write_text(manifest.read_text().replace("format = 1", "format = 99"))
    code, _, err = called(capsys, "report", str(copy))
    assert code == 2
    assert "was written in format 99" in err and "install a newer gradiometer" in err


def test_garbled_readings_are_named_and_the_rest_is_reported(
    trained: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(trained["run"], tmp_path / "copy"))
    lines = (copy / "readings.jsonl").read_text().splitlines()
    lines[1] = "{garbled"
    (copy / "readings.jsonl").write_text("\n".join(lines)[:-5])
    code, out, _ = called(capsys, "report", str(copy), "--json")
    told = json.loads(out)
    assert code == 0
    assert "readings.jsonl:2: a garbled line is left out." in told["warnings"]
    assert any("the last line is torn" in warning for warning in told["warnings"])
    assert told["estimates"]["noise_scale"]["samples"] > 100


def test_a_torn_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--checkpoint-seconds", "0", "--budget", "0", "--model", "mlp", "-e", "3")
    called(capsys, "train", "digits", *settings, "--out", str(tmp_path / "whole"), "-q")
    whole = next((tmp_path / "whole").iterdir())
    called(capsys, "train", "digits", *settings, "--out", str(tmp_path / "torn"), "-q")
    torn = next((tmp_path / "torn").iterdir())
    events = [line for line in (torn / "events.jsonl").read_text().splitlines() if '"finished"' not in line]
    (torn / "events.jsonl").write_text("\n".join(events) + "\n")  # as if it had been killed before its end
    last = max((torn / "checkpoints").iterdir())
    content = (last / "tensors.safetensors").read_bytes()
    (last / "tensors.safetensors").write_bytes(content[: len(content) // 2])
    code, out, _ = called(capsys, "resume", str(torn), "--json")
    told = json.loads(out)
    assert code == 0 and told["status"] == "finished"
    assert any(last.name in warning for warning in told["warnings"])
    ends = [load_file(run / "checkpoints" / last.name / "tensors.safetensors") for run in (whole, torn)]
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0] if name.startswith("model."))


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
    code, _, err = called(capsys, "train", "digits", "--every", "1", "--out", str(tmp_path), "-q")
    monkeypatch.undo()
    assert code == 5
    assert "gradiometer resume" in err and "Traceback" not in err
    code, out, _ = called(capsys, "resume", str(next(tmp_path.iterdir())), "--json")
    assert code == 0 and json.loads(out)["status"] == "finished"
