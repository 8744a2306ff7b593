"""The gradient of a batch with its graph kept. A product with the Hessian is one backward through
that graph."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradiometer.compiler import as_written
from gradiometer.errors import Unsupported, UserCodeFailed, calling
from gradiometer.measurement.batch import Batch, batch_size, leaves
from gradiometer.measurement.objective import Gradients, Objective

WITHOUT_SECOND_DERIVATIVE = re.compile(
    r"not implemented|differentiate twice|double backward|vmap|batching rule", re.I
)


class GradientGraph:
    """∇L of one batch at the model's own parameters, and H v for any v, from one graph.

    H is symmetric, so vᵀ ∂g/∂Φ = H v: a product is one backward through the graph of the gradient,
    at about 1.4 gradients each. Building the graph again for every product would cost about twice
    that. The random numbers of the loss (Dropout) are drawn once, so all products use the same H.
    Attention is computed by its plain formula, since torch's fused kernels have no second
    derivative. A compiled model runs without its compiled code.

    Memory: that of the graph, a few times that of a training step.

    Args:
        objective: The model and its loss, in the mode the model is in.
        batch: The examples.
        seed: Seed of the random numbers that the loss draws.

    Raises:
        UserCodeFailed: The loss has no gradient.
        Unsupported: The loss forbids a second derivative.

    Source: Pearlmutter (1994), Fast Exact Multiplication by the Hessian; here as reverse over
    reverse.
    """

    def __init__(self, objective: Objective, batch: Batch, *, seed: int = 0) -> None:
        self._objective = objective
        self._seed = seed
        self.examples = batch_size(batch)
        self._leaves = objective.leaves()
        with (
            torch.enable_grad(),
            objective.untouched_randomness(seed),
            twice_differentiable(objective.model),
        ):
            loss, self._gradient = objective.differentiable_gradient(self._leaves, batch)
        _refuse_once_differentiable(self._gradient)
        self.loss = float(loss.detach())
        numbers = sum(
            leaf.numel() for _, leaf in leaves(batch, "batch") if isinstance(leaf, Tensor)
        )
        # For a small batch one backward computes several products: there the calls cost more than
        # the arithmetic.
        self._batched = numbers <= 2**14

    @property
    def gradient(self) -> Float[Tensor, " params"]:
        """ĝ, flat."""
        return flat(self.gradients)

    @property
    def gradients(self) -> Gradients:
        """ĝ, one tensor per trainable parameter, without a copy."""
        return [part.detach() for part in self._gradient]

    def product(self, vector: Sequence[Tensor]) -> Gradients:
        """H v for one v, both with one tensor per trainable parameter: the product is the only new
        copy.

        Raises:
            Unsupported: The loss has no second derivative.
            UserCodeFailed: The product is not finite.
        """
        with self._explain_errors():
            found = list(self._backward(vector))
        self._check(found)
        return found

    def products(self, vectors: Float[Tensor, "probes params"]) -> Float[Tensor, "probes params"]:
        """H v for every row v.

        Raises:
            Unsupported: The loss has no second derivative.
            UserCodeFailed: A product is not finite.
        """
        if len(vectors) > 1 and self._batched:
            with self._explain_errors():
                found = self._batched_products(vectors)
            if found is not None:
                self._check([found])
                return found
        rows = torch.empty_like(vectors)
        for row, vector in zip(rows, vectors, strict=True):
            product = self.product(unflat(vector, self._leaves))
            for place, part in zip(
                row.split([leaf.numel() for leaf in self._leaves]), product, strict=True
            ):
                place.copy_(part.reshape(-1))
        return rows

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not WITHOUT_SECOND_DERIVATIVE.search(str(error)):
                raise
            raise _no_second_derivative(str(error).splitlines()[0].rstrip(".")) from error

    def _check(self, found: Sequence[Tensor]) -> None:
        # A sum takes a thirtieth of the time, and is finite unless it overflows or a part is not.
        if not all(part.sum().isfinite() or part.isfinite().all() for part in found):
            raise UserCodeFailed(
                "`loss` has a curvature that is not finite at these parameters (the loss is "
                f"{self.loss:.4g}): look for a square root, a norm or a logarithm at zero, or for "
                "parameters that have diverged."
            )

    def _batched_products(
        self, vectors: Float[Tensor, "probes params"]
    ) -> Float[Tensor, "probes params"] | None:
        """All products in one backward; None, now and later, if an operation cannot be batched."""
        parts = torch.split(vectors, [leaf.numel() for leaf in self._leaves], dim=1)
        cotangents = [
            part.reshape(-1, *leaf.shape).to(leaf)
            for part, leaf in zip(parts, self._leaves, strict=True)
        ]
        try:
            # about an operation that is only slow when batched
            with warnings.catch_warnings(action="ignore"):
                pulled = self._backward(cotangents, batched=True)
        except torch.OutOfMemoryError:  # a RuntimeError, and no sign of what can be batched
            raise
        except RuntimeError:
            self._batched = False
            return None
        return torch.cat([part.reshape(len(vectors), -1).to(vectors) for part in pulled], dim=1)

    def _backward(self, cotangents: Sequence[Tensor], batched: bool = False) -> Sequence[Tensor]:
        pairs = [(g, v) for g, v in zip(self._gradient, cotangents, strict=True) if g.requires_grad]
        gradients, vectors = zip(*pairs, strict=True)
        pull = partial(
            torch.autograd.grad,
            gradients,
            self._leaves,
            vectors,
            retain_graph=True,
            allow_unused=True,
        )
        # a function's own backward may change something, or draw random numbers
        with calling("loss"), self._objective.untouched_randomness(self._seed):
            found = self._objective.with_parameters(
                self._leaves, partial(pull, is_grads_batched=batched)
            )
        # Parameters that the gradient does not depend on have no curvature.
        return [
            torch.zeros_like(v) if part is None else part
            for part, v in zip(found, cotangents, strict=True)
        ]


def flat(gradients: Iterable[Tensor]) -> Float[Tensor, " params"]:
    """One tensor per parameter as one vector, on the device and in the type of the first.

    >>> import torch
    >>> flat([torch.ones(1, 2), torch.zeros(1)])
    tensor([1., 1., 0.])
    """
    parts = list(gradients)
    return torch.cat([part.reshape(-1).to(parts[0]) for part in parts])


def unflat(vector: Float[Tensor, " params"], like: Sequence[Tensor]) -> Gradients:
    """The vector as one tensor per parameter, with the shapes, types and devices of `like`."""
    parts = torch.split(vector, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape).to(tensor) for part, tensor in zip(parts, like, strict=True)]


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """A context in which the model uses operations that have a second derivative, if torch has any.

    Attention uses its plain formula, compiled code runs eagerly, and recurrent layers on a GPU do
    without cuDNN.
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(as_written())
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _refuse_once_differentiable(gradients: Iterable[Tensor]) -> None:
    """Raise if the gradient passes through a function that forbids a second derivative.

    Such a function cuts the graph. The parameters behind it would count as constant, and their
    curvature as zero.
    """
    seen, ahead = set(), [gradient.grad_fn for gradient in gradients]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # The node that torch inserts for a function marked `once_differentiable`.
        if node.name() == "torch::autograd::Error":
            raise _no_second_derivative("a function in it is marked once_differentiable")
        ahead += [before for before, _ in node.next_functions]


def _no_second_derivative(reason: str) -> Unsupported:
    return Unsupported(
        f"`loss` has no second derivative ({reason}): build it from operations that can be "
        "differentiated twice."
    )
