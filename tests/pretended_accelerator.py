"""A device that torch takes for an accelerator, on a machine without one. Every wait for it is counted.

Its tensors say that they lie on the device "lazy", which torch knows in every build, and their numbers are on the CPU.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

DEVICE = "lazy"

WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}
"""Operations for which the CPU waits, if a tensor of theirs is on an accelerator."""


class Log:
    """What made the CPU wait, and the copies for which it need not."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.copies: list[str] = []

    def clear(self) -> None:
        """Forget them."""
        self.waits.clear()
        self.copies.clear()


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
            device=torch.device(DEVICE),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        """Compute on the CPU."""
        named = dict(named or {})
        if operation in WAITS:
            LOG.waits.append(str(operation))
        device = named.get("device")
        near = device is not None and torch.device(device).type == "cpu"
        if device is not None:
            named["device"] = torch.device("cpu")
        if operation is torch.ops.aten._to_copy.default and near:
            (LOG.copies if named.get("non_blocking") else LOG.waits).append("copy to the CPU")
        if operation is torch.ops.aten.copy_.default and not isinstance(arguments[0], Far):
            LOG.waits.append("copy_ to the CPU")
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


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Far) else value


def _far(value: Any) -> Any:
    return Far(value) if isinstance(value, Tensor) and not isinstance(value, Far) else value


def moved(module: nn.Module) -> nn.Module:
    """The module, with its parameters and buffers on the pretended accelerator."""
    for each in module.modules():
        for name, parameter in list(each._parameters.items()):
            if parameter is not None:
                each._parameters[name] = nn.Parameter(Far(parameter.detach()), requires_grad=parameter.requires_grad)
        for name, buffer in list(each._buffers.items()):
            if buffer is not None:
                each._buffers[name] = Far(buffer)
    return module


class Pretended(TorchFunctionMode):
    """A region in which tensors can be made on the pretended accelerator and moved to it."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        """Make them on the CPU."""
        named = dict(named or {})
        if function is Tensor.tolist and isinstance(arguments[0], Far):  # torch refuses it for a kind of its own
            LOG.waits.append("tolist")
            return arguments[0].inner.tolist()
        places = [*arguments, *named.values()]
        if not any(_is_far(place) for place in places):
            return function(*arguments, **named)
        if isinstance(arguments[0] if arguments else None, Far):
            return function(*(each for each in arguments if not _is_far(each)), **_without(named))
        made = function(*map(_on_cpu, arguments), **{name: _on_cpu(value) for name, value in named.items()})
        return _far(made)


def _is_far(place: Any) -> bool:
    return isinstance(place, str | torch.device) and str(place).startswith(DEVICE)


def _on_cpu(place: Any) -> Any:
    return torch.device("cpu") if _is_far(place) else place


def _without(named: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if not _is_far(value)}


class Event:
    """An event of the accelerator, which has always happened."""

    def __init__(self, device: str) -> None:
        assert device == DEVICE

    def record(self) -> None:
        """Nothing is queued."""

    def synchronize(self) -> None:
        """It has happened long ago: 64 steps lie between the copy and this."""


class Module:
    """What `torch.get_device_module` returns for it."""

    @staticmethod
    def synchronize(device: Any = None) -> None:
        """Wait."""
        LOG.waits.append("synchronize")

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
