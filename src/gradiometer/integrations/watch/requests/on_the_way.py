"""What a watch does for forks while its loop trains: it keeps updates, and makes trials."""

from typing import Any

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
        self.next = min(kept.next, trials.next)
        """The next step at which `at_step` has something to do."""

    def at_step(self, step: int, batch: Batch | None, *, is_first: bool) -> None:
        """Do what is due after a backward and before the update; `is_first` for the first backward
        of an update."""
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
        self.kept.close()
        self.trials.close(step, error)
