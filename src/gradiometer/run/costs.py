"""What a watched loop costs: its time, without that of other loops in the same thread; and the memory of
a measured step, for which a gauge that needs more than is left is left out."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakSet

from gradiometer.errors import Unsupported, UserCodeFailed, of_user, ran_out_of_memory, summary
from gradiometer.measurement.gauge import Gauge, Measurable, moments_of
from gradiometer.measurement.reading import Moments

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.measurement.step import TrainingStep


class Turns:
    """A clock that counts one watched loop, also if several take turns in one thread.

    A loop signals at every `step` and after every update. The time from one signal to the next,
    whoever gave it, belongs to the loop that gives the later one. A loop that is alone signals
    nothing.

    The processor time of a thread goes on where it was if another thread asks for it.

    Args:
        seconds: The clock that is shared by all loops of the thread.

    >>> now = 0.0
    >>> first, second = Turns(lambda: now), Turns(lambda: now)
    >>> first.enter()
    >>> second.enter()
    >>> now = 3.0
    >>> first.signal()
    >>> now = 8.0
    >>> second.signal()
    >>> first(), second()
    (3.0, 5.0)
    >>> second.leave()
    >>> first.leave()
    """

    several: ClassVar[bool] = False
    """True if more than one loop is watched now, in any thread."""
    _entered: ClassVar[WeakSet["Turns"]] = WeakSet()
    # the set must not change while another thread goes through it
    _lock: ClassVar[Any] = RLock()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._of_thread = seconds is time.thread_time
        self._reader = get_ident()
        self._offset = 0.0
        self._last = 0.0
        self._thread = 0
        self._mark = 0.0

    def __call__(self) -> float:
        """The seconds of this loop."""
        now = self._seconds() + self._offset
        if self._of_thread:
            thread = get_ident()
            if thread != self._reader:
                self._reader = thread
                self._offset += self._last - now
                now = self._last
            self._last = now
        return now

    def enter(self) -> None:
        """This loop is watched from now on, by the thread that calls."""
        with self._lock:
            self._entered.add(self)
            Turns.several = len(self._entered) > 1
            self._thread = get_ident()
            for clock in self._entered:
                if clock._thread == self._thread:
                    clock._mark = clock()

    def signal(self) -> None:
        """The time since the last signal of any loop in this thread was this loop's."""
        with self._lock:
            self._thread = get_ident()
            # a loop whose watch was never closed is forgotten with it
            Turns.several = len(self._entered) > 1
            for clock in self._entered:
                if clock._thread == self._thread:
                    now = clock()
                    if clock is self:
                        clock._mark = now
                    else:
                        clock._skip(now - clock._mark)

    def _skip(self, seconds: float) -> None:
        """Go back by the time of another loop."""
        self._offset -= seconds
        self._last -= seconds

    def leave(self) -> None:
        """This loop is watched no longer."""
        if self in self._entered:
            self.signal()
        with self._lock:
            self._entered.discard(self)
            Turns.several = len(self._entered) > 1


def signal(clock: Callable[[], float], shield: AbstractContextManager[object, bool | None]) -> None:
    """The time since any loop was last at work was that of the loop with this clock."""
    with shield:
        if isinstance(clock, Turns):
            clock.signal()


# Bytes of all parameters below which nothing is looked up: 64 MiB.
SMALL = 2**26

# The limits of a container, on Linux.
LIMITS = Path("/sys/fs/cgroup")


def parameters_of(step: Measurable) -> Sequence[Any]:
    """The trainable parameters; none of a step that another program has made."""
    return step.objective.parameters if hasattr(step, "objective") else ()


def measured(gauge: Gauge, step: Measurable, parameters: Sequence[Any]) -> Moments | None:
    """What a gauge measures of a step of a model with these parameters.

    Raises:
        Unsupported: There is too little memory, before or while it measures.
    """
    sizes: Counter[Any] = Counter()
    for parameter in parameters:
        sizes[parameter.device] += parameter.numel() * parameter.element_size()
    if sum(sizes.values()) >= SMALL:
        for device, size in sizes.items():
            left, needed = left_on(device), gauge.copies * size
            if left is not None and needed > left:
                raise Unsupported(
                    f"it needs about {_amount(needed)} of memory and {_amount(left)} are left on "
                    f"{device}; free some, or leave it out of `gauges`"
                )
    try:
        return moments_of(gauge, cast("TrainingStep", step))
    except Exception as error:
        if not ran_out_of_memory(error):
            theirs = of_user(error)
            if theirs is None:
                raise
            raise theirs from error
        reason = str(error).rstrip(".") if isinstance(error, UserCodeFailed) else summary(error)
        raise Unsupported(
            f"the memory was not enough ({reason}); free some, or leave it out of `gauges`"
        ) from error


def left_on(device: Any) -> int | None:
    """Bytes that are left on a device; None if that is not known."""
    if device.type == "cpu":
        return _left_of_machine()
    module = sys.modules["torch"].get_device_module(device.type)
    if not hasattr(module, "mem_get_info"):
        return None
    free, _ = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))


def _left_of_machine() -> int | None:
    """What Linux can give to this process, within the limit of its container."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        left = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None
    try:
        limit, used = (
            int((LIMITS / name).read_text()) for name in ("memory.max", "memory.current")
        )
        stat = dict(line.split() for line in (LIMITS / "memory.stat").read_text().splitlines())
        return min(left, limit - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):  # no container, or no limit
        return left


def peak_of(parameters: Sequence[Any]) -> int:
    """The peak memory so far, in bytes, where these parameters are: of the accelerators, or else of
    the process; 0 if it is not known."""
    accelerators = {one.device for one in parameters if one.device.type != "cpu"}
    if not accelerators:
        try:
            import resource  # noqa: PLC0415 (not on Windows)
        except ImportError:
            return 0
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    modules = [(sys.modules["torch"].get_device_module(one.type), one) for one in accelerators]
    return sum(
        module.max_memory_allocated(one)
        for module, one in modules
        if hasattr(module, "max_memory_allocated")
    )


def _amount(size: int) -> str:
    return f"{size / 1e9:.2g} GB"
