"""Squared gradient norms as programs give them: checked, and brought into the order of
the layers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument

ROUNDING = 0.02
"""Largest relative error of a squared norm in bfloat16, with a margin."""

WHOLE = "model"
"""Name of the only layer if the norms are those of the whole model."""


@dataclass(frozen=True)
class GivenNorms:
    """The squared norms of one step.

    Args:
        layers: Names of the layers.
        small: Mean of ‖ĝ_j‖² over the micro-batches of b examples, by layer.
        big: ‖ĝ‖² of all B examples, by layer.
        complete: True if `small` is the mean over all micro-batches of the batch.
    """

    layers: tuple[str, ...]
    small: Float[np.ndarray, " layers"]
    big: Float[np.ndarray, " layers"]
    complete: bool

    @classmethod
    def of(cls, small: Any, big: Any, sizes: Sequence[Any]) -> "GivenNorms":
        """Check the arguments of `NormsWatch.norms`.

        Raises:
            BadArgument: A number is missing, negative or not finite, or the numbers cannot be norms
                of one step.
        """
        check_sizes(sizes)
        whole, each = by_layer("big", big), by_layer("small", small)
        if whole.keys() != each.keys():
            raise BadArgument(
                f"`small` has the layers {', '.join(each)}, and `big` has {', '.join(whole)}: give "
                "both by the same layers, or both for the whole model."
            )
        shapes = {values.shape for values in each.values()}
        if len(shapes) > 1:
            raise BadArgument(
                f"`small` must have one number per micro-batch in every layer, got shapes {shapes}."
            )
        if any(values.ndim for values in whole.values()):
            raise BadArgument(
                "`big` must be one number, or one per layer: the squared norm of the mean gradient."
            )
        parts = next(iter(shapes), ())[:1]
        if parts and parts[0] * sizes[0] > sizes[1]:
            raise BadArgument(
                f"`small` has {parts[0]} micro-batches of {sizes[0]} examples, more than the "
                f"{sizes[1]} of the batch: `sizes` is (examples of a micro-batch, examples of the "
                "whole batch)."
            )
        return cls(
            tuple(whole),
            np.array([each[layer].mean() for layer in whole]),
            np.array([float(values) for values in whole.values()]),
            complete=not parts or parts[0] * sizes[0] == sizes[1],
        )

    @property
    def doubt(self) -> str:
        """A sentence if these can hardly be the norms of one step; otherwise empty.

        The mean of ‖ĝ_j‖² over all micro-batches is at least the ‖ĝ‖² of their mean, and equal only
        without noise.
        """
        small, big = float(self.small.sum()), float(self.big.sum())
        if self.complete and small < big * (1 - ROUNDING):
            return (
                f"`small` is {small:.4g}, less than `big`, {big:.4g}: give the mean of the squared "
                "norms over all micro-batches as `small` (or a list of those that you have), and "
                "the squared norm of the mean of their gradients, not of the sum, as `big`."
            )
        if big > 0 and np.allclose(self.small, self.big, rtol=1e-6, atol=0):
            return (
                f"`small` equals `big`, {big:.4g}: take the norms for `small` before the gradients "
                "are averaged over micro-batches or devices."
            )
        return ""


def check_sizes(sizes: Sequence[Any]) -> None:
    """Raise unless these are b and B, with b below B."""
    if not isinstance(sizes, Sequence) or len(sizes) != 2:
        raise BadArgument(
            "`sizes` must be (b, B), the examples of a micro-batch and of the batch, got "
            f"{sizes!r}."
        )
    for size in sizes:
        check_whole("sizes", size, 1)
    if not sizes[0] < sizes[1]:
        raise BadArgument(
            f"`sizes` must be (b, B) with b below B, got ({sizes[0]}, {sizes[1]}): one size shows "
            "no spread."
        )


def by_layer(name: str, value: Any) -> dict[str, Float[np.ndarray, "*micro_batches"]]:
    """Non-negative numbers by layer, one for each micro-batch. Names of nested mappings are joined
    by a dot.

    >>> by_layer("small", {"dense": {"kernel": [1.0, 3.0], "bias": [0.5, 0.1]}})
    {'dense.kernel': array([1., 3.]), 'dense.bias': array([0.5, 0.1])}
    """
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(tree, Mapping) for tree in value)
    ):
        trees = [dict(_leaves(tree)) for tree in value]
        if any(tree.keys() != trees[0].keys() for tree in trees):
            raise BadArgument(
                f"`{name}` has micro-batches with different layers: give the same ones for each."
            )
        leaves = {layer: [tree[layer] for tree in trees] for layer in trees[0]}
    elif isinstance(value, Mapping):
        leaves = dict(_leaves(value))
    else:
        leaves = {WHOLE: value}
    if not leaves:
        raise BadArgument(
            f"`{name}` has no layer: give a number, or a mapping from layer to number."
        )
    return {layer: _numbers(name, layer, leaf) for layer, leaf in leaves.items()}


def number(name: str, value: Any) -> float:
    """One number of Python, NumPy or JAX, or a tensor with one element.

    Raises:
        BadArgument: It is none of these.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadArgument(
            f"`{name}` must be a number, got {type(value).__name__} ({error})."
        ) from error


def _leaves(tree: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _numbers(name: str, layer: str, value: Any) -> Float[np.ndarray, "*micro_batches"]:
    where = f"`{name}`" if layer == WHOLE else f"`{name}` of {layer}"
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        numbers = np.empty((0, 0))
    if value is None or isinstance(value, str | bytes) or numbers.ndim > 1 or not numbers.size:
        shown = f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(value)
        raise BadArgument(f"{where} must be a number or a list of numbers, got {shown}.")
    if not (np.isfinite(numbers) & (numbers >= 0)).all():
        wrong = numbers[~(np.isfinite(numbers) & (numbers >= 0))].flat[0]
        raise BadArgument(f"{where} must be squared norms, at least 0 and finite, got {wrong}.")
    return numbers
