"""Every example in a docstring is run, and there are enough of them to show how the library is
used."""

import ast
import doctest
from importlib import import_module
from pathlib import Path

import pytest

import gradiometer

ROOT = Path(gradiometer.__file__).parent
MODULES = [
    path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")
]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(path: Path) -> list[doctest.DocTest]:
    """The docstrings with examples, read from the source: decorated functions hide them from
    doctest's own finder."""
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    parser, names = doctest.DocTestParser(), vars(import_module(name))
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ">>> " in (
            ast.get_docstring(node) or ""
        ):
            label = getattr(node, "name", "the module")
            line = node.body[0].lineno
            found.append(
                parser.get_doctest(
                    ast.get_docstring(node) or "", dict(names), label, str(path), line
                )
            )
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_examples_of_a_module_print_what_they_show(
    path: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for example in examples(path):
        runner.run(example)
    assert runner.failures == 0 and runner.tries > 0
