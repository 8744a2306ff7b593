"""A quick share of the fuzzing. `python tests/fuzz/harness.py 100000` is the long one."""

from pathlib import Path

import pytest
from harness import fault, recorded_run
from kinds import KINDS

QUICK = {
    "schedule": 60,
    "toml": 150,
    "arguments": 20,
    "log": 40,
    "run_folder": 4,
    "artifact": 2,
    "checkpoint": 6,
    "alternative": 200,
    "fork_folder": 4,
    "fork_arguments": 4,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_run(tmp_path_factory.mktemp("fuzz") / "base")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["schedule", "toml", "arguments", "log", "alternative"])
def test_a_spoiled_input_ends_as_done_or_as_an_error_with_a_name(kind: str, tmp_path: Path) -> None:
    for seed in range(QUICK[kind]):
        assert (words := fault(kind, seed, tmp_path)) is None, f"{kind} {seed}: {words}"


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_many_spoiled_inputs_end_as_done_or_as_an_error_with_a_name(kind: str, base: Path) -> None:
    for seed in range(1000, 1000 + 10 * QUICK[kind]):
        assert (words := fault(kind, seed, base)) is None, f"{kind} {seed}: {words}"
