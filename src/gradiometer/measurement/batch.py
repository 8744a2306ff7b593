"""Batches of any structure (a tensor, or nested tuples, lists and dictionaries of tensors), and
their order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.reading import Draw

Batch = Any
"""A tree of tuples, lists and mappings. The first axis of every tensor is the example. Tensors
without an axis, numbers, strings and None are shared by all examples."""


@runtime_checkable
class TrainingSet(Protocol):
    """N examples, indexed by position."""

    def __len__(self) -> int:
        """N."""

    def batch(self, index: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions."""


def batch_size(batch: Batch, name: str = "batch") -> int:
    """B, the length of the common first axis of the tensors in a batch.

    Args:
        batch: The examples.
        name: Name of the batch in error messages.

    Raises:
        BadArgument: There is no tensor with a first axis, two tensors differ in its length, or one
            is nested without a shape.

    >>> import torch
    >>> from gradiometer.measurement.batch import batch_size
    >>> batch_size({"pixels": torch.zeros(8, 3), "label": torch.zeros(8), "scale": 2.0})
    8
    """
    tensors = tensors_of(batch)
    if any(tensor.is_nested and tensor.layout is torch.strided for tensor in tensors):
        raise BadArgument(
            f"`{name}` holds a nested tensor of the strided layout, which has no shape: make it "
            "with layout=torch.jagged."
        )
    lengths = {tensor.shape[0] for tensor in tensors if tensor.dim()}
    if len(lengths) == 1:
        return lengths.pop()
    named = leaves(batch, name)
    sizes = {path: leaf.shape[0] for path, leaf in named if isinstance(leaf, Tensor) and leaf.dim()}
    if not sizes:
        raise BadArgument(
            f"`{name}` holds no tensor with a first axis: give tensors whose first axis is the "
            "example."
        )
    (first, size), *others = sizes.items()
    path, other = next((path, other) for path, other in others if other != size)
    raise BadArgument(
        f"`{path}` holds {other} examples and `{first}` holds {size}: the first axis of every "
        "tensor must be the example. For tensors with time first give `watch` their `batch_axis`, "
        "and reshape those that were flattened."
    )


def take(batch: Batch, index: Int[Tensor, " chosen"]) -> Batch:
    """The examples at these positions, in the structure of the batch."""
    # The index is copied to an accelerator without waiting for it.
    return mapped(
        batch,
        lambda tensor: (
            tensor.index_select(0, index.to(tensor.device, non_blocking=True))
            if tensor.dim()
            else tensor
        ),
    )


def chunks(batch: Batch, count: int) -> list[Batch]:
    """The batch cut into `count` chunks of consecutive examples. Their sizes differ by
    at most one."""
    size = batch_size(batch)
    bounds = [size * part // count for part in range(count + 1)]
    return [span(batch, start, stop) for start, stop in pairwise(bounds)]


def dealt(
    size: int,
    count: int,
    generator: torch.Generator,
    example_of: Int[Tensor, " rows"] | None = None,
) -> list[Tensor]:
    """Positions of the rows of a batch, dealt at random into `count` parts.

    Args:
        size: Number of rows.
        count: Number of parts.
        generator: A generator on the CPU.
        example_of: A label for every row. Rows with one label stay together.
    """
    if example_of is None:
        return list(torch.randperm(size, generator=generator, device="cpu").tensor_split(count))
    labels, own = example_of.cpu().unique(return_inverse=True)
    part = torch.empty(len(labels), dtype=torch.int64, device="cpu")
    for place, chosen in enumerate(
        torch.randperm(len(labels), generator=generator, device="cpu").tensor_split(count)
    ):
        part[chosen] = place
    return [(part[own] == place).nonzero().flatten() for place in range(count)]


def join_batches(batches: Sequence[Batch]) -> Batch:
    """One batch with the examples of all these batches. Values shared by all examples come from the
    first batch.

    Raises:
        BadArgument: The batches differ in structure, or their examples in shape.
    """
    leaves = [tensors_of(batch) for batch in batches]
    shapes = [[tuple(tensor.shape[1:]) for tensor in of_one] for of_one in leaves]
    if any(shape != shapes[0] for shape in shapes):
        raise BadArgument("`batches` cannot be joined: their examples differ in shape.")
    columns = iter(zip(*leaves, strict=True))

    def column(_: Tensor) -> Tensor:
        tensors = next(columns)
        return torch.cat(tensors) if tensors[0].dim() else tensors[0]

    return mapped(batches[0], column)


def span(batch: Batch, start: int, stop: int) -> Batch:
    """The examples from `start` up to `stop`, as views."""
    return mapped(batch, lambda tensor: tensor[start:stop] if tensor.dim() else tensor)


def example_axes(batch: Batch) -> Any:
    """The structure of the batch with 0 for every tensor of examples and None for the rest:
    `in_dims` of `vmap`."""
    return mapped(batch, lambda tensor: 0 if tensor.dim() else None, rest=lambda _: None)


def as_batch_of_one(example: Batch, batch: Batch) -> Batch:
    """One example, as `vmap` passes it, with its first axis back. Values shared by the examples
    stay as they are."""
    alone = iter([tensor.dim() > 0 for tensor in tensors_of(batch)])
    return mapped(example, lambda tensor: tensor.unsqueeze(0) if next(alone) else tensor)


def mapped(
    batch: Batch, change: Callable[[Tensor], Any], rest: Callable[[Any], Any] = lambda leaf: leaf
) -> Batch:
    """The same structure with `change` applied to every tensor, and `rest` to every other leaf."""
    if isinstance(batch, Tensor):
        return change(batch)
    # a mapping is an abstract class, which is slow to ask for
    is_sequence = isinstance(batch, (tuple, list))
    if not (is_sequence or isinstance(batch, Mapping)):
        return rest(batch)
    parts = [
        change(value) if isinstance(value, Tensor) else mapped(value, change, rest)
        for value in (batch if is_sequence else batch.values())
    ]
    if not is_sequence:
        return dict(zip(batch, parts, strict=True))
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors of the tree, in their order."""
    if isinstance(batch, Tensor):
        return [batch]
    if not isinstance(batch, (tuple, list)):
        batch = batch.values() if isinstance(batch, Mapping) else ()
    found: list[Tensor] = []
    for value in batch:
        if isinstance(value, Tensor):
            found.append(value)
        else:
            found += tensors_of(value)
    return found


def leaves(batch: Batch, path: str) -> Iterator[tuple[str, Any]]:
    """Every leaf of the tree, with its path such as `batch['x'][0]`."""
    if isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(batch, (tuple, list)):
        for position, value in enumerate(batch):
            yield from leaves(value, f"{path}[{position}]")
    else:
        yield path, batch


@dataclass
class Order:
    """The examples in the batch of each step. It depends on the step only, so there is no state to
    save.

    Args:
        draw: RESHUFFLED: every epoch is a new permutation, and its last batch may be smaller.
            REPLACEMENT: independent draws, and all batches have the same size.
        examples: N, the size of the training set.
        batch_size: B.
        seed: The same seed gives the same order on any machine.

    Example:
        >>> from gradiometer.measurement import Order
        >>> from gradiometer import Draw
        >>> order = Order(Draw.RESHUFFLED, examples=5, batch_size=2)
        >>> [order.batch(step).tolist() for step in range(order.steps_per_epoch)]
        [[1, 3], [0, 4], [2]]
    """

    draw: Draw
    examples: int
    batch_size: int
    seed: int = 0
    _epoch: tuple[int, Int[Tensor, " drawn"]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.examples:
            raise BadArgument(
                f"`batch_size` must lie between 1 and the {self.examples:,} training examples, got "
                f"{self.batch_size:,}."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.examples // self.batch_size)

    def batch(self, step: int) -> Int[Tensor, " chosen"]:
        """Positions of the examples in the batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self.epoch(epoch)
        return self._epoch[1][place * self.batch_size : (place + 1) * self.batch_size]

    def epoch(self, number: int) -> Int[Tensor, " drawn"]:
        """Positions of all examples of an epoch, batch after batch."""
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        )
        if self.draw is Draw.RESHUFFLED:
            return torch.randperm(self.examples, generator=generator)
        drawn = self.steps_per_epoch * self.batch_size
        return torch.randint(self.examples, (drawn,), generator=generator)
