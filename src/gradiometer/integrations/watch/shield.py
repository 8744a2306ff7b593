"""The shield between measuring and training, and the warnings that come of it."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gradiometer.errors import GradiometerError, of_user, summary, user_line
from gradiometer.run.recorder import Recorder


class Shield:
    """A context for everything that a training loop, its optimizer or its backward calls.

    Errors pass before the first update, when nothing is lost yet, those of a person's code with
    their line. Later an error is given to
    `stop`, and training continues. KeyboardInterrupt and SystemExit always pass.

    Args:
        stop: Takes the error. It should stop what failed, and warn. Its own errors are dropped.
        passes: True to let all errors pass, at any time: for a training that can go on from its
            last checkpoint.
        before_first_update: False to let none pass at the start either.
    """

    def __init__(
        self,
        stop: Callable[[Exception], None],
        *,
        passes: bool = False,
        before_first_update: bool = True,
    ) -> None:
        self._stop = stop
        self._passes = passes
        # True until the first update of the optimizer. Until then errors pass.
        self.before_first_update = before_first_update

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        if not isinstance(error, Exception) or self._passes:
            return False
        self.caught(error)
        return True

    def caught(self, error: Exception) -> None:
        """Handle an error as at the end of the context: raise it, or give it to `stop`."""
        if not (self._passes or self.before_first_update):
            with suppress(Exception):
                self._stop(error)
            return
        theirs = None if self._passes else of_user(error)
        if theirs is None:
            raise error
        raise theirs from error


def guarding(warn: Callable[[str], None], what: str, end: Callable[[str], object]) -> Shield:
    """A shield around a part of measuring: an error ends this part, and nothing else.

    Args:
        warn: Warns.
        what: What has ended, as the beginning of a sentence.
        end: Ends it. It is given the reason.
    """

    def stop(error: Exception) -> None:
        reason = reason_of(error)
        attempt(lambda: end(reason), lambda: warn(f"{what}, and training continues: {reason}"))

    return Shield(stop, before_first_update=False)


def reason_of(error: Exception) -> str:
    """The error as the end of a sentence. An error that was not raised on purpose is named with its
    type."""
    if isinstance(error, GradiometerError):
        return next(iter(str(error).splitlines()), "").rstrip(".")
    return f"{summary(error)}{user_line(error)}"


def attempt(*calls: Callable[[], object]) -> None:
    """Make every call, also if an earlier one fails. Errors are dropped."""
    for call in calls:
        with suppress(Exception):
            call()


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
        # All texts so far, in order.
        self.texts: list[str] = []

    def __call__(self, text: str, **fields: Any) -> None:
        """Warn, unless that was done before. Fields say what the warning means for the findings."""
        if not self._log(text):
            return
        if self._recorder is None:
            self._early.append({"text": text, **fields})
        elif not self._recorder.closed:
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
    logging.getLogger("gradiometer").warning("%s", text)


def in_silence(text: str) -> None:
    """Tell nobody."""
