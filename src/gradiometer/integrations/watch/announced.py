"""Batches that are announced before their backward, for a loop that does not call `step`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import Listener
from gradiometer.integrations.watch.shield import Shield, WarningLog
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.batch import Batch, mapped

# In place of a batch that was not announced.
NOTHING = object()


class Announcer:
    """Calls `step` at the end of each backward through the model, with the batch that was
    announced.

    Args:
        subject: The training.
        step: Takes the mean loss and the batch.
        warn: Takes a warning.
        shield: Entered by what a backward calls.
    """

    def __init__(
        self,
        subject: Subject,
        step: Callable[[Tensor, Batch], None],
        warn: WarningLog,
        shield: Shield,
    ) -> None:
        self._subject = subject
        self._step = step
        self._warn = warn
        self._shield = shield
        self._announced: Any = NOTHING
        self._listener = Listener(self._before_backward, self._after_backward)
        self._few: Sequence[nn.Parameter] = ()
        self._marks: Sequence[tuple[Tensor | None, int]] = ()

    def announce(self, batch: Batch) -> None:
        """The next backward is of these examples."""
        if not self._few:
            parameters = self._subject.parameters
            self._few = parameters[0], parameters[len(parameters) // 2], parameters[-1]
        self._announced = batch
        self._listener.start()

    def remove(self) -> None:
        """Listen no more."""
        self._listener.remove()

    def _before_backward(self, _: Tensor | None) -> None:
        self._marks = self._marks_now()

    def _after_backward(self, loss: Tensor | None) -> None:
        with self._shield:
            before, self._marks = self._marks, ()
            # `.grad` of a sharded model is not changed by every backward
            went_through_the_model = not self._subject.source.runs_model or any(
                gradient is not old or version != then
                for (gradient, version), (old, then) in zip(self._marks_now(), before, strict=True)
            )
            if went_through_the_model:
                batch, self._announced = self._announced, NOTHING
                self._take(loss, batch)

    def _take(self, loss: Tensor | None, batch: Batch) -> None:
        if batch is NOTHING:
            self._warn(
                "several backwards went through `model` for one batch: only the first of them is "
                "measured, and its loss is recorded"
            )
            return
        if loss is None:
            raise BadArgument(
                "`backward` was not called on one number: call `step` yourself in place of "
                "`batches`."
            )
        if self._subject.source.hooks.active:
            device = self._subject.parameters[0].device
            batch = mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))
        self._step(self._mean_loss(loss), batch)

    def _mean_loss(self, called: Tensor) -> Tensor:
        """The mean loss, from the scaled and divided one that `backward` was called on. It stays on
        its device."""
        scaler = self._subject.scaler
        unscaled = called if scaler is None else called / scaler.scale(torch.ones_like(called))
        return unscaled * self._subject.source.backwards

    def _marks_now(self) -> list[tuple[Tensor | None, int]]:
        """A few gradients and their versions, which change when a backward goes
        through the model."""
        return [(p.grad, 0 if p.grad is None else p.grad._version) for p in self._few]


class Announced:
    """The batches of a loader, each announced to a watch before it is passed on.

    Args:
        announce: Announces a batch, and returns it unchanged.
        loader: Gives the batches.
    """

    _announce: Callable[[Batch], Batch]
    _loader: Iterable[Any]

    def __init__(self, announce: Callable[[Batch], Batch], loader: Iterable[Any]) -> None:
        self.__dict__.update(_announce=announce, _loader=loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield self._announce(batch)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the loader, as timm does to end its mixup."""
        setattr(self._loader, name, value)
