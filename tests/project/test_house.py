"""The order of the house: small rooms, and no two files that import each other."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gradiometer

ROOT = Path(gradiometer.__file__).parent
TESTS = Path(__file__).parents[1]
ONE_FILE_EACH = {"cli", "lecture"}
"""Rooms of one file a verb and one file a statement."""

MOST_FILES = 20


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.slow
def test_no_two_files_import_each_other() -> None:
    """Also counted: imports inside functions, and those for annotations alone."""
    trees = {
        module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")
    }
    imported: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported[name] |= {alias.name for alias in node.names} & trees.keys()
            elif isinstance(node, ast.ImportFrom) and node.module in trees:
                found = {f"{node.module}.{alias.name}" for alias in node.names}
                imported[name] |= (found & trees.keys()) or {node.module}
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        pytest.fail(f"these files import each other: {' -> '.join(error.args[1])}")


def test_there_is_one_conftest_which_tests_import_by_its_name() -> None:
    assert [*TESTS.rglob("conftest.py")] == [TESTS / "conftest.py"]


def test_nothing_lies_loose_beside_the_rooms_of_tests() -> None:
    assert [path.name for path in TESTS.glob("*.*")] == ["conftest.py"]


@pytest.mark.parametrize(
    "room", sorted({path.parent for path in ROOT.rglob("*.py")}), ids=lambda room: room.name
)
def test_a_room_is_small(room: Path) -> None:
    files = [path.name for path in room.glob("*.py") if path.name != "__init__.py"]
    assert room.name in ONE_FILE_EACH or len(files) <= MOST_FILES, files
