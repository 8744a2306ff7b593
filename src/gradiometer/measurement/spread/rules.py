"""Rules of layers: the squared norm of every example's gradient, from the layer's input and the gradient at its output.

No gradient of an example is stored for longer than its norm takes, and none at all where a cheaper formula exists.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

AT_ONCE = 2**22
"""Most numbers in the gradients that are made at once, 16 MiB in single precision: they stay near the cache."""

MOVED = 32
"""Operations in the time in which one number of a patch or of a stored gradient is moved."""

SHORT = 2**13
"""Numbers at the input and the output of a layer up to which calls cost more than arithmetic."""

Norms = dict[str, Float[Tensor, " examples"]]
"""‖c_i‖² for every parameter of a layer, by its name; c_i is the contribution of example i to the gradient."""

Rule = Callable[[Any, Tensor, Tensor], Norms]
"""Called with the layer, its input and the gradient at its output, both of shape [examples, ...]."""


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule of this layer; None if there is none. A subclass may compute anything, so it has none either."""
    if isinstance(layer, nn.Embedding) and (layer.sparse or layer.scale_grad_by_freq or layer.max_norm is not None):
        return None
    if isinstance(layer, nn.Conv2d):
        named = isinstance(layer.padding, str)  # "same" pads more on one side if the kernel is even
        if named or layer.groups != 1 or layer.padding_mode != "zeros":
            return None
    return _RULES.get(type(layer))


def operations(layer: nn.Module, entered: Tensor, error: Tensor) -> tuple[int, int]:
    """Operations per example of the rule, and of the layer's forward, in multiplications."""
    if isinstance(layer, nn.Conv2d):
        positions, into, out = math.prod(error.shape[2:]), math.prod(layer.weight.shape[1:]), len(layer.weight)
        return positions * into * (out + MOVED) + MOVED * into * out, positions * into * out
    if isinstance(layer, nn.Linear):
        positions, into, out = math.prod(error.shape[1:-1]), layer.in_features, layer.out_features
        gram = positions * positions * (into + out)
        return min(gram, positions * into * out + MOVED * into * out), positions * into * out
    return (numbers := math.prod(error.shape[1:])), numbers


def is_short(rule: Rule, entered: Tensor, error: Tensor) -> bool:
    """True for a small linear layer without positions, whose norms cost less if they are made with those of others."""
    return rule is _linear and entered.dim() == error.dim() == 2 and entered.numel() + error.numel() <= SHORT


def short_ones(entered: Sequence[Tensor], errors: Sequence[Tensor]) -> dict[str, Float[Tensor, "layers examples"]]:
    """‖c_i‖² of short layers with the same shapes, all in a few calls, by the name of the parameter."""
    error = torch.stack(list(errors))
    error = error.to(torch.promote_types(error.dtype, torch.float32))
    bias = torch.linalg.vector_norm(error, dim=2).square()
    weight = bias * torch.linalg.vector_norm(torch.stack(list(entered)).to(error.dtype), dim=2).square()
    return {"weight": weight, "bias": bias}


def _linear(layer: nn.Linear, entered: Tensor, error: Tensor) -> Norms:
    """‖Σ_t δ_t a_tᵀ‖² over the positions t of an example: ‖δ‖²‖a‖² for one, Σ_tu (δ_t·δ_u)(a_t·a_u) for a few."""
    if error.dim() == entered.dim() == 2:  # most common, and in a small layer each call counts
        bias = _squares(error)
        return {"weight": bias * _squares(entered.to(error.dtype)), "bias": bias}
    errors, inputs = _positions(error), _positions(entered.to(error.dtype))
    return {"weight": _of_products(errors, inputs), "bias": _squares(errors.sum(1))}


def _convolution(layer: nn.Conv2d, entered: Tensor, error: Tensor) -> Norms:
    """As for a linear layer that is applied to the patches of the image."""
    norms = []
    patch = layer.weight[0].numel()
    step = max(AT_ONCE // (patch * error[0, 0].numel()), 1)
    kernel: Any = layer.kernel_size
    settings: dict[str, Any] = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}
    for images, errors in zip(entered.to(error.dtype).split(step), error.flatten(2).split(step), strict=True):
        patches = functional.unfold(images, kernel, **settings)
        norms.append(_squares(torch.bmm(errors, patches.transpose(1, 2)).flatten(1)))
    return {"weight": torch.cat(norms), "bias": _squares(error.flatten(2).sum(2))}


def _embedding(layer: nn.Embedding, entered: Tensor, error: Tensor) -> Norms:
    """Σ_tu δ_t·δ_u over the positions of an example that hold the same symbol."""
    errors, symbols = _positions(error), entered.reshape(len(entered), -1)
    if layer.padding_idx is not None:
        errors = errors * (symbols != layer.padding_idx).unsqueeze(2)
    same = symbols.unsqueeze(2) == symbols.unsqueeze(1)
    products = torch.bmm(errors, errors.transpose(1, 2))
    return {"weight": (products * same).flatten(1).sum(1)}


def _layer_norm(layer: nn.LayerNorm, entered: Tensor, error: Tensor) -> Norms:
    normalised = functional.layer_norm(entered.to(error.dtype), list(layer.normalized_shape), eps=layer.eps)
    return _scale_and_shift(error, normalised, axes=len(layer.normalized_shape))


def _rms_norm(layer: nn.RMSNorm, entered: Tensor, error: Tensor) -> Norms:
    normalised = functional.rms_norm(entered.to(error.dtype), list(layer.normalized_shape), eps=layer.eps)
    return _scale_and_shift(error, normalised, axes=len(layer.normalized_shape))


def _scale_and_shift(error: Tensor, normalised: Tensor, axes: int) -> Norms:
    """‖Σ_t δ_t x̂_t‖² and ‖Σ_t δ_t‖², summed over all positions but the last axes."""
    size = error.shape[error.dim() - axes :].numel()
    shape = (len(error), -1, size)
    return {
        "weight": _squares((error * normalised).reshape(shape).sum(1)),
        "bias": _squares(error.reshape(shape).sum(1)),
    }


def _group_norm(layer: nn.GroupNorm, entered: Tensor, error: Tensor) -> Norms:
    normalised = functional.group_norm(entered.to(error.dtype), layer.num_groups, eps=layer.eps)
    channels = error.reshape(*error.shape[:2], -1)
    return {"weight": _squares((channels * normalised.view_as(channels)).sum(2)), "bias": _squares(channels.sum(2))}


def _of_products(errors: Float[Tensor, "examples t out"], inputs: Float[Tensor, "examples t in"]) -> Tensor:
    """‖Σ_t δ_t a_tᵀ‖² of every example, by the way that takes fewer operations."""
    positions, out, into = errors.shape[1], errors.shape[2], inputs.shape[2]
    if positions == 1:
        return _squares(errors[:, 0]) * _squares(inputs[:, 0])
    if positions**2 * (out + into) < (positions + MOVED) * out * into:
        step = max(AT_ONCE // positions**2, 1)
        pairs = zip(errors.split(step), inputs.split(step), strict=True)
        return torch.cat([(_gram(one) * _gram(other)).flatten(1).sum(1) for one, other in pairs])
    step = max(AT_ONCE // (out * into), 1)
    pairs = zip(errors.split(step), inputs.split(step), strict=True)
    return torch.cat([_squares(torch.bmm(one.transpose(1, 2), other).flatten(1)) for one, other in pairs])


def _gram(rows: Float[Tensor, "examples t features"]) -> Float[Tensor, "examples t t"]:
    return torch.bmm(rows, rows.transpose(1, 2))


def _positions(tensor: Float[Tensor, "examples ..."]) -> Float[Tensor, "examples t features"]:
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _squares(rows: Float[Tensor, "examples numbers"]) -> Float[Tensor, " examples"]:
    """The squared norm of every row. A sum of squares has no cancellation: the error stays that of single precision."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square()


_RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
}
