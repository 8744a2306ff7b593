"""A share of the kills. `python tests/fuzz/kills.py 1000` kills more often."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and fork")
def test_work_that_is_killed_100_times_ends_with_the_same_bits() -> None:
    command = [sys.executable, str(Path(__file__).parent / "kills.py"), "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100  kills" in done.stdout
