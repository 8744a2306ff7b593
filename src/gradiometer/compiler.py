"""Import the compiler of torch only when something is compiled.

The first optimizer imports `torch._dynamo`, which takes as long as importing torch, to keep two of its functions from
being traced. In processes of our own, which rarely compile, a stand-in answers these two calls. Anything else that is
asked of it imports the real module, and compiled code then finds everything as if it had been there from the start.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.machinery import ModuleSpec
from typing import Any

NAME = "torch._dynamo"


def postpone_compiler() -> None:
    """Let optimizers run without importing `torch._dynamo`, if nothing has imported it yet."""
    sys.modules.setdefault(NAME, _Postponed())  # type: ignore[arg-type]


@contextmanager
def as_written() -> Iterator[None]:
    """A region in which compiled code runs eagerly; what was compiled stays.

    If the compiler is not imported, nothing is compiled, and asking for the region would import it.
    """
    import torch  # noqa: PLC0415  (after `postpone_compiler`)

    found: Any = sys.modules.get(NAME)
    if found is None or isinstance(found, _Postponed) or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class _Postponed:
    """In the place of `torch._dynamo` until it is needed."""

    __spec__ = ModuleSpec(NAME, None)

    def __init__(self) -> None:
        self._marked: list[Any] = []
        self._lock = threading.RLock()

    def graph_break(self, *_: Any, **__: Any) -> None:
        """Ends the graph of compiled code; without such code, nothing."""

    def disable(self, function: Any = None, *settings: Any, **named: Any) -> Any:
        """The function, which is not traced as long as nothing is compiled."""
        if not callable(function):
            return self._real().disable(function, *settings, **named)

        @wraps(function)
        def untraced(*arguments: Any, **keywords: Any) -> Any:
            return self._called(function, settings, named)(*arguments, **keywords)

        self._marked.append(function)
        sys.modules["torch"]._dynamo = self  # type: ignore[attr-defined]  # found at once by every update
        return untraced

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__path__", "__all__"):  # asked for by those who list all modules
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _called(self, function: Any, settings: tuple[Any, ...], named: dict[str, Any]) -> Callable[..., Any]:
        called: Callable[..., Any] = function
        return called if self._waits else self._real().disable(function, *settings, **named)

    @property
    def _waits(self) -> bool:
        """True while this is in the place of the real module."""
        found: Any = sys.modules.get(NAME)
        return found is self

    def _real(self) -> Any:
        """The real module, imported now if this is still in its place."""
        with self._lock:
            if self._waits:
                del sys.modules[NAME]
                vars(sys.modules["torch"]).pop("_dynamo", None)
                for function in self._marked:
                    vars(function).pop("__dynamo_disable", None)  # torch then asks the real module
            return importlib.import_module(NAME)
