"""The peak of what torch allocates during some work, in copies of a model's parameters.

Every storage that an operation makes is counted until it is freed, in the forward, the backward and the update alike.
What the C++ kernels use inside of one operation is not seen. So the numbers are the same on every machine.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocated(TorchDispatchMode):
    """Counts the bytes of the storages that are alive among those made inside, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        made = operation(*arguments, **(named or {}))
        given = {each.untyped_storage()._cdata for each in _tensors((arguments, named))}
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._alive:
                self._alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata)
                self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        return made

    def _freed(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


def peak_in_copies(model: nn.Module, work: Callable[[], object]) -> float:
    """The peak of what `work` allocates, in copies of the model's parameters."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with Allocated() as allocated:
        work()
    return allocated.peak / size


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.layout == torch.strided)
