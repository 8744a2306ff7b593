"""From the backwards of one measured step to the `TrainingStep` that the gauges measure."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import Preconditioner
from gradiometer.integrations.watch.accelerator import Stopwatch
from gradiometer.integrations.watch.observers.checks import LossCheck, Rows, Shares
from gradiometer.integrations.watch.observers.losses import Part
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.sources.source import Scale, WrongGradient
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.batch import Batch, join_batches
from gradiometer.measurement.motion import Motion
from gradiometer.measurement.objective import Gradients
from gradiometer.measurement.optimizer.groups import Group
from gradiometer.measurement.reading import Spread
from gradiometer.measurement.step import TrainingStep

Norms = Float[Tensor, " parameters"]


class StepReader:
    """Reads measured steps, and checks what the loop gives at them.

    Args:
        subject: What is watched.
        warn: Takes a warning, in one sentence, which it shows once.
        shield: Entered by everything that a backward calls.
        preconditioner: P of the optimizer, if a gauge needs it.
    """

    def __init__(
        self,
        subject: Subject,
        warn: Callable[..., None],
        shield: Shield,
        preconditioner: Preconditioner | None = None,
    ) -> None:
        self._subject = subject
        self._source = subject.source
        self._parameters = subject.objective.parameters
        self._warn = warn
        self._shield = shield
        self._preconditioner = preconditioner
        # True if the loss can be run apart from training.
        self.has_loss = subject.has_loss and subject.source.runs_model
        self._source.connect(subject.objective, subject.budget, shield, preconditioner)
        self._rows = Rows(subject, warn, shield)
        self._shares = Shares(subject.source.backwards, warn, is_checked=self.has_loss)
        self._check = None
        if self.has_loss and not subject.source.is_ours:
            self._check = LossCheck(subject, warn)
        self.stopwatch = Stopwatch(subject.budget)
        # True if an accelerator works for the measured step, so that the stopwatch is needed.
        self.waits = False

    @property
    def active(self) -> bool:
        """True if the step under way is measured."""
        return self._source.hooks.active

    def start(self) -> None:
        """Measure the next step."""
        devices = {parameter.device for parameter in self._parameters}
        self.waits = any(device.type != "cpu" for device in devices)
        if self.waits:
            self.stopwatch.start(devices)
        self._source.start()
        if self._shares.left:
            self._shares.start()
        elif self._shares.listens:
            self._shares.stop()

    def stop(self) -> None:
        """Do not measure the next step."""
        self._source.stop()
        if self._shares.listens:
            self._shares.stop()

    def forget_unannounced_backward(self) -> None:
        """The parameters were updated after a backward without a call of `step`."""
        self._refuse_or_warn(
            "`step` was not called before `optimizer.step()`: call it after `backward`, before the "
            "update"
        )
        # the earlier backward does not belong to the next step
        self._source.hooks.forget()

    @property
    def changed(self) -> bool:
        """True if other parameters are trained than at the start. Warns once."""
        if not self._source.changed(self._subject.objective, self._parameters):
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
        if self._source.hooks.has_read:
            self._source.take_in(len(parts) - 1, parts[-1].size)
        else:
            self._refuse_or_warn(
                "`step` was called, but no backward of this model was made since the last one: "
                "call it after every `backward`, on the model that was given to `watch`, and not "
                "over `w.batches`, which calls it",
                can_continue=not self._source.is_joint,  # other processes wait for the exchange
            )
            self.stop()
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
        subject = self._subject
        scale = Scale(None if subject.scaler is None else subject.scale())
        if self._shares.left:
            self._shares.decide([part.loss for part in parts], scale.of_scaler)
        scale.multiply(self._shares.multiple or 1.0)
        share = partial(self._share, parts, index, groups, learning_rate)
        spread = self._spread(proposal, chosen, share, scale)
        if self.changed:
            return None
        # made: ‖·‖² of every parameter's gradient, times the square of the scale
        gradient, made = self._source.gradient(self._parameters, scale, self._warn)
        check = self._check
        if check is not None and check.same_loss:
            has_parts = self._source.has_spread
            if check.left:
                check.left -= 1
            else:
                check(parts[0].batch, parts[0].loss, None if has_parts else gradient)
        if spread is None and (self._source.has_spread or not self._has_halves(parts[0])):
            return None
        probe = subject.batches.probe
        if probe is not None:
            return probe.step(
                subject.objective,
                parts[0].size,
                index,
                groups,
                self._preconditioner,
                subject.seed,
            )
        batch_of = cache(partial(self._batch, tuple(parts)))
        if not self._rows.is_done:
            self._rows.look(batch_of)
        # Adam divides the multiple of a gradient out
        is_adaptive = any(group.family == "adaptive" for group in groups)
        multiple = 1.0 if is_adaptive else scale.multiple
        return TrainingStep(
            subject.objective,
            batch_of,
            batch_size=parts[0].size if len(parts) == 1 else None,
            index=index,
            learning_rate=learning_rate * multiple,
            groups=groups,
            sampling=subject.batches.sampling,
            gradient=gradient if check is None or check.same_loss else None,
            probe=self._judges(parts[0].size, index),
            spread=spread,
            preconditioner=self._preconditioner,
            motion=None
            if motion is None or made is None
            else partial(motion, made() / scale.factor**2),
            example_of=None
            if subject.batches.groups is None
            else subject.batches.example_of(batch_of),
            arrived=self.stopwatch.lap if self.waits else None,
            seed=subject.seed,
        )

    def _spread(
        self,
        proposal: int,
        chosen: Collection[str],
        share: Callable[[Callable[[Gradients], Gradients]], TrainingStep],
        scale: Scale,
    ) -> Spread | None:
        """The spread of the step; None if it has none, or cannot be known."""
        try:
            spread = self._source.spread(proposal, chosen, share, scale, self.stopwatch.lap)
        except WrongGradient as error:
            self._refuse_or_warn(str(error))
            return None
        return None if self._shares.multiple is None else spread

    def _has_halves(self, part: Part) -> bool:
        """True if the batch has two halves with a gradient each: unless the loss couples the
        examples, two examples are enough."""
        if part.size >= 4:
            return True
        traits = self._subject.objective.traits
        return part.size >= 2 and not traits(part.batch, seed=self._subject.seed).coupled

    def _judges(self, size: int, index: int) -> Callable[[], Batch] | None:
        """Draws the independent examples on which a step is judged; None without any."""
        subject = self._subject
        judges = subject.batches.judges
        if judges is None:
            return None
        return partial(judges.draw_for, "judges", size, subject.objective, index, subject.seed)

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
        subject = self._subject
        return TrainingStep(
            subject.objective,
            partial(self._batch, tuple(parts)),
            index=index,
            learning_rate=learning_rate,
            groups=groups,
            sampling=subject.batches.sampling,
            over_processes=mean,
            seed=subject.seed + self._source.ranks.rank,
        )

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
