"""The losses of a watched loop: all are kept, and the first one that is not finite is reported."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from gradiometer.errors import BadArgument, GradiometerError, UserCodeFailed
from gradiometer.integrations.watch.capture import as_written
from gradiometer.integrations.watch.nonfinite import culprit
from gradiometer.integrations.watch.part import Part
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.objective import Objective
from gradiometer.run.recorder import Recorder

WAITING = 64
"""Most steps whose losses stay on an accelerator, since fetching them makes training wait."""


class Losses:
    """Keeps the loss of every step.

    Args:
        objective: Run again if a loss is not finite, to find the layer and the examples.
        warn: Takes the warning, which is kept with the run.
        accumulation: Number of backwards per update.
        rank: Rank of this process; None if there is only one.
        seed: Seed of the random numbers that the loss draws when it is run again.
        locate: True to look for the layer and the examples. No process can run a sharded model alone.
    """

    def __init__(
        self,
        objective: Objective,
        warn: Callable[[str], None],
        *,
        accumulation: int,
        rank: int | None,
        seed: int,
        locate: bool = True,
    ) -> None:
        self._objective, self._warn, self._seed, self._locate = objective, warn, seed, locate
        self._accumulation, self._rank = accumulation, rank
        self._waiting: list[tuple[int, list[Part]]] = []
        self._warned = False
        self.recorder: Recorder | None = None
        """The recorder that writes them, on rank 0."""

    def look_at(self, step: int, parts: Sequence[Part]) -> None:
        """Check the loss of the last of these backwards, before the update. On a CPU a bad loss is reported at once."""
        loss = parts[-1].loss
        if self._warned or not isinstance(loss, float) or math.isfinite(loss):
            return
        which = f", micro-batch {len(parts)} of {self._accumulation}" if self._accumulation > 1 else ""
        which += "" if self._rank is None else f", on rank {self._rank}"
        place = ""
        if self._locate:
            with as_written():
                place = f": {culprit(self._objective, parts[-1].batch, seed=self._seed)}"
        self._report(f"the loss is {loss} at step {step:,}{which}, for the first time in this run{place}")

    def keep(self, step: int, parts: Sequence[Part]) -> None:
        """Keep the losses of a finished step."""
        self._waiting.append((step, [replace(part, batch=None) for part in parts]))
        if len(self._waiting) >= WAITING or all(isinstance(part.loss, float) for part in parts):
            self.fetch()

    def fetch(self) -> None:
        """Write the losses that wait."""
        waiting, self._waiting = self._waiting, []
        for step, parts in waiting:
            value = sum(part.size * float(part.loss) for part in parts) / sum(part.size for part in parts)
            if self.recorder is not None:
                self.recorder.loss(step, value)
            if not (self._warned or math.isfinite(value)):
                self._report(f"the loss is {value} at step {step:,}, for the first time in this run")

    def _report(self, text: str) -> None:
        self._warned = True
        self._warn(text)
        warnings.warn(f"{text}.", RuntimeWarning, stacklevel=4)


def explained(loss: Loss) -> Loss:
    """The same loss; if it fails while measuring, the error says so."""

    def called(model: nn.Module, batch: Batch) -> Tensor:
        try:
            return loss(model, batch)
        except GradiometerError:
            raise
        except Exception as error:
            raise UserCodeFailed(
                f"`loss` failed when measuring ran it on {batch_size(batch)} examples "
                f"({type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}): it must work on any "
                "part of a batch, and under torch.func.vmap if `parts` is 0."
            ) from error

    return called


def no_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Takes the place of a missing `loss`."""
    raise BadArgument("`loss` is missing, so measuring cannot run the model: give loss=lambda model, batch: ...")
