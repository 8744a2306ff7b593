"""The public names of a room, imported when they are first used.

They are those in the stub `__init__.pyi` beside the room. A name that the stub imports from another
package is found by the entry point that the package has for it, as `gradiometer_lab` has for what
moved there. Nothing is searched before such a name is asked for.

    [project.entry-points."gradiometer.names"]
    "gradiometer.estimation.NoiseShape" = "gradiometer_lab.noise_shape:NoiseShape"
"""

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader

if TYPE_CHECKING:  # a room that needs no other package imports it without the search for them
    from gradiometer.extensions import Registry


def attach_stub(
    room: str, path: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a room, from its stub.

    Args:
        room: Its `__name__`.
        path: Its `__file__`.

    Example:
        >>> from gradiometer import estimation
        >>> "NoiseShape" in estimation.__all__, estimation.NoiseShape.__module__
        (True, 'gradiometer_lab.noise_shape')
    """
    own: dict[str, list[str]] = {}
    added: dict[str, str] = {}
    stub = Path(path).with_suffix(".pyi").read_text(encoding="utf-8")
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if node.level == 0:
                added |= dict.fromkeys(names, str(node.module).partition(".")[0])
            else:
                own.setdefault(str(node.module), []).extend(names)
    own_name, _, all_own = lazy_loader.attach(room, submod_attrs=own)
    public = sorted([*all_own, *added])

    def find(name: str) -> Any:
        if name not in added:
            return own_name(name)
        found = _names().get(f"{room}.{name}")
        if found is None:
            raise AttributeError(f"{room}.{name} is in {added[name]}, which is not installed.")
        return found

    return find, public.copy, public


@cache
def _names() -> "Registry[Any]":
    from gradiometer.extensions import Registry  # noqa: PLC0415 (see above)

    return Registry("gradiometer.names", "name")
