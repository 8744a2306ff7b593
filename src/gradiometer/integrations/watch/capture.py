"""From the backwards of one step, read by hooks, to the `TrainingStep` that the gauges measure."""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.integrations.fsdp import ShardHooks, norms_of_all, not_the_mean
from gradiometer.integrations.gradients import (
    GradientHooks,
    GradientsInPlace,
    Preconditioner,
    gradients_of,
)
from gradiometer.integrations.watch.accelerator import Copied, Stopwatch
from gradiometer.integrations.watch.checks import LossCheck, Rows, Shares
from gradiometer.integrations.watch.losses import Part
from gradiometer.integrations.watch.processes import Exchange, OverProcesses, StepOf
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.batch import Batch, join_batches
from gradiometer.measurement.motion import Motion
from gradiometer.measurement.objective import Gradients
from gradiometer.measurement.optimizer.groups import Group
from gradiometer.measurement.parts import SpreadBuilder, both_norms, factor_of, squared_norms
from gradiometer.measurement.reading import Spread
from gradiometer.measurement.step import LikelyGradient, TrainingStep

Norms = Float[Tensor, " parameters"]


class Capture:
    """Reads the gradients of measured steps.

    Args:
        subject: What is watched. One exchange per measured step joins what its processes read.
        warn: Takes a warning, in one sentence, which it shows once.
        shield: Entered by everything that a backward calls.
        preconditioner: P of the optimizer, if a gauge needs it.
    """

    def __init__(
        self,
        subject: Subject,
        warn: Callable[[str], None],
        shield: Shield,
        preconditioner: Preconditioner | None = None,
    ) -> None:
        objective = subject.objective
        budget = subject.budget
        parameters = objective.parameters
        self._subject = subject
        self._parameters = parameters
        self.has_loss = subject.has_loss and not subject.sharded
        self._warn = warn
        self._shield = shield
        self._preconditioner = preconditioner
        # True if the spread comes from training's own micro-batches, here and on other processes.
        self.shared = subject.accumulation * subject.ranks.count > 1
        # Its `active` is True if the current step is measured, and its `has_read` if a backward was
        # made since the last call of `catch`.
        self.gradients: GradientHooks | ShardHooks | GradientsInPlace
        if subject.sharded:
            self.gradients = ShardHooks(objective, budget, shield, preconditioner)
        elif subject.spread is not None:
            self.gradients = GradientsInPlace(parameters, shield.caught, preconditioner)
        else:
            self.gradients = GradientHooks(
                parameters, shield.caught, preconditioner, keeps=self.shared
            )
        self._builder = SpreadBuilder(objective.layer_of)
        self._rows = Rows(subject, warn, shield)
        self._shares = Shares(subject.accumulation, warn, is_checked=self.has_loss)
        self._check = None
        if self.has_loss and not subject.is_own:
            self._check = LossCheck(subject, warn)
        self._factor: Copied | None = None
        self._seen = Seen()
        self.stopwatch = Stopwatch(budget)
        # True if an accelerator works for the measured step, so that the stopwatch is needed.
        self.waits = False
        device = parameters[0].device
        self.together = OverProcesses((), self._subject.ranks, budget, device)
        numbers = self._kinds * len(parameters)
        self.exchange = Exchange(self._subject.ranks, subject.accumulation, numbers, device)

    def start(self) -> None:
        """Measure the next step."""
        self._builder = SpreadBuilder(self._subject.objective.layer_of)
        devices = {parameter.device for parameter in self._parameters}
        self.waits = any(device.type != "cpu" for device in devices)
        if self.waits:
            self.stopwatch.start(devices)
        self.gradients.start()
        if self._shares.left:
            self._shares.start()
        elif self._shares.listens:
            self._shares.stop()
        self.gradients.whole_is_wanted = self._subject.accumulation == 1

    def stop(self) -> None:
        """Do not measure the next step."""
        self.gradients.stop()
        if self._shares.listens:
            self._shares.stop()

    def forget_unannounced_backward(self) -> None:
        """The parameters were updated after a backward without a call of `step`."""
        self._refuse_or_warn(
            "`step` was not called before `optimizer.step()`: call it after `backward`, before the "
            "update"
        )
        # the earlier backward does not belong to the next step
        self.gradients.forget()

    @property
    def changed(self) -> bool:
        """True if other parameters are trained than at the start. Warns once."""
        if isinstance(self.gradients, ShardHooks):
            return False
        if self._subject.objective.trains(self._parameters):
            return False
        self._warn(
            "`model` trains other parameters than when `watch` was called (some were frozen, "
            "unfrozen or replaced): nothing is measured meanwhile; start a new `watch` at such a "
            "change"
        )
        return True

    def catch(self, parts: Sequence[Part], loss: Any) -> None:
        """Take in one more backward, and the loss as it was given to `step`."""
        if self._shares.listens:
            self._shares.given(loss)
        if not self.gradients.has_read:
            self._refuse_or_warn(
                "`step` was called, but no backward of this model was made since the last one: "
                "call it after every `backward`, on the model that was given to `watch`, and not "
                "over `w.batches`, which calls it",
                can_continue=self._subject.ranks.alone,  # other processes wait for the exchange
            )
            self.stop()
        elif self.shared:
            self._builder.sizes.append(parts[-1].size)
            self._builder.squared.append(self.gradients.norms())
            self.gradients.whole_is_wanted = len(parts) == self._subject.accumulation - 1
        if self.waits:
            self.stopwatch.lap()

    def step(
        self,
        parts: Sequence[Part],
        *,
        index: int,
        groups: tuple[Group, ...],
        learning_rate: float,
        proposal: int,
        chosen: Collection[str] = (),
        motion: Callable[[Norms], Motion] | None = None,
    ) -> TrainingStep | None:
        """The training step; None if its spread cannot be measured.

        Args:
            parts: All backwards of this process.
            groups: The settings of the optimizers.
            learning_rate: The largest of their rates.
            proposal: The step that this process would measure next. All processes take rank 0's.
            chosen: Names of the gauges that this process would run. Those of rank 0 are measured by
                all processes.
            motion: A function of ‖ĝ‖² of every parameter, as `backward` made it, for gauges that
                look back.
        """
        divisor = None
        if self._subject.scaler is not None:
            divisor = self._subject.scale()
            self._factor = Copied(divisor)
        if self._shares.left:
            self._shares.decide([part.loss for part in parts], lambda: self._scaled)
        share = partial(self._share, parts, index, groups, learning_rate)
        spread = self._spread(proposal, chosen, share) if self.shared else None
        if self._subject.spread is not None:
            spread = self._subject.spread()
        if self.changed:
            return None
        # made: ‖·‖² of every parameter's gradient, times the square of the scale
        gradient, made = self._gradient(divisor)
        check = self._check
        if check is not None and check.same_loss:
            if check.left:
                check.left -= 1
            else:
                check(parts[0].batch, parts[0].loss, None if self.shared else gradient)
        if spread is None and (self.shared or self._subject.spread is not None):
            return None
        if spread is None and parts[0].size < 4:
            # Two halves with a gradient each, unless the loss couples the examples.
            traits = self._subject.objective.traits
            if parts[0].size < 2 or traits(parts[0].batch, seed=self._subject.seed).coupled:
                return None
        probe = self._subject.batches.probe
        if probe is not None:
            return probe.step(
                self._subject.objective,
                parts[0].size,
                index,
                groups,
                self._preconditioner,
                self._subject.seed,
            )
        batch_of = cache(partial(self._batch, tuple(parts)))
        if not self._rows.is_done:
            self._rows.look(batch_of)
        judges = self._subject.batches.judges
        # Adam divides the multiple of a gradient out
        is_adaptive = any(group.family == "adaptive" for group in groups)
        multiple = 1.0 if is_adaptive else self._shares.multiple or 1.0
        return TrainingStep(
            self._subject.objective,
            batch_of,
            batch_size=parts[0].size if len(parts) == 1 else None,
            index=index,
            learning_rate=learning_rate * multiple,
            groups=groups,
            sampling=self._subject.batches.sampling,
            gradient=gradient if self._check is None or self._check.same_loss else None,
            probe=None
            if judges is None
            else partial(
                judges.draw_for,
                "judges",
                parts[0].size,
                self._subject.objective,
                index,
                self._subject.seed,
            ),
            spread=spread,
            preconditioner=self._preconditioner,
            motion=None
            if motion is None or made is None
            else partial(motion, made() / self._scale**2),
            example_of=None
            if self._subject.batches.groups is None
            else self._subject.batches.example_of(batch_of),
            arrived=self.stopwatch.lap if self.waits else None,
            seed=self._subject.seed,
        )

    def _share(
        self,
        parts: Sequence[Part],
        index: int,
        groups: tuple[Group, ...],
        learning_rate: float,
        mean: Callable[[Gradients], Gradients],
    ) -> TrainingStep:
        """The step of the examples of this process, for gauges that all processes
        measure together."""
        return TrainingStep(
            self._subject.objective,
            partial(self._batch, tuple(parts)),
            index=index,
            learning_rate=learning_rate,
            groups=groups,
            sampling=self._subject.batches.sampling,
            over_processes=mean,
            seed=self._subject.seed + self._subject.ranks.rank,
        )

    def _spread(self, proposal: int, chosen: Collection[str], share: StepOf) -> Spread | None:
        """The spread over all micro-batches, if they have one size: only then is ĝ their plain
        mean."""
        whole = self.gradients.whole
        if whole is None:
            raise BadArgument(
                "`accumulation` is more than the number of backwards: give the number that an "
                "update takes."
            )
        sizes, norms_read = self.exchange.joined(
            proposal,
            self.together.bits(chosen),
            self._builder.sizes,
            torch.cat(self._builder.squared),
            whole,
        )
        self.stopwatch.lap()
        if not self._subject.ranks.alone:  # before anything that may fail on one process alone
            self.together.measure(self.exchange.bits, share)
        copies = self.gradients.copies if isinstance(self.gradients, ShardHooks) else None
        norms, adds_up = norms_of_all(
            norms_read, self._subject.ranks.count, copies=copies, kinds=self._kinds
        )
        if not adds_up:
            self._refuse_or_warn(
                not_the_mean(self._subject.ranks.count, sharded=copies is not None)
            )
            return None
        plain, *others = [self._without_scale(sizes, *each) for each in norms]
        if plain is None or len(set(plain.sizes)) > 1 or self._shares.multiple is None:
            return None
        return replace(plain, preconditioned=others[0]) if others else plain

    def _without_scale(self, sizes: list[int], squared: Tensor, whole: Tensor) -> Spread | None:
        """The spread for the mean loss, from norms as they were read; None if one is not finite."""
        if not (squared.isfinite().all() and whole.isfinite().all()):
            return None
        builder = SpreadBuilder(self._subject.objective.layer_of, sizes, [squared])
        spread = builder.finish((), whole)
        scale = self._scale
        return Spread(
            spread.sizes,
            spread.squared_norms * (self._subject.accumulation / scale) ** 2,
            spread.mean_squared_norm / scale**2,
        )

    @property
    def _kinds(self) -> int:
        """How many numbers are kept of every parameter's gradient."""
        return 2 if self._preconditioner is None else 3

    def _refuse_or_warn(self, text: str, *, can_continue: bool = True) -> None:
        if self._shield.before_first_update or not can_continue:
            raise BadArgument(f"{text}.")
        self._warn(f"{text}; such steps are not measured")

    def _batch(self, parts: Sequence[Part]) -> Batch:
        """The examples of this process; only the last part if they cannot be joined (sequences of
        unequal length), or are not run again."""
        if self.has_loss and len(parts) > 1:
            with suppress(BadArgument):
                return join_batches([part.batch for part in parts])
        return parts[-1].batch

    def _gradient(
        self, divisor: Tensor | None
    ) -> tuple[Gradients | Callable[[], Gradients | None] | None, Callable[[], Norms] | None]:
        """ĝ or a function that returns it, and a function that returns ‖ĝ‖² of every parameter;
        None if unavailable."""
        whole = self.gradients.whole
        if isinstance(self.gradients, ShardHooks):
            return None, None
        is_alone = not (self.gradients.in_parts or self.gradients.stale)
        if whole is not None and (self.shared or is_alone):
            squared = whole[0, : len(self._parameters)]
            multiple = self._shares.multiple or 1.0
            scale = (lambda: multiple) if divisor is None else (lambda: self._scale)
            made = AsMade(self._parameters, squared, scale, divisor, self._seen)
            # on a CPU it is known at once, so that nothing is assumed of it
            return made.__call__ if squared.is_cpu else made, lambda: squared
        if self.gradients.in_parts:
            self.gradients.forget()
            self._warn(
                "several backwards went through `model` before one `step`: only `loss` is measured"
            )
            return None, None
        taken = self.gradients.take()
        gradient = taken if self._scale == 1 else list(torch._foreach_div(taken, self._scale))
        if self.gradients.stale:
            self._warn(
                "`.grad` was not zero before `backward`, so that training adds the gradients of "
                "all earlier steps: call `optimizer.zero_grad()` before each update; the "
                "measurements describe the last batch alone"
            )
        return gradient, lambda: squared_norms(taken)[0]

    def mean_loss(self, called: Tensor) -> Tensor:
        """The mean loss, from the scaled and divided one that `backward` was called on. It stays on
        its device."""
        scaler = self._subject.scaler
        unscaled = called if scaler is None else called / scaler.scale(torch.ones_like(called))
        return unscaled * self._subject.accumulation

    @property
    def _scale(self) -> float:
        """The factor between `.grad` and ĝ. After the CPU has waited for the norms, nothing waits
        for it."""
        return self._scaled * (self._shares.multiple or 1.0)

    @property
    def _scaled(self) -> float:
        return 1.0 if self._factor is None else float(self._factor())


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
        scale: A function that returns the factor of a gradient scaler at that time. It may wait for
            an accelerator.
        divisor: The same factor as a tensor, for which nothing waits; None if there is no scaler.
        seen: What `.grad` was at the last step.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        made: Float[Tensor, " parameters"],
        scale: Callable[[], float],
        divisor: Tensor | None,
        seen: Seen,
    ) -> None:
        self._parameters = parameters
        self._made = made
        self._scale = scale
        self._divisor = divisor
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
            else list(torch._foreach_div(taken, factor * self._scale()))
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
        self._seen.unscaled = known and math.isclose((factor or 0.0) * self._scale(), 1.0)
        return factor
