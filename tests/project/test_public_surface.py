"""What is public: the names in `__all__` of the package and of its rooms. Every other module path
is private."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import gradiometer

ROOT = Path(gradiometer.__file__).parent
PROJECT = ROOT.parents[1]
ROOMS = [
    ".".join(stub.parent.relative_to(ROOT.parent).parts)
    for stub in sorted(ROOT.parent.glob("gradiometer*/**/__init__.pyi"))
]
OPTIONAL = {
    "gradiometer.integrations": {
        "HuggingFaceCallback": "transformers",
        "LightningCallback": "lightning",
    }
}
SHOWN = [
    *sorted((PROJECT / "examples").rglob("*.py")),
    *sorted((PROJECT / "docs").rglob("*.md")),
    PROJECT / "README.md",
]


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every import from the package in a script, or in the blocks of
    a document."""
    text = path.read_text(encoding="utf-8")
    blocks = (
        [text]
        if path.suffix == ".py"
        else re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M)
    )
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in (
                "gradiometer",
                "gradiometer_lab",
            ):
                yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there_and_documented(room: str) -> None:
    module = import_module(room)
    assert module.__doc__ and set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        if (library := OPTIONAL.get(room, {}).get(name)) and library not in sys.modules:
            continue
        found = getattr(module, name)
        ours = getattr(found, "__module__", "").startswith("gradiometer")
        if callable(found) and ours and "<locals>" not in found.__qualname__:
            assert found.__doc__, f"{room}.{name} has no docstring"


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_documents_and_examples_import_public_names_only(path: Path) -> None:
    public = {room: set(import_module(room).__all__) for room in ROOMS}
    private = [
        (module, name) for module, name in imports(path) if name not in public.get(module, set())
    ]
    assert private == []


def test_the_public_names_are_few() -> None:
    assert len(gradiometer.__all__) <= 45
    assert len({name for room in ROOMS for name in import_module(room).__all__}) <= 160


def test_no_document_names_a_private_module() -> None:
    modules = {
        ".".join(("gradiometer", *path.relative_to(ROOT).with_suffix("").parts))
        for path in ROOT.rglob("*.py")
        if path.name != "__init__.py"
    }
    named = {
        (path.name, name)
        for path in SHOWN
        for name in re.findall(r"gradiometer(?:\.\w+)+", path.read_text(encoding="utf-8"))
        if name in modules
        and not hasattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
    }
    assert named == set()


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    import subprocess

    code = (
        "import sys, gradiometer; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', "
        "'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
