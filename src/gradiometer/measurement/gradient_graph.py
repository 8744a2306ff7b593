"""The gradient of a batch with its graph kept: Hessian products, each a pull back through that one graph."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, batch_size, mapped
from gradiometer.measurement.objective import Gradients, Objective

SMALL = 2**14
"""Numbers in a batch up to which vectors are pulled back together: there the calls cost more than the arithmetic."""

WITHOUT_SECOND_DERIVATIVE = re.compile(r"not implemented|differentiate twice|double backward|vmap|batching rule", re.I)

FORBIDDEN = "torch::autograd::Error"
"""What torch puts into the graph in the place of a derivative that is forbidden."""


class GradientGraph:
    """∇L of one batch at the model's own parameters, and H v for any v, from one graph.

    H is symmetric, so that vᵀ ∂g/∂Φ = H v: one backward through the graph of the gradient is a product, at about
    1.6 gradients each; to build the graph again for every product costs about twice that. What the loss draws
    (Dropout) is drawn once and kept: all products are of the same H. Attention is computed by its plain formula,
    since torch's fused kernels have no second derivative; a compiled model by the module it was made of.

    Memory: that of the graph, a few times that of a training step, until it is let go.

    Args:
        objective: The model and its loss, in the mode the model is in.
        batch: The examples.
        seed: Of what the loss draws.

    Raises:
        BadArgument: The loss has no gradient, or forbids a second derivative.

    Source: Pearlmutter (1994), Fast Exact Multiplication by the Hessian; here as reverse over reverse.
    """

    def __init__(self, objective: Objective, batch: Batch, *, seed: int = 0) -> None:
        self._objective, self.examples = objective, batch_size(batch)
        self._leaves = objective.aliases()
        with torch.enable_grad(), objective.undisturbed(seed), twice_differentiable(objective.model):
            loss, self._gradient = objective.differentiable_gradient(self._leaves, batch)
        _refuse_once_differentiable(self._gradient)
        self.loss = float(loss.detach())
        self._together = _numbers(batch) <= SMALL

    @property
    def gradient(self) -> Float[Tensor, " params"]:
        """ĝ, flat."""
        return flat(part.detach() for part in self._gradient)

    def products(self, vectors: Float[Tensor, "probes params"]) -> Float[Tensor, "probes params"]:
        """H v for every row v.

        Raises:
            BadArgument: The loss has no second derivative, or a product is not finite.
        """
        try:
            found = self._pulled_together(vectors) if len(vectors) > 1 and self._together else None
            found = torch.stack([self._pulled(vector) for vector in vectors]) if found is None else found
        except RuntimeError as error:
            if not WITHOUT_SECOND_DERIVATIVE.search(str(error)):
                raise
            raise _no_second_derivative(str(error).splitlines()[0].rstrip(".")) from error
        if not found.isfinite().all():
            raise BadArgument(
                f"`loss` has a curvature that is not finite at these parameters (the loss is {self.loss:.4g}): "
                "look for a square root, a norm or a logarithm at zero, or for parameters that have run away."
            )
        return found

    def _pulled(self, vector: Float[Tensor, " params"]) -> Float[Tensor, " params"]:
        return flat(self._backward(unflat(vector, self._leaves)))

    def _pulled_together(self, vectors: Float[Tensor, "probes params"]) -> Float[Tensor, "probes params"] | None:
        """All rows in one backward; None, from then on, where an operation cannot be batched."""
        parts = torch.split(vectors, [leaf.numel() for leaf in self._leaves], dim=1)
        cotangents = [part.reshape(-1, *leaf.shape).to(leaf) for part, leaf in zip(parts, self._leaves, strict=True)]
        try:
            with warnings.catch_warnings(action="ignore"):  # of an operation that is batched by a loop, and only slow
                pulled = self._backward(cotangents, batched=True)
        except RuntimeError:
            self._together = False
            return None
        return torch.cat([part.reshape(len(vectors), -1).to(vectors) for part in pulled], dim=1)

    def _backward(self, cotangents: Sequence[Tensor], batched: bool = False) -> Sequence[Tensor]:
        pairs = [(g, v) for g, v in zip(self._gradient, cotangents, strict=True) if g.requires_grad]
        gradients, vectors = zip(*pairs, strict=True)
        pull = partial(torch.autograd.grad, gradients, self._leaves, vectors, retain_graph=True, allow_unused=True)
        found = self._objective.standing(self._leaves, partial(pull, is_grads_batched=batched))
        # What the gradient does not depend on has no curvature.
        return [torch.zeros_like(v) if part is None else part for part, v in zip(found, cotangents, strict=True)]


def flat(gradients: Iterable[Tensor]) -> Float[Tensor, " params"]:
    """One tensor a parameter as one vector, on the device and in the type of the first."""
    parts = list(gradients)
    return torch.cat([part.reshape(-1).to(parts[0]) for part in parts])


def unflat(vector: Float[Tensor, " params"], like: Sequence[Tensor]) -> Gradients:
    """The vector as one tensor a parameter, of the shapes, types and devices of those given."""
    parts = torch.split(vector, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape).to(tensor) for part, tensor in zip(parts, like, strict=True)]


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """A region in which what a model runs has a second derivative wherever torch has one at all.

    Attention by its plain formula; compiled code as it was written; recurrent layers on a GPU without cuDNN.
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _refuse_once_differentiable(gradients: Iterable[Tensor]) -> None:
    """Raise where the gradient passes through a function that forbids a second derivative.

    Such a function cuts the graph: what lies behind it would be taken for constant, and its curvature for zero.
    """
    seen, ahead = set(), [gradient.grad_fn for gradient in gradients]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == FORBIDDEN:
            raise _no_second_derivative("a function in it is marked once_differentiable")
        ahead += [before for before, _ in node.next_functions]


def _no_second_derivative(reason: str) -> BadArgument:
    return BadArgument(
        f"`loss` has no second derivative ({reason}): compute it by operations that can be differentiated twice."
    )


def _numbers(batch: Batch) -> int:
    """How many numbers a batch holds."""
    counts: list[int] = []
    mapped(batch, lambda tensor: counts.append(tensor.numel()))
    return sum(counts)
