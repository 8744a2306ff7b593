"""A test in a process of its own, for counts to which code that other tests have loaded would add."""

import os
import subprocess
import sys

import pytest

HERE = "GRADIOMETER_TEST_IS_ALONE"


def passes_alone(request: pytest.FixtureRequest) -> bool:
    """Run this test in a process of its own, unless this is that process. Returns True after it
    has passed there, and False in it."""
    if HERE in os.environ:
        return False
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", request.node.nodeid],
        cwd=request.config.rootpath,
        env={**os.environ, HERE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return True
