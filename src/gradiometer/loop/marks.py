"""Marks of tensors, by which it is seen later if others are the same, without keeping a copy."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

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

# Values of a tensor that are kept to see how far it is from another one, and the distance of their
# places.
SAMPLE, PRIME = 1024, 15_485_863


@dataclass(frozen=True, eq=False)
class Marks:
    """What is kept of some tensors, to see later if others are the same. Nothing here waits for an
    accelerator.

    Args:
        names: Their names.
        bits: For each, sums of the words of its bits that are weighted by their place. They differ
            if a bit differs.
        norms: The norm of each.
        largest: The largest absolute value of each.
        samples: Some values of each, at fixed places.
        sizes: The number of values of each.
    """

    names: tuple[str, ...]
    bits: tuple[Tensor, ...]
    norms: tuple[Tensor, ...]
    largest: tuple[Tensor, ...]
    samples: tuple[Tensor, ...]
    sizes: tuple[int, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Marks):
            return NotImplemented
        return self.names == other.names and all(map(torch.equal, self.bits, other.bits))

    __hash__ = None  # type: ignore[assignment]

    @property
    def norm_of(self) -> dict[str, float]:
        """The norm of each tensor by its name."""
        return dict(zip(self.names, map(float, self.norms), strict=True))

    @property
    def norm(self) -> float:
        """The norm of all tensors together."""
        return math.hypot(*map(float, self.norms))

    def distance(self, other: "Marks", names: Collection[str]) -> float:
        """About the norm of the difference of these tensors, from the samples."""
        theirs = dict(zip(other.names, other.samples, strict=True))
        squares = [
            size / max(len(ours), 1) * float((ours - theirs[name]).square().sum())
            for name, ours, size in zip(self.names, self.samples, self.sizes, strict=True)
            if name in names
        ]
        return math.sqrt(math.fsum(squares))

    def farthest(self, other: "Marks") -> tuple[str, float, float]:
        """The tensor whose norms differ most, with both norms; one that only one of them has has 0
        in the other."""
        ours, theirs = self.norm_of, other.norm_of
        least = NO_GRADIENT * max((*ours.values(), *theirs.values()), default=0.0)
        names = [
            name
            for name in dict.fromkeys((*ours, *theirs))
            if max(ours.get(name, 0.0), theirs.get(name, 0.0)) >= least
        ]
        name = max(names, key=lambda each: relative(ours.get(each, 0.0), theirs.get(each, 0.0)))
        return name, ours.get(name, 0.0), theirs.get(name, 0.0)


@torch.no_grad()
def marks_of(tensors: Mapping[str, Tensor]) -> Marks:
    """The marks of these tensors: a few passes over each, and no copy of it."""
    bits, norms, largest, samples = [], [], [], []
    for tensor in tensors.values():
        flat = tensor.detach().contiguous().reshape(-1)
        flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
        values = flat if flat.is_floating_point() else flat.double()
        norm = torch.linalg.vector_norm(
            values, dtype=torch.promote_types(values.dtype, torch.float32)
        )
        most = torch.linalg.vector_norm(values, math.inf) if values.numel() else values.sum()
        bits.append(_bits(flat.view(WORDS[flat.element_size()])))
        norms.append(norm.double())
        largest.append(most.double())
        samples.append(values[_places(len(values), values.device)].double())
    sizes = tuple(tensor.numel() * (2 if tensor.is_complex() else 1) for tensor in tensors.values())
    return Marks(tuple(tensors), tuple(bits), tuple(norms), tuple(largest), tuple(samples), sizes)


def _bits(words: Tensor) -> Tensor:
    """Sums of whole numbers by rows and by columns of 256, weighted by their place: two passes, and
    no copy."""
    whole = len(words) // ROW * ROW
    rows = words[:whole].view(-1, ROW)
    sums = [
        rows.sum(dim=1, dtype=torch.int64),
        rows.sum(dim=0, dtype=torch.int64),
        words[whole:].to(torch.int64),
    ]
    return torch.stack(
        [(each * (2 * torch.arange(len(each), device=each.device) + 1)).sum() for each in sums]
    )


def _places(size: int, device: torch.device) -> Tensor:
    """The places of a sample of a tensor, spread over it without a period that its
    rows may have."""
    if size <= SAMPLE:
        return torch.arange(size, device=device)
    return torch.arange(SAMPLE, device=device) * PRIME % size


def relative(one: float, two: float) -> float:
    """The difference of two norms as a share of the larger."""
    largest = max(abs(one), abs(two))
    return abs(one - two) / largest if largest > 0 else 0.0
