"""The losses of a watched loop: all kept, fetched from an accelerator now and then, and the first bad one told."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from gradiometer.errors import BadArgument, GradiometerError
from gradiometer.integrations.watch.capture import Part, as_written
from gradiometer.integrations.watch.nonfinite import culprit
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.objective import Objective
from gradiometer.run.recorder import Recorder

WAITING = 64
"""Steps whose losses wait on an accelerator, at most: to fetch them makes training wait."""


class Losses:
    """Keeps the loss of every step.

    Args:
        objective: Asked, where a loss is not finite, which layer and which examples made it so.
        warn: Told of it, in a sentence that is kept with the run.
        blame: Whether to ask: of a sharded model no process can run its own batch without the others.
        accumulation: Backwards an update takes.
        rank: Of this process, named where there are others; None where there are none.
        seed: Of what the loss draws when it is asked.
    """

    def __init__(
        self,
        objective: Objective,
        warn: Callable[[str], None],
        *,
        accumulation: int,
        rank: int | None,
        seed: int,
        blame: bool = True,
    ) -> None:
        self._objective, self._warn, self._seed, self._blame = objective, warn, seed, blame
        self._accumulation, self._rank = accumulation, rank
        self._waiting: list[tuple[int, list[Part]]] = []
        self._told = False
        self.recorder: Recorder | None = None
        """Where they are written, on the process that writes."""

    def look_at(self, step: int, parts: Sequence[Part]) -> None:
        """The last of these backwards was made, and nothing updated yet: on a CPU a bad loss is told at once."""
        loss = parts[-1].loss
        if self._told or not isinstance(loss, float) or math.isfinite(loss):
            return
        which = f", micro-batch {len(parts)} of {self._accumulation}" if self._accumulation > 1 else ""
        which += "" if self._rank is None else f", on rank {self._rank}"
        blame = ""
        if self._blame:
            with as_written():
                blame = f": {culprit(self._objective, parts[-1].batch, seed=self._seed)}"
        self._tell(f"the loss is {loss} at step {step:,}{which}, for the first time in this run{blame}")

    def keep(self, step: int, parts: Sequence[Part]) -> None:
        """These were all backwards of a step."""
        self._waiting.append((step, [replace(part, batch=None) for part in parts]))
        if len(self._waiting) >= WAITING or all(isinstance(part.loss, float) for part in parts):
            self.fetch()

    def fetch(self) -> None:
        """Write those that wait."""
        waiting, self._waiting = self._waiting, []
        for step, parts in waiting:
            value = sum(part.size * float(part.loss) for part in parts) / sum(part.size for part in parts)
            if self.recorder is not None:
                self.recorder.loss(step, value)
            if not (self._told or math.isfinite(value)):
                self._tell(f"the loss is {value} at step {step:,}, for the first time in this run")

    def _tell(self, text: str) -> None:
        self._told = True
        self._warn(text)
        warnings.warn(f"{text}.", RuntimeWarning, stacklevel=4)


def in_words(loss: Loss) -> Loss:
    """The loss, whose failure beside training says where it failed."""

    def called(model: nn.Module, batch: Batch) -> Tensor:
        try:
            return loss(model, batch)
        except GradiometerError:
            raise
        except Exception as error:
            raise BadArgument(
                f"`loss` fails where it is run beside training, on {batch_size(batch)} examples "
                f"({type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}): it has to take any "
                "part of a batch, and torch.func.vmap where `spread` is 0."
            ) from error

    return called


def no_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Stands for one that was left out."""
    raise BadArgument(
        "`loss` is left out, so the model cannot be run beside training: give loss=lambda model, batch: ..."
    )
