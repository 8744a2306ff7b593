"""How a loop makes its loss from the model and a batch, so that it can be made from another one."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.watch.seen_loss.arguments import (
    ConstantTensor,
    OfBatch,
    Way,
    mapped_places,
    plain_values,
    replaced,
)
from gradiometer.integrations.watch.seen_loss.recording import (
    SETTERS,
    Ambient,
    ByCall,
    Call,
    OfModel,
    OtherModule,
    Outside,
    PartOfModel,
    Rebuilt,
)
from gradiometer.integrations.watch.seen_loss.slicing import Guard, Slice
from gradiometer.measurement.batch import Batch, batch_size

# What a person gives if the loss is not seen, as the end of a sentence.
GIVE = "give loss=lambda model, batch: ... to `watch`, and call w.step(loss, batch)"

# Largest multiple of the size of a batch that a loop may divide by, such as the tokens of a batch.
MOST_MULTIPLE = 2**20


@dataclass(frozen=True)
class Scaled:
    """A number that grows with the batch.

    Args:
        value: The number, in batches of training's size.
        power: 1 if it is proportional to the size, -1 if it is proportional to its reciprocal.
    """

    value: int | float
    power: int = 1


@dataclass(eq=False)
class Recipe:
    """The calls that make a loss, called as `recipe(model, batch)`.

    Args:
        calls: Those that it needs, in their order.
        root: Where the loss is.
        guards: Decisions of the program on the way.
        size: The size of the batches that it was seen on.
        copies: True if a call writes into a tensor, so that it gets a copy of the batch.
        is_of_any_size: False if only batches of this size can be run.
    """

    calls: list[Call]
    root: Any
    guards: Sequence[Guard]
    size: int
    copies: bool = False
    is_of_any_size: bool = True

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of this model on a batch.

        Raises:
            BadArgument: The batch is not like those that the loss was seen on.
        """
        size = batch_size(batch)
        if size != self.size and not self.is_of_any_size:
            raise BadArgument(
                f"`batches` gave {size} examples, and your loop has the size of its batch, "
                f"{self.size}, as a number in its loss: give loss=lambda model, batch: ..."
            )
        makes = _Making(self, model, batch, size / self.size)
        loss: Tensor = makes.loss()
        return loss

    def numbers(self) -> list[tuple[int, tuple[Any, ...], int | float]]:
        """The numbers in the calls that may stand for the size of a batch: the call, the way to it
        in its arguments, and the number."""
        found = []
        for place, call in enumerate(self.calls):
            for way, value in plain_values((call.given, call.named)):
                if isinstance(value, int | float) and _may_be_size(value, self.size):
                    found.append((place, way, value))
        return found

    def scaled(self, chosen: Sequence[tuple[int, tuple[Any, ...], int | float]]) -> "Recipe":
        """The same recipe, in which these numbers grow with the batch."""
        calls = list(self.calls)
        for place, way, value in chosen:
            call = calls[place]
            power = 1 if value >= 1 else -1
            given, named = replaced((call.given, call.named), way, Scaled(value, power))
            calls[place] = replace(call, given=given, named=named)
        return replace(self, calls=calls)


class _Making:
    """One run of a recipe."""

    def __init__(self, recipe: Recipe, model: nn.Module, batch: Batch, ratio: float) -> None:
        self._recipe = recipe
        self._model = model
        self._batch = batch
        self._ratio = ratio
        self._made: list[Any] = []
        self._leaves: dict[Way, Tensor] = {}

    def loss(self) -> Any:
        recipe = self._recipe
        records = torch.is_grad_enabled()
        guards = iter([*recipe.guards, None])
        guard = next(guards)
        ambient = Ambient(records, ())
        with ExitStack() as stack:
            for number, call in enumerate(recipe.calls):
                while guard is not None and guard.call <= number:
                    self._check(guard)
                    guard = next(guards)
                wanted = Ambient(call.ambient.grad and records, call.ambient.autocast)
                if wanted != ambient:
                    stack.close()
                    ambient = wanted
                    stack.enter_context(torch.set_grad_enabled(ambient.grad))
                    for kind, dtype in ambient.autocast:
                        stack.enter_context(torch.autocast(kind, dtype=dtype))
                self._made.append(self._called(call))
        while guard is not None:
            self._check(guard)
            guard = next(guards)
        return self.value(recipe.root)

    def _check(self, guard: Guard) -> None:
        if bool(self.value(guard.place)) != bool(guard.value):
            raise BadArgument(
                "`loss` was seen in your loop, which decides by the numbers of a batch how to go "
                "on: give loss=lambda model, batch: ..."
            )

    def _called(self, call: Call) -> Any:
        given = [self.filled(one) for one in call.given]
        named = {name: self.filled(one) for name, one in call.named.items()}
        function = call.function
        if isinstance(function, PartOfModel):
            function = self._model.get_submodule(function.name)
        elif isinstance(function, OtherModule):
            function = function.module
        return function(*given, **named)

    def filled(self, value: Any) -> Any:
        """An argument with its tensors."""
        if isinstance(value, OfBatch | OfModel | ByCall | ConstantTensor):
            return self.value(value)
        if isinstance(value, Scaled):
            grown = value.value * self._ratio**value.power
            return round(grown) if isinstance(value.value, int) else grown
        if isinstance(value, Rebuilt):
            return value.kind(*(self.filled(one) for one in value.parts))
        if isinstance(value, tuple | list):
            return type(value)([self.filled(one) for one in value])
        if isinstance(value, dict):
            return {key: self.filled(one) for key, one in value.items()}
        return value

    def value(self, place: Any) -> Any:
        """The tensor at a place."""
        if isinstance(place, ConstantTensor):
            return place.tensor
        if isinstance(place, ByCall):
            return _followed(self._made[place.call], place.way)
        if isinstance(place, OfModel):
            owner, _, name = place.name.rpartition(".")
            return getattr(self._model.get_submodule(owner), name)
        if place.way not in self._leaves:
            try:
                leaf = _followed(self._batch, place.way)
            except (KeyError, IndexError, TypeError, AttributeError):
                leaf = None
            if not isinstance(leaf, Tensor):
                raise BadArgument(
                    f"`batches` must give batches like those of your loop: there is no tensor at "
                    f"batch{_text(place.way)}."
                )
            # a call may mark it as requiring a gradient
            self._leaves[place.way] = leaf.clone() if self._recipe.copies else leaf.detach()
        return self._leaves[place.way]


def _followed(value: Any, way: Way) -> Any:
    for kind, key in way:
        value = value[key] if kind == "item" else getattr(value, key)
    return value


def _text(way: Way) -> str:
    return "".join(f"[{key!r}]" if kind == "item" else f".{key}" for kind, key in way)


def _may_be_size(value: int | float, size: int) -> bool:
    """True for a multiple of the size of a batch, or of its reciprocal."""
    if isinstance(value, bool) or size < 2 or not value:
        return False
    if abs(value) >= 1:
        return value % size == 0
    multiple = 1 / abs(value) / size
    # tokens of a batch, and no small number that keeps a division finite
    return multiple < MOST_MULTIPLE and abs(multiple - round(multiple)) < 1e-9


def recipe_of(part: Slice, places: Sequence[Any], size: int) -> Recipe:
    """The recipe of a slice, whose tensors from elsewhere are those of the batch or constants.

    Args:
        part: The slice.
        places: Where each tensor from elsewhere is.
        size: The size of its batch.
    """

    def placed(value: Any) -> Any:
        return places[value.number] if isinstance(value, Outside) else value

    calls = [
        replace(
            call,
            function=_own(call.function),
            given=mapped_places(call.given, placed),
            named=mapped_places(call.named, placed),
        )
        for call in part.calls
    ]
    guards = [replace(guard, place=placed(guard.place)) for guard in part.guards]
    copies = any(
        not isinstance(one, OfModel)
        for call in part.calls
        for one in call.changes
        if getattr(call.function, "__name__", "") not in SETTERS
    )
    return Recipe(calls, part.root, guards, size, copies)


def _own(function: Any) -> Any:
    """A criterion of our own, so that the loop's one does not count our calls. A network is not
    copied, since it may be large."""
    if not isinstance(function, OtherModule) or any(True for _ in function.module.parameters()):
        return function
    return OtherModule(copy.deepcopy(function.module), function.state)
