"""A quick share of the fuzzing. `PYTHONPATH=tests/support python tests/fuzz/harness.py 100000` is the long one."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import readers
from fields import fields_of
from harness import fault
from kinds import SHARES
from whole_runs import whole_runs

from gradiometer.cli import main
from gradiometer.run import reader, readings

QUICK = {
    "schedule": 60,
    "toml": 150,
    "log": 40,
    "log_folder": 40,
    "alternative": 200,
    "command_line": 10,
    "tuning_record": 10,
}
"""Inputs of each kind that the slow suite tries. The nightly one tries 20,000 of all kinds."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_runs(tmp_path_factory.mktemp("fuzz") / "base")[0]


@pytest.mark.parametrize(
    "seeds",
    [
        range(200),
        pytest.param(range(200, 2_000), id="many", marks=pytest.mark.slow),
    ],
)
def test_a_log_with_degenerate_series_is_answered_in_sentences(
    seeds: range, tmp_path: Path
) -> None:
    for seed in seeds:
        words = fault("degenerate_log", seed, tmp_path)
        assert words is None, f"degenerate_log {seed}: {words}"


@pytest.mark.slow
def test_the_runs_have_a_record_of_every_kind(base: Path) -> None:
    found = {field.kind for run in (base, base.parent / "loop-1") for field in fields_of(run)}
    lines = [kind.__struct_config__.tag for kind in readings.LINES.__args__]
    for kind in (
        *(f"events.jsonl {name}" for name in reader.KINDS),
        *(f"readings.jsonl {tag}" for tag in lines),
    ):
        assert any(each.startswith(kind) for each in found), kind


@pytest.mark.slow
@pytest.mark.parametrize(
    "reader", [each for each in readers.SHARES if each.__name__ not in ("doctor", "resume")]
)
def test_every_reader_reads_a_run_that_is_whole(
    reader: readers.Reader, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(given: Sequence[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main([*given])
        assert not ended.value.code, given

    monkeypatch.setattr(readers, "called", read)
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    reader(random.Random(0), copy, base)


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(20), id="some", marks=pytest.mark.slow),
        pytest.param(range(20, 320), id="many", marks=pytest.mark.nightly),
    ],
)
def test_a_broken_field_of_a_record_is_named_and_the_rest_is_read(base: Path, seeds: range) -> None:
    for seed in seeds:
        assert (words := fault("record_findings", seed, base)) is None, (
            f"record_findings {seed}: {words}"
        )


@pytest.mark.slow
def test_every_command_reads_a_run_with_a_broken_field(base: Path) -> None:
    for seed in range(40):
        assert (words := fault("record", seed, base)) is None, f"record {seed}: {words}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["schedule", "toml", "log", "log_folder", "alternative"])
def test_a_spoiled_input_ends_as_done_or_as_an_error_with_a_name(kind: str, tmp_path: Path) -> None:
    for seed in range(QUICK[kind]):
        assert (words := fault(kind, seed, tmp_path)) is None, f"{kind} {seed}: {words}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["command_line", "tuning_record"])
def test_commands_end_with_an_exit_code_that_names_the_error(kind: str, base: Path) -> None:
    for seed in range(QUICK[kind]):
        assert (words := fault(kind, seed, base)) is None, f"{kind} {seed}: {words}"


def check_harness(*arguments: str) -> str:
    """Run the harness in a process without the checks of types that these tests have."""
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(folder / "harness.py"), *arguments],
        env=os.environ | {"PYTHONPATH": str(folder.parent / "support")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_program_that_gives_anything_gets_an_error_with_a_name() -> None:
    kinds = ["watched_loop", "own_gauge", "given_norms", "python_calls", "pooled_calls"]
    printed = check_harness("100", "--kinds", ",".join(kinds))
    assert all(f"20  {kind}: tried" in printed for kind in kinds)


@pytest.mark.nightly
def test_20000_spoiled_inputs_end_as_done_or_as_an_error_with_a_name() -> None:
    printed = check_harness("20000", "--first", "1000")
    assert all(f"{200 * share:6}  {kind}: tried" in printed for kind, share in SHARES.items())
