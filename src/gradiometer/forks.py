"""The room of version 0.2, which is `gradiometer.loop` now."""

# Names of version 0.2, and what takes their place there.
RENAMED = {"grown": "train_branch", "Continuation": "Loop", "Source": "Loop"}


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"`gradiometer.forks.{name}` is now `{RENAMED.get(name, name)}` in `gradiometer.loop`."
    )
