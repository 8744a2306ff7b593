"""Hooks that read the squared gradient norm of every example during a backward that is made anyway."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.measurement.spread.rules import Rule, operations, rule_of

HALF_A_STEP = 1.5
"""Operations of half a batch's forward and backward, in those of the whole batch's forward."""

Shield = AbstractContextManager[Any, bool | None]

NO_SHIELD: Shield = nullcontext()

Around = Callable[[], AbstractContextManager[Any]]

Place = dict[str, int]
"""Positions of a layer's trainable parameters among all of them, by their names in the layer."""


class ExampleHooks:
    """Reads ‖c_i‖² of every example i and every parameter, c_i being its contribution to the gradient of a backward.

    For a mean loss over B examples that do not depend on each other c_i = g_i/B. It works if every trainable parameter
    belongs to one layer with a rule (see `rules`), and every such layer is used once in the forward, with the examples
    along the first axis. Nothing is run again, and nothing is kept that the backward does not keep itself.

    Args:
        model: The model.
        parameters: Its trainable parameters, in the order of the numbers.
        around: Makes a context for all work inside of the forward and the backward.
        shield: A context around that, which may keep errors from the forward and the backward.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[Tensor],
        around: Around = nullcontext,
        shield: Shield = NO_SHIELD,
    ) -> None:
        self._around, self._shield = around, shield
        self._count = len(parameters)
        self._layers = _layers_of(model, parameters)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._calls = self._answers = self._rules = self._forwards = 0
        self._entered: dict[int, Tensor] = {}
        self._norms: list[Tensor | None] = []
        self.worth = True
        """False if the last reading took more operations than the gradient of half the batch, by count: the answer is
        the same on every machine."""

    @property
    def possible(self) -> bool:
        """True if every trainable parameter has a rule."""
        return bool(self._layers)

    @property
    def active(self) -> bool:
        """True if hooks are in place."""
        return bool(self._handles)

    def start(self) -> None:
        """Put hooks in place for the next forward and start empty."""
        self.stop()
        self._handles = [
            layer.register_forward_hook(self._shielded(partial(self._enter, rule, place)))
            for layer, rule, place in self._layers
        ]

    def _shielded(self, work: Callable[..., None]) -> Callable[..., None]:
        """A hook that does some work within `shield` and `around`, and nothing while code is compiled."""

        def hook(*given: Any) -> None:
            if not torch.compiler.is_compiling():  # compiled code must not keep a hook
                with self._shield, self._around():
                    work(*given)

        return hook

    def stop(self) -> None:
        """Remove the hooks and forget what was read."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()

    def take(self, examples: int) -> Float[Tensor, "examples parameters"] | None:
        """‖c_i‖² since `start`, in double precision; None if a layer was not used once, or not on these examples."""
        calls, answers, norms = self._calls, self._answers, self._norms
        self.worth = self._rules <= HALF_A_STEP * self._forwards
        self._forget()
        found = [one for one in norms if one is not None and len(one) == examples]
        if calls != len(self._layers) or answers != calls or len(found) < self._count:
            return None
        return torch.stack([one.to(found[0].device) for one in found], dim=1).double()

    def _forget(self) -> None:
        self._calls = self._answers = self._rules = self._forwards = 0
        self._entered = {}
        self._norms = [None] * self._count

    def _enter(self, rule: Rule, place: Place, layer: nn.Module, entered: tuple[Any, ...], output: Any) -> None:
        """Called after the forward of a layer."""
        if not (isinstance(output, Tensor) and output.requires_grad and torch.is_grad_enabled()):
            return
        self._calls += 1
        if len(entered) == 1 and isinstance(entered[0], Tensor):
            self._entered[self._calls] = entered[0].detach()
            output.register_hook(self._shielded(partial(self._leave, rule, place, layer, self._calls)))

    def _leave(self, rule: Rule, place: Place, layer: nn.Module, call: int, error: Tensor) -> None:
        """Called in the backward with the gradient at the output of a layer. The loss keeps this hook, so that the
        input must not be a part of it."""
        entered = self._entered.pop(call, None)
        if entered is None or len(entered) != len(error) or entered.dim() < 1 + entered.is_floating_point():
            return
        self._answers += 1
        extra, forward = operations(layer, entered, error)
        self._rules, self._forwards = self._rules + extra, self._forwards + forward
        with torch.no_grad():
            norms = rule(layer, entered, error.detach().to(torch.promote_types(error.dtype, torch.float32)))
            for name, position in place.items():
                self._norms[position] = norms[name]


@contextmanager
def reading(hooks: ExampleHooks) -> Iterator[ExampleHooks]:
    """A region whose forward and backward are read."""
    hooks.start()
    try:
        yield hooks
    finally:
        hooks.stop()


def _layers_of(model: nn.Module, parameters: Sequence[Tensor]) -> list[tuple[nn.Module, Rule, Place]]:
    """The layers with a rule that own the trainable parameters; empty if a parameter has no rule or several owners."""
    positions = {id(parameter): position for position, parameter in enumerate(parameters)}
    layers, owned = [], list[int]()
    for layer in model.modules():
        own = layer.named_parameters(recurse=False, remove_duplicate=False)
        place = {name: positions[id(parameter)] for name, parameter in own if id(parameter) in positions}
        if place and (rule := rule_of(layer)) is not None:
            layers.append((layer, rule, place))
        owned += place.values()
    known = [position for *_, place in layers for position in place.values()]
    return layers if sorted(known) == list(range(len(parameters))) and len(owned) == len(known) else []
