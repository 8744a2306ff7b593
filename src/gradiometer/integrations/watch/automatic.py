"""Steps whose batch or loss is not given: they come from the model's inputs, the loader, and
`backward`."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.backwards import Listener
from gradiometer.integrations.fsdp import is_sharded
from gradiometer.integrations.watch.shield import Hook, Shield
from gradiometer.measurement.batch import Batch, mapped
from gradiometer.measurement.objective import Objective


class Inputs:
    """Keeps the first tensor of the newest call of the model, until `step` takes it or the batches
    are given.

    Args:
        model: The model as the loop calls it: wrapped or compiled, so that compiled code does not
            see the hook.
        shield: Keeps errors from training.
    """

    def __init__(self, model: nn.Module, shield: Shield) -> None:
        self._model = model
        self._newest: Tensor | None = None
        self._hook: Any = None
        if not isinstance(model, torch.jit.ScriptModule):  # it takes no hooks
            self._hook = model.register_forward_pre_hook(Hook(shield, self._keep), with_kwargs=True)

    def _keep(self, _: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        for value in (*given, *named.values()):
            if isinstance(value, Tensor) and value.dim():
                # inputs that another model made hold the graph of that model
                self._newest = value.detach()
                return

    def take(self, *, has_loss: bool) -> Tensor:
        """The inputs of the newest call, which stand for the batch.

        Args:
            has_loss: True if `watch` has a loss, which needs the whole batch.

        Raises:
            BadArgument: The batch is needed, or no call of the model with a tensor was seen.
        """
        if has_loss:
            raise BadArgument(
                "`batch` is missing: `watch` was given `loss`, which needs the batch. Call "
                "w.step(loss, batch)."
            )
        newest, self._newest = self._newest, None
        if newest is None:
            raise BadArgument(
                "`batch` is missing, and no call of the model with a tensor was seen since the "
                "last step: call w.step(loss, batch)."
            )
        return newest[None] if self._is_one_example(newest) else newest

    def _is_one_example(self, inputs: Tensor) -> bool:
        """True for a vector of as many numbers as a layer takes of one example, such as the state
        that a policy sees: it has no axis of examples."""
        return inputs.dim() == 1 and any(
            isinstance(layer, nn.Linear) and layer.in_features == len(inputs)
            for layer in self._model.modules()
        )

    def remove(self) -> None:
        """Stop looking: the loop gives its batches, or has ended."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = self._newest = None


if TYPE_CHECKING:  # a watch is made of these, and of this
    from gradiometer.integrations.watch.capture import Capture
    from gradiometer.integrations.watch.shield import WarningLog

NOTHING = object()
"""In place of a batch that was not announced."""


class Automatic:
    """Announces the backwards of a watched loop that has no line between `backward` and
    `optimizer.step()`."""

    _objective: Objective
    _capture: "Capture"
    _warn: "WarningLog"
    shield: "Shield"
    _begun: bool
    _handles: list[Any]
    _announced: Any = NOTHING
    _listener: Listener | None = None
    _few: Sequence[nn.Parameter] = ()
    _always = False
    _thread = 0
    _marks: Sequence[tuple[Tensor | None, int]] = ()

    @abstractmethod
    def step(self, loss: Tensor | float, batch: Batch) -> None:
        """Record one backward."""

    @abstractmethod
    def _draw_from(self, loader: Iterable[Any]) -> None:
        """Take the sampling from a loader."""

    @property
    def measuring(self) -> bool:
        """True if the coming step is measured, or may be.

        A loop that replays a CUDA graph makes such a step without it: hooks do not run in a replay.
        """
        return self._capture.active or not self._begun

    def batches(self, loader: Iterable[Any]) -> "Announced":
        """The batches of a loader, for a loop that makes `backward` and the update in one call.

        Use it in place of `step`, which is then called at the end of every `backward` through the
        model:

            with watch(model, optimizer, loss=loss) as w:
                for batch in w.batches(loader):
                    train_one_step(model, optimizer, batch)

        The loss is the number that `backward` was called on, times `accumulation`, without the
        scale of `scaler`. The second `backward` for the same batch is not measured. The sampling is
        that of the first loader, if it is a DataLoader with a sampler of torch and `sampling` was
        not given.

        Args:
            loader: Any iterable. Its batches are passed on as they are. On a measured step the
                batch is moved to the device of the model.

        Returns:
            An iterable with the length and the attributes of the loader.
        """
        self._draw_from(loader)
        return Announced(self, loader)

    def batch(self, batch: Batch) -> Batch:
        """Announce the examples of the next `backward`, and return them unchanged. Use it in place
        of `batches` if the loop changes its batches after loading (mixup, augmentation on the
        device), or is not an iteration of a loader.
        """
        if not self._handles:
            raise BadArgument(
                "`batch` must be announced inside `with watch(...) as w:`, which goes around the "
                "whole training."
            )
        if self._listener is None:
            parameters = self._objective.parameters
            self._few = parameters[0], parameters[len(parameters) // 2], parameters[-1]
            # `.grad` of a sharded model is not changed by every backward
            self._always = is_sharded(self._objective.model)
            self._listener = Listener(self._before_backward, self._after_backward).start()
            self._handles.append(self._listener)
        self._announced = batch
        self._thread = get_ident()
        return batch

    def _before_backward(self, _: Tensor | None) -> None:
        if get_ident() == self._thread:
            self._marks = self._marks_now()

    def _after_backward(self, loss: Tensor | None) -> None:
        if get_ident() != self._thread:  # of another training
            return
        with self.shield:
            if self._went_through_the_model():
                batch, self._announced = self._announced, NOTHING
                self._announce(loss, batch)

    def _announce(self, loss: Tensor | None, batch: Batch) -> None:
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
        if self._capture.active:
            device = self._objective.parameters[0].device
            batch = mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))
        self.step(self._capture.mean_loss(loss), batch)

    def _marks_now(self) -> list[tuple[Tensor | None, int]]:
        """A few gradients and their versions, which change when a backward goes
        through the model."""
        return [(p.grad, 0 if p.grad is None else p.grad._version) for p in self._few]

    def _went_through_the_model(self) -> bool:
        before, self._marks = self._marks, ()
        return self._always or any(
            gradient is not old or version != then
            for (gradient, version), (old, then) in zip(self._marks_now(), before, strict=True)
        )


class Announced:
    """The batches of a loader, each announced to a watch before it is passed on."""

    _automatic: Automatic
    _loader: Iterable[Any]

    def __init__(self, automatic: Automatic, loader: Iterable[Any]) -> None:
        self.__dict__.update(_automatic=automatic, _loader=loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield self._automatic.batch(batch)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the loader, as timm does to end its mixup."""
        setattr(self._loader, name, value)
