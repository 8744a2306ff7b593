"""Marks of tensors, by which it is seen later if others are the same, without keeping a copy."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Gradients below this share of the largest are rounding: those of a bias before BatchNorm, which
# Adam moves all the same, had 1e-8 of it.
NO_GRADIENT = 1e-6

# Whole numbers with as many bytes as a value, whose sums show if a bit differs.
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# Whole numbers that are added up together. Two that change places are in other rows, or in other
# columns.
ROW = 256

# Whole numbers of a tensor that are added up without rows and columns, from a copy.
SMALL = 16_384

# Values of a tensor that are kept to see how far it is from another one.
SAMPLE = 1024


@dataclass(frozen=True, eq=False)
class Mark:
    """What is kept of a tensor. Nothing here waits for an accelerator.

    Args:
        bits: Sums of the words of its bits that are weighted by their place. They differ if a bit
            differs.
        norm: Its norm.
        largest: Its largest absolute value.
        sample: Some of its values, at fixed places.
        size: The number of its values.
    """

    bits: Tensor
    norm: Tensor
    largest: Tensor
    sample: Tensor
    size: int


class Marks(dict[str, Mark]):
    """What is kept of some tensors, by their names, to see later if others are the same."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Marks):
            return NotImplemented
        return self.keys() == other.keys() and all(
            torch.equal(one.bits, other[name].bits) for name, one in self.items()
        )

    __hash__ = None

    @property
    def norm_of(self) -> dict[str, float]:
        """The norm of each tensor by its name."""
        return {name: float(one.norm) for name, one in self.items()}

    @property
    def norm(self) -> float:
        """The norm of all tensors together."""
        return math.hypot(*self.norm_of.values())

    def distance(self, other: "Marks", names: Collection[str]) -> float:
        """About the norm of the difference of these tensors, from the samples."""
        squares = [
            one.size
            / max(len(one.sample), 1)
            * float((one.sample - other[name].sample).square().sum())
            for name, one in self.items()
            if name in names
        ]
        return math.sqrt(math.fsum(squares))

    def farthest(self, other: "Marks") -> tuple[str, float, float]:
        """The tensor whose norms differ most, with both norms; one that only one of them has has 0
        in the other."""
        ours, theirs = self.norm_of, other.norm_of
        least = NO_GRADIENT * max((*ours.values(), *theirs.values()), default=0.0)
        both = {
            name: (ours.get(name, 0.0), theirs.get(name, 0.0))
            for name in dict.fromkeys((*ours, *theirs))
        }
        large = [name for name, norms in both.items() if max(norms) >= least]
        name = max(large, key=lambda each: relative(*both[each]))
        return name, *both[name]


@torch.no_grad()
def marks_of(tensors: Mapping[str, Tensor]) -> Marks:
    """The marks of these tensors: a few passes over each, and no copy of it."""
    return Marks((name, mark_of(tensor.detach())) for name, tensor in tensors.items())


def mark_of(tensor: Tensor) -> Mark:
    """The mark of a tensor without a graph."""
    flat = tensor.contiguous().reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    values = flat if flat.is_floating_point() else flat.double()
    dtype = torch.promote_types(values.dtype, torch.float32)
    size, device = values.numel(), values.device
    return Mark(
        _bits(flat.view(WORDS[flat.element_size()]), device),
        torch.linalg.vector_norm(values, dtype=dtype).double(),
        (torch.linalg.vector_norm(values, math.inf) if size else values.sum()).double(),
        (values if size <= SAMPLE else values[_places(size, device)]).to(torch.double, copy=True),
        size,
    )


def _bits(words: Tensor, device: torch.device) -> Tensor:
    """Sums of whole numbers that are weighted by their place."""
    if words.numel() <= SMALL:
        return (words.to(torch.int64) * _weights(words.numel(), device)).sum()
    # by rows and by columns of 256: two passes, and no copy
    whole = words.numel() // ROW * ROW
    rows = words[:whole].view(-1, ROW)
    sums = [
        rows.sum(dim=1, dtype=torch.int64),
        rows.sum(dim=0, dtype=torch.int64),
        words[whole:].to(torch.int64),
    ]
    return torch.stack([(each * _weights(each.numel(), device)).sum() for each in sums])


def _weights(count: int, device: torch.device) -> Tensor:
    """An odd number for each place."""
    return _odd(device)[:count] if count <= SMALL else 2 * torch.arange(count, device=device) + 1


@lru_cache(maxsize=16)
def _odd(device: torch.device) -> Tensor:
    """The first odd numbers."""
    return 2 * torch.arange(SMALL, device=device) + 1


def _places(count: int, device: torch.device) -> Tensor:
    """The places of a sample."""
    # a prime: spread over the tensor without a period that its rows may have
    return torch.arange(SAMPLE, device=device) * 15_485_863 % count


def relative(one: float, two: float) -> float:
    """The difference of two norms as a share of the larger."""
    largest = max(abs(one), abs(two))
    return abs(one - two) / largest if largest > 0 else 0.0
