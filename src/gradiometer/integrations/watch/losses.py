"""The losses of a watched loop: all are kept, and the first one that is not finite is reported."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import wraps

from torch import Tensor, nn

from gradiometer.compiler import as_written
from gradiometer.drift.spikes.evidence import EVENT, EXAMINATIONS
from gradiometer.drift.spikes.examination import Before, Examiner
from gradiometer.errors import BadArgument, GradiometerError, UserCodeFailed, summary, user_line
from gradiometer.integrations.watch.nonfinite import culprit
from gradiometer.integrations.watch.part import Part
from gradiometer.integrations.watch.unmeasured.arriving import Arriving, Kept
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.objective import Objective
from gradiometer.run.recorder import Recorder

WAITING = 64
"""Steps whose losses come from an accelerator by one copy. It is read after as many
further steps."""


class Losses:
    """Keeps the loss of every step.

    Args:
        objective: Run again if a loss is not finite, to find the layer and the examples.
        warn: Takes the warning, which is kept with the run.
        accumulation: Number of backwards per update.
        rank: Rank of this process; None if there is only one.
        seed: Seed of the random numbers that the loss draws when it is run again.
        locate: True to look for the layer and the examples. No process can run a sharded model
            alone.
        has_loss: False if `watch` was given no loss: then only parameters and inputs are looked at.
    """

    def __init__(
        self,
        objective: Objective,
        warn: Callable[..., None],
        *,
        accumulation: int,
        rank: int | None,
        seed: int,
        locate: bool = True,
        has_loss: bool = True,
    ) -> None:
        self._objective = objective
        self._warn = warn
        self._seed = seed
        self._locate = locate
        self._has_loss = has_loss
        self._accumulation = accumulation
        self._rank = rank
        self.on_cpu = all(device.type == "cpu" for device in objective.devices)
        """True if the whole model is on the CPU, and with it the losses."""
        self.waiting: list[Kept] = []
        """The losses of the last steps, which are not written yet."""
        self.waits_from = 0
        """The step of the first of them."""
        self._arriving: Arriving | None = None
        self._warned = False
        self.examiner = Examiner(objective, seed)
        """Its `limit` is that of a loss worth an examination."""
        self.before: tuple[Batch, float] | None = None
        """The last batch whose loss is a number, and its loss."""
        self.recorder: Recorder | None = None
        """The recorder that writes them, on rank 0."""

    def look_at(self, step: int, parts: Sequence[Part]) -> None:
        """Check the loss of the last of these backwards, before the update.

        On a CPU a loss that is not finite is reported at once, and one that is far above the last
        ones is examined.
        """
        loss = parts[-1].loss
        if not isinstance(loss, float):
            return
        self.learn()
        before, self.before = self.before, (parts[-1].batch, loss)
        if -math.inf < loss < self.examiner.limit:
            return
        if math.isfinite(loss):
            self._examine(step, loss, parts[-1].batch, before)
            return
        if self._warned:
            return
        which = (
            f", micro-batch {len(parts)} of {self._accumulation}" if self._accumulation > 1 else ""
        )
        which += "" if self._rank is None else f", on rank {self._rank}"
        place = ""
        fields: dict[str, str] = {}
        if self._locate:
            with as_written():
                found = culprit(
                    self._objective, parts[-1].batch, seed=self._seed, has_loss=self._has_loss
                )
            place, fields = f": {found}", {"not_finite": found.kind}
        self._report(
            f"the loss is {loss} at step {step:,}{which}, for the first time in this run{place}",
            **fields,
        )

    def learn(self) -> None:
        """Let the examiner learn what waits, if it then knows a new level: which steps are examined
        must not depend on when losses are written. On an accelerator nothing waits for that."""
        if self.on_cpu and len(self.waiting) >= self.examiner.awaits:
            self.fetch()

    @property
    def steps_until_learning(self) -> int:
        """The number of steps that may be kept before the examiner has to learn."""
        due = self.examiner.awaits - len(self.waiting) if self.on_cpu else WAITING
        return min(max(due, 1), WAITING)

    def keep(self, step: int, loss: Kept) -> None:
        """Keep the loss of a finished step, or those of its backwards."""
        # the steps between have failed
        if self.waiting and step != self.waits_from + len(self.waiting):
            self.fetch()
        if not self.waiting:
            self.waits_from = step
        self.waiting.append(loss)
        self.fetch(WAITING)

    def leave_out(self) -> None:
        """Warn of a batch without examples, which has no loss."""
        self._warn("`batch` is empty: such steps are not recorded")

    def fetch(self, fewest: int = 1) -> None:
        """Write the losses that wait, if there are at least so many. With 1 all are written.

        Otherwise those on an accelerator are written the next time: until then they are copied, and
        nothing waits.
        """
        if len(self.waiting) >= fewest:
            self._write_arrived()
            waiting, self.waiting = self.waiting, []
            self._arriving = Arriving(self.waits_from, waiting)
        if fewest == 1 or (self._arriving is not None and self._arriving.on_cpu):
            self._write_arrived()

    def _write_arrived(self) -> None:
        arriving, self._arriving = self._arriving, None
        if arriving is None:
            return
        values = arriving.values()
        if self.recorder is not None:
            self.recorder.losses(arriving.step, values)
        self.examiner.learn(values)
        if not (self._warned or all(map(math.isfinite, values))):
            place, value = next(
                (place, one) for place, one in enumerate(values) if not math.isfinite(one)
            )
            self._report(
                f"the loss is {value} at step {arriving.step + place:,}, for the first time in "
                "this run"
            )

    def _examine(
        self, step: int, loss: float, batch: Batch, before: tuple[Batch, float] | None
    ) -> None:
        """Keep what this step shows of a spike. Only rank 0 does, unless measuring is off."""
        if self.recorder is None or not self._locate or not self.recorder.budget.share:
            return
        gradients = [parameter.grad for parameter in self._objective.parameters]
        made = [gradient for gradient in gradients if gradient is not None]
        is_whole = self._accumulation == 1 and len(made) == len(gradients)
        self.fetch()
        with self.recorder.budget.spending(EXAMINATIONS), as_written():
            known = None if before is None else Before(*before)
            fields = self.examiner.examine(loss, batch, known, made if is_whole else None)
        if fields is not None:
            self.recorder.event(EVENT, step, **fields)

    def _report(self, text: str, **fields: str) -> None:
        self._warned = True
        self._warn(text, **fields)
        warnings.warn(f"{text}.", RuntimeWarning, stacklevel=4)


def explained(loss: Loss) -> Loss:
    """The same loss; if it fails while measuring, the error says so."""

    @wraps(loss, assigned=())
    def called(model: nn.Module, batch: Batch) -> Tensor:
        try:
            return loss(model, batch)
        except GradiometerError:
            raise
        except Exception as error:
            raise UserCodeFailed(
                f"`loss` failed when measuring ran it on {batch_size(batch)} examples "
                f"({summary(error)}{user_line(error)}): it must work on any part of a batch, and "
                "under torch.func.vmap if `parts` is 0."
            ) from error

    return called


def no_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Takes the place of a missing `loss`."""
    raise BadArgument(
        "`loss` is missing, so measuring cannot run the model: give loss=lambda model, batch: ..."
    )
