"""What a watch does for forks while its loop trains: it keeps updates, and makes trials."""

from collections.abc import Sequence
from typing import Any

import torch

from gradiometer.integrations.watch.requests.kept_updates import KeptUpdatesOfLoop
from gradiometer.integrations.watch.requests.trials import Trials
from gradiometer.measurement.batch import Batch


class OnTheWay:
    """Kept updates and trials, which a step without either pays one comparison for.

    Args:
        kept: Keeps updates.
        trials: Makes trials.
    """

    def __init__(self, kept: KeptUpdatesOfLoop, trials: Trials) -> None:
        self.kept = kept
        self.trials = trials
        self._step = 0
        self._handles: list[Any] = []
        self.next = min(kept.next, trials.next)
        """The next step at which `at_step` has something to do."""

    def follow(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Follow the updates of further optimizers: one of them may be the one that steps after the
        backward."""
        self._handles = [one.register_step_post_hook(self._was_updated) for one in optimizers]

    def _was_updated(self, *_: Any) -> None:
        if self.kept.awaits_update:
            self.updated(self._step)

    def at_step(self, step: int, batch: Batch | None, *, is_first: bool) -> None:
        """Do what is due after a backward and before the update; `is_first` for the first backward
        of an update."""
        self._step = step
        if step >= self.kept.next:
            self.kept.at_step(batch)
        if is_first and step >= self.trials.next:
            self.trials.at_step(step)
        self.next = min(self.kept.next, self.trials.next)

    def updated(self, step: int) -> None:
        """Do what is due after an update."""
        self.kept.updated(step)
        self.next = min(self.kept.next, self.trials.next)

    def draw_from(self, loader: Any) -> None:
        """Take the data of trials from this loader."""
        self.trials.draw_from(loader)

    def close(self, step: int, error: BaseException | None) -> None:
        """The training has ended."""
        while self._handles:
            self._handles.pop().remove()
        self.kept.close()
        self.trials.close(step, error)
