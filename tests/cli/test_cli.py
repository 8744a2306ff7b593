"""The command line on a finished run: words, JSON, files."""

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from altair import LayerChart

from command_line import called, run_cli, spent
from gradiometer.report.charts.charts import loss_chart
from known_steps import kept_steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A short run through the command line, and what it printed."""
    out = tmp_path_factory.mktemp("runs")
    settings = ("--model", "mlp", "--epochs", "4", "--every", "1", "--set", "parts=2")
    done = run_cli("train", "digits", *settings, "--out", str(out), "--json", "--no-open")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is not written, which takes most of the time of `show`."""
    monkeypatch.setattr(
        "gradiometer.report.page.page.write_page", lambda *_, **__: Path("report.html")
    )


def test_json_is_one_object_with_estimates_that_have_intervals(trained: dict) -> None:
    assert {"run", "report", "findings", "estimates", "overhead", "verdict"} <= set(trained)
    assert {"noise_scale", "gradient_variance", "gradient_norm_squared", "signal_to_noise"} <= set(
        trained["estimates"]
    )
    for estimate in trained["estimates"].values():
        assert {"value", "low", "high", "level", "samples"} <= set(estimate)
    assert Path(trained["report"]).is_file()
    assert trained["overhead"]["measured_steps"] == 180


def documented_keys(name: str) -> list[str]:
    """The keys of an object, as the reference lists them."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "verbs.md"
    (row,) = re.findall(rf"^\| {name}.*\| (.*) \|$", page.read_text(), flags=re.MULTILINE)
    return re.findall(r"`(\w+)`", row)


@pytest.mark.usefixtures("no_page")
def test_the_reference_lists_the_keys_of_each_object(
    trained: dict, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = called(capsys, "show", trained["run"], "--json", "--no-open")
    assert code == 0 and list(json.loads(out)) == list(trained) == documented_keys("a run")
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n" + "".join(f"{step},{2 - step / 50}\n" for step in range(50)))
    code, out, _ = called(capsys, "doctor", str(log), "--json")
    findings = [*trained["findings"], *json.loads(out)["findings"]]
    assert len(findings) >= 5
    for finding in findings:
        assert list(finding) == documented_keys("a finding")
    estimates = [*trained["estimates"].values()]
    estimates += [each for finding in findings for each in finding["numbers"].values()]
    assert len(estimates) >= 5
    for estimate in estimates:
        assert list(estimate) == documented_keys("an estimate")
    _, out, _ = called(capsys, "show", str(tmp_path), "--json")
    assert list(json.loads(out)) == documented_keys("after an error")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = (
        "import sys, gradiometer.cli\n"
        "heavy = {'torch', 'numpy', 'scipy', 'altair', 'rich', 'jinja2', 'gradiometer.report'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    times = []
    for _ in range(3):
        before = spent()
        assert "ensemble" in run_cli("--help").stdout
        times.append(spent() - before)
    assert min(times) < 1.0  # 0.2 s; this guards against an import of seconds


def test_reading_a_run_needs_no_torch(trained: dict) -> None:
    script = (
        "import sys\n"
        "from gradiometer.run.reader import Run\n"
        "from gradiometer.verdict.diagnosis import diagnose\n"
        "assert 'noise_scale' in diagnose(Run.open(sys.argv[1])).estimates\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, trained["run"]], check=True)


def test_report_prints_the_findings(trained: dict, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "show", trained["run"])
    assert code == 0
    assert "noise scale" in out and "report.html" in out and "of the training time" in out


def test_report_draws_every_chart_once(
    trained: dict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    drawn = []

    def counted(*arguments: Any) -> LayerChart:
        drawn.append(arguments)
        return loss_chart(*arguments)

    monkeypatch.setattr("gradiometer.report.sections.loss.loss_chart", counted)
    code, _, _ = called(capsys, "show", trained["run"], "--png", str(tmp_path))
    assert code == 0 and (tmp_path / "loss.png").is_file()
    assert len(drawn) == 1


def test_findings_are_printed_also_if_the_page_cannot_be_written(
    trained: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gradiometer.report.page.document.replace_file", full)
    code, out, err = called(capsys, "show", trained["run"])
    assert code == 6 and "noise scale" in out and "page " not in out
    assert f"`{trained['run']}/report.html` could not be written: no space left on device" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_behind_standard_output_exits_with_6_and_without_a_traceback(
    flags: list[str],
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gradiometer", "learn", "schedule", "1/t", *flags],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    assert done.returncode == 6
    assert done.stderr == "error: the output could not be written: no space left on device.\n"


@pytest.mark.slow
def test_numbers_fit_the_terminal_too(
    trained: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for verb, *flags in (
        ("sharpness", "--top", "2", "--probes", "4"),
        ("certificate", "--batches", "8"),
    ):
        _, out, _ = called(capsys, "measure", verb, trained["run"], "--examples", "128", *flags)
        assert max(len(line) for line in out.splitlines() if not line.startswith("page ")) <= 60


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("columns", ["1", "20", "1000000"])
def test_a_terminal_may_have_any_width(
    trained: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert called(capsys, "show", trained["run"])[0] == 0


@pytest.mark.usefixtures("no_page")
def test_sentences_fit_the_terminal(
    trained: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = called(capsys, "show", trained["run"])
    whole = "run ", "page ", "      gradiometer "  # paths and commands to paste are not broken
    lines = [line for line in out.splitlines() if not line.startswith(whole)]
    assert [line for line in lines if len(line) > 60 and len(line.split()) > 1] == []


@pytest.mark.parametrize("what", ["readings", "losses", "evaluations"])
def test_export_writes_every_row_as_csv_and_parquet(
    trained: dict, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet

    for ending in ("csv", "parquet"):
        code, out, _ = called(
            capsys,
            "runs",
            "export",
            trained["run"],
            "--what",
            what,
            "--out",
            str(tmp_path / f"t.{ending}"),
        )
        assert code == 0 and "rows in" in out
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (
        len(rows)
        == {"readings": 180 + 180 // 16 + len(kept_steps(180)), "losses": 180, "evaluations": 8}[
            what
        ]
    )
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table.num_rows == len(rows) and table.column_names == list(rows[0])


def test_products_of_the_whole_model_are_exported_without_a_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--model", "mlp", "--epochs", "1", "--every", "1", "--no-open")
    assert called(capsys, "train", "digits", *settings, "--out", str(tmp_path))[0] == 0
    table = tmp_path / "t.csv"
    run = str(tmp_path / "digits-mlp-1")
    assert called(capsys, "runs", "export", run, "--out", str(table))[0] == 0
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["gauge"] == "noise"]
    assert len(rows) > 20 and all(float(row["squared"]) > 0 for row in rows)


def test_export_refuses_a_format_it_does_not_know(
    trained: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = called(
        capsys, "runs", "export", trained["run"], "--out", str(tmp_path / "t.xlsx")
    )
    assert code == 2 and "must end in .csv or .parquet" in err


def test_a_run_of_a_newer_version_is_refused_in_a_sentence(
    trained: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(trained["run"], tmp_path / "copy"))
    manifest = copy / "run.toml"
    manifest.write_text(manifest.read_text().replace("format = 1", "format = 99"))
    code, _, err = called(capsys, "show", str(copy))
    assert code == 2
    assert "was written in format 99" in err and "install a newer gradiometer" in err


@pytest.mark.usefixtures("no_page")
def test_lines_that_cannot_be_read_are_named_and_the_rest_is_reported(
    trained: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(trained["run"], tmp_path / "copy"))
    lines = (copy / "readings.jsonl").read_text().splitlines()
    lines[1] = "{garbled"
    (copy / "readings.jsonl").write_text("\n".join(lines)[:-5])
    code, out, _ = called(capsys, "show", str(copy), "--json")
    told = json.loads(out)
    assert code == 0
    assert "readings.jsonl:2: a line cannot be read: skipped." in told["warnings"]
    assert any("the last line is incomplete" in warning for warning in told["warnings"])
    assert told["estimates"]["noise_scale"]["samples"] > 100
