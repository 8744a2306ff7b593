"""The memory of a measured step: a gauge that needs more than is left is left out, and the peak is
recorded."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gradiometer.errors import Unsupported, UserCodeFailed, of_user, ran_out_of_memory, summary
from gradiometer.measurement.gauge import Gauge, Measurable, moments_of
from gradiometer.measurement.reading import Moments

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.measurement.step import TrainingStep

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
