"""The arguments of calls: trees with places for tensors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradiometer.integrations.watch.seen_loss.recording import ByCall, OfModel, Outside, Rebuilt

# A way to a tensor in a batch, or in what a call has returned.
Way = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class OfBatch:
    """A tensor of the batch, by the way to it."""

    way: Way


@dataclass(frozen=True, eq=False)
class ConstantTensor:
    """A tensor that is the same in all updates."""

    tensor: Tensor


PLACES = OfModel, ByCall, Outside, OfBatch, ConstantTensor


def mapped_places(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same arguments with other places."""
    if isinstance(value, PLACES):
        return change(value)
    if isinstance(value, Rebuilt):
        return Rebuilt(value.kind, [mapped_places(one, change) for one in value.parts])
    if isinstance(value, tuple | list):
        return type(value)([mapped_places(one, change) for one in value])
    if isinstance(value, dict):
        return {key: mapped_places(one, change) for key, one in value.items()}
    return value


def plain_values(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The plain values in the arguments of a call."""
    if isinstance(value, Rebuilt):
        value = value.parts
    if isinstance(value, tuple | list):
        for place, one in enumerate(value):
            yield from plain_values(one, (*way, place))
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from plain_values(one, (*way, key))
    elif not isinstance(value, OfBatch | OfModel | ByCall | ConstantTensor):
        yield way, value


def replaced(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    """The same tree with another leaf."""
    if not way:
        return new
    first, rest = way[0], way[1:]
    if isinstance(value, Rebuilt):
        return Rebuilt(value.kind, replaced(value.parts, way, new))
    if isinstance(value, dict):
        return {
            key: replaced(one, rest, new) if key == first else one for key, one in value.items()
        }
    parts = [replaced(one, rest, new) if place == first else one for place, one in enumerate(value)]
    return tuple(parts) if isinstance(value, tuple) else parts
