"""Builds a `Spread` from the gradients of the parts of a batch, one at a time."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gradiometer.measurement.reading import Spread

# How many numbers are summed in single precision, and how long a gradient must be before that saves
# time.
RUN, LONG = 1024, 2**15

# Tensors with at most so many numbers are short; so many of them are summed together on a CPU.
SHORT, MANY = 2**10, 32


@dataclass
class SpreadBuilder:
    """Collects a `Spread` one gradient at a time. It keeps only numbers, on their device until the
    end.

    Args:
        layer_of: Index of each parameter's layer.
        preconditioner: P, one tensor per parameter, if norms under P are wanted too.
    """

    layer_of: Sequence[int]
    sizes: list[int] = field(default_factory=list)
    squared: list[Float[Tensor, "rows parameters"]] = field(default_factory=list)
    preconditioner: Sequence[Tensor] | None = None
    preconditioned: list[Float[Tensor, "rows parameters"]] = field(default_factory=list)

    def add(self, size: int, gradients: Sequence[Tensor]) -> None:
        """Add the gradient of one part."""
        self.sizes.append(size)
        self.squared.append(squared_norms(gradients))
        if self.preconditioner is not None:
            self.preconditioned.append(preconditioned_norms(gradients, self.preconditioner))

    def add_between(
        self, size: int, start: Sequence[Tensor], end: Sequence[Tensor], weight: float
    ) -> None:
        """Add one part, whose gradient is start + weight·(end − start), a piece at a time: no copy
        of it is made."""
        self.sizes.append(size)
        self.squared.append(_between_norms(start, end, weight))
        if self.preconditioner is None:
            return
        under = []
        (starts, ends, others), owners = _cut(start, end, self.preconditioner)
        for piece in _pieces(starts):
            between = torch._foreach_lerp(starts[piece], ends[piece], weight)
            under.append(preconditioned_norms(between, others[piece]))
            del between
        self.preconditioned.append(_by_owner(_join(under), owners, len(start)))

    def add_each(self, gradients: Sequence[Tensor]) -> None:
        """Add the gradients of single examples: each tensor has shape [examples, *parameter]."""
        self.sizes.extend([1] * gradients[0].shape[0])
        self.squared.append(
            torch.stack([_squares_of_rows(gradient) for gradient in gradients], dim=1)
        )
        if self.preconditioner is not None:
            weighted = (
                gradient * p.sqrt()
                for gradient, p in zip(gradients, self.preconditioner, strict=True)
            )
            self.preconditioned.append(
                torch.stack([_squares_of_rows(gradient) for gradient in weighted], dim=1)
            )

    def finish(
        self, mean: Sequence[Tensor], squared: Float[Tensor, "1 parameters"] | None = None
    ) -> Spread:
        """The spread, given the mean gradient over all examples added.

        Args:
            mean: The mean gradient; only its `squared` is needed without a preconditioner.
            squared: Its squared norms, if they are known.
        """
        plain = torch.cat([*self.squared, squared_norms(mean) if squared is None else squared])
        if self.preconditioner is None:
            return self._of(plain.cpu().numpy())
        under = torch.cat([*self.preconditioned, preconditioned_norms(mean, self.preconditioner)])
        # one copy fetches both
        norms, norms_under = torch.stack([plain, under.to(plain)]).cpu().numpy()
        return replace(self._of(norms), preconditioned=self._of(norms_under))

    def _of(self, rows: Float[np.ndarray, "rows parameters"]) -> Spread:
        """The spread from the squared norms of all parts, and in the last row of their mean."""
        by_layer = np.zeros((len(rows), max(self.layer_of) + 1))
        np.add.at(by_layer.T, list(self.layer_of), rows.T)
        return Spread(np.array(self.sizes), by_layer[:-1], by_layer[-1])


# Numbers of a list of tensors that are changed at once, so that no further copy of them all is
# made: as many as stay in a CPU's cache, and so many that an accelerator works for longer than its
# kernels take to start. Smaller pieces on a CPU cost more calls.
ON_CPU, ON_ACCELERATOR = 2**19, 2**22


# The same for norms on a CPU: in larger tensors a call each costs little, and memory counts.
TOGETHER = 2**16


def squared_norms(gradients: Sequence[Tensor]) -> Float[Tensor, "1 parameters"]:
    """‖·‖² of every parameter's gradient, summed in double precision, in one pass over
    all of them."""
    is_short = None if len(gradients) < MANY else _are_short(gradients)
    if is_short is not None:
        return _with_short_ones(
            is_short, lambda short: short.square_(), lambda long: squared_norms(long)[0], gradients
        ).unsqueeze(0)
    shorter = [one if one.numel() < LONG else _condense(one) for one in gradients]
    norms = torch._foreach_norm(shorter, dtype=torch.float64)
    return torch.stack([norm.to(norms[0].device) for norm in norms]).square().unsqueeze(0)


def _between_norms(
    start: Sequence[Tensor], end: Sequence[Tensor], weight: float
) -> Float[Tensor, "1 parameters"]:
    """‖start + weight·(end − start)‖² of every parameter, a piece at a time."""
    if len(start) < MANY and sum(one.numel() for one in start) <= TOGETHER:
        return squared_norms(torch._foreach_lerp(list(start), list(end), weight))
    return _with_short_ones(
        _are_short(start),
        lambda a, b: a.lerp_(b, weight).square_(),
        partial(_pieces_between, weight=weight),
        start,
        end,
    ).unsqueeze(0)


def _pieces_between(
    start: Sequence[Tensor], end: Sequence[Tensor], weight: float
) -> Float[Tensor, " some"]:
    (starts, ends), owners = _cut(start, end)
    # one at a time, for the memory
    pieces = ((starts[piece], ends[piece]) for piece in _pieces(starts, TOGETHER))
    norms = [squared_norms(torch._foreach_lerp(*piece, weight)) for piece in pieces]
    return _by_owner(_join(norms), owners, len(start))[0]


def _with_short_ones(
    is_short: Bool[np.ndarray, " parameters"] | None,
    together: Callable[..., Tensor],
    separately: Callable[..., Tensor],
    *lists: Sequence[Tensor],
) -> Float[Tensor, " parameters"]:
    """The sum over every parameter: over those of many short ones in one go, where a call for each
    would cost more.

    Args:
        is_short: See `_are_short`.
        together: From one number each to the terms of a sum, in double precision.
        separately: From lists of tensors to one sum per tensor.
        lists: One tensor per parameter.
    """
    if is_short is None:
        return separately(*lists)
    short = lists if is_short.all() else [list(compress(each, is_short)) for each in lists]
    terms = together(*map(_flatten, short))
    counts = torch.tensor([tensor.numel() for tensor in short[0]], device="cpu")
    of_short = torch.segment_reduce(terms, "sum", lengths=counts, initial=0)
    if is_short.all():
        return of_short
    sums, are_short = of_short.new_empty(len(is_short)), torch.from_numpy(is_short)
    sums[are_short] = of_short
    sums[~are_short] = separately(*(list(compress(each, ~is_short)) for each in lists))
    return sums


def _are_short(tensors: Sequence[Tensor]) -> Bool[np.ndarray, " parameters"] | None:
    """Which tensors are short, if that many are, and all are on a CPU."""
    if len(tensors) < MANY:
        return None
    is_short = np.array([tensor.numel() for tensor in tensors]) <= SHORT
    on_cpu = all(tensor.is_cpu for tensor in tensors)
    return is_short if on_cpu and is_short.sum() >= MANY else None


def _each(number_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A number of each tensor, of lists with one tensor for every parameter."""
    return lambda *lists: torch.stack([number_of(*one) for one in zip(*lists, strict=True)])


def _flatten(tensors: Sequence[Tensor]) -> Float[Tensor, " numbers"]:
    """One vector of all numbers, in double precision."""
    if len({tensor.dtype for tensor in tensors}) > 1:
        tensors = [tensor.double() for tensor in tensors]
    # three times as fast as `cat` of views
    flat: Tensor = torch._utils._flatten_dense_tensors(tensors)
    return flat.double()


def preconditioned_norms(
    gradients: Sequence[Tensor], preconditioner: Sequence[Tensor]
) -> Float[Tensor, "1 parameters"]:
    """‖√P ·‖² of every parameter's gradient, a piece at a time, so that no further copy of all of
    them is made."""
    if all(gradient.device.type == "cpu" for gradient in gradients):
        return _with_short_ones(
            _are_short(gradients),
            lambda g, p: p.mul_(g).mul_(g),
            _each(_norm_under),
            gradients,
            preconditioner,
        )[None]
    norms = []
    for piece in _pieces(gradients):
        weighted = torch._foreach_sqrt(list(preconditioner[piece]))
        torch._foreach_mul_(weighted, list(gradients[piece]))
        norms.append(squared_norms(weighted))
    return _join(norms)


def _pieces(tensors: Sequence[Tensor], on_cpu: int = ON_CPU) -> Iterator[slice]:
    """Slices of a list of tensors, each with about as many numbers as are changed at once, or one
    tensor."""
    start = numbers = 0
    at_once = on_cpu if all(tensor.is_cpu for tensor in tensors) else ON_ACCELERATOR
    for stop, tensor in enumerate(tensors, 1):
        numbers += tensor.numel()
        if numbers >= at_once or stop == len(tensors):
            yield slice(start, stop)
            start, numbers = stop, 0


def _cut(*lists: Sequence[Tensor]) -> tuple[list[list[Tensor]], list[int] | None]:
    """The same lists with long tensors cut into pieces, and the place of each piece's tensor; None
    if none is long."""
    at_once = ON_CPU if all(tensor.is_cpu for tensor in lists[0]) else ON_ACCELERATOR
    if all(tensor.numel() <= at_once for tensor in lists[0]):
        return [list(each) for each in lists], None
    cut: list[list[Tensor]] = [[] for _ in lists]
    owners: list[int] = []
    for place, tensors in enumerate(zip(*lists, strict=True)):
        are_long = tensors[0].numel() > at_once and all(
            tensor.is_contiguous() for tensor in tensors
        )
        for into, tensor in zip(cut, tensors, strict=True):
            into.extend(tensor.view(-1).split(at_once) if are_long else [tensor])
        owners += [place] * (len(cut[0]) - len(owners))
    return cut, owners


def _by_owner(
    norms: Float[Tensor, "1 pieces"], owners: Sequence[int] | None, count: int
) -> Float[Tensor, "1 parameters"]:
    if owners is None:
        return norms
    places = torch.tensor([owners], device="cpu").to(norms.device, non_blocking=True)
    return norms.new_zeros(1, count).scatter_add_(1, places, norms)


def _join(norms: Sequence[Float[Tensor, "1 some"]]) -> Float[Tensor, "1 parameters"]:
    return (
        norms[0]
        if len(norms) == 1
        else torch.cat([norm.to(norms[0].device) for norm in norms], dim=1)
    )


def _norm_under(gradient: Tensor, preconditioner: Tensor) -> Float[Tensor, ""]:
    """Runs of a length that stays in the cache; over one of them a sum in single precision errs by
    1e-8."""
    runs = zip(
        gradient.reshape(-1).split(LONG), preconditioner.reshape(-1).split(LONG), strict=True
    )
    weighted = ((p * g, g) for g, p in runs)
    sums = [torch.dot(weight, g.to(weight.dtype)) for weight, g in weighted]
    return torch.stack(sums).sum(dtype=torch.float64)


def inner_products(
    first: Sequence[Tensor], second: Sequence[Tensor]
) -> Float[Tensor, " parameters"]:
    """⟨·, ·⟩ of two lists of one tensor per parameter, summed in double precision; on a CPU only
    over long runs."""
    return _with_short_ones(
        _are_short(first), lambda a, b: a.mul_(b), _each(_inner_product), first, second
    )


def difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """The difference of two lists of one tensor per parameter. That of close numbers is exact."""
    return list(torch._foreach_sub(list(first), list(second)))


def squared_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """‖first − second‖², summed in double precision, a piece at a time, so that no copy is made."""
    (first, second), _ = _cut(first, second)
    sums = [
        squared_norms(difference(first[piece], second[piece])).sum() for piece in _pieces(first)
    ]
    return float(torch.stack([each.to(sums[0].device) for each in sums]).sum())


def _inner_product(a: Tensor, b: Tensor) -> Float[Tensor, ""]:
    if (
        a.device.type != "cpu"
        or a.dtype != b.dtype
        or a.dtype not in (torch.float32, torch.float64)
    ):
        return (a.double() * b.double()).sum()
    # BLAS is three times as fast as a sum in double. Over so long a run it errs by 1e-8 of the sum
    # of sizes.
    if a.numel() <= LONG:
        return torch.dot(a.reshape(-1), b.reshape(-1)).double()
    runs = [
        torch.dot(x, y)
        for x, y in zip(a.reshape(-1).split(LONG), b.reshape(-1).split(LONG), strict=True)
    ]
    return torch.stack(runs).sum(dtype=torch.float64)


def _condense(gradient: Tensor) -> Tensor:
    """A shorter tensor of the same norm, for a long gradient in single precision on a CPU;
    otherwise the gradient.

    Runs of 1,024 numbers are summed in single precision, three times as fast as in double. The
    relative error of the norm stays below 1e-7, which is the precision of the gradient itself.
    """
    size = gradient.numel()
    if not (gradient.is_cpu and gradient.dtype == torch.float32 and gradient.is_contiguous()):
        return gradient
    flat, left = gradient.detach().view(-1), size % RUN
    norms: Tensor = torch.linalg.vector_norm(flat[: size - left].view(-1, RUN), dim=1)
    return torch.cat([norms, flat[size - left :]]) if left else norms


def _squares_of_rows(gradient: Tensor) -> Float[Tensor, " examples"]:
    rows = gradient.reshape(len(gradient), -1)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square()


def multiple(made: Float[Tensor, " parameters"], taken: Sequence[Tensor]) -> float | None:
    """s, the factor by which the norms of all gradients changed; None if it differs between
    parameters.

    Args:
        made: ‖·‖² of every parameter's gradient before.
        taken: The gradients now.

    Returns:
        s; NaN if a gradient is not finite or became zero; 1 if all gradients were zero before.
    """
    return factor_of(both_norms(made, taken).cpu(), taken)


def both_norms(
    made: Float[Tensor, " parameters"], taken: Sequence[Tensor]
) -> Float[Tensor, "2 parameters"]:
    """‖·‖² of every parameter's gradient now and before, in one tensor, so that one copy fetches
    both."""
    squared = squared_norms(taken)[0]
    return torch.stack([squared, made.to(squared)])


def factor_of(norms: Float[Tensor, "2 parameters"], taken: Sequence[Tensor]) -> float | None:
    """See `multiple`, from `both_norms` on the CPU."""
    squared, made = norms
    lengths, before = squared.sqrt(), made.sqrt()
    factor = float((lengths.square().sum() / made.sum()).sqrt()) if made.any() else 1.0
    if not (math.isfinite(factor) and factor > 0):
        return math.nan
    # 1e-4: rounding error allowed when all parameters are compared with one factor, as a share of
    # the gradient's norm.
    rounding = max(1e-4, *(8 * torch.finfo(each.dtype).eps for each in taken))
    off = float((lengths - factor * before).abs().max())
    return None if off > rounding * float(lengths.norm()) else factor
