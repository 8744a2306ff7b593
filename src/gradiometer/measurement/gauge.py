"""The gauge: frozen settings and three verbs, `measure`, `estimate`, `judge`; it is left out of a
step for which there is too little memory."""

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast, runtime_checkable

import numpy as np

from gradiometer.arguments import shown
from gradiometer.errors import (
    BadArgument,
    Unsupported,
    UserCodeFailed,
    of_user,
    ran_out_of_memory,
    summary,
)
from gradiometer.measurement.estimate import LEVEL, Estimate, Estimates
from gradiometer.measurement.finding import Finding, Issue
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.measurement.reading import Moments, Series

if TYPE_CHECKING:  # a gauge is read, a year later, on a machine without torch
    import gradiometer.measurement.step

# Bytes of all parameters below which nothing is looked up: 64 MiB.
SMALL_MODEL = 2**26

# The limits of a container, on Linux.
LIMITS = Path("/sys/fs/cgroup")


@runtime_checkable
class Measurable(Protocol):
    """The attributes of a training step that a recorder itself reads."""

    @property
    def index(self) -> int:
        """The step's number, from 0."""

    @property
    def batch_size(self) -> int:
        """B."""

    @property
    def learning_rate(self) -> float:
        """η at this step."""


@dataclass(frozen=True)
class RunFacts:
    """What a gauge may know of the run when it judges its estimates.

    Args:
        settings: The settings of the optimizers along the run; None if they are not known.
        schedule: The schedule of a run of `gradiometer train`; None for a loop that is watched.
        measured: Names of the gauges that have readings.
        examples: Number of training examples; None if it is not known.
        is_full_batch: True if the noise is read from successive updates, and all of them had the
            same examples. The noise of drawing examples is then not seen.
    """

    settings: Hyperparameters | None = None
    schedule: str | None = None
    measured: frozenset[str] = frozenset()
    examples: int | None = None
    is_full_batch: bool = False


NOTHING_KNOWN = RunFacts()


@dataclass(frozen=True)
class Gauge(ABC):
    """A quantity that is read off training steps.

    A gauge is one frozen dataclass in one file. Its fields are settings only: its `repr` recreates
    it, and it is written into the run. It never keeps a tensor, and `measure` never changes
    training. Everything that the rest of the package has to know about it is a class attribute
    below. Pass your own gauge to `watch` or `train` as an
    object: `watch(..., gauges=["noise", MyGauge()])`.

    Attributes:
        name: A lower-case identifier: the name in flags, in the run's files and in exports.
        issue: The issue of SGD that the gauge belongs to, and so its section on the page.
        unit: Unit of the first quantity.
        labels: Labels of the quantities that `estimate` returns, such as "batch size, B", in the
            order of the page's table.
        symbols: Short symbols for quantities that a chart marks as a threshold, such as "B".
        question: The question on the page that the gauge's finding answers; empty if it answers
            none.
        needs_loss: True if `measure` runs the model again, for which `watch` needs `loss`.
        processes: The largest setting that it works in: one process, several with whole models, or
            a sharded model (FSDP2). A gauge that runs the model and is for "many" measures the
            share of the batch on every process, and its moments are averaged: they must not depend
            on the size of the batch. `step.graph_gradient` is that of the whole batch.
        sgd_only: The law it rests on, such as "edge of stability", if that is known only for SGD,
            with momentum or without.
        needs_preconditioner: True if it needs `step.preconditioner`, which is known for Adam,
            AdamW, RMSprop and their kind.
        one_in: It runs at one in this many measured steps. Above 1 for a gauge that costs more than
            a step. If no other gauge runs at every measured step, it does.
        copies: How many more copies of the parameters a reading holds. It is left out if there is
            less memory.
        looks_back: True if it needs `step.motion`: where training was earlier, and its velocity.
        own_steps: True if it chooses its steps itself (`wants`), whatever the budget: for a gauge
            that costs next to nothing.
        from_run: Names of the fields that are set from the run's configuration, such as "momentum".
    """

    name: ClassVar[str]
    issue: ClassVar[Issue]
    unit: ClassVar[str]
    labels: ClassVar[Mapping[str, str]] = {}
    symbols: ClassVar[Mapping[str, str]] = {}
    question: ClassVar[str] = ""
    needs_loss: ClassVar[bool] = True
    processes: ClassVar[Literal["one", "many", "sharded"]] = "one"
    sgd_only: ClassVar[str] = ""
    needs_preconditioner: ClassVar[bool] = False
    one_in: ClassVar[int] = 1
    copies: ClassVar[int] = 1
    looks_back: ClassVar[bool] = False
    own_steps: ClassVar[bool] = False
    from_run: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments | None:
        """The raw moments of one step, each unbiased and additive over steps. None if this step has
        no reading.

        Args:
            step: The step between `backward` and `optimizer.step`, with its gradients and
                derivatives.
        """

    def wants(self, step: int) -> bool:
        """True if a gauge with `own_steps` measures at this step. A pure function of the step."""
        return True

    @abstractmethod
    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """The gauge's quantities over a window of steps, each with its interval at `level`."""

    @abstractmethod
    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """What the estimates mean for a person, as data; None if there is nothing to say.

        Args:
            estimates: What `estimate` returned.
            run: What is known of the run.
        """


def measured(gauge: Gauge, step: Measurable, parameters: Sequence[Any]) -> Moments | None:
    """What a gauge measures of a step of a model with these parameters.

    Raises:
        BadArgument: It is not what `measure` has to return.
        Unsupported: There is too little memory, before or while it measures.
    """
    sizes: Counter[Any] = Counter()
    for parameter in parameters:
        sizes[parameter.device] += parameter.numel() * parameter.element_size()
    if sum(sizes.values()) >= SMALL_MODEL:
        for device, size in sizes.items():
            left, needed = left_on(device), gauge.copies * size
            if left is not None and needed > left:
                raise Unsupported(
                    f"it needs about {_amount(needed)} of memory and {_amount(left)} are left on "
                    f"{device}; free some, or leave it out of `gauges`"
                )
    try:
        found = gauge.measure(cast("gradiometer.measurement.step.TrainingStep", step))
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
    if found is not None and not (isinstance(found, Mapping) and _are_numbers(found)):
        raise _wrong(gauge, "measure", "a mapping of names to numbers or lists of numbers", found)
    return found


def estimates_of(gauge: Gauge, series: Series, level: float) -> Estimates:
    """The estimates of a gauge.

    Raises:
        BadArgument: They are not what `estimate` has to return.
    """
    found = gauge.estimate(series, level)
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(each, Estimate) for name, each in found.items()
    ):
        raise _wrong(gauge, "estimate", "a mapping of names to estimates", found)
    return found


def finding_of(gauge: Gauge, estimates: Estimates, run: RunFacts) -> Finding | None:
    """The finding of a gauge.

    Raises:
        BadArgument: It is not what `judge` has to return.
    """
    found = gauge.judge(estimates, run)
    if not isinstance(found, Finding | None):
        raise _wrong(gauge, "judge", "a Finding or None", found)
    return found


def _are_numbers(moments: Mapping[str, object]) -> bool:
    return all(
        isinstance(name, str)
        and all(
            issubclass(kind, int | float | np.number)
            for kind in set(map(type, value if isinstance(value, list | tuple) else (value,)))
        )
        for name, value in moments.items()
    )


def _wrong(gauge: Gauge, method: str, wanted: str, found: object) -> BadArgument:
    return BadArgument(
        f"`{type(gauge).__name__}.{method}` must return {wanted}, got {shown(found)}."
    )


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


def _amount(size: int) -> str:
    return f"{size / 1e9:.2g} GB"
