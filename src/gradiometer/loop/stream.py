"""The examples of a training, cut into updates of any size, the same for all branches."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.loop.horizon import FINEST
from gradiometer.measurement.batch import (
    Batch,
    batch_size,
    join_batches,
    mapped,
    span,
    take,
    tensors_of,
)
from gradiometer.problems.user_code import user_code

# The size of an update of the original training.
ORIGINAL = Fraction(1)


# Names under which dictionaries have their labels, as in Hugging Face's collators and common
# tutorials.
LABELS = ("labels", "label", "targets", "target", "y")

# Number of consecutive rows that are copies of one example, or a function of a batch that returns a
# label for every row, equal for the copies of one example; None if each row is an example.
Groups = int | Callable[[Batch], Any] | None


def labels_in(batch: Batch, groups: Groups) -> Int[Tensor, " rows"] | None:
    """A label for every row of a batch, equal for the rows of one example; None if each row is one.

    >>> from gradiometer.loop.stream import labels_in
    >>> labels_in(torch.zeros(6, 2), 2), labels_in(torch.zeros(4), lambda batch: [7, 3, 7, 3])
    (tensor([0, 0, 1, 1, 2, 2]), tensor([7, 3, 7, 3]))

    Raises:
        BadArgument: `groups` returned something else than a label for every row.
    """
    if groups is None:
        return None
    size = batch_size(batch)
    if isinstance(groups, int):
        return torch.arange(size, device="cpu") // groups
    with user_code("groups"):
        labels = torch.as_tensor(groups(batch), device="cpu")
    if labels.shape != (size,) or len(labels.unique()) < 2:
        raise BadArgument(
            f"`groups` returned labels of shape {list(labels.shape)} for {size} rows: return "
            "one label for every row, and at least two different ones."
        )
    return labels


@dataclass(frozen=True)
class Piece:
    """Some examples of a batch.

    Args:
        batch: The rows.
        example: The number of its example for every row; None if each row is one.
    """

    batch: Batch
    example: Int[Tensor, " rows"] | None = None

    @classmethod
    def of(cls, batch: Batch, groups: Groups) -> "Piece":
        """All examples of a batch."""
        labels = labels_in(batch, groups)
        if labels is None:
            return cls(batch)
        numbers: dict[Any, int] = {}
        return cls(
            batch,
            torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels.tolist()]),
        )

    @property
    def size(self) -> int:
        """The number of examples."""
        return batch_size(self.batch) if self.example is None else int(self.example.max()) + 1

    def part(self, start: int, stop: int) -> "Piece":
        """The examples from `start` up to `stop`, each with all its rows."""
        if self.example is None:
            return Piece(span(self.batch, start, stop))
        rows = ((self.example >= start) & (self.example < stop)).nonzero().flatten()
        return Piece(take(self.batch, rows), self.example[rows] - start)


def join(pieces: Sequence[Piece]) -> Batch:
    """One batch with the rows of these pieces. Where all first copies come before all second ones,
    as in a batch of two views, they do so in the whole.

    Raises:
        BadArgument: The batches differ in structure, or their examples in shape.
    """
    batch = join_batches([piece.batch for piece in pieces])
    copies = [_copies(piece.example) for piece in pieces if piece.example is not None]
    if len(copies) < len(pieces) or not all(bool((each.diff() >= 0).all()) for each in copies):
        return batch
    return take(batch, torch.cat(copies).argsort(stable=True))


def _copies(examples: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """For every row, how many rows of the same example are before it."""
    seen = Counter[int]()
    numbers = []
    for example in examples.tolist():
        numbers.append(seen[example])
        seen[example] += 1
    return torch.tensor(numbers)


class Stream:
    """The batches that training would see next, cut into updates of another size if asked.

    Batches are nested. A batch of 2x is two consecutive batches, and a batch of 0.5x is half of
    one. All alternatives therefore see the same examples in the same order.

    Args:
        batches: The batches of the original training, from the first update on.
        accumulation: Number of these batches in one update of the original training.
        groups: Rows of these batches that belong together, and are never in two updates.
        device: Where the tensors of a batch are moved; None leaves them where they are.

    >>> from gradiometer.loop.stream import Stream
    >>> stream = Stream(iter(torch.arange(12).split(4)))
    >>> [stream.take(0.5), stream.take(0.5), stream.take(2)]
    [[tensor([0, 1])], [tensor([2, 3])], [tensor([ 4,  5,  6,  7,  8,  9, 10, 11])]]
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        *,
        accumulation: int = 1,
        groups: Groups = None,
        device: torch.device | str | None = None,
    ) -> None:
        # The batches that come next, before they are cut.
        self.batches = batches
        self._accumulation = accumulation
        self._groups = groups
        self._device = device
        self._cut: list[tuple[Piece, Fraction]] = []
        self._skipped: list[tuple[int, int]] = []
        self._drawn = 0

        # Number of examples so far.
        self.examples = 0
        self._whole = 0
        self._rest = Fraction(0)

    @property
    def original(self) -> Fraction:
        """The same in updates of the original training."""
        return self._rest + Fraction(self._whole, self._accumulation)

    @property
    def updates(self) -> int:
        """The same in whole updates of the original training."""
        return int(self.original) if self._rest else self._whole // self._accumulation

    def skip(self, start: int, stop: int) -> None:
        """Leave out the batches of these updates, counted from the first one of this stream; `stop`
        is not skipped."""
        self._skipped.append((start, stop))

    def take(self, factor: Amount | Fraction = 1, most: int | None = None) -> list[Batch]:
        """The micro-batches of the next update, in order; none if all of them are skipped.

        Args:
            factor: Size of the update, as a multiple of the original one. Rounded to a fraction p/q
                with q ≤ 64.
            most: Largest number of examples; what is above it is cut off.

        Raises:
            BadArgument: The data have ended, or a batch is too small to be cut into such parts.
        """
        # Fractions are slow, also as the key of a cache.
        number, parts = (
            (self._accumulation, 1)
            if factor is ORIGINAL
            else _number_and_parts(factor, self._accumulation)
        )
        pieces: list[Piece] = []
        examples = 0
        for _ in range(number):
            piece, is_skipped = self._next(parts)
            size = piece.size
            if most is not None and examples + size >= most:
                size = most - examples
                piece = piece.part(0, size)
            if not is_skipped and size:
                pieces.append(piece)
            examples += size
            if examples == most:
                break
        self.examples += examples
        batches = [piece.batch for piece in pieces]
        # One batch, unless training accumulates, or examples differ in shape (sequences of unequal
        # length).
        if self._accumulation == 1 and len(pieces) > 1:
            with suppress(BadArgument):
                batches = [join(pieces)]
        return batches

    def _next(self, parts: int) -> tuple[Piece, bool]:
        """The next batch, or the next of its parts, which is counted; True if it is skipped."""
        if parts == 1 and not self._cut:  # the usual case, without arithmetic of fractions
            piece = self._drawn_batch()
            self._whole += 1
        else:
            piece = self._next_part(parts)
        if not self._skipped:
            return piece, False
        place = (self._drawn - 1) // self._accumulation
        return piece, any(start <= place < stop for start, stop in self._skipped)

    def _next_part(self, parts: int) -> Piece:
        if not self._cut:
            batch = self._drawn_batch()
            size = batch.size
            if size < parts:
                raise BadArgument(f"`batch` of {size} examples cannot be cut into {parts} parts.")
            share = Fraction(1, parts * self._accumulation)
            bounds = pairwise(size * place // parts for place in range(parts + 1))
            self._cut = [(batch.part(*each), share) for each in bounds][::-1]
        part, share = self._cut.pop()
        self._rest += share
        return part

    def _drawn_batch(self) -> Piece:
        batch = next(self.batches, None)
        if batch is None:
            raise BadArgument(
                f"`horizon` is beyond the data: `batches` ended after {self.examples:,} examples. "
                "Give a shorter horizon, or batches that start again at their end."
            )
        self._drawn += 1
        device = self._device
        if device is not None and any(tensor.device != device for tensor in tensors_of(batch)):
            if any(tensor.is_meta for tensor in tensors_of(batch)):
                raise BadArgument(
                    "`batches` gave a tensor on the meta device, which holds no numbers: give the "
                    "numbers."
                )
            batch = mapped(batch, lambda tensor: tensor.to(device))
        return Piece.of(batch, self._groups)


@lru_cache(maxsize=16)
def _number_and_parts(factor: Amount | Fraction, accumulation: int) -> tuple[int, int]:
    """An update as a number of parts of a batch, and into how many of them a batch is cut."""
    needed = Fraction(factor).limit_denominator(FINEST) * accumulation
    return needed.numerator, needed.denominator
