"""A release: one version everywhere, and files that install without a network."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gradiometer

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert cited is not None
    assert project["version"] == gradiometer.__version__ == cited[1]


def test_the_digits_have_their_licence() -> None:
    text = (ROOT / "src" / "gradiometer" / "problems" / "data" / "digits.LICENSE.txt").read_text()
    assert "CC BY 4.0" in text or "Creative Commons Attribution 4.0" in text


@pytest.mark.slow
def test_wheel_and_sdist_install_offline_and_train(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, ROOT / "scripts" / "release", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("installs and runs") == 2
