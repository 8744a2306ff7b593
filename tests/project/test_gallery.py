"""The gallery: its runs are those of the example, its pictures exist, and the example runs."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradiometer import BadArgument
from gradiometer.problems import load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gallery.py"
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
SIX = PAGE[: PAGE.index("## Every kind of page")]


@pytest.fixture(scope="module")
def exhibits() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))["EXHIBITS"]


def test_the_page_has_a_section_and_a_picture_for_each_run_of_the_example(
    exhibits: dict[str, Any],
) -> None:
    assert len(exhibits) == 6
    assert [exhibit.title for exhibit in exhibits.values()] == re.findall(
        r"^### (.+)$", SIX, flags=re.MULTILINE
    )
    assert [f"gallery/run-{name}.webp" for name in exhibits] == re.findall(
        r"\]\((gallery/run-\S+)\)", PAGE
    )


def test_every_kind_of_page_is_shown_in_both_schemes_and_widths() -> None:
    script = (ROOT / "scripts" / "screenshots").read_text(encoding="utf-8")
    heights = ast.literal_eval(
        re.search(r"^HEIGHTS = (\{.+?\})$", script, re.MULTILINE | re.DOTALL)[1]
    )
    shown = {f"gallery/{kind}-{scheme}.webp" for kind in heights for scheme in ("light", "dark")}
    pictures = re.findall(r"\]\((gallery/\S+\.webp)\)", PAGE)
    assert shown <= set(pictures) and len(pictures) == len(set(pictures))
    assert [picture for picture in pictures if not (ROOT / "docs" / picture).exists()] == []
    assert {f"gallery/{path.name}" for path in (ROOT / "docs" / "gallery").iterdir()} - set(
        pictures
    ) == {
        "gallery/demo-1280-light.webp"  # of the README
    }


@pytest.mark.slow
def test_the_example_says_what_the_page_and_a_fork_say(tmp_path: Path) -> None:
    try:
        load("fashion-mnist")
    except BadArgument:
        pytest.skip("needs Fashion-MNIST")
    command = [sys.executable, str(EXAMPLE), "missing-value", "small-batch", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spike, batch = done.stdout.split("A batch far below the noise scale")
    assert "The loss spiked at step 221" in spike and "Cause: example 7 of the" in spike
    assert "The batch is too small" in batch
    assert re.search(r"    batch 2x, rate 1.9x: \w+, \S+ \[\S+, \S+\]", batch)
    assert len(list(tmp_path.glob("*/report.html"))) == 2
