"""The curvature of a batch along its own gradient, from its slopes on both sides: one copy of the
parameters is held, in place of the graph of a gradient."""

import math
import re
from collections.abc import Callable, MutableSequence, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradiometer.measurement.batch import Batch
from gradiometer.measurement.objective import Objective, checked_loss, explain
from gradiometer.measurement.parts import inner_products, squared_norms

# The slopes are taken this far from Φ on both sides, as a share of ‖Φ‖. In the trainings of
# `benchmarks/slopes.py` on which it was chosen, a tenth of it and ten times as much are worse.
SHARE = 1e-4

# Operations that bend the loss at points. A difference counts the bends between its two sides, which
# the second derivative does not see: with ReLU one batch is off by up to 64 % (`benchmarks/slopes.py`).
BENDING = re.compile(
    "(Abs|Adaptive[Mm]ax|Amax|Amin|Clamp|Fractional[Mm]ax|Hard|L1|LeakyRelu|Max|Median|Min|Prelu"
    "|Relu|Rrelu|Round|SignB|Soft[Ss]hrink|Sort|Threshold|Topk)"
)

PRECISE = (torch.float32, torch.float64)


class OwnCurvature(NamedTuple):
    """The curvature of a batch along its own gradient.

    Args:
        along: ĝᵀH_Bĝ, or ûᵀH_Bû with û = P ĝ.
        product: ‖ĝ‖², or ĝᵀû.
    """

    along: float
    product: float


class Precision:
    """Sees if a forward keeps numbers below single precision for its backward, as under autocast."""

    def __init__(self) -> None:
        self.is_single = True

    def pack(self, kept: Tensor) -> Tensor:
        """What is kept of a tensor: the tensor itself, without its graph."""
        if kept.is_floating_point() and kept.dtype not in PRECISE:
            self.is_single = False
        return kept.detach()


def own_curvature(
    objective: Objective,
    batch: Batch,
    factors: MutableSequence[Tensor] | None = None,
    *,
    seed: int = 0,
) -> OwnCurvature | None:
    """ĝᵀH_Bĝ and ‖ĝ‖² of a batch, or the same under P.

    The curvature along d is (⟨∇L(Φ + εd), d⟩ − ⟨∇L(Φ − εd), d⟩)/(2ε), with the same random numbers
    in all three gradients. Each gradient is used tensor by tensor as the backward makes it, and
    held no longer. So d, and later the point beside Φ, is the only copy of the parameters. Costs
    three gradients.

    On smooth losses the error is below 1 % (`benchmarks/slopes.py`).

    Args:
        objective: The model and its loss.
        batch: The examples.
        factors: P, one tensor per trainable parameter. It is used up: each is let go when it has
            served. Default: one.
        seed: Seed of the random numbers that the loss draws.

    Returns:
        None if it cannot be told: the loss computes in half precision, bends at points, as with
        ReLU or max pooling, or has a gradient that is not finite.

    >>> import torch
    >>> from gradiometer import Objective
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> objective = Objective(model, lambda model, batch: 1.5 * model(batch).square().flatten())
    >>> found = own_curvature(objective, torch.ones(4, 1, dtype=torch.float64))  # ĝ = 3, H = 3
    >>> round(found.along, 6), found.product
    (27.0, 9.0)
    """
    here = [parameter.detach() for parameter in objective.parameters]
    if any(tensor.dtype not in PRECISE for tensor in here):
        return None
    held: dict[int, Tensor] = {}
    products: list[Tensor] = []

    def begin(place: int, gradient: Tensor) -> None:
        direction = gradient
        if factors is not None:
            # P may be beyond the range of a gradient where P ĝ is not
            direction = (factors[place] * gradient).to(gradient.dtype)
            factors[place] = gradient.new_empty(0)
        products.append(inner_products([gradient], [direction]).sum())
        held[place] = direction

    precision = Precision()
    with torch.autograd.graph.saved_tensors_hooks(precision.pack, lambda kept: kept):
        is_smooth = for_each_gradient(
            objective,
            objective.leaves(),
            batch,
            begin,
            accepts=lambda loss: precision.is_single and not bends(loss),
            seed=seed,
        )
    if not is_smooth:
        return None
    product = _sum(products)
    length = math.sqrt(_sum([squared_norms([one]).sum() for one in held.values()]))
    if not (math.isfinite(product) and math.isfinite(length)):
        return None
    if not length:
        return OwnCurvature(0.0, product)
    size = math.sqrt(_sum([squared_norms([tensor]).sum() for tensor in here]))
    distance = SHARE * (size or 1.0) / length

    for place, direction in held.items():
        held[place] = torch.add(here[place], direction, alpha=distance)
    ahead = _slope(objective, batch, here, held, seed)
    for place, point in held.items():
        held[place] = torch.sub(here[place], point - here[place])
    behind = _slope(objective, batch, here, held, seed)
    along = (ahead + behind) / (2 * distance**2)
    return OwnCurvature(along, product) if math.isfinite(along) else None


def bends(loss: Tensor) -> bool:
    """True if an operation in the graph of the loss bends it at points, such as ReLU.

    >>> import torch
    >>> weight = torch.ones(2, requires_grad=True)
    >>> bends(weight.tanh().sum()), bends(weight.relu().sum())
    (False, True)
    """
    seen, ahead = set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if BENDING.match(node.name()):
            return True
        ahead += [before for before, _ in node.next_functions]
    return False


def _slope(
    objective: Objective, batch: Batch, here: list[Tensor], points: dict[int, Tensor], seed: int
) -> float:
    """⟨∇L(point), point − Φ⟩, of what the points really are after rounding."""
    products: list[Tensor] = []

    def take(place: int, gradient: Tensor) -> None:
        if place in points:
            products.append(inner_products([gradient], [points[place] - here[place]]).sum())

    at = [points.get(place, tensor).detach().requires_grad_() for place, tensor in enumerate(here)]
    for_each_gradient(objective, at, batch, take, seed=seed)
    return _sum(products)


def _sum(terms: list[Tensor]) -> float:
    """The sum in double precision; one wait on an accelerator."""
    if not terms:
        return 0.0
    return float(torch.stack([term.to(terms[0].device) for term in terms]).sum())


def for_each_gradient(
    objective: Objective,
    leaves: Sequence[Tensor],
    batch: Batch,
    use: Callable[[int, Tensor], None],
    *,
    accepts: Callable[[Tensor], bool] | None = None,
    seed: int = 0,
) -> bool:
    """Compute the gradient of the mean loss at these leaves, and hold none of it.

    Args:
        leaves: One leaf tensor per trainable parameter, as of `leaves()`.
        batch: The examples.
        use: Called with the place of a parameter and its gradient as soon as it is complete,
            for every parameter that the loss reaches.
        accepts: Called with the mean loss, whose graph it may look at, before the backward.
        seed: Seed of the random numbers that the loss draws.

    Returns:
        False if `accepts` was false; then there was no backward.
    """

    def taker(place: int) -> Callable[[Tensor], None]:
        def take(leaf: Tensor) -> None:
            gradient, leaf.grad = leaf.grad, None
            if gradient is not None:
                gradient = gradient.detach()
                use(place, gradient.to_dense() if gradient.is_sparse else gradient)

        return take

    def differentiate() -> bool:
        loss = checked_loss(objective.loss(objective.model, batch), batch, has_graph=True).mean()
        if accepts is not None and not accepts(loss):
            return False
        loss.backward(inputs=list(leaves))
        return True

    for place, leaf in enumerate(leaves):
        leaf.register_post_accumulate_grad_hook(taker(place))
    with torch.enable_grad(), objective.untouched_randomness(seed, leaves):
        try:
            return objective.with_parameters(leaves, differentiate)
        except Exception as error:
            explain(error)
            raise
