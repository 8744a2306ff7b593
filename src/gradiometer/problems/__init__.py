"""Problems to measure: closed forms with known answers, and real data that ships or lies on disk.

`load` finds one by name; `Problem` and `Examples` make your own. They are imported when first asked for, so that
listing the names needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradiometer.problems.closed_forms.double_well import DoubleWell
    from gradiometer.problems.closed_forms.one_dimensional import OneDimensional
    from gradiometer.problems.closed_forms.quadratic import Quadratic
    from gradiometer.problems.examples import Examples
    from gradiometer.problems.problem import Problem
    from gradiometer.problems.registry import NAMES, load

_HOME_OF = {
    "NAMES": "registry",
    "DoubleWell": "double_well",
    "Examples": "examples",
    "OneDimensional": "one_dimensional",
    "Problem": "problem",
    "Quadratic": "quadratic",
    "load": "registry",
}

__all__ = ["NAMES", "DoubleWell", "Examples", "OneDimensional", "Problem", "Quadratic", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gradiometer.problems' has no attribute {name!r}")
    return getattr(import_module(f"gradiometer.problems.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
