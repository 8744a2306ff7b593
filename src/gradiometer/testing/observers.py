"""The laws of observers."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradiometer.integrations.watch.observers.observer import (
    Observer,
    Observers,
    Start,
    Step,
    Update,
)
from gradiometer.integrations.watch.watch import watch
from gradiometer.integrations.watch.watching import Watch
from gradiometer.randomness import GlobalStates, seed_everything
from gradiometer.run.reader import Run
from gradiometer.testing.steps import training_state

MakeObserver = Callable[[Watch], Observer]


class _Stopped(Exception):
    """Ends a training in its middle."""


def check_observer(make: MakeObserver, steps: int = 40) -> None:
    """Check the laws that every observer of a watch must meet.

    1. A watched training has the same bits with it and without it, random states among them.
    2. After it was called at a step, the next step that it asks for is a later one.
    3. It raises nothing, from `begin` to `close`; a watch would warn and stop measuring.
    4. It can be closed after an error of the training, and the run opens.

    Args:
        make: Makes the observer, for the watch that will call it.
        steps: Number of updates of the training.

    Raises:
        AssertionError: It breaks a law; the message says which.

    >>> from gradiometer.integrations.watch.observers.observer import Observer
    >>> from gradiometer.testing import check_observer
    >>> class Tenth(Observer):
    ...     "Called at every tenth step."
    ...     next = 0
    ...     def at_step(self, event):
    ...         self.next = event.index + 10
    >>> check_observer(lambda watch: Tenth())
    """
    with GlobalStates(), tempfile.TemporaryDirectory() as folder:
        bare = _train(Path(folder, "bare"), None, steps)
        seen = _train(Path(folder, "seen"), make, steps)
        _train(Path(folder, "stopped"), make, steps, stop_at=steps // 2)
    if bare != seen:
        raise AssertionError("an observer leaves training unchanged: its bits differ")


class _Checked(Observer):
    """Hands all calls on to an observer, and keeps the laws that it breaks."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        # The first law that it has broken.
        self.broken = ""
        self._copy()

    def begin(self, start: Start) -> None:
        self._call(self._observer.begin, start)

    def at_step(self, event: Step) -> None:
        self._call(self._observer.at_step, event)
        if event.is_last and self.next <= event.index:
            self._breaks(f"asks for a later step: after step {event.index} `next` is {self.next}")

    def updated(self, update: Update) -> None:
        self._call(self._observer.updated, update)

    def close(self, error: BaseException | None) -> None:
        self._call(self._observer.close, error)

    def _call(self, method: Callable[[Any], None], *given: Any) -> None:
        try:
            method(*given)
        except Exception as error:
            name = f"{type(self._observer).__name__}.{method.__name__}"
            self._breaks(f"raises nothing: {name} raised {error!r}")
        self._copy()

    def _breaks(self, law: str) -> None:
        self.broken = self.broken or f"an observer {law}"

    def _copy(self) -> None:
        self.next = self._observer.next
        self.awaits_update = self._observer.awaits_update


def _train(
    folder: Path, make: MakeObserver | None, steps: int, stop_at: int | None = None
) -> list[Any]:
    """Train a small model under a watch with this observer in its list, and open the run.

    Returns:
        The state of the model at the end.
    """
    seed_everything(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watched = watch(model, optimizer, out=folder, page=False, quiet=True)
    checked: _Checked | None = None
    if make is not None:
        checked = _Checked(make(watched))
        watched.observers = Observers((*watched.observers, checked))
    try:
        with watched:
            for step in range(steps):
                if step == stop_at:
                    raise _Stopped
                optimizer.zero_grad()
                batch = torch.randn(12, 8), torch.randint(5, (12,))
                loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
                loss.backward()
                watched.step(loss, batch)
                optimizer.step()
    except _Stopped:
        pass
    if checked is not None and checked.broken:
        raise AssertionError(checked.broken)
    if watched.run is None:
        raise AssertionError("an observer raises nothing: the watch has no run")
    state = training_state(model)
    Run.open(watched.run.path)
    return state
