"""How the gradients of a training are had, and what follows from it for those that follow it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.integrations.gradients import (
    GradientHooks,
    GradientsInPlace,
    Preconditioner,
    gradients_of,
)
from gradiometer.integrations.watch.accelerator import Copied
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.sources.exchange import SharedBatches, StepOf
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.objective import Gradients, Objective
from gradiometer.measurement.parts import both_norms, factor_of, squared_norms
from gradiometer.measurement.reading import Spread
from gradiometer.measurement.step import LikelyGradient
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks
from gradiometer.run.recorder import Made

if TYPE_CHECKING:  # few models are sharded
    from gradiometer.integrations.fsdp import ShardHooks

Norms = Float[Tensor, " parameters"]

# ĝ, a function that returns it, or None.
Gradient = Gradients | Callable[[], Gradients | None] | None


class Scale:
    """The factor between `.grad` and ĝ: that of a GradScaler, whose copy begins now, and the
    multiple of the mean that accumulation adds up.

    Args:
        divisor: The factor of the scaler, for which nothing waits; None without one.
    """

    def __init__(self, divisor: Tensor | None) -> None:
        self.divisor = divisor
        self.multiple = 1.0
        self._copied = None if divisor is None else Copied(divisor)

    def multiply(self, multiple: float) -> None:
        """The multiple of accumulation is known now."""
        self.multiple = multiple

    def of_scaler(self) -> float:
        """The factor of the scaler. It may wait for an accelerator."""
        return 1.0 if self._copied is None else float(self._copied())

    @property
    def factor(self) -> float:
        """The factor. After the CPU has waited for the norms, nothing waits for it."""
        return self.of_scaler() * self.multiple


@dataclass
class Seen:
    """What `.grad` was at the last measured step: it is the most likely this time, too."""

    # True if it was as `backward` made it, with the factor of a gradient scaler.
    as_made: bool = True
    # True if it was ĝ itself.
    unscaled: bool = False


class AsMade(LikelyGradient):
    """ĝ from `.grad`; None if that is not a multiple of what `backward` made.

    Args:
        parameters: The trainable parameters.
        made: ‖·‖² of every parameter's `.grad` at the end of the last backward.
        scale: The factor between `.grad` and ĝ at that time.
        seen: What `.grad` was at the last step.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        made: Float[Tensor, " parameters"],
        scale: Scale,
        seen: Seen,
    ) -> None:
        self._parameters = parameters
        self._made = made
        self._scale = scale
        # without a scaler the factor needs no accelerator
        self._divisor = scale.divisor
        self._seen = seen
        self._norms: Copied | None = None
        self._assumed: Seen | None = None

    def __call__(self) -> Gradients | None:
        """ĝ, or None."""
        taken = gradients_of(self._parameters)
        factor = self._look(taken)
        if factor is None or not math.isfinite(factor):
            return None
        return (
            taken
            if self._seen.unscaled
            else list(torch._foreach_div(taken, factor * self._scale.factor))
        )

    def likely(self) -> Gradients | None:
        """ĝ if `.grad` is what it was at the last step."""
        if not (self._seen.as_made or self._seen.unscaled):
            return None
        self._assumed = Seen(self._seen.as_made, self._seen.unscaled)
        taken = gradients_of(self._parameters)
        self._norms = Copied(both_norms(self._made, taken))
        if self._seen.unscaled or self._divisor is None:
            return taken
        return list(torch._foreach_div(taken, self._divisor.to(taken[0])))

    def was_right(self) -> bool:
        """True if `likely` returned ĝ, or None."""
        if self._assumed is None:
            return True
        assumed, self._assumed = self._assumed, None
        self._look(gradients_of(self._parameters))
        return self._seen.unscaled if assumed.unscaled else self._seen.as_made

    def _look(self, taken: Gradients) -> float | None:
        """The factor between `.grad` and what `backward` made."""
        norms = both_norms(self._made, taken).cpu() if self._norms is None else self._norms()
        factor = factor_of(norms, taken)
        known = factor is not None and math.isfinite(factor)
        self._seen.as_made = known and math.isclose(factor or 0.0, 1.0)
        self._seen.unscaled = known and math.isclose((factor or 0.0) * self._scale.factor, 1.0)
        return factor


class GradientSource(ABC):
    """How the gradients of a training are had.

    What depends on the number of processes and of backwards, on shards, and on whose training it
    is, is decided here and in the kinds of sources, and nowhere else.

    Args:
        ranks: The processes that train together.
        backwards: Number of backwards per update on each process.
    """

    # True if one process alone can run the model.
    runs_model: ClassVar[bool] = True
    # True for a training of ours: its loss is the one that is trained, it makes its run and ends
    # it, and stops at an error of measuring.
    is_ours: ClassVar[bool] = False
    # True if the spread within a step comes from gradients that training itself makes.
    has_spread: ClassVar[bool] = True

    hooks: "GradientHooks | ShardHooks | GradientsInPlace"

    def __init__(self, ranks: Ranks, backwards: int = 1) -> None:
        self.ranks = ranks
        self.backwards = backwards
        # True if several processes measure the same steps.
        self.is_joint = not ranks.alone
        # What the processes have measured together at the last measured step; None on one process.
        self.made: Made | None = None
        self._seen = Seen()

    @property
    def is_first(self) -> bool:
        """True on the process that writes the run."""
        return self.ranks.first

    @property
    def records_model(self) -> bool:
        """True on the process that writes the run and has the whole model."""
        return self.is_first and self.runs_model

    @property
    def reads_successive(self) -> bool:
        """True if the gradients of successive updates can be compared, each of one backward."""
        return False

    @property
    def keeps_newest(self) -> bool:
        """True if the newest updates can be kept here and made again."""
        return not self.is_joint and self.runs_model and not self.is_ours

    def keeps_updates(self, called: nn.Module) -> bool:
        """True if updates can be kept and made again on one process.

        Args:
            called: The model as the loop calls it.
        """
        return self.keeps_newest

    def shared_batches(self, called: nn.Module) -> SharedBatches | None:
        """The batches of the other processes at updates that are kept; None if there are none."""
        return None

    def batch_size(self, size: int) -> int:
        """The examples of an update, from those of one backward."""
        return size * self.backwards * self.ranks.count

    def place_of(self, place: int) -> str:
        """Which backward of an update this is, as a part of a sentence; empty for the only one."""
        which = f", micro-batch {place + 1} of {self.backwards}" if self.backwards > 1 else ""
        return which + (f", on rank {self.ranks.rank}" if self.is_joint else "")

    def check_spread(self, *, has_loss: bool) -> None:  # noqa: B027 (most have nothing to do)
        """Check that a step shows a spread.

        Raises:
            BadArgument: It does not.
        """

    @abstractmethod
    def connect(
        self,
        objective: Objective,
        budget: Budget,
        shield: Shield,
        preconditioner: Preconditioner | None,
    ) -> None:
        """Make the hooks that read the gradients of measured steps.

        Args:
            objective: The model and its loss.
            budget: The account.
            shield: Entered by everything that a backward calls.
            preconditioner: P of the optimizer, if a gauge needs it.
        """

    def begin(self, gauges: Sequence[Gauge], budget: Budget) -> None:  # noqa: B027 (most have nothing to do)
        """The run begins with these gauges."""

    def start(self) -> None:
        """Read the coming step."""
        self.hooks.start()
        self.hooks.whole_is_wanted = self.backwards == 1

    def stop(self) -> None:
        """Do not read the coming step."""
        self.hooks.stop()

    def take_in(self, place: int, size: int) -> None:  # noqa: B027 (most have nothing to do)
        """Take in what a backward left, with its place in the update and its examples."""

    def spread(
        self,
        proposal: int,
        chosen: Collection[str],
        share: StepOf,
        scale: Scale,
        arrived: Callable[[], None],
    ) -> Spread | None:
        """The spread of the gradients of the step, for the mean loss; None if it has none.

        Args:
            proposal: The step that this process would measure next. All take that of rank 0.
            chosen: Names of the gauges that this process would run. Those of rank 0 are measured by
                all processes.
            share: Makes the step of the examples of this process, for them.
            scale: The factor between `.grad` and ĝ.
            arrived: Called when the numbers of all processes are there.

        Raises:
            WrongGradient: `.grad` is not the mean of the gradients that were read.
        """
        return None

    def agreed(self, step: int, *, is_due: bool, planned: int) -> tuple[bool, int]:
        """If this step is measured, and the next one that may be, which are the same on all
        processes.

        Args:
            step: The coming step.
            is_due: True if this process would measure it.
            planned: The step that this process would measure next.
        """
        return is_due, planned

    @property
    def leaves_at(self) -> int | None:
        """The step of the next exchange, which the others would wait for; None without one."""
        return None

    def leave(self) -> None:  # noqa: B027 (most have nothing to do)
        """Tell the others, at their next exchange, that this process measures no more."""

    def changed(self, objective: Objective, parameters: Sequence[nn.Parameter]) -> bool:
        """True if other parameters are trained than at the start."""
        return not objective.trains(parameters)

    def gradient(
        self, parameters: Sequence[Tensor], scale: Scale, warn: Callable[[str], None]
    ) -> tuple[Gradient, Callable[[], Norms] | None]:
        """ĝ or a function that returns it, and a function that returns ‖·‖² of every parameter's
        `.grad` as `backward` made it; None if unavailable."""
        hooks = self.hooks
        if not isinstance(hooks, GradientHooks | GradientsInPlace):
            return None, None
        whole = hooks.whole
        if whole is not None and (self.backwards > 1 or self.is_joint or _is_alone(hooks)):
            squared = whole[0, : len(parameters)]
            made = AsMade(parameters, squared, scale, self._seen)
            # on a CPU it is known at once, so that nothing is assumed of it
            return made.__call__ if squared.is_cpu else made, lambda: squared
        if hooks.in_parts:
            hooks.forget()
            warn(
                "several backwards went through `model` before one `step`: only `loss` is measured"
            )
            return None, None
        taken = hooks.take()
        gradient = taken
        if scale.factor != 1:
            gradient = list(torch._foreach_div(taken, scale.factor))
        if hooks.stale:
            warn(
                "`.grad` was not zero before `backward`, so that training adds the gradients of "
                "earlier steps: call `optimizer.zero_grad()` before each update; the "
                "measurements describe the last batch alone"
            )
        return gradient, lambda: squared_norms(taken)[0]


def _is_alone(hooks: GradientHooks) -> bool:
    """True if `.grad` has the gradient of one backward."""
    return not (hooks.in_parts or hooks.stale)


class WrongGradient(Exception):
    """`.grad` is not what the backwards of the step have made. The text says why."""
