"""The examples that a branch is trained on, cut into updates of any size, the same examples for all
alternatives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.loop.horizon import FINEST
from gradiometer.measurement.batch import (
    Batch,
    batch_size,
    chunks,
    join_batches,
    mapped,
    span,
    tensors_of,
)

# The size of an update of the original training.
ORIGINAL = Fraction(1)


@dataclass(frozen=True)
class Taken:
    """The examples of one update.

    Args:
        pieces: The micro-batches to train on, in order. Empty if all of them are skipped.
        examples: How far the data went on, skipped examples included.
    """

    pieces: Sequence[Batch]
    examples: int


class Stream:
    """The batches that training would see next, cut into updates of another size if asked.

    Batches are nested. A batch of 2x is two consecutive batches, and a batch of 0.5x is half of
    one. All alternatives therefore see the same examples in the same order.

    Args:
        batches: The batches of the original training, from the first update on.
        accumulation: Number of these batches in one update of the original training.
        device: Where the tensors of a batch are moved; None leaves them where they are.

    >>> from gradiometer.loop.stream import Stream
    >>> stream = Stream(iter(torch.arange(12).split(4)))
    >>> [stream.take(0.5).pieces, stream.take(0.5).pieces, stream.take(2).pieces]
    [[tensor([0, 1])], [tensor([2, 3])], [tensor([ 4,  5,  6,  7,  8,  9, 10, 11])]]
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        *,
        accumulation: int = 1,
        device: torch.device | str | None = None,
    ) -> None:
        # The batches that come next, before they are cut.
        self.batches = batches
        self._accumulation = accumulation
        self._device = device
        self._cut: list[tuple[Batch, Fraction]] = []
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

    def take(self, factor: Amount | Fraction = 1, most: int | None = None) -> Taken:
        """The examples of the next update.

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
        pieces: list[Batch] = []
        examples = 0
        for _ in range(number):
            piece, is_skipped = self._next(parts)
            size = batch_size(piece)
            if most is not None and examples + size >= most:
                piece, size = span(piece, 0, most - examples), most - examples
            if not is_skipped and size:
                pieces.append(piece)
            examples += size
            if examples == most:
                break
        self.examples += examples
        return Taken(self._merged(pieces), examples)

    def _next(self, parts: int) -> tuple[Batch, bool]:
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

    def _next_part(self, parts: int) -> Batch:
        if not self._cut:
            batch = self._drawn_batch()
            if batch_size(batch) < parts:
                raise BadArgument(
                    f"`batch` of {batch_size(batch)} examples cannot be cut into {parts} parts."
                )
            share = Fraction(1, parts * self._accumulation)
            self._cut = [(part, share) for part in reversed(chunks(batch, parts))]
        part, share = self._cut.pop()
        self._rest += share
        return part

    def _drawn_batch(self) -> Batch:
        batch = next(self.batches, None)
        if batch is None:
            raise BadArgument(
                f"`horizon` is beyond the data: `batches` ended after {self.examples:,} examples. "
                "Give a shorter horizon, or batches that start again at their end."
            )
        self._drawn += 1
        device = self._device
        if device is None or all(tensor.device == device for tensor in tensors_of(batch)):
            return batch
        return mapped(batch, lambda tensor: tensor.to(device))

    def _merged(self, pieces: list[Batch]) -> list[Batch]:
        """One batch, unless training accumulates, or examples differ in shape (sequences of unequal
        length)."""
        if self._accumulation > 1 or len(pieces) < 2:
            return pieces
        try:
            return [join_batches(pieces)]
        except BadArgument:
            return pieces


@lru_cache(maxsize=16)
def _number_and_parts(factor: Amount | Fraction, accumulation: int) -> tuple[int, int]:
    """An update as a number of parts of a batch, and into how many of them a batch is cut."""
    needed = Fraction(factor).limit_denominator(FINEST) * accumulation
    return needed.numerator, needed.denominator
