"""A share of the kills. `PYTHONPATH=tests/support python tests/fuzz/kills.py 1000` kills more often."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
BESIDE = os.environ | {"PYTHONPATH": str(FOLDER.parent / "support")}
WITHOUT_REPAIR = """
import random, tempfile
from collections import Counter
from pathlib import Path
import kills
from gradiometer.storage import journal

journal._ends_in_newline = lambda *_: True
kills.warm()
with tempfile.TemporaryDirectory() as parent:
    killer, draw = kills.Killer("momentum", Path(parent)), random.Random(5)
    for _ in range(10):
        killer.kill(draw, 12, Counter())
"""


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and fork")
def test_work_that_is_killed_500_times_ends_with_the_same_bits() -> None:
    command = [sys.executable, str(FOLDER / "kills.py"), "500"]
    done = subprocess.run(command, env=BESIDE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "500  kills" in done.stdout


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and fork")
def test_a_journal_that_does_not_repair_a_torn_line_is_found() -> None:
    command = [sys.executable, "-c", WITHOUT_REPAIR]
    done = subprocess.run(
        command, cwd=FOLDER, env=BESIDE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "appended, and then lost" in done.stderr
