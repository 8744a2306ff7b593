"""The two ways in which a person watches a recipe."""

from pathlib import Path

from gradiometer.integrations.watch import watch
from recipes.training import Watching


def in_two_lines(folder: Path) -> Watching:
    """`watch(model, optimizer)` and `w.step(loss)`: nothing else is given."""
    return Watching(lambda model, optimizer, _: watch(model, optimizer, out=folder, quiet=True))


def with_loss(folder: Path, updates: int) -> Watching:
    """The loss and the number of updates are given, and each batch: `w.step(loss, batch)`."""

    def begin(model, optimizer, loss):
        return watch(model, optimizer, loss=loss, steps=updates, out=folder, quiet=True)

    return Watching(begin, with_batch=True)
