"""The spread of single examples from training's own backward."""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.measurement.batch import Batch, batch_size, span
from gradiometer.measurement.objective import Gradients, Objective
from gradiometer.measurement.parts import SpreadBuilder, squared_norms
from gradiometer.measurement.reading import Spread
from gradiometer.measurement.spread.hooks import NO_SHIELD, Around, ExampleHooks, Shield, reading

ALIKE, SHARE = 1e-2, 1e-4
"""Largest relative difference between a norm read and the norm of the gradient of one example alone, plus this share of
the whole gradient's."""


class ExampleNorms:
    """Reads the spread of single examples during training's own backward, without running anything again.

    A layer contributes ‖Σ_t δ_t a_tᵀ‖² to the squared gradient norm of an example, with a_t its input and δ_t the
    gradient at its output at position t. It works for a loss that is a fixed function of the batch (see `Traits`), and
    for a model whose trainable parameters belong to Linear, Embedding, LayerNorm, RMSNorm, GroupNorm and Conv2d layers,
    each used once in a forward with the examples along the first axis. With k = B parts it is the sharpest spread, and
    in a model of Linear layers by far the cheapest. Where the rules take more operations than the gradient of half the
    batch, as in most convolutions, it is not used.

    The result is checked, not assumed: at the first reading, the second, the fourth, and so on, the gradients of two
    examples are computed alone. If the norms differ by 1 %, nothing is read any more.

    Args:
        objective: The model and its loss. Training runs this model itself, not a copy.
        around: Makes a context for all work inside of the forward and the backward, such as one that measures its time.
        shield: A context around that, which may keep errors from the forward and the backward.
        wanted: False to read nothing.

    Source: Goodfellow (2015), Efficient Per-Example Gradient Computations; positions: Rochette, Manoel & Tramel (2019),
    Efficient Per-Example Gradient Computations in Convolutional Neural Networks.

    >>> import torch
    >>> from gradiometer import Objective
    >>> from gradiometer.measurement.spread.example_norms import ExampleNorms
    >>> model = torch.nn.Linear(4, 1, bias=False)
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> objective = Objective(model, lambda model, batch: 0.5 * model(batch).square().flatten())
    >>> batch = torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0], [3.0, 0, 0, 0]])  # the gradient at 1 is (x², 0, 0, 0)
    >>> norms = ExampleNorms(objective)
    >>> norms.start()
    >>> objective.loss(model, batch).mean().backward()
    >>> norms.spread(batch, [model.weight.grad]).squared_norms.ravel().round(3)
    array([ 1., 16., 81.])
    """

    def __init__(
        self,
        objective: Objective,
        around: Around = nullcontext,
        shield: Shield = NO_SHIELD,
        *,
        wanted: bool = True,
    ) -> None:
        self._objective = objective
        self._hooks = ExampleHooks(objective.model, objective.parameters, around, shield)
        self._readings = 0
        self.possible = wanted and self._hooks.possible
        """False if this model, or this loss, has no such spread, or if it is not worth its cost."""

    def start(self) -> None:
        """Read the next forward and backward. Compiled code would be compiled again, so it is not read."""
        if self.possible and not _is_compiled():
            self._hooks.start()

    def stop(self) -> None:
        """Read no more until `start`."""
        self._hooks.stop()

    def spread(
        self,
        batch: Batch,
        gradient: Sequence[Tensor | None] | Float[Tensor, " parameters"],
        *,
        scale: Callable[[], float] = lambda: 1.0,
        seed: int = 0,
    ) -> Spread | None:
        """The spread of the examples of the backward since `start`; None if it is not known. Stops reading.

        Args:
            batch: The examples of that backward.
            gradient: What backward made, one tensor per trainable parameter, or the squared norm of every one.
            scale: A function that returns the factor by which a gradient scaler multiplied the loss. It is called when
                the CPU has waited for the norms.
            seed: Seed of the random numbers that checks draw.
        """
        if not self._hooks.active:
            return None
        size = batch_size(batch)
        norms = self._hooks.take(size)
        self._hooks.stop()
        self.possible = self.possible and norms is not None and self._hooks.worth
        if norms is None or not self.possible:
            return None
        norms.mul_(size**2)
        if (self._readings + 1) & self._readings == 0:
            if not norms.isfinite().all():  # a gradient scaler begins too high
                return None
            self.possible = _hold(self._objective, batch, norms / scale() ** 2, seed)
        self._readings += 1
        if not self.possible:
            return None
        builder = SpreadBuilder(self._objective.layer_of, [1] * size, [norms])
        if isinstance(gradient, Tensor):
            squared = gradient.unsqueeze(0)
        else:
            squared = squared_norms([each for each in gradient if each is not None])  # all: every layer was used
        return builder.finish_from(squared.to(norms.device)).divided_by(scale())


def _is_compiled() -> bool:
    """True if this process has compiled code."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and dynamo.counters["stats"]["unique_graphs"] > 0


def example_norms(
    objective: Objective, batch: Batch, *, seed: int = 0
) -> tuple[Float[Tensor, "examples parameters"], Gradients] | None:
    """‖g_i‖² of every example and parameter, and ĝ, by one forward and backward; None if a rule is missing or fails."""
    hooks, size = ExampleHooks(objective.model, objective.parameters), batch_size(batch)
    if not hooks.possible:
        return None
    with reading(hooks):
        gradient = objective.gradient(batch, seed=seed)
        norms = hooks.take(size)
    if norms is None or not _hold(objective, batch, norms.mul_(size**2), seed):
        return None
    return norms, gradient


def _hold(objective: Objective, batch: Batch, norms: Float[Tensor, "examples parameters"], seed: int) -> bool:
    """True if the loss is a fixed function of the batch, and the norms of two examples are those of them alone."""
    if not objective.traits(batch, seed=seed).fixed:
        return False
    rows = (0, len(norms) - 1)
    alone = [squared_norms(objective.gradient(span(batch, row, row + 1), seed=seed))[0] for row in rows]
    own, read = torch.stack([*alone, *(norms[row].to(alone[0]) for row in rows)]).cpu().numpy().reshape(2, 2, -1)
    room = ALIKE * own + SHARE * own.sum(axis=1, keepdims=True)
    return bool(np.all(np.abs(own - read) <= room))
