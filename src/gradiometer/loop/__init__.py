"""What would have happened: a training is continued from one state in several ways, on common data, and compared."""

import lazy_loader

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

RENAMED = {
    "grown": "`train_branch`",
    "Continuation": "`Loop`",
    "Source": "`Loop`",
}
"""Names of version 0.2, and what takes their place."""


def __getattr__(name: str) -> object:
    if name in RENAMED:
        raise ImportError(f"`gradiometer.loop.{name}` is now {RENAMED[name]}.")
    return _attribute(name)
