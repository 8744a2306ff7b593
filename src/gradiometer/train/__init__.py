"""One training loop that can be read: plain torch, with the instrument beside it.

The arithmetic of training is the same with the instrument on, off, or at another cadence, so the
weights are too.
"""

import lazy_loader

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Names of version 0.2, and what takes their place.
RENAMED = {
    "fork_run": "`gradiometer.loop.fork(loop_at(run, step), alternatives, out=run.path)`",
    "RunFork": "`gradiometer.loop.Fork`",
    "critical_batch_of": "`gradiometer.loop.critical_batch(loop_at(run, step), out=run.path)`",
}


def __getattr__(name: str) -> object:
    if name in RENAMED:
        raise ImportError(f"`gradiometer.train.{name}` is now {RENAMED[name]}.")
    return _attribute(name)
