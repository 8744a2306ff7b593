"""Run code with the packages of the core and of one extra alone; others that are installed cannot
be imported.

`python tests/support/lone_extra.py EXTRA CODE`; an empty EXTRA is the core.
"""

import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import (
    Distribution,
    DistributionFinder,
    PackageNotFoundError,
    packages_distributions,
    requires,
)
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
INSTALLED = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}


def needed(extra: str) -> set[str]:
    """The distributions that `pip install gradiometer[extra]` installs, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else ())]
    found = {"gradiometer"}
    ahead = [(each.name, wanted) for each in map(Requirement, own) for wanted in ("", *each.extras)]
    seen = set(ahead)
    while ahead:
        name, wanted = ahead.pop()
        found.add(canonicalize_name(name))
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # needed on another platform, or not installed here
            continue
        for requirement in map(Requirement, lines):
            asked = [{"extra": ""}, {"extra": wanted}]
            if requirement.marker is not None and not any(map(requirement.marker.evaluate, asked)):
                continue
            for each in ["", *requirement.extras]:
                pair = (requirement.name, each)
                if pair not in seen:
                    seen.add(pair)
                    ahead.append(pair)
    return found


class Hiding(MetaPathFinder):
    """Finds modules as Python does, except those of packages that are as if they were not
    installed."""

    def __init__(self, extra: str) -> None:
        self.kept, self.modules = needed(extra), absent(extra)

    def find_distributions(self, context: Any = None) -> Iterator[Distribution]:
        found = PathFinder.find_distributions(context or DistributionFinder.Context())
        return (each for each in found if canonicalize_name(each.metadata["Name"]) in self.kept)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        found = PathFinder.find_spec(name, path, target)
        return None if path is None and name in self.modules and is_installed(found) else found


def is_installed(found: ModuleSpec | None) -> bool:
    """True if a top-level module lies in the folder of installed packages, not in a folder of
    another package."""
    places = [] if found is None else [found.origin, *(found.submodule_search_locations or ())]
    return any(Path(place).parent in INSTALLED for place in places if place)


def absent(extra: str) -> set[str]:
    """Top-level modules of installed packages that neither the core nor the extra brings."""
    kept = needed(extra)
    owners = packages_distributions().items()
    return {module for module, names in owners if not kept & set(map(canonicalize_name, names))}


if __name__ == "__main__":
    hiding = Hiding(sys.argv[1])
    sys.meta_path[:] = [hiding if finder is PathFinder else finder for finder in sys.meta_path]
    exec(compile(sys.argv[2], "<code>", "exec"))
