"""The documentation: every block of code runs, in the order of its page, and every verb has its place."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gradiometer.cli import gradiometer

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def commands(page: str) -> list[list[str]]:
    lines = [line for language, block in blocks(page) if language == "sh" for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("gradiometer ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command_shown_has_its_verb_and_its_flags(page: str) -> None:
    for _, verb, *arguments in commands(page):
        known = {
            name
            for parameter in gradiometer.commands[verb].params
            for name in [*parameter.opts, *parameter.secondary_opts]
        }
        assert {argument for argument in arguments if argument.startswith("--")} <= known, verb


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_the_blocks_of_a_page_run_in_their_order(page: str, tmp_path: Path) -> None:
    so_far = ""
    for language, block in blocks(page):
        if language == "python":
            so_far += block  # a block may go on from the one before it
            subprocess.run([sys.executable, "-W", "error", "-c", so_far], cwd=tmp_path, check=True)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "gradiometer", f"{page} shows {line}"
            ended = subprocess.run([sys.executable, "-m", "gradiometer", *arguments], cwd=tmp_path, check=False)
            assert ended.returncode == 0, line


def test_every_verb_has_its_line_on_the_page_of_verbs() -> None:
    listed = re.findall(
        r"^\| `(\w+)`", (DOCS / "reference" / "verbs.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert sorted(listed) == sorted(gradiometer.commands)


def test_every_page_is_in_the_sites_contents() -> None:
    contents = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    assert {page for page in PAGES if page not in contents} == set()


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_nothing_of_any_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(build, cwd=DOCS.parent, check=True)
    for built in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', built.read_text(encoding="utf-8")
        )
        assert loaded == [], built.name
