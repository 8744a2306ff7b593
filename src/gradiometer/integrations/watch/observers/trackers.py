"""Sends estimates to the trackers of the program at the end of each stretch of losses."""

from gradiometer.integrations.trackers import Trackers
from gradiometer.integrations.watch.observers.losses import Losses
from gradiometer.integrations.watch.observers.observer import Observer, Start, Step
from gradiometer.run.recorder import Recorder


class TrackerFeed(Observer):
    """Gives trackers the newest estimates from time to time, and at the end.

    Args:
        trackers: The trackers.
        losses: Keeps the losses, in stretches.
    """

    def __init__(self, trackers: Trackers, losses: Losses) -> None:
        self._trackers = trackers
        self._losses = losses
        self._recorder: Recorder | None = None
        self.next = 0

    def begin(self, start: Start) -> None:
        """Send the estimates of this run."""
        self._recorder = start.recorder

    def at_step(self, event: Step) -> None:
        """Send what is known, if the last time was long enough ago."""
        self._send(at_once=False)
        self.next = self._losses.next

    def close(self, error: BaseException | None) -> None:
        """Send what is known now."""
        self._send(at_once=True)

    def _send(self, *, at_once: bool) -> None:
        recorder = self._recorder
        if recorder is not None and not recorder.closed:
            self._trackers.send(recorder, recorder.budget.clock(), at_once=at_once)
