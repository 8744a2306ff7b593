"""A finite set of examples, as tensors or as a torch data set, with batches by index."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import IterableDataset, Subset, TensorDataset, default_collate

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, calling
from gradiometer.measurement.batch import Batch, batch_size, leaves, mapped, take
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness


class Examples:
    """N examples; a batch is taken by its index.

    Args:
        data: A tree of tuples, lists and mappings of tensors, whose first axis is the example; or a
            map-style `torch.utils.data.Dataset`.
        name: Name of the examples in messages.
        collate: Puts a list of a data set's items into a batch, such as the `collate_fn` of a
            DataLoader. Default: torch's `default_collate`.

    Raises:
        BadArgument: Two tensors differ in their number of examples, a leaf is a NumPy array, the
            data cannot be indexed or collated, or there is no example.

    Example:
        >>> from gradiometer.problems import Examples
        >>> examples = Examples((torch.randn(10, 3), torch.arange(10)))
        >>> len(examples), examples.batch(torch.tensor([7, 7, 1]))[1]
        (10, tensor([7, 7, 1]))
    """

    def __init__(
        self,
        data: Any,
        name: str = "examples",
        collate: Callable[[list[Any]], Batch] = default_collate,
    ) -> None:
        self.name = name
        self.collate = collate
        # Its tensors can be indexed at once, which is far quicker than item by item.
        is_plain = isinstance(data, TensorDataset) and collate is default_collate
        self.data: Any = tuple(data.tensors) if is_plain else data
        self.device: torch.device | None = None
        # True if the examples are tensors, and not read from a data set.
        self.in_memory = isinstance(self.data, (Tensor, tuple, list, Mapping))
        self._length = (
            _size(self.data, name) if self.in_memory else _checked_dataset(self.data, name, collate)
        )
        if not self._length >= 1:
            raise BadArgument(f"`{name}` is empty: at least one example is needed.")

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        kind = "tensors" if self.in_memory else type(self.data).__name__
        return f"<{self.name}: {len(self):,} examples, {kind}>"

    def batch(self, index: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions, in this order. A position may occur twice."""
        if self.in_memory:
            return take(self.data, index)
        with user_code(self.name):
            # Torch's own way to read several items at once.
            items = (
                self.data.__getitems__(index.tolist())
                if hasattr(self.data, "__getitems__")
                else None
            )
            collated = self.collate(items or [self.data[position] for position in index.tolist()])
        return collated if self.device is None else _to_device(collated, self.device)

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples once, in order, `size` at a time. The last batch may be smaller."""
        check_whole("size", size, 1)
        for part in torch.split(torch.arange(len(self)), size):
            yield self.batch(part)

    def part(self, index: Int[Tensor, " chosen"]) -> "Examples":
        """The examples at these positions."""
        data = take(self.data, index) if self.in_memory else Subset(self.data, index.tolist())
        part = Examples(data, self.name, self.collate)
        part.device = self.device
        return part

    def to(self, device: torch.device | str) -> "Examples":
        """The same examples on a device. Tensors are moved now, the batches of a data set when they
        are taken."""
        moved = copy.copy(self)  # they were checked when they were given
        if self.in_memory:
            moved.data = _to_device(self.data, device)
        moved.device = torch.device(device)
        return moved

    def fingerprint(self) -> str:
        """The SHA-256 of the data in hexadecimal: names, types, shapes and bytes of all tensors.

        For a data set it covers the number of examples and up to 256 of them, evenly spaced. They
        are read from fixed random states, so that random augmentation gives the same fingerprint
        every time.
        """
        digest = hashlib.sha256(f"{len(self)} examples".encode())
        if self.in_memory:
            _digest(self.data, digest)
            return digest.hexdigest()
        # 256: number of evenly spaced examples of a data set in its fingerprint. For tensors, all
        # examples are used.
        chosen = torch.linspace(0, len(self) - 1, min(len(self), 256), dtype=torch.float64).long()
        with untouched_randomness(0, []):
            for part in torch.split(chosen, 32):
                _digest(self.batch(part), digest)
        return digest.hexdigest()


def _size(data: Batch, name: str) -> int:
    """The number of examples, which all tensors must share."""
    for path, leaf in leaves(data, name):
        if isinstance(leaf, np.ndarray):
            raise BadArgument(
                f"`{path}` must be a tensor, got a NumPy array: pass torch.from_numpy(...)."
            )
        if isinstance(leaf, Tensor) and leaf.is_meta:
            raise BadArgument(
                f"`{path}` is on the meta device, which holds no numbers: give the numbers."
            )
    return batch_size(data, name)


def _checked_dataset(data: Any, name: str, collate: Callable[[list[Any]], Batch]) -> int:
    """The length of a map-style data set whose examples can be collated."""
    if not (
        not isinstance(data, IterableDataset)
        and (isinstance(data, Sized) and hasattr(data, "__getitem__"))
    ):
        raise BadArgument(
            f"`{name}` is of type {type(data).__name__}, which cannot be indexed: pass a tensor, a "
            "tuple, list or dict of tensors, or a torch data set with `__len__` and `__getitem__`."
        )
    if len(data):
        with untouched_randomness(0, []):
            with calling(name):
                first = data[0]
            try:
                batch_size(collate([first]))
            except (TypeError, RuntimeError, BadArgument) as error:
                reason = str(error).partition("\n")[0].rstrip(".")
                raise BadArgument(
                    f"`{name}[0]` cannot be put into a batch ({reason}): add a transform to "
                    "tensors to the data set."
                ) from error
    return len(data)


def _to_device(data: Batch, device: torch.device | str) -> Batch:
    return mapped(data, lambda tensor: tensor.to(device))


def _digest(data: Batch, digest: Any) -> None:
    """Add every leaf to the digest, with its path, type and shape."""
    for path, leaf in leaves(data, ""):
        if isinstance(leaf, Tensor):
            digest.update(f"{path} {leaf.dtype} {list(leaf.shape)}".encode())
            digest.update(
                leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
        else:
            digest.update(f"{path} {leaf!r}".encode())
