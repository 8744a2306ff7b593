"""The documentation: every block of code runs, in the order of its page, and every public name has
its place."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest

from command_line import commands_of, unknown_words
from gradiometer import GAUGES
from gradiometer.cli import gradiometer
from gradiometer.verdict.claims import Claim

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```(python|py|sh)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
"""Blocks marked `py` are only parsed: they need a package or a machine that is not here."""

SOURCE = DOCS.parent / "src"

APPENDICES = tuple(
    f"explanation/{name}.md" for name in ("estimation", "drift", "convergence", "exploration")
)
"""Pages of formulas, to which the short pages of concepts and the page of a run lead."""


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[tuple[str, str]]:
    return [
        (language, block) for language, block in BLOCK.findall(text(page)) if language in languages
    ]


def commands(page: str) -> list[list[str]]:
    lines = [line for _, block in blocks(page, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("gradiometer ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command_shown_exists_with_its_flags(page: str) -> None:
    for _, *arguments in commands(page):
        assert unknown_words(arguments) == []


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "py")])
def test_the_blocks_that_do_not_run_can_be_parsed(page: str) -> None:
    for _, block in blocks(page, "py"):
        ast.parse(block)


def wording(printed: str) -> str:
    """Text without its numbers and line ends."""
    return " ".join(re.sub(r"[−-]?\d[\d,.]*", "#", printed).split())


def quotes(page: str) -> list[str]:
    """What the page says is printed: its block quotes."""
    return [
        re.sub(r"^> ?", "", quote, flags=re.MULTILINE)
        for quote in re.findall(r"(?:^> .*\n)+", text(page), re.M)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python", "sh")])
def test_the_blocks_of_a_page_run_in_order(page: str, tmp_path: Path) -> None:
    so_far = printed = ""
    for language, group in groupby(blocks(page, "python", "sh"), key=itemgetter(0)):
        text_of_group = "".join(block for _, block in group)
        if language == "python":
            so_far += text_of_group  # a block may continue the one before it
            printed += run(tmp_path, "-W", "error", "-c", so_far)
            continue
        for line in text_of_group.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "gradiometer", f"{page} shows {line}"
            printed += run(tmp_path, "-m", "gradiometer", *arguments)
    if page in ("index.md", "tutorial.md"):
        assert [quote for quote in quotes(page) if wording(quote) not in wording(printed)] == []


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stderr}"
    return done.stdout


def test_every_command_has_its_row_on_the_page_of_commands() -> None:
    listed = re.findall(r"^\| `(\w+)`", text("reference/verbs.md"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(name for name, _ in commands_of(gradiometer))


def public_names() -> Iterator[tuple[str, str]]:
    """Every public name of the package and its rooms, with the file in which it is defined: from
    the stubs."""
    for stub in SOURCE.rglob("__init__.pyi"):
        room = ".".join(stub.parent.relative_to(SOURCE).parts)
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                module = f"{room}.{node.module}" if node.level else node.module
                yield from ((f"{room}.{name.name}", f"{module}.{name.name}") for name in node.names)


def test_every_public_name_is_in_the_reference() -> None:
    homes = dict(public_names())
    pages = "\n".join(text(page) for page in PAGES if page.startswith("reference/"))
    shown = set(re.findall(r"^::: (\S+)$", pages, flags=re.MULTILINE))
    documented = shown | {homes[path] for path in shown if path in homes}
    missing = [
        path for path, home in homes.items() if not {home, home.rpartition(".")[0]} & documented
    ]
    assert missing == []
    files = [path for path in shown if (SOURCE / f"{path.replace('.', '/')}.py").exists()]
    assert files == ["gradiometer.errors"], (
        "a module is shown in place of the function of the same name"
    )


def test_the_page_of_the_architecture_has_every_package() -> None:
    house = text("dev/architecture.md")
    rooms = [stub.parent for stub in (SOURCE / "gradiometer").rglob("__init__.py")]
    files = [
        file for file in (SOURCE / "gradiometer").glob("*.py") if not file.name.startswith("__")
    ]
    assert [room.name for room in rooms if f"{room.name}/" not in house] == []
    assert [file.name for file in files if f" {file.name}" not in house] == []


def test_the_page_of_the_architecture_names_files_that_exist() -> None:
    changes = text("dev/architecture.md").split("## Packages")[0]
    named = [
        path
        for path in re.findall(r"`([\w/.]+(?:/|\.py|\.toml|\.json))`", changes)
        if not re.search("NAME|ROOM", path)
    ]
    assert len(named) > 30
    package = SOURCE / "gradiometer"
    places = (package, package / "verdict" / "triage", DOCS.parent)
    missing = [path for path in named if not any((place / path).exists() for place in places)]
    assert missing == []


@pytest.mark.parametrize("claim", Claim)
def test_every_diagnosis_has_a_page_with_a_change_and_when_it_is_wrong(claim: Claim) -> None:
    page = text(f"diagnoses/{claim}.md")
    assert f"\n`{claim}`\n" in page
    parts = re.findall(r"^## .+\n\n(?=\S)", page, flags=re.MULTILINE)
    titles = [part.strip() for part in parts]
    assert len(titles) == 4
    assert [titles[0], *titles[2:]] == ["## What it looks like", "## Change", "## When it is wrong"]
    assert f"({claim}.md)" in text("diagnoses/index.md")
    assert f"(../diagnoses/{claim}.md)" in text("explanation/diagnosis.md")


def test_every_gauge_has_its_row_on_the_page_of_gauges() -> None:
    listed = re.findall(
        r"^\| `(\w+)` \| \[`(\w+)`", text("reference/gauges.md"), flags=re.MULTILINE
    )
    assert dict(listed) == {name: kind.__name__ for name, kind in GAUGES.items()}


def test_every_page_is_in_the_contents_of_the_site() -> None:
    contents = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    elsewhere = ("dev/", *APPENDICES, *(f"diagnoses/{claim}." for claim in Claim))
    pages = {page for page in PAGES if not page.startswith(elsewhere)}
    assert {page for page in pages if f" {page}\n" not in contents} == set()


def test_a_page_has_at_most_two_thousand_words_and_the_contents_at_most_thirty_one_thousand() -> (
    None
):
    words = {page: len(text(page).split()) for page in PAGES if not page.startswith("dev/")}
    assert {page: count for page, count in words.items() if count > 2_000} == {}
    assert sum(count for page, count in words.items() if page not in APPENDICES) <= 31_000


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_a_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    build = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    subprocess.run(build, cwd=DOCS.parent, check=True)
    for built in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"',
            built.read_text(encoding="utf-8"),
        )
        assert loaded == [], built.name


@pytest.mark.parametrize(("loss", "code"), [("2 * 0.99**step + 0.1", 0), ("float('nan')", 3)])
def test_the_workflow_of_the_page_on_ci_works_as_it_is_printed(
    loss: str, code: int, tmp_path: Path
) -> None:
    (workflow,) = re.findall(r"^```yaml\n(.*?)^```", text("how-to/ci.md"), flags=re.DOTALL | re.M)
    assert len(workflow.splitlines()) == 10
    _, training, verdict = re.findall(r"- run: (.*)", workflow)
    printed = f'print(f"iter {{step}}: loss {{{loss}:.4f}}, lr {{0.1 * (1 - step / 500):.4f}}")'
    (tmp_path / "train.py").write_text(f"for step in range(500):\n    {printed}\n")
    python = shlex.quote(sys.executable)
    command = training.replace("python", python, 1)
    subprocess.run(command, cwd=tmp_path, shell=True, check=True)
    command = verdict.replace("gradiometer", f"{python} -m gradiometer", 1)
    assert subprocess.run(command, cwd=tmp_path, shell=True, check=False).returncode == code
