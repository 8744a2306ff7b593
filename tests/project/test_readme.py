"""The README: its code runs, its commands exist, and its first screen has the two commands to start
with."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import unknown_words

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


OWN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from gradiometer.problems import load

loader = DataLoader(TensorDataset(*load("digits").train.data), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
"""The model, the optimizer and the loader that a reader has."""


@pytest.mark.slow
def test_the_python_block_runs_in_a_program_with_a_model_and_prints_a_finding(
    tmp_path: Path,
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(re.search(r"with watch.*", block, flags=re.DOTALL)[0].strip().splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OWN + block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "noise scale" in done.stdout


@pytest.mark.parametrize("line", re.findall(r"^gradiometer .*$", README, flags=re.MULTILINE))
def test_every_command_shown_exists_with_its_flags(line: str) -> None:
    assert unknown_words(shlex.split(line, comments=True)[1:]) == []


def test_the_two_commands_are_on_the_first_screen() -> None:
    first_screen = README.splitlines()[:20]
    assert any(
        ".venv/bin/pip install . && .venv/bin/gradiometer demo" in line for line in first_screen
    )
    assert any(
        ".venv/bin/pip install -e '.[dev]' && .venv/bin/pytest -q" in line for line in first_screen
    )


def test_the_first_screens_have_a_picture_the_loop_and_an_answer() -> None:
    before = README[: README.index("## What it can tell you")]
    assert len(re.findall(r"^!\[", before, flags=re.MULTILINE)) == 1
    assert len(re.findall(r"(?:^> .*\n)+", before, flags=re.MULTILINE)) == 1
    assert before.index("print(w.findings())") < before.index("w.test()")


def test_the_images_of_the_documents_are_small() -> None:
    images = [
        path
        for path in (Path(__file__).parents[2] / "docs").rglob("*")
        if path.suffix in {".png", ".webp"}
    ]
    assert sum(path.stat().st_size for path in images) < 800_000


def test_the_readme_is_short_and_its_links_exist() -> None:
    assert len(README.splitlines()) <= 120
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if not (Path(__file__).parents[2] / link).exists()] == []
