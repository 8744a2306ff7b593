"""Hooks that read the squared gradient norm of every example during a backward that is made anyway."""

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.measurement.spread.rules import Rule, is_short, operations, rule_of, short_ones

Shield = AbstractContextManager[Any, bool | None]

NO_SHIELD: Shield = nullcontext()

Around = Callable[[], AbstractContextManager[Any]]

KEPT = 2**22
"""Most numbers of short layers that are kept until their norms are made, 16 MiB in single precision."""

Place = dict[str, int]
"""Positions of a layer's trainable parameters among all of them, by their names in the layer."""


class LayerHook:
    """A hook that does some work within `shield` and `around`, and nothing while code is compiled.

    A copy of the model, and a file that `torch.save` makes of it, get a function that does nothing in its place.
    """

    def __init__(self, work: Callable[..., None], shield: Shield, around: Around) -> None:
        self._work = work
        self._shield = shield
        self._around = around

    def __call__(self, *given: Any) -> None:
        """Do the work."""
        if not torch.compiler.is_compiling():  # compiled code must not keep a hook
            with self._shield, self._around():
                self._work(*given)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (sys.audit, "gradiometer.hook")  # of Python itself, so that the file can be read without us


class ExampleHooks:
    """Reads ‖c_i‖² of every example i and every parameter, c_i being its contribution to the gradient of a backward.

    For a mean loss over B examples that do not depend on each other c_i = g_i/B. It works if every trainable parameter
    belongs to one layer with a rule (see `rules`), and every such layer is used once in the forward, with the examples
    along the first axis. Nothing is run again. Nothing is kept that the backward does not keep itself, except for short
    layers: the norms of many of them are made together.

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
        self._count = len(parameters)
        self._layers = _layers_of(model, parameters)
        self._entering = [LayerHook(partial(self._enter, at), shield, around) for at in range(len(self._layers))]
        self._leaving = [LayerHook(partial(self._leave, at), shield, around) for at in range(len(self._layers))]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._calls = self._answers = self._rules = self._forwards = 0
        self._entered: dict[int, Tensor] = {}
        self._short: dict[Hashable, list[tuple[int, Tensor, Tensor]]] = {}
        self._kept = 0
        self._norms: list[tuple[list[int], Tensor]] = []
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
            layer.register_forward_hook(hook) for (layer, *_), hook in zip(self._layers, self._entering, strict=True)
        ]

    def stop(self) -> None:
        """Remove the hooks and forget what was read."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()

    def take(self, examples: int) -> Float[Tensor, "examples parameters"] | None:
        """‖c_i‖² since `start`, in double precision; None if a layer was not used once, or not on these examples."""
        self._make_short_ones()
        calls, answers, norms = self._calls, self._answers, sorted(self._norms, key=itemgetter(0))
        # 1.5: operations of half a batch's forward and backward, in those of the whole batch's
        # forward.
        self.worth = self._rules <= 1.5 * self._forwards
        self._forget()
        found = [position for positions, _ in norms for position in positions]
        if calls != len(self._layers) or answers != calls or len(found) < self._count:
            return None
        if any(block.shape[1] != examples for _, block in norms):
            return None
        device = norms[0][1].device
        together = torch.cat([block.to(device) for _, block in norms]).double()
        if found == sorted(found):
            return together.T
        places = torch.tensor(found, device="cpu").to(device, non_blocking=True)
        return torch.empty_like(together).index_copy_(0, places, together).T

    def _forget(self) -> None:
        self._calls = self._answers = self._rules = self._forwards = self._kept = 0
        self._entered = {}
        self._short = {}
        self._norms = []

    def _enter(self, at: int, layer: nn.Module, entered: tuple[Any, ...], output: Any) -> None:
        """Called after the forward of a layer."""
        if not (isinstance(output, Tensor) and output.requires_grad and torch.is_grad_enabled()):
            return
        self._calls += 1
        if len(entered) == 1 and isinstance(entered[0], Tensor):
            self._entered[at] = entered[0].detach()
            output.register_hook(self._leaving[at])

    def _leave(self, at: int, error: Tensor) -> None:
        """Called in the backward with the gradient at the output of a layer. The loss keeps this hook, so that the
        input must not be a part of it."""
        entered, (layer, rule, place) = self._entered.pop(at, None), self._layers[at]
        if entered is None or entered.dim() < 1 + entered.is_floating_point():
            return
        shapes = entered.shape, error.shape
        if shapes[0][:1] != shapes[1][:1]:
            return
        self._answers += 1
        error = error.detach()  # as the input is, so that no graph is made
        if is_short(rule, entered, error):
            key = *shapes, entered.dtype, error.dtype, error.device
            self._short.setdefault(key, []).append((at, entered, error))
            self._kept += entered.numel() + error.numel()
            if self._kept > KEPT:
                self._make_short_ones()
            return
        self._count_operations(1, layer, entered, error)
        norms = rule(layer, entered, error.to(torch.promote_types(error.dtype, torch.float32)))
        self._norms += [([position], norms[name].unsqueeze(0)) for name, position in place.items()]

    def _make_short_ones(self) -> None:
        """Make the norms of the short layers that wait."""
        waiting, self._short, self._kept = self._short, {}, 0
        for group in waiting.values():
            layers, entered, errors = zip(*group, strict=True)
            self._count_operations(len(layers), self._layers[layers[0]][0], entered[0], errors[0])
            norms = short_ones(entered, errors)
            for name, block in norms.items():
                owners = [one for one, at in enumerate(layers) if name in self._layers[at][2]]
                if owners:
                    positions = [self._layers[layers[one]][2][name] for one in owners]
                    self._norms.append((positions, block if len(owners) == len(layers) else block[owners]))

    def _count_operations(self, layers: int, layer: nn.Module, entered: Tensor, error: Tensor) -> None:
        extra, forward = operations(layer, entered, error)
        self._rules = self._rules + layers * extra
        self._forwards = self._forwards + layers * forward


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
