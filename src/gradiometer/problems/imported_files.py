"""Which files an import would run, found out without running them, and a digest of what they say."""

import ast
import hashlib
import site
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import all_suffixes
from pathlib import Path
from types import ModuleType

# The file that says that a folder is a run.
_OF_A_RUN = "run.toml"


def search_path() -> list[str]:
    """Where a module of the user is looked for: the current folder first, as with `python -m`.

    The folder of a run is not searched, nor one inside of it: what lies there came with the run.
    """
    here = Path.cwd()
    inside_a_run = any((folder / _OF_A_RUN).is_file() for folder in (here, *here.parents))
    return sys.path if inside_a_run or str(here) in sys.path else [str(here), *sys.path]


def files_of(name: str) -> dict[str, Path]:
    """The files that importing a module would run, by their place in the folder that it is found in.

    They are the module, the packages that it lies in, and what these import from the same folder.
    Of an installed package only the module and its packages count.

    Args:
        name: Name of the module, with dots.

    Returns:
        An empty mapping if the module is not found as a file.
    """
    root = _root_of(name)
    if root is None:
        return {}
    of_python = (sysconfig.get_path(each) for each in ("stdlib", "purelib", "platlib"))
    known = (*of_python, *site.getsitepackages(), site.getusersitepackages())
    is_installed = root.resolve() in {Path(each).resolve() for each in known}
    found: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        for file in _files_in(root, waiting.pop()):
            place = file.relative_to(root).as_posix()
            if place not in found:
                found[place] = file
                if not is_installed:
                    waiting.extend(_imported_by(file, root))
    return found


def digest(files: dict[str, Path]) -> str:
    """A digest of the content of files and of their places; empty for none."""
    if not files:
        return ""
    whole = hashlib.sha256()
    for place in sorted(files):
        content = hashlib.sha256(files[place].read_bytes()).hexdigest()
        whole.update(f"{place}\0{content}\n".encode())
    return whole.hexdigest()


def _root_of(name: str) -> Path | None:
    """The folder in which the import finds the first part of the name."""
    loaded = _loaded_file(sys.modules.get(name))
    if loaded is not None:
        depth = name.count(".") + (loaded.name == "__init__.py")
        return loaded.parents[depth]
    top = name.partition(".")[0]
    for folder in map(Path, search_path()):
        if _file_in(folder, top) is not None or (folder / top).is_dir():
            return folder.absolute()
    return None


def _loaded_file(module: ModuleType | None) -> Path | None:
    """The file of a module that is loaded; None if it has none."""
    written = getattr(module, "__file__", None)
    return (
        Path(written).absolute() if isinstance(written, str) and Path(written).is_file() else None
    )


def _files_in(root: Path, name: str) -> Iterator[Path]:
    """The files of a module and of the packages that it lies in."""
    folder = root
    for part in name.split("."):
        file = _file_in(folder, part)
        if file is not None:
            yield file
        folder = folder / part


def _file_in(folder: Path, part: str) -> Path | None:
    """The file that the import of one part of a name would run: a package comes before a module."""
    suffixes = all_suffixes()
    stems = (folder / part / "__init__", folder / part)
    named = (Path(f"{stem}{suffix}") for stem in stems for suffix in suffixes)
    return next((each for each in named if each.is_file()), None)


def _imported_by(file: Path, root: Path) -> Iterator[str]:
    """The names of modules that a file imports, also inside of functions."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # a compiled module, or one that the import will refuse
        return
    package = list(file.relative_to(root).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            # what is imported from a package may be a module
            yield from (".".join([*base, each.name]) for each in node.names)
