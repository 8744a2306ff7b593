"""The warnings of a watched loop: each once, to the person and into the run."""

import logging
from collections.abc import Callable
from typing import Any

from gradiometer.run.recorder import Recorder

LOG = logging.getLogger("gradiometer")


class WarningLog:
    """Passes warnings to a person and to the run, each text once, and keeps them.

    Args:
        step: Returns the step of training, from 0.
        tell: Takes each text: `log`, or `in_silence` on processes that do not log, because rank 0
            does.
    """

    def __init__(self, step: Callable[[], int], tell: Callable[[str], object]) -> None:
        self._step = step
        self._tell = tell
        self._recorder: Recorder | None = None
        self._early: list[dict[str, Any]] = []
        self.texts: list[str] = []
        """All texts so far, in order."""

    def __call__(self, text: str, **fields: Any) -> None:
        """Warn, unless that was done before. Fields say what the warning means for the findings."""
        if not self._log(text):
            return
        if self._recorder is None:
            self._early.append({"text": text, **fields})
        else:
            self._recorder.event("warning", self._step(), text=text, **fields)

    def attach(self, recorder: Recorder) -> None:
        """Write into this run from now on, beginning with what came earlier, and log its own
        warnings too."""
        self._recorder = recorder
        recorder.tell = self._log
        for fields in self._early:
            recorder.event("warning", self._step(), **fields)

    def _log(self, text: str) -> bool:
        """Log and keep a text. False if that was done before."""
        if text in self.texts:
            return False
        self.texts.append(text)
        self._tell(text)
        return True


def log(text: str) -> None:
    """Give a text to the logger "gradiometer". Without handlers `logging` prints it to the standard
    error."""
    LOG.warning("%s", text)


def in_silence(text: str) -> None:
    """Tell nobody."""
