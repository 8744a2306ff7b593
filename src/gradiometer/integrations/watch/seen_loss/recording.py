"""What a loop calls between two updates, on which tensors."""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradiometer.measurement.optimizer.steps import bare

# Most calls, and most bytes of tensors from elsewhere, that are remembered of an update: the loss
# comes last, and an evaluation may come before it.
MOST_CALLS = 4096
MOST_BYTES = 2**28

# How deep tensors are looked for in what a model returns.
DEEPEST = 4


@dataclass(frozen=True)
class OfModel:
    """A parameter or a buffer of the model, by its name."""

    name: str


@dataclass(frozen=True)
class ByCall:
    """A tensor in what a call has returned: the number of the call, and the way to it."""

    call: int
    way: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Outside:
    """A tensor that none of the calls has made, by its number."""

    number: int


Place = OfModel | ByCall | Outside


@dataclass(frozen=True)
class PartOfModel:
    """The model, or a module inside of it, by its name."""

    name: str


@dataclass(frozen=True, eq=False)
class OtherModule:
    """A module that is no part of the model, such as a criterion or a frozen network.

    Args:
        module: The module.
        state: What shows later that it has changed.
    """

    module: nn.Module
    state: "ModuleState"


class ModuleState(NamedTuple):
    """What shows that a module has changed.

    Attributes:
        attributes: The plain attributes of its layers.
        versions: The identity and the version of each of its tensors.
    """

    attributes: list[list[tuple[str, Any]]]
    versions: list[tuple[int, int]]


class Ambient(NamedTuple):
    """What a call depends on besides its arguments.

    Attributes:
        grad: True if gradients were recorded.
        autocast: Types of devices whose autocast was on, with its dtype.
    """

    grad: bool
    autocast: tuple[tuple[str, torch.dtype], ...]


@dataclass
class Call:
    """A call of a function of torch or of a module.

    Args:
        function: What was called.
        given: Its arguments, with places for tensors.
        named: Those by name.
        ambient: What it depends on besides.
        changes: The arguments that it has changed in place.
        modes: The mode of every module of the model, at a call of one.
    """

    function: Any
    given: Any
    named: Any
    ambient: Ambient
    changes: tuple[Place, ...] = ()
    modes: tuple[bool, ...] = ()


class Read(NamedTuple):
    """A value that the program has read from a tensor, before the call of this number.

    Attributes:
        name: The method.
        place: The tensor.
        value: The value, if it is a number.
        call: Number of calls before it.
    """

    name: str
    place: Place
    value: Any
    call: int


# Methods that give a value of a tensor to the program, which may decide by it.
READS = frozenset(
    {"item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__"}
)

# Functions that make a tensor of numbers of the program, which may be another one in each step.
FROM_PROGRAM = frozenset({"tensor", "as_tensor", "asarray", "from_numpy", "frombuffer"})

# Functions by which loops without a loader take a batch from their data.
FROM_DATA = frozenset(
    {"__getitem__", "index_select", "narrow", "stack", "cat", "concat", "vstack", "hstack"}
)

# Functions whose result has the memory of the argument, though torch does not call it a view.
ALIASES = (Tensor.detach, Tensor.data.__get__)  # type: ignore[attr-defined]

# Functions that are none of the forward.
BACKWARDS = (Tensor.backward, torch.autograd.backward)

# Setters after which a tensor is another one, though its version is the same.
SETTERS = frozenset({"requires_grad_", "__set__"})


@dataclass
class Recording:
    """The calls of an update, from the end of the one before to `w.step`.

    Args:
        model: The bare model.
        called: The model as the loop calls it.
    """

    model: nn.Module
    called: nn.Module
    calls: list[Call] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    # The tensors from elsewhere, and their versions when they were first seen.
    outside: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    # The tensor that `backward` was called on last.
    root: Place | None = None
    # Number of calls before it.
    before_backward: int | None = None
    # Number of reads before the newest batch of a loader, which may draw numbers itself.
    reads_before_batch: int = 0
    # What a call shares its memory with.
    shared: dict[Place, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], Place]] = {}
        self._of_model: dict[int, Place] = {
            id(tensor): OfModel(name)
            for tensors in (self.model.named_parameters, self.model.named_buffers)
            for name, tensor in tensors(remove_duplicate=False)
        }
        self._parts = {id(module): name for name, module in self.model.named_modules()}
        self._parts[id(self.called)] = ""
        self.devices = {one.device for one in self.model.parameters()}
        self._kinds = sorted({"cpu", *(device.type for device in self.devices)})
        self._bytes = 0
        # `id` of the tensors in batches of loaders, which `Looking` keeps alive.
        self._of_loader: set[int] = set()

    def forget(self) -> None:
        """Begin again: what the loss is made of comes later."""
        self.calls.clear()
        self.reads.clear()
        self.outside.clear()
        self.versions.clear()
        self.shared.clear()
        self._known.clear()
        self.root = self.before_backward = None
        self.reads_before_batch = 0
        self._bytes = 0

    def begin(self, function: Any, given: tuple[Any, ...], named: Mapping[str, Any]) -> "Pending":
        """Remember what a function of torch, or a module, is called with."""
        if len(self.calls) > MOST_CALLS or self._bytes > MOST_BYTES:
            self.forget()
        modes: tuple[bool, ...] = ()
        if isinstance(function, nn.Module):
            part = self._parts.get(id(function), self._parts.get(id(bare(function))))
            if part is None:
                function = OtherModule(function, state_of_module(function))
            else:
                function = PartOfModel(part)
                modes = tuple(one.training for one in self.model.modules())
        tensors: list[Tensor] = []
        places = self._placed(given, tensors), self._placed(dict(named), tensors)
        call = Call(function, *places, self._ambient(), modes=modes)
        return Pending(call, tensors, [one._version for one in tensors])

    def end(self, pending: "Pending", output: Any) -> None:
        """Remember what it has returned and changed."""
        call, tensors = pending.call, pending.tensors
        name = getattr(call.function, "__name__", "")
        if call.function in BACKWARDS:
            if tensors:
                self.root = self.place_of(tensors[0])
            self.before_backward = len(self.calls)
            return
        if name in READS and tensors:
            value = output if isinstance(output, float | int) else None
            self.reads.append(Read(name, self.place_of(tensors[0]), value, len(self.calls)))
            return
        changed = [
            one
            for one, version in zip(tensors, pending.versions, strict=True)
            if one._version != version
        ]
        if name in SETTERS:
            changed = tensors[:1]
        own = set(map(id, tensors))
        found = [(way, one) for way, one in tensors_in(output) if id(one) not in own]
        if not (found or changed):
            return
        if found and self._takes_data(call):
            for _, one in found:
                self.place_of(one)
            return
        call.changes = tuple(self.place_of(one) for one in changed)
        for way, one in found:
            if id(one) in self._of_model:
                continue
            place = ByCall(len(self.calls), way)
            self._known[id(one)] = weakref.ref(one), place
            under = tensors[0] if call.function in ALIASES else one._base
            base = None if under is None else self.known_place(under)
            if base is not None:
                self.shared[place] = self.shared.get(base, base)
        self.calls.append(call)

    @property
    def has_loader(self) -> bool:
        """True if batches of a loader are known."""
        return bool(self._of_loader)

    def note_batch(self, batch: Any) -> None:
        """Remember a batch of a loader."""
        self.reads_before_batch = len(self.reads)
        self._of_loader.update(id(tensor) for _, tensor in tensors_in(batch))

    def _takes_data(self, call: Call) -> bool:
        """True if a call takes examples from data that the loop holds, without a loader: its result
        is then a part of the batch."""
        name = getattr(call.function, "__name__", "")
        if name in FROM_PROGRAM:
            return not any(True for _ in places_in((call.given, call.named)))
        if self._of_loader or name not in FROM_DATA:
            return False
        sources = list(places_in(call.given[0])) if call.given else []
        if not sources or not all(isinstance(one, Outside) for one in sources):
            return False
        return all(self._is_drawn(one) for one in places_in((call.given[1:], call.named)))

    def _is_drawn(self, place: Place) -> bool:
        """True for a tensor from elsewhere, or one that is drawn without any other tensor."""
        if isinstance(place, ByCall):
            call = self.calls[place.call]
            return all(self._is_drawn(one) for one in places_in((call.given, call.named)))
        return isinstance(place, Outside)

    def place_of(self, tensor: Tensor) -> Place:
        """Where a tensor comes from."""
        found = self._of_model.get(id(tensor))
        if found is not None:
            return found
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        place = Outside(len(self.outside))
        self.outside.append(tensor)
        self.versions.append(tensor._version)
        self._bytes += tensor.numel() * tensor.element_size()
        self._known[id(tensor)] = weakref.ref(tensor), place
        return place

    def known_place(self, tensor: Tensor) -> Place | None:
        """Where a tensor comes from, if one of the calls has made it or taken it."""
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def _placed(self, value: Any, tensors: list[Tensor]) -> Any:
        """A value with places for its tensors, which are added to a list."""
        if isinstance(value, Tensor):
            tensors.append(value)
            return self.place_of(value)
        if isinstance(value, tuple | list):
            parts = [self._placed(one, tensors) for one in value]
            return Rebuilt(type(value), parts) if hasattr(value, "_fields") else type(value)(parts)
        if isinstance(value, Mapping):
            return {key: self._placed(one, tensors) for key, one in value.items()}
        if isinstance(value, slice):
            ends = [self._placed(one, tensors) for one in (value.start, value.stop, value.step)]
            return Rebuilt(slice, ends)
        return value

    def _ambient(self) -> Ambient:
        on = [kind for kind in self._kinds if torch.is_autocast_enabled(kind)]
        return Ambient(
            torch.is_grad_enabled(), tuple((kind, torch.get_autocast_dtype(kind)) for kind in on)
        )


@dataclass
class Pending:
    """A call that has not returned yet.

    Args:
        call: What it is.
        tensors: The tensors among its arguments.
        versions: Their versions before it.
    """

    call: Call
    tensors: list[Tensor]
    versions: list[int]


@dataclass
class Rebuilt:
    """A named tuple or a slice with places in it."""

    kind: type
    parts: list[Any]


def tensors_in(
    value: Any, way: tuple[tuple[str, Any], ...] = ()
) -> Iterator[tuple[tuple[tuple[str, Any], ...], Tensor]]:
    """The tensors in what a call has returned, each with the way to it."""
    if isinstance(value, Tensor):
        yield way, value
    elif len(way) >= DEEPEST or isinstance(value, str | int | float | torch.Size | nn.Module):
        return
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from tensors_in(one, (*way, ("item", key)))
    elif isinstance(value, tuple | list):
        for place, one in enumerate(value):
            yield from tensors_in(one, (*way, ("item", place)))
    elif type(value).__module__ != "builtins" and hasattr(value, "__dict__"):
        for name, one in vars(value).items():
            yield from tensors_in(one, (*way, ("attribute", name)))


def state_of_module(module: nn.Module) -> ModuleState:
    """What shows later that a module has changed."""
    plain = (bool, int, float, str, type(None))
    attributes = [
        [(name, value) for name, value in vars(layer).items() if isinstance(value, plain)]
        for layer in module.modules()
    ]
    tensors = (*module.parameters(), *module.buffers())
    return ModuleState(attributes, [(id(one), one._version) for one in tensors])


def places_in(value: Any) -> Iterator[Place]:
    """The places in the arguments of a recorded call."""
    if isinstance(value, OfModel | ByCall | Outside):
        yield value
    elif isinstance(value, Rebuilt):
        yield from places_in(value.parts)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from places_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from places_in(one)
