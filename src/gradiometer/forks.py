"""The room of version 0.2, which is `gradiometer.loop` now."""


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(f"`gradiometer.forks.{name}` is now in `gradiometer.loop`.")
