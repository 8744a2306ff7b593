"""A device that torch takes for an accelerator, on a machine without one. Every wait for it is
counted.

Its tensors say that they lie on the device "lazy", which torch knows in every build, and their
numbers are on the CPU.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "lazy"

AT = torch.device(DEVICE)

WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}
"""Operations for which the CPU waits, if a tensor of theirs is on an accelerator."""


INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_select.default,
}
"""Operations that first copy an index on the CPU to the accelerator, for which the CPU waits."""


class Log:
    """What made the CPU wait, and the copies for which it need not."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.copies: list[str] = []
        self.queued = False
        """True if the accelerator was given work since the CPU last waited for it."""
        self.caught_up = 0
        """How often the accelerator has ended its work: at each wait, and in the time between two
        updates."""

    def clear(self) -> None:
        """Forget them. The accelerator ends its work."""
        self.waits.clear()
        self.copies.clear()
        self.queued, self.caught_up = False, self.caught_up + 1

    def wait(self, reason: str) -> None:
        """The CPU waits until the accelerator has ended its work."""
        self.waits.append(reason)
        self.queued, self.caught_up = False, self.caught_up + 1


LOG = Log()


class Far(Tensor):
    """A tensor on the pretended accelerator."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Far":
        """Take the shape of a tensor on the CPU."""
        made: Far = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=AT,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        """Compute on the CPU."""
        named = dict(named or {})
        LOG.queued = True
        device = named.get("device")
        near = device is not None and torch.device(device).type == "cpu"
        if device is not None:
            named["device"] = torch.device("cpu")
        if operation in WAITS or (operation in INDEXING and _is_near(arguments[1:])):
            LOG.wait(str(operation))
        if operation is torch.ops.aten._to_copy.default and near:
            LOG.copies.append("to the CPU") if named.get("non_blocking") else LOG.wait(
                "copy to the CPU"
            )
        if operation is torch.ops.aten.copy_.default and not _is_free(*arguments):
            LOG.wait("copy_")
        if _has_out(operation):  # in place: the tensor that was given is returned
            operation(*tree_map(_inner, arguments), **tree_map(_inner, named))
            return arguments[0] if operation._schema.returns else None
        made = operation(*tree_map(_inner, arguments), **tree_map(_inner, named))
        return made if near else tree_map(_far, made)


def _has_out(operation: Any) -> bool:
    """True for an operation that changes its first argument, and returns it or nothing."""
    schema = operation._schema
    first = schema.arguments[0].alias_info if schema.arguments else None
    return first is not None and first.is_write


def _is_near(values: Any) -> bool:
    """True if one of these is a list of places that lies on the CPU."""
    return any(
        isinstance(each, Tensor) and not isinstance(each, Far) and each.dim()
        for each in tree_leaves(values)
    )


def _is_free(place: Tensor, source: Tensor, non_blocking: bool = False) -> bool:
    """True for a copy into a tensor of the accelerator for which the CPU does not wait."""
    return isinstance(place, Far) and (isinstance(source, Far) or non_blocking or not source.dim())


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Far) else value


def _far(value: Any) -> Any:
    return Far(value) if isinstance(value, Tensor) and not isinstance(value, Far) else value


def moved(module: nn.Module) -> nn.Module:
    """The module, with its parameters and buffers on the pretended accelerator."""
    for each in module.modules():
        for name, parameter in list(each._parameters.items()):
            if parameter is not None:
                each._parameters[name] = nn.Parameter(
                    Far(parameter.detach()), requires_grad=parameter.requires_grad
                )
        for name, buffer in list(each._buffers.items()):
            if buffer is not None:
                each._buffers[name] = Far(buffer)
    return module


MOVES = {torch.tensor, torch.as_tensor, Tensor.to}
"""Functions that copy numbers of the CPU to the accelerator. It reads them when its earlier work is
done."""


class Pretended(TorchFunctionMode):
    """A region in which tensors can be made on the pretended accelerator and moved to it."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        """Make them on the CPU."""
        named = dict(named or {})
        # torch refuses it for a kind of its own
        if function is Tensor.tolist and isinstance(arguments[0], Far):
            LOG.wait("tolist")
            return arguments[0].inner.tolist()
        places = [*arguments, *named.values()]
        # some versions of torch ask for the kind of a device by making one
        if function is torch.device or not any(_is_far(place) for place in places):
            return function(*arguments, **named)
        if isinstance(arguments[0] if arguments else None, Far):
            return function(*(each for each in arguments if not _is_far(each)), **_without(named))
        if function in MOVES and not named.get("non_blocking"):
            LOG.wait("copy to the accelerator")
        LOG.queued = True
        made = function(
            *map(_on_cpu, arguments), **{name: _on_cpu(value) for name, value in named.items()}
        )
        return _far(made)


def _is_far(place: Any) -> bool:
    return isinstance(place, str | torch.device) and str(place).startswith(DEVICE)


def _on_cpu(place: Any) -> Any:
    return torch.device("cpu") if _is_far(place) else place


def _without(named: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if not _is_far(value)}


class Event:
    """An event of the accelerator. It has happened when the work that was queued before
    it is done."""

    def __init__(self, device: str, enable_timing: bool = False) -> None:
        assert device == DEVICE
        self._is_timed, self._after, self._time = enable_timing, LOG.caught_up, 0.0

    def record(self, stream: Any = None) -> None:
        """Queue it."""
        self._after, self._time = LOG.caught_up + LOG.queued, time.perf_counter()

    def query(self) -> bool:
        """True if it has happened. Nothing waits."""
        return LOG.caught_up >= self._after

    def synchronize(self) -> None:
        """Wait."""
        LOG.wait("event")

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds from this event to another one. As torch does, it refuses events that have
        not happened."""
        if not (self._is_timed and end._is_timed and self.query() and end.query()):
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return 1000 * (end._time - self._time)


class Module:
    """What `torch.get_device_module` returns for it."""

    @staticmethod
    def synchronize(device: Any = None) -> None:
        """Wait."""
        LOG.wait("synchronize")

    @staticmethod
    def get_rng_state(device: Any = None) -> Tensor:
        """It draws no random numbers."""
        return torch.zeros(1, dtype=torch.uint8)

    @staticmethod
    def set_rng_state(state: Tensor, device: Any = None) -> None:
        """It draws no random numbers."""

    @staticmethod
    def manual_seed(seed: int) -> None:
        """It draws no random numbers."""

    @staticmethod
    def device(device: Any) -> AbstractContextManager[None]:
        """There is only one."""
        return nullcontext()
