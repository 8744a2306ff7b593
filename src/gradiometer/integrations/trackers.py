"""Estimates to whatever tracker is there already: value, low and high of each.

Nothing is imported that the program has not imported itself, nothing is started, and nothing is sent anywhere by us:
an estimate is handed to a tracker that is active, and that is all.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gradiometer.diagnosis import latest_window
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gauge import Gauge
from gradiometer.run.recorder import Recorder

Numbers = Mapping[str, float]
Log = Callable[[Numbers, int], object]
"""Takes numbers by name, and the step they speak of."""

PREFIX = "gradiometer"

SECONDS_BETWEEN = 10.0
"""From one time that trackers are told to the next, at least."""

FEWEST = 5
"""Readings of a gauge before its estimates are told."""


def numbers_of(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Value, low and high of every estimate of the whole model, by name; what is not finite is left out.

    A tracker has no way to draw "at least": an end that is infinite is missing there, and in full in the run.
    """
    numbers: dict[str, float] = {}
    for name, estimate in estimates.items():
        if "/" in name:  # of one layer
            continue
        parts = {"": estimate.value}
        if estimate.method != "exact":
            parts |= {"_low": estimate.low, "_high": estimate.high}
        numbers |= {f"{PREFIX}/{name}{end}": float(part) for end, part in parts.items() if math.isfinite(part)}
    return numbers


def loggers(given: Iterable[Any]) -> dict[str, Log]:
    """How to log to each of the given trackers, and to those that are active in modules the program has loaded.

    Args:
        given: TensorBoard writers, Lightning loggers, runs of W&B or trackio, or functions of (numbers, step).

    Raises:
        BadArgument: One of them is none of these.
    """
    found: dict[str, Log] = {}
    for place, tracker in enumerate(given):
        found[f"{type(tracker).__name__} {place}"] = _given(tracker)
    for name, active in (("wandb", _wandb), ("mlflow", _mlflow), ("trackio", _trackio)):
        module = sys.modules.get(name)
        if module is not None and (log := active(module)) is not None:
            found[name] = log
    return found


def _given(tracker: Any) -> Log:
    if hasattr(tracker, "add_scalar"):  # TensorBoard's SummaryWriter, and those that copy it
        return lambda numbers, step: [tracker.add_scalar(name, value, step) for name, value in numbers.items()]
    if hasattr(tracker, "log_metrics"):  # Lightning's
        return lambda numbers, step: tracker.log_metrics(dict(numbers), step=step)
    if hasattr(tracker, "log"):
        return lambda numbers, step: tracker.log({**numbers, f"{PREFIX}/step": step})
    if callable(tracker):
        log: Log = tracker
        return log
    raise BadArgument(
        f"`to` holds a {type(tracker).__name__}: give TensorBoard writers (add_scalar), Lightning loggers "
        "(log_metrics), runs with a `log`, or functions of (numbers, step)."
    )


def _wandb(module: Any) -> Log | None:
    """Into the step that the program is logging: a step of our own would push its later ones out of order."""
    run = getattr(module, "run", None)
    if run is None:
        return None
    return lambda numbers, step: run.log({**numbers, f"{PREFIX}/step": step}, commit=False)


def _mlflow(module: Any) -> Log | None:
    active = getattr(module, "active_run", lambda: None)()
    if active is None:
        return None
    return lambda numbers, step: module.log_metrics(dict(numbers), step=step)


def _trackio(module: Any) -> Log | None:
    variables = getattr(module, "context_vars", None)
    if variables is None or variables.current_run.get() is None:
        return None
    return lambda numbers, step: module.log({**numbers, f"{PREFIX}/step": step})


class Trackers:
    """Hands the latest estimates on, now and then while readings come in, and at the end.

    Args:
        given: Trackers the program named, beside those found active.
        level: Confidence level of the intervals.
        warn: Told, once for each, of a tracker that failed; it is not asked again, and training goes on.
    """

    def __init__(self, given: Iterable[Any], level: float, warn: Callable[[str], None]) -> None:
        self._given, self._level, self._warn = tuple(given), level, warn
        loggers(self._given)
        self._failed: set[str] = set()
        self._told_at, self._told_step = -math.inf, -1

    def tell(self, recorder: Recorder, now: float, *, at_once: bool = False) -> None:
        """Log what the recorder's last readings say, if the last time was long enough ago.

        Args:
            recorder: Of the run.
            now: Seconds by its clock.
            at_once: Whether the time of the last one does not matter.
        """
        if not (at_once or now - self._told_at >= SECONDS_BETWEEN):
            return
        logs = {name: log for name, log in loggers(self._given).items() if name not in self._failed}
        self._told_at = now
        if not logs:
            return
        estimates, step = self._estimates(recorder)
        if step <= self._told_step:
            return
        self._told_step = step
        for name, log in logs.items():
            try:
                log(numbers_of(estimates), step)
            except Exception as error:
                self._failed.add(name)
                self._warn(f"the tracker {name} failed and is not told any more: {type(error).__name__}: {error}")

    def _estimates(self, recorder: Recorder) -> tuple[dict[str, Estimate], int]:
        """Of the latest window of each gauge that has a few readings; and the step of the last of them."""
        estimates: dict[str, Estimate] = {}
        step = -1
        for gauge in recorder.gauges:
            series = recorder.recent(gauge.name)
            if series is None or len(series) < FEWEST or not isinstance(gauge, Gauge):
                continue
            estimates |= gauge.estimate(latest_window(series), self._level)
            step = max(step, int(series.steps[-1]))
        return estimates, step
