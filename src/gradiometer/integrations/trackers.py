"""Send estimates to the trackers that the program already uses: value, low and high of each.

Nothing is imported that the program has not imported itself, and no tracker is started.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gradiometer.errors import BadArgument, summary, user_line
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gauge import Gauge, estimates_of
from gradiometer.run.recorder import Recorder

Numbers = Mapping[str, float]
# A function of numbers by name and their step.
Log = Callable[[Numbers, int], object]

PREFIX = "gradiometer"


def numbers_of(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Value, low and high of every estimate of the whole model, by name. Numbers that are not
    finite are left out.

    >>> from gradiometer import Estimate
    >>> numbers_of({"batch_size": Estimate.exact(32.0)})
    {'gradiometer/batch_size': 32.0}
    """
    numbers: dict[str, float] = {}
    for name, estimate in estimates.items():
        if "/" in name:  # of one layer
            continue
        parts = {"": estimate.value}
        if estimate.method != "exact":
            parts |= {"_low": estimate.low, "_high": estimate.high}
        numbers |= {
            f"{PREFIX}/{name}{end}": float(part)
            for end, part in parts.items()
            if math.isfinite(part)
        }
    return numbers


def loggers(given: Iterable[Any]) -> dict[str, Log]:
    """Functions that log to each of the given trackers, and to active ones in modules that the
    program has loaded.

    Args:
        given: TensorBoard writers, Lightning loggers, runs of W&B or trackio, or functions of
            (numbers, step).

    Raises:
        BadArgument: An object is none of these.
    """
    found: dict[str, Log] = {}
    for place, tracker in enumerate(given):
        found[f"{type(tracker).__name__} {place}"] = _log_of(tracker)
    for name in ("wandb", "mlflow", "trackio"):
        log = _log_of_module(name, sys.modules.get(name))
        if log is not None:
            found[name] = log
    return found


def _log_of(tracker: Any) -> Log:
    if hasattr(tracker, "add_scalar"):  # TensorBoard's SummaryWriter, and those that copy it
        return lambda numbers, step: [
            tracker.add_scalar(name, value, step) for name, value in numbers.items()
        ]
    if hasattr(tracker, "log_metrics"):  # Lightning's
        return lambda numbers, step: tracker.log_metrics(dict(numbers), step=step)
    if hasattr(tracker, "log"):
        return lambda numbers, step: tracker.log({**numbers, f"{PREFIX}/step": step})
    if callable(tracker):
        log: Log = tracker
        return log
    raise BadArgument(
        f"`to` holds a {type(tracker).__name__}: give TensorBoard writers (add_scalar), Lightning "
        "loggers (log_metrics), runs with a `log`, or functions of (numbers, step)."
    )


def _log_of_module(name: str, module: Any) -> Log | None:
    """The function that logs to the active run of a tracker's module; None without one."""
    if name == "wandb" and getattr(module, "run", None) is not None:
        # Into the program's current step: a later step would put the program's own steps out of
        # order.
        run = module.run
        return lambda numbers, step: run.log({**numbers, f"{PREFIX}/step": step}, commit=False)
    if name == "mlflow" and getattr(module, "active_run", lambda: None)() is not None:
        return lambda numbers, step: module.log_metrics(dict(numbers), step=step)
    variables = getattr(module, "context_vars", None)
    if name == "trackio" and variables is not None and variables.current_run.get() is not None:
        return lambda numbers, step: module.log({**numbers, f"{PREFIX}/step": step})
    return None


class Trackers:
    """Sends the latest estimates from time to time and at the end.

    Args:
        given: Trackers that the program named. Active ones are found automatically.
        level: Confidence level of the intervals.
        warn: Takes one warning for each tracker that failed. Nothing more is sent to it, and
            training continues.
    """

    def __init__(self, given: Iterable[Any], level: float, warn: Callable[[str], None]) -> None:
        self._given = tuple(given)
        self._level = level
        self._warn = warn
        loggers(self._given)
        self._failed: set[str] = set()
        self._sent_at = -math.inf
        self._sent_step = -1

    def send(self, recorder: Recorder, now: float, *, at_once: bool = False) -> None:
        """Log what the recorder's last readings say, if the last time was long enough ago.

        Args:
            recorder: The recorder of the run.
            now: Time by its clock, in seconds.
            at_once: True to send even if the last time was a moment ago.
        """
        # Fewest seconds between two sends.
        if not (at_once or now - self._sent_at >= 10.0):
            return
        logs = {name: log for name, log in loggers(self._given).items() if name not in self._failed}
        self._sent_at = now
        if not logs:
            return
        estimates, step = self._estimates(recorder)
        if step <= self._sent_step:
            return
        self._sent_step = step
        for name, log in logs.items():
            try:
                log(numbers_of(estimates), step)
            except Exception as error:
                self._failed.add(name)
                self._warn(
                    f"the tracker {name} failed and gets no more estimates: {summary(error)}"
                    f"{user_line(error)}"
                )

    def _estimates(self, recorder: Recorder) -> tuple[dict[str, Estimate], int]:
        """The estimates at the newest readings, and the step of the last reading."""
        estimates: dict[str, Estimate] = {}
        step = -1
        for gauge in recorder.gauges:
            series = recorder.recent(gauge.name)
            # Fewest readings of a gauge whose estimates are sent.
            if series is None or len(series) < 5 or not isinstance(gauge, Gauge):
                continue
            estimates |= estimates_of(gauge, series.at_newest(by_layer=False), self._level)
            step = max(step, int(series.steps[-1]))
        return estimates, step
