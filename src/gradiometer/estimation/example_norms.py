"""The squared gradient norm of every example, to find the examples that make most of the noise."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer.errors import BadArgument, Unsupported
from gradiometer.measurement.batch import Batch, batch_size, span
from gradiometer.measurement.loss import with_graph
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.step import PER_EXAMPLE_NUMBERS

Entered = Float[Tensor, "examples inputs"]


def squared_norms(objective: Objective, batch: Batch, *, seed: int = 0) -> Float[Tensor, " examples"]:
    """‖g_i‖² of every example, in (loss / parameter)², in double precision.

    A model of Linear layers applied to [examples, features] costs one forward and backward, and no per-example gradient
    is stored: a layer contributes ‖δ_i‖²(‖a_i‖² + 1), with a_i its input, δ_i the gradient at its output, and 1 for its
    bias. This path is checked, not assumed: the sum of δ_i a_iᵀ must equal the gradient from backward. For any other
    model per-example gradients are computed by `vmap`, a few examples at a time.

    Args:
        objective: The model and its loss, in the mode the model is in.
        batch: The examples.
        seed: Seed for random numbers in the loss (Dropout).

    Raises:
        Unsupported: The loss couples the examples of a batch (batch statistics), so they have no separate gradients.

    Source: Goodfellow (2015), Efficient Per-Example Gradient Computations.

    Example:
        >>> from gradiometer import Objective, supervised
        >>> model = nn.Linear(1, 1, bias=False)  # the gradient of (w x - y)² is 2 (w x - y) x
        >>> _ = nn.init.zeros_(model.weight)
        >>> objective = Objective(model, supervised(lambda output, target: (output - target).square().sum(1)))
        >>> inputs, targets = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [0.5], [0.0]])
        >>> squared_norms(objective, (inputs, targets)).tolist()
        [4.0, 4.0, 0.0]
    """
    if objective.traits(batch, seed=seed).coupled:
        raise Unsupported(
            "`loss` couples the examples of a batch (batch statistics, or weights normalised over the batch), so they "
            "have no separate gradients: measure in eval mode, or measure the noise from micro-batches (`noise`)."
        )
    linear = _linear_layers(objective)
    found = _by_layer(objective, batch, linear, seed) if linear else None
    return _one_by_one(objective, batch, seed) if found is None else found


def noisiest(
    objective: Objective, batch: Batch, count: int, *, seed: int = 0
) -> tuple[Int[Tensor, " count"], Float[Tensor, " count"]]:
    """The examples with the largest gradient norms, largest first: their places in the batch and shares of Σ‖g_i‖².

    If a few examples have most of the sum, look at them: they are often mislabelled, or unlike all others.

    Example:
        >>> from gradiometer import Objective
        >>> from gradiometer.problems import load
        >>> problem = load("digits")
        >>> batch = problem.train.batch(torch.arange(100))
        >>> places, shares = noisiest(Objective(problem.model(), problem.loss), batch, 10)
        >>> places.shape, bool(0.1 < shares.sum() < 1)
        (torch.Size([10]), True)
    """
    size = batch_size(batch)
    if not 1 <= count <= size:
        raise BadArgument(f"`count` must lie between 1 and the {size:,} examples, got {count}.")
    norms = squared_norms(objective, batch, seed=seed)
    largest = norms.topk(count)
    return largest.indices, largest.values / norms.sum()


def _linear_layers(objective: Objective) -> list[nn.Linear]:
    """The Linear layers if they own all trainable parameters and share none, else an empty list."""
    layers = [module for module in objective.model.modules() if isinstance(module, nn.Linear)]
    owned = Counter(id(parameter) for layer in layers for parameter in layer.parameters(recurse=False))
    alone = all(owned[id(parameter)] == 1 for parameter in objective.parameters)
    return [layer for layer in layers if any(p.requires_grad for p in layer.parameters())] if alone else []


def _by_layer(
    objective: Objective, batch: Batch, layers: list[nn.Linear], seed: int
) -> Float[Tensor, " examples"] | None:
    """The norms from the inputs and output gradients of all layers; None if a layer is not used once, on 2-d input."""
    size, leaves = batch_size(batch), objective.leaves()
    with torch.enable_grad(), objective.untouched_randomness(seed), _watched(layers) as calls:
        loss = with_graph(objective.mean_loss(leaves, batch))
        outputs = [output for _, output, _ in calls]
        used_once = Counter(layer for *_, layer in calls) == Counter(layers)
        on_rows = all(entered.dim() == 2 and len(entered) == size for entered, *_ in calls)
        if not (used_once and on_rows):
            return None
        found = torch.autograd.grad(loss * size, [*outputs, *leaves], allow_unused=True, materialize_grads=True)
    errors, sums = found[: len(outputs)], dict(zip(map(id, objective.parameters), found[len(outputs) :], strict=True))
    norms = torch.zeros(size, dtype=torch.float64, device=loss.device)
    for (entered, _, layer), error in zip(calls, errors, strict=True):
        ones = entered.new_ones(size, 1)
        for parameter, inputs in ((layer.weight, entered.detach()), (layer.bias, ones)):
            if id(parameter) not in sums:  # frozen, or no bias at all
                continue
            squares = error.double().square().sum(1) * inputs.double().square().sum(1)
            if not _adds_up(error.T @ inputs, sums[id(parameter)], float(squares.sum().sqrt())):
                return None
            norms += squares
    return norms


def _adds_up(summed: Tensor, gradient: Tensor, size: float) -> bool:
    """True if the contributions of a layer's examples sum to its gradient.

    They do not if the weight is also used elsewhere or decayed in the loss, or the output is changed in place.
    """
    difference = torch.linalg.vector_norm(summed.view_as(gradient) - gradient)
    return bool(difference <= 1e3 * torch.finfo(gradient.dtype).eps * size)


@contextmanager
def _watched(layers: list[nn.Linear]) -> Iterator[list[tuple[Tensor, Tensor, nn.Linear]]]:
    """Record (input, output, layer) for every forward call inside the region."""
    calls: list[tuple[Tensor, Tensor, nn.Linear]] = []

    def note(layer: nn.Module, entered: Any, output: Any) -> None:
        calls.append((entered[0], output, layer))  # type: ignore[arg-type]

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _one_by_one(objective: Objective, batch: Batch, seed: int) -> Float[Tensor, " examples"]:
    size, at_once = batch_size(batch), max(PER_EXAMPLE_NUMBERS // objective.dimension, 1)
    parts = []
    for start in range(0, size, at_once):
        part = span(batch, start, min(start + at_once, size))
        gradients = objective.per_example_gradients(part, seed=seed + start)
        parts.append(torch.stack([g.flatten(1).double().square().sum(1) for g in gradients]).sum(0))
    return torch.cat(parts)
