"""`gradiometer learn schedule`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from command_line import spent
from gradiometer import BadArgument
from gradiometer_lab.learn.schedule import schedule as verb


def test_json_holds_all_verdicts_and_loads_no_heavy_library() -> None:
    texts = [
        "1/t",
        "1/sqrt(t)",
        "1/(t*log(t+1)**2)",
        "1e-12/t",
        "0.1*0.99**t",
        "Cosine(0.1, steps=1000)",
    ]
    program = (
        "import sys; from gradiometer_lab.learn.schedule import schedule; "
        "schedule.main(sys.argv[1:], standalone_mode=False);assert not {'torch', 'sympy', "
        "'altair'} & set(sys.modules)"
    )
    before = spent()
    finished = subprocess.run(
        [sys.executable, "-c", program, *texts, "--json"], capture_output=True, check=True
    )
    assert spent() - before < 3
    entries = json.loads(finished.stdout)["schedules"]
    assert [entry["expression"] for entry in entries] == texts
    assert [entry["theorem"] for entry in entries] == [True, False, False, True, False, False]
    expected = {
        "expression",
        "limit_zero",
        "sum_diverges",
        "sum_of_squares_converges",
        "theorem",
        "why",
    }
    assert all(set(entry) == expected for entry in entries)


def test_the_command_prints_the_finite_run_and_saves_a_chart(tmp_path: Path) -> None:
    drawing = tmp_path / "rates.png"
    arguments = ["1/t", "Linear(1.0, steps=1000)", "--steps", "1000", "--tuned", "0.5"]
    printed = CliRunner().invoke(verb, arguments, env={"COLUMNS": "200"})
    assert printed.exit_code == 0
    assert "6.222 D G/√T" in printed.output and "2.006 D G/√T" in printed.output
    asked = CliRunner().invoke(verb, [*arguments, "--json", "--png", str(drawing)])
    # click 8.1 has standard error there too
    entries = json.loads(asked.stdout.splitlines()[-1])["schedules"]
    assert entries[1]["horizon"]["reaches_zero"] and not entries[0]["horizon"]["reaches_zero"]
    assert entries[0]["horizon"]["transferred_peak"] == 0.5
    assert drawing.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments",
    [["1/x"], ["Cosin(0.1)"], ["1/t", "--tuned", "0.1"], ["1/t", "--png", "/no/such/folder/x.png"]],
)
def test_the_command_rejects_bad_input(arguments: list[str]) -> None:
    assert isinstance(CliRunner().invoke(verb, arguments).exception, BadArgument)


def test_a_trapezoid_is_a_schedule_with_a_name() -> None:
    asked = CliRunner().invoke(verb, ["trapezoid", "--steps", "10", "--json"])
    [entry] = json.loads(asked.stdout.splitlines()[-1])["schedules"]
    assert asked.exit_code == 0 and entry["horizon"]["final"] == pytest.approx(0.1 * 1 / 5)
