"""The calls of a recording that its loss needs, and how those of two updates differ."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.integrations.watch.seen_loss.arguments import (
    PLACES,
    Way,
    mapped_places,
    plain_values,
)
from gradiometer.integrations.watch.seen_loss.recording import (
    SETTERS,
    ByCall,
    Call,
    OfModel,
    OtherModule,
    Outside,
    PartOfModel,
    Read,
    Rebuilt,
    Recording,
    places_in,
    tensors_in,
)
from gradiometer.measurement.batch import Batch

# How the names of functions begin that draw random numbers.
RANDOM = ("rand", "bernoulli", "normal", "multinomial", "poisson", "uniform", "exponential")


class NotSeen(Exception):
    """The loss cannot be made from another batch. The text says why, as the end of a sentence."""


@dataclass(frozen=True, eq=False)
class Guard:
    """A decision of the program by a tensor, which must be the same in another batch."""

    place: Any
    value: Any
    call: int


@dataclass
class Slice:
    """The calls of a recording that its loss needs.

    Args:
        calls: Those calls, with places that count only them.
        root: Where the loss is.
        outside: The tensors from elsewhere that they take.
        guards: Decisions on the way.
        versions: Versions of the tensors from elsewhere when they were first seen.
    """

    calls: list[Call]
    root: Any
    outside: list[Tensor]
    guards: list[Guard]
    versions: list[int]


def slice_of(recording: Recording, root: Any) -> Slice:
    """The part of a recording that makes a loss.

    Raises:
        NotSeen: Something in it cannot be made again.
    """
    if not isinstance(root, ByCall):
        raise NotSeen("the number given to `w.step` was not made by functions of torch")
    root = _with_graph(recording, root)
    needed: set[int] = set()
    memory: set[Any] = set()

    def need(place: Any) -> None:
        memory.add(recording.shared.get(place, place))
        if isinstance(place, ByCall):
            needed.add(place.call)

    def need_all() -> None:
        for number in range(last - 1, -1, -1):
            call = recording.calls[number]
            writes = {recording.shared.get(one, one) for one in call.changes}
            if number in needed or writes & memory:
                needed.add(number)
                for place in places_in((call.given, call.named)):
                    need(place)

    # a loss may be added to in place until `backward` is called on it
    last = len(recording.calls)
    if recording.before_backward is not None:
        last = max(recording.before_backward, root.call + 1)
    need(root)
    need_all()
    decisions = _decisions(recording, sorted(needed), root)
    for read in decisions:
        need(read.place)
    need_all()
    order = sorted(needed)
    numbers = {number: place for place, number in enumerate(order)}
    outside: dict[int, int] = {}

    def renumbered(value: Any) -> Any:
        if isinstance(value, ByCall):
            return ByCall(numbers[value.call], value.way)
        if isinstance(value, Outside):
            return Outside(outside.setdefault(value.number, len(outside)))
        return value

    calls = [
        replace(
            recording.calls[number],
            given=mapped_places(recording.calls[number].given, renumbered),
            named=mapped_places(recording.calls[number].named, renumbered),
            changes=tuple(
                renumbered(one)
                for one in recording.calls[number].changes
                if not isinstance(one, ByCall) or one.call in numbers
            ),
        )
        for number in order
    ]
    made = ByCall(numbers[root.call], root.way)
    guards = [
        Guard(renumbered(read.place), read.value, sum(number < read.call for number in order))
        for read in decisions
    ]
    tensors = [recording.outside[number] for number in outside]
    return Slice(calls, made, tensors, guards, [recording.versions[number] for number in outside])


def _with_graph(recording: Recording, root: ByCall) -> ByCall:
    """The tensor behind a copy without a graph that was given to `w.step`."""
    while True:
        call = recording.calls[root.call]
        inner = [one for one in places_in(call.given) if isinstance(one, ByCall)]
        name = getattr(call.function, "__name__", "")
        is_copy = name in ("detach", "cpu") or call.function == Tensor.data.__get__  # type: ignore[attr-defined]
        if not (is_copy and len(inner) == 1):
            return root
        root = inner[0]


def _decisions(recording: Recording, order: Sequence[int], root: ByCall) -> list[Read]:
    """Decisions of the program by tensors that the loss is made of, before it is made.

    Raises:
        NotSeen: A number of the batch was read before the model was called, by which the program
            may decide.
    """
    used = {
        one
        for number in order
        for one in (
            ByCall(number),
            *places_in((recording.calls[number].given, recording.calls[number].named)),
        )
        if not isinstance(one, OfModel)
    }
    models = [
        number for number in order if isinstance(recording.calls[number].function, PartOfModel)
    ]
    first = models[0] if models else root.call
    found = []
    for read in recording.reads[recording.reads_before_batch :]:
        if read.call > root.call:
            continue
        ancestors = _ancestors(recording, read.place)
        if _is_random(recording, ancestors) and (
            read.name == "__bool__" or (recording.has_loader and read.name != "__index__")
        ):
            raise NotSeen("it decides by random numbers that it draws")
        if not ancestors & used:
            continue
        if read.name == "__bool__":
            found.append(read)
        elif read.call <= first:
            raise NotSeen(
                f"it reads numbers of the batch (`{read.name}`) before the model is called, by "
                "which it may decide"
            )
    return found


def _is_random(recording: Recording, ancestors: set[Any]) -> bool:
    """True for a tensor that is made of random numbers alone."""
    made = [recording.calls[one.call].function for one in ancestors if isinstance(one, ByCall)]
    return len(made) == len(ancestors) and any(
        getattr(one, "__name__", "").startswith(RANDOM) for one in made
    )


def _ancestors(recording: Recording, place: Any) -> set[Any]:
    """All places that one is made of, with itself."""
    found: set[Any] = set()
    waiting = [place]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.add(one)
        if isinstance(one, ByCall):
            call = recording.calls[one.call]
            waiting += places_in((call.given, call.named))
    return found


def check_calls(part: Slice) -> None:
    """Check that the calls can be made again.

    Raises:
        NotSeen: They cannot.
    """
    modes: set[tuple[bool, ...]] = set()
    for call in part.calls:
        name = getattr(call.function, "__name__", "")
        if isinstance(call.function, PartOfModel):
            modes.add(call.modes)
        elif "dropout" in name or name in ("batch_norm", "instance_norm", "rrelu"):
            raise NotSeen(f"it calls `{name}` outside of the model, in training mode or not")
        if any(isinstance(one, Outside) for one in call.changes) and name not in SETTERS:
            raise NotSeen("it changes a tensor in place that is not made for the loss alone")
    if not any(isinstance(call.function, PartOfModel) for call in part.calls) and not any(
        isinstance(place, OfModel)
        for call in part.calls
        for place in places_in((call.given, call.named))
    ):
        raise NotSeen("the number given to `w.step` does not come from the model")
    if len(modes) > 1:
        raise NotSeen("the model is called in training and in evaluation mode")
    for tensor, version in zip(part.outside, part.versions, strict=True):
        if tensor._version != version:
            raise NotSeen("it changes a tensor in place that is not made for the loss alone")
        if tensor.grad_fn is not None:
            raise NotSeen(
                "a tensor with a graph comes into it from an earlier step, or from operations that "
                "torch does not show"
            )


def check_same(one: Slice, two: Slice, sizes: tuple[int, int]) -> None:
    """Check that two updates make their loss by the same calls.

    Args:
        one: The calls of one update.
        two: Those of another one.
        sizes: The sizes of their batches.

    Raises:
        NotSeen: They are others.
    """
    others = "it makes its loss by other calls at other steps"
    if len(one.calls) != len(two.calls) or len(one.guards) != len(two.guards):
        raise NotSeen(others)
    for first, second in zip(one.calls, two.calls, strict=True):
        name = name_of(first.function)
        if _is_changed(first.function, second.function):
            raise NotSeen(f"{name}, which is no part of the model, changes from step to step")
        if not _same_function(first.function, second.function):
            raise NotSeen(others)
        if first.ambient != second.ambient or first.modes != second.modes:
            raise NotSeen(f"{name} is called in another mode at other steps")
        _check_argument(name, (first.given, first.named), (second.given, second.named), sizes)
    if one.root != two.root:
        raise NotSeen(others)
    if any(bool(a.value) != bool(b.value) for a, b in zip(one.guards, two.guards, strict=True)):
        raise NotSeen("it decides by numbers of the batch how its loss is made")


def name_of(function: Any) -> str:
    """The name of what is called, for a sentence."""
    if isinstance(function, PartOfModel):
        return f"`model.{function.name}`" if function.name else "`model`"
    if isinstance(function, OtherModule):
        return f"a {type(function.module).__name__}"
    return f"`{getattr(function, '__name__', type(function).__name__)}`"


def _is_changed(one: Any, two: Any) -> bool:
    """True for the same module of the loop with other weights or attributes."""
    both = isinstance(one, OtherModule) and isinstance(two, OtherModule)
    return both and type(one.module) is type(two.module) and not _same_module(one, two)


def _same_function(one: Any, two: Any) -> bool:
    if isinstance(one, OtherModule) and isinstance(two, OtherModule):
        return _same_module(one, two)
    return type(one) is type(two) and bool(one == two)


def _same_module(one: OtherModule, two: OtherModule) -> bool:
    """True for one module that has not changed, and for two criteria that are the same: some loops
    make one in every epoch."""
    if one.module is two.module:
        return bool(one.state == two.state)
    if type(one.module) is not type(two.module) or any(True for _ in one.module.parameters()):
        return False
    buffers = list(one.module.buffers()), list(two.module.buffers())
    return (
        one.state.attributes == two.state.attributes
        and len(buffers[0]) == len(buffers[1])
        and all(map(torch.equal, *buffers))
    )


def _check_argument(name: str, one: Any, two: Any, sizes: tuple[int, int]) -> None:
    """Check that two calls get the same, besides tensors and numbers that grow with the batch."""
    if isinstance(one, PLACES) or isinstance(two, PLACES):
        if one != two:
            raise NotSeen(f"{name} gets other tensors at other steps")
        return
    if isinstance(one, Rebuilt) and isinstance(two, Rebuilt):
        one, two = one.parts, two.parts
    if type(one) is not type(two):
        raise NotSeen(f"{name} gets other arguments at other steps")
    if isinstance(one, dict | tuple | list):
        keys = one.keys() == two.keys() if isinstance(one, dict) else len(one) == len(two)
        if not keys:
            raise NotSeen(f"{name} gets other arguments at other steps")
        for key in one if isinstance(one, dict) else range(len(one)):
            _check_argument(name, one[key], two[key], sizes)
    elif isinstance(one, int | float) and not isinstance(one, bool):
        if not _same_number(one, two, sizes):
            raise NotSeen(f"{name} gets {one} at one step and {two} at another")
    elif one is not two and not _is_equal(one, two):
        raise NotSeen(f"{name} gets a {type(one).__name__} that changes from step to step")


def _same_number(one: int | float, two: int | float, sizes: tuple[int, int]) -> bool:
    """True if two numbers are the same, or in the proportion of the sizes of their batches."""
    if repr(one) == repr(two):
        return True
    ratio = sizes[1] / sizes[0]
    return ratio != 1 and any(
        abs(two - grown) <= 1e-12 * abs(two) for grown in (one * ratio, one / ratio)
    )


def _is_equal(one: Any, two: Any) -> bool:
    try:
        return bool(one == two)
    except Exception:  # arrays, and objects that cannot be compared
        return False


def holds_tensors(part: Slice) -> str:
    """The type of an argument that holds tensors which are not followed; empty if there is none."""
    for call in part.calls:
        for _, value in plain_values((call.given, call.named)):
            if not isinstance(value, nn.Module) and any(tensors_in(value)):
                return type(value).__name__
    return ""


@dataclass
class Sources:
    """Where the tensors of a slice come from.

    Args:
        places: A way in the batch, or None for a tensor that is no part of it.
        batch: The batch.
    """

    places: list[Way | None]
    batch: Batch


def sources_of(part: Slice, candidates: Sequence[Batch]) -> Sources:
    """The batch that the tensors from elsewhere belong to: one of the candidates, if any of them
    is in one."""
    best: Sources | None = None
    for batch in candidates:
        ways = {id(tensor): way for way, tensor in tensors_in(batch)}
        places = [ways.get(id(one)) for one in part.outside]
        found = sum(way is not None for way in places)
        if found and (best is None or found > sum(way is not None for way in best.places)):
            best = Sources(places, batch)
    return best or Sources([None] * len(part.outside), None)


def constants_of(one: Slice, two: Slice) -> list[bool]:
    """For every tensor from elsewhere, if it is the same in two updates."""
    return [
        first is second
        or (
            first.shape == second.shape
            and first.dtype == second.dtype
            and not (first.is_meta or second.is_meta)
            and torch.equal(first, second)
        )
        for first, second in zip(one.outside, two.outside, strict=True)
    ]
