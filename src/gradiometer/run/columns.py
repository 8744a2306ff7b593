"""The readings of one gauge as arrays, without those that cannot be used."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int

# Names of the moments with their numbers of layers, −1 for a moment without layers.
Shape = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Columns:
    """Readings of one gauge, all of one shape, in the order they were written. Numbers may be
    non-finite."""

    shape: Shape
    steps: Int[np.ndarray, " readings"]
    batch_size: Int[np.ndarray, " readings"]
    learning_rate: Float[np.ndarray, " readings"]
    moments: Mapping[str, Float[np.ndarray, "readings ..."]]

    def __len__(self) -> int:
        return len(self.steps)

    def select(self, which: Bool[np.ndarray, " readings"] | Int[np.ndarray, " _"]) -> "Columns":
        """The selected readings."""
        return replace(
            self,
            steps=self.steps[which],
            batch_size=self.batch_size[which],
            learning_rate=self.learning_rate[which],
            moments={name: values[which] for name, values in self.moments.items()},
        )

    @property
    def finite(self) -> Bool[np.ndarray, " readings"]:
        """True for readings whose moments are all finite."""
        found = np.ones(len(self), dtype=bool)
        for values in self.moments.values():
            finite = np.isfinite(values)
            if not finite.all():
                found &= finite if finite.ndim == 1 else finite.all(axis=1)
        return found

    @classmethod
    def join(cls, parts: "Sequence[Columns]") -> "Columns":
        """The parts, concatenated. All have the same shape."""
        if len(parts) == 1:
            return parts[0]
        names = parts[0].moments
        return cls(
            parts[0].shape,
            np.concatenate([part.steps for part in parts]),
            np.concatenate([part.batch_size for part in parts]),
            np.concatenate([part.learning_rate for part in parts]),
            {name: np.concatenate([part.moments[name] for part in parts]) for name in names},
        )


Number = float | Literal["inf", "-inf", "nan"]
StepNumber = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class ReadingLine(msgspec.Struct, tag_field="kind", tag="reading", gc=False):
    """A reading as a line of the journal."""

    gauge: str
    step: StepNumber
    batch_size: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
    learning_rate: Number
    moments: dict[str, Number | list[Number]]


def columns_of(lines: Sequence[ReadingLine]) -> list[Columns]:
    """Lines of one gauge, stacked: one part for each shape, in the order in which the shapes appear
    first."""
    try:
        return [_stack(lines)]
    except (KeyError, TypeError, ValueError):
        by_shape: dict[Shape, list[ReadingLine]] = {}
        for line in lines:
            by_shape.setdefault(_shape(line), []).append(line)
        return [_stack(part) for part in by_shape.values()]


def _stack(lines: Sequence[ReadingLine]) -> Columns:
    """Raises KeyError, TypeError or ValueError unless all lines have the same shape."""
    shape, count = _shape(lines[0]), len(lines)
    moments = [line.moments for line in lines]
    if set(map(len, moments)) != {len(shape)}:
        raise ValueError
    return Columns(
        shape,
        np.fromiter([line.step for line in lines], np.int64, count),
        np.fromiter([line.batch_size for line in lines], np.int64, count),
        np.fromiter([line.learning_rate for line in lines], np.float64, count),
        {name: _array([each[name] for each in moments], length) for name, length in shape},
    )


def _array(values: list[Any], length: int) -> Float[np.ndarray, "readings ..."]:
    """As doubles; "inf", "-inf" and "nan" become numbers. A flat iterator takes half the time of
    nested lists."""
    if length < 0:
        return np.fromiter(values, np.float64, len(values))
    if set(map(len, values)) != {length}:
        raise ValueError
    numbers = np.fromiter(chain.from_iterable(values), np.float64, len(values) * length)
    return numbers.reshape(len(values), length)


def merge(blocks: Sequence[Columns]) -> list[Columns]:
    """One block for each shape, in the order in which the shapes appear first. Single blocks are
    not copied."""
    by_shape: dict[Shape, list[Columns]] = {}
    for block in blocks:
        by_shape.setdefault(block.shape, []).append(block)
    return [Columns.join(part) for part in by_shape.values()]


def _shape(line: ReadingLine) -> Shape:
    return tuple(
        sorted(
            (name, len(value) if isinstance(value, list) else -1)
            for name, value in line.moments.items()
        )
    )


def usable(gauge: str, blocks: Sequence[Columns]) -> tuple[Columns | None, list[str]]:
    """The readings that can be stacked: finite, one for each step, and of the most frequent shape;
    and warnings."""
    warnings: list[str] = []
    finite = [block.finite for block in blocks]
    total, good = sum(map(len, blocks)), int(sum(which.sum() for which in finite))
    if good < total:
        first = min(
            int(block.steps[~which][0])
            for block, which in zip(blocks, finite, strict=True)
            if not which.all()
        )
        warnings.append(
            f"{gauge}: {total - good} of {total} readings are not finite, the first at step "
            f"{first}: skipped."
        )
        blocks = [block.select(which) for block, which in zip(blocks, finite, strict=True)]
    counts: Counter[Shape] = Counter()
    for block in blocks:
        counts[block.shape] += len(block)
    if not good:
        return None, warnings
    usual = counts.most_common(1)[0][0]
    if counts[usual] < good:
        warnings.append(
            f"{gauge}: {good - counts[usual]} readings have other moments than the rest: skipped."
        )
    columns = Columns.join([block for block in blocks if block.shape == usual])
    order = in_order(columns.steps)
    return columns if isinstance(order, slice) else columns.select(order), warnings


def in_order(steps: Int[np.ndarray, " _"]) -> slice | Int[np.ndarray, " _"]:
    """Indices that sort by step and keep the last of equal steps; a slice if the steps increase
    already."""
    if bool((steps[1:] > steps[:-1]).all()):
        return slice(None)
    _, first = np.unique(steps[::-1], return_index=True)
    return len(steps) - 1 - first
