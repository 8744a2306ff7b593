"""Many copies of a small network as one: every linear layer of all copies is one
batched product."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

ELEMENTWISE = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Identity,
)
"""Layers that treat every number, and so every chain, in the same way."""

Layer = Callable[
    [Float[Tensor, "chains examples features"]], Float[Tensor, "chains examples features"]
]


class OnlyCalled(Exception):
    """A loss or a function has asked a stacked network for more than its outputs."""


class StackedSequential(nn.Module):
    """M networks of linear layers and elementwise functions, called with M batches one after the
    other.

    Takes the examples of all chains along the first axis, [chains · examples, ...], and returns the
    outputs in the same order. So any per-example loss that calls the model works without change. It
    has no parameters or parts to look at: a loss that reads them, such as one with a penalty of its
    own, gets `OnlyCalled` and not an empty list.

    Args:
        model: One of the networks: an `nn.Sequential`, nested or not.
        stacked: Parameters of all networks by name, [chains, *parameter].

    Source: the batched product: torch.baddbmm; the idea: `torch.func.stack_module_state`, without
    its vmap.
    """

    def __init__(self, model: nn.Module, stacked: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._chains = len(next(iter(stacked.values())))
        self._layers = list(_layers(model, stacked))

    def forward(self, inputs: Float[Tensor, "all ..."]) -> Float[Tensor, "all ..."]:
        """The output for every example by the network of its chain."""
        hidden = inputs.unflatten(0, (self._chains, -1))
        for layer in self._layers:
            hidden = layer(hidden)
        outputs: Tensor = hidden.flatten(0, 1)
        return outputs

    def __getattr__(self, name: str) -> Any:
        raise OnlyCalled(name)

    def _none(self, *_: Any, **__: Any) -> Any:
        raise OnlyCalled("the parameters or parts of the model")

    named_modules = named_children = state_dict = _none


def is_stackable(model: nn.Module) -> bool:
    """True if every part of a model has a batched form here."""
    for _, module in _leaves(model):
        # A subclass may do anything in its forward, and a Flatten may keep some axes.
        linear = type(module) is nn.Linear and not module._forward_pre_hooks
        if type(module) is nn.Flatten:
            linear = (module.start_dim, module.end_dim) == (1, -1)
        elementwise = isinstance(module, ELEMENTWISE) and not any(True for _ in module.parameters())
        if not (linear or elementwise):
            return False
    return not any(module._forward_hooks for module in model.modules())


def _leaves(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers with their names, in the order of the calls."""
    if type(model) is not nn.Sequential:
        yield prefix, model
        return
    for name, module in model.named_children():
        yield from _leaves(module, f"{prefix}.{name}".lstrip("."))


def _layers(model: nn.Module, stacked: Mapping[str, Tensor]) -> Iterator[Layer]:
    for name, module in _leaves(model):
        if isinstance(module, nn.Linear):
            yield _linear(
                stacked[f"{name}.weight".lstrip(".")], stacked.get(f"{name}.bias".lstrip("."))
            )
        else:
            yield nn.Flatten(2) if isinstance(module, nn.Flatten) else module


def _linear(weight: Tensor, bias: Tensor | None) -> Layer:
    transposed = weight.transpose(1, 2)
    if bias is None:
        return lambda hidden: torch.bmm(hidden, transposed)
    row = bias.unsqueeze(1)
    return lambda hidden: torch.baddbmm(row, hidden, transposed)
