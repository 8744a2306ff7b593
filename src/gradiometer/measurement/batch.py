"""Batches of any structure: a tensor, or tuples, lists and dictionaries of them, nested."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gradiometer.errors import BadArgument

Batch = Any
"""A tree of tuples, lists and mappings. Every tensor with a first axis holds one entry an example there;
tensors of no axis, numbers, strings and None are the same for all examples."""


def batch_size(batch: Batch, name: str = "batch") -> int:
    """B, the common first axis of the tensors in a batch, which a refusal calls by this name.

    Raises:
        BadArgument: There is no tensor with a first axis, or two of them differ in it.
    """
    sizes = {path: tensor.shape[0] for path, tensor in _tensors(batch, name) if tensor.dim()}
    if not sizes:
        raise BadArgument(
            f"`{name}` holds no tensor with a first axis, so its examples cannot be told apart: "
            "give tensors whose first axis is the example."
        )
    (first, size), *others = sizes.items()
    for path, other in others:
        if other != size:
            raise BadArgument(
                f"`{path}` holds {other} examples where `{first}` holds {size}: "
                "the first axis of every tensor is the example."
            )
    return size


def take(batch: Batch, index: Int[Tensor, " chosen"]) -> Batch:
    """The examples at the given positions, in the batch's own structure."""
    return mapped(batch, lambda tensor: tensor.index_select(0, index.to(tensor.device)) if tensor.dim() else tensor)


def chunks(batch: Batch, count: int) -> list[Batch]:
    """The batch cut into `count` runs of neighbouring examples whose sizes differ by at most one."""
    size = batch_size(batch)
    bounds = [size * part // count for part in range(count + 1)]
    return [span(batch, start, stop) for start, stop in pairwise(bounds)]


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of one structure as one, their examples one after another; what is no example's is the first one's.

    Raises:
        BadArgument: They do not fit together: another structure, or examples of another shape.
    """
    leaves = [[tensor for _, tensor in _tensors(batch, "batch")] for batch in batches]
    shapes = [[tuple(tensor.shape[1:]) for tensor in of_one] for of_one in leaves]
    if any(shape != shapes[0] for shape in shapes):
        raise BadArgument("`batches` do not fit together: their examples are of unlike shapes.")
    columns = iter(zip(*leaves, strict=True))

    def column(_: Tensor) -> Tensor:
        tensors = next(columns)
        return torch.cat(tensors) if tensors[0].dim() else tensors[0]

    return mapped(batches[0], column)


def span(batch: Batch, start: int, stop: int) -> Batch:
    """The examples from `start` up to `stop`, as views."""
    return mapped(batch, lambda tensor: tensor[start:stop] if tensor.dim() else tensor)


def example_axes(batch: Batch) -> Any:
    """The batch's structure with 0 for what holds one entry an example and None for the rest, as `vmap` wants it."""
    return mapped(batch, lambda tensor: 0 if tensor.dim() else None, rest=lambda _: None)


def as_batch_of_one(example: Batch, batch: Batch) -> Batch:
    """One example with its first axis put back; what the examples of `batch` share stays as it is."""
    alone = iter([tensor.dim() > 0 for _, tensor in _tensors(batch, "batch")])
    return mapped(example, lambda tensor: tensor.unsqueeze(0) if next(alone) else tensor)


def mapped(batch: Batch, change: Callable[[Tensor], Any], rest: Callable[[Any], Any] = lambda leaf: leaf) -> Batch:
    """The same structure with every tensor changed, and every other leaf by `rest`."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: mapped(value, change, rest) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(value, change, rest) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(mapped(value, change, rest) for value in batch)
    return rest(batch)


def leaves(batch: Batch, path: str) -> Iterator[tuple[str, Any]]:
    """Every leaf of the tree, with a name for where it lies."""
    if isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(batch, (tuple, list)):
        for position, value in enumerate(batch):
            yield from leaves(value, f"{path}[{position}]")
    else:
        yield path, batch


def _tensors(batch: Batch, path: str) -> Iterator[tuple[str, Tensor]]:
    return ((where, leaf) for where, leaf in leaves(batch, path) if isinstance(leaf, Tensor))
