"""The readings of a run: all of them, or those that were written since the last call.

Lines are decoded in blocks and kept as arrays, which makes a million readings fast to read.
"""

import gc
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int

from gradiometer.errors import RunDamaged
from gradiometer.measurement.optimizer.groups import Family, Group, read
from gradiometer.measurement.reading import Draw, Sampling, Series
from gradiometer.run.rules import MOST_STEPS
from gradiometer.storage.disk import open_to_read, reason_of
from gradiometer.storage.journal import is_incomplete, restored, skipped_lines

# Names of the moments with their numbers of layers, −1 for a moment without layers.
Shape = tuple[tuple[str, int], ...]


Number = float | Literal["inf", "-inf", "nan"]
StepNumber = Annotated[int, msgspec.Meta(ge=0, lt=MOST_STEPS)]


class ReadingLine(msgspec.Struct, tag_field="kind", tag="reading", gc=False):
    """A reading as a line of the journal."""

    gauge: str
    step: StepNumber
    batch_size: Annotated[int, msgspec.Meta(ge=1, lt=MOST_STEPS)]
    learning_rate: float
    moments: dict[str, Number | list[Number]]


def _shape(line: ReadingLine) -> Shape:
    return tuple(
        sorted(
            (name, len(value) if isinstance(value, list) else -1)
            for name, value in line.moments.items()
        )
    )


def _arrays_of(gauge: str, lines: Sequence[ReadingLine]) -> Series:
    """The lines as arrays. How their batches were drawn is in another file.

    Raises KeyError, TypeError or ValueError unless all lines have the shape of the first.
    """
    count, shape = len(lines), _shape(lines[0])
    moments = [line.moments for line in lines]
    if set(map(len, moments)) != {len(shape)}:
        raise ValueError
    return Series(
        gauge,
        np.fromiter([line.step for line in lines], np.int64, count),
        np.fromiter([line.batch_size for line in lines], np.int64, count),
        np.fromiter([line.learning_rate for line in lines], np.float64, count),
        {name: _array([each[name] for each in moments], length) for name, length in shape},
        Sampling(Draw.REPLACEMENT),
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


def _join(parts: Sequence[Series]) -> Series:
    """Parts of one shape as one."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        steps=np.concatenate([part.steps for part in parts]),
        batch_size=np.concatenate([part.batch_size for part in parts]),
        learning_rate=np.concatenate([part.learning_rate for part in parts]),
        moments={
            name: np.concatenate([part.moments[name] for part in parts])
            for name in parts[0].moments
        },
    )


def _is_finite(series: Series) -> Bool[np.ndarray, " readings"]:
    """True for readings whose moments are all finite."""
    found = np.ones(len(series), dtype=bool)
    for values in series.moments.values():
        found &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return found


def usable(parts: Sequence[Series]) -> tuple[Series | None, list[str]]:
    """The readings of a gauge that can be used: finite, one for each step, and of the most frequent
    of several shapes; and warnings about the others."""
    # A mask copies, also where it leaves nothing out.
    finite = [part if _is_finite(part).all() else part[_is_finite(part)] for part in parts]
    total, good = sum(map(len, parts)), sum(map(len, finite))
    warnings: list[str] = []
    if good < total:
        first = min(int(part.steps[~_is_finite(part)].min(initial=MOST_STEPS)) for part in parts)
        warnings.append(
            f"{parts[0].gauge}: {total - good} of {total} readings are not finite, the first at "
            f"step {first}: skipped."
        )
    if not good:
        return None, warnings
    usual = max(finite, key=len)
    if len(usual) < good:
        warnings.append(
            f"{usual.gauge}: {good - len(usual)} readings have other moments than the rest: "
            "skipped."
        )
    return usual[in_order(usual.steps)], warnings


def in_order(steps: Int[np.ndarray, " _"]) -> slice | Int[np.ndarray, " _"]:
    """Indices that sort by step and keep the last of equal steps; a slice if the steps increase
    already."""
    if bool((steps[1:] > steps[:-1]).all()):
        return slice(None)
    _, first = np.unique(steps[::-1], return_index=True)
    return len(steps) - 1 - first


# Bytes read at a time. The decoded lines then fit into the processor's cache, which halves the
# time.
AT_ONCE = 1 << 20


class _LossesLine(
    msgspec.Struct, tag_field="kind", tag="losses", rename={"from_step": "from"}, gc=False
):
    from_step: StepNumber
    values: list[Number]


class _ResumedLine(msgspec.Struct, tag_field="kind", tag="resumed"):
    step: StepNumber


class _HyperparametersLine(msgspec.Struct, tag_field="kind", tag="hyperparameters", gc=False):
    step: StepNumber
    groups: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    optimizer: str | list[str]
    family: Family | list[Family]
    learning_rate: float | list[float]
    momentum: float | list[float]
    nesterov: bool | list[bool]
    weight_decay: float | list[float]

    def __post_init__(self) -> None:
        read(msgspec.structs.asdict(self))


# Signs with one number for every parameter tensor.
BY_TENSOR = ("gradient", "nonzero", "weights", "movement", "nonzero_at_start", "weights_at_start")

# Signs that are lists.
LISTS = (
    *BY_TENSOR,
    "evaluated_rows",
    "shared_rows",
    "rate_steps",
    "rates",
    "path_steps",
    "path",
)


class _SignsLine(msgspec.Struct, tag_field="kind", tag="signs"):
    step: StepNumber
    signs: dict[str, Number | list[Number]]

    def __post_init__(self) -> None:
        lengths = {name: len(sign) for name, sign in self.signs.items() if isinstance(sign, list)}
        if lengths.keys() != self.signs.keys() & LISTS:
            raise ValueError("a list for one number, or one number for a list")
        if len({lengths[name] for name in BY_TENSOR if name in lengths}) > 1:
            raise ValueError("lists of tensors of several lengths")
        together = self.signs.keys() & {"rate_steps", "rates", "rate_changes"}
        if together and (
            len(together) < 3 or lengths["rate_steps"] != lengths["rates"] or not lengths["rates"]
        ):
            raise ValueError("learning rates without their steps")
        if lengths.get("path_steps") != lengths.get("path"):
            raise ValueError("distances along the path without their steps")


class _OverheadLine(msgspec.Struct, tag_field="kind", tag="overhead"):
    budget: Number | None
    used: Number
    measured_steps: StepNumber
    every: Number | None
    mode: str
    spent: dict[str, Number] = {}
    outside: list[str] = []
    fixed: list[str] = []
    short_of: StepNumber | None = None
    memory: Annotated[int, msgspec.Meta(ge=0)] = 0
    beyond_allowance: bool = False


# The types of the lines.
LINES = ReadingLine | _LossesLine | _ResumedLine | _OverheadLine | _HyperparametersLine | _SignsLine

_decoder = msgspec.json.Decoder(LINES)


class Readings:
    """The readings and losses of a run, without those that a resumed run has repeated.

    `read` reads the lines that are new. A file that was replaced is read from its start. An
    incomplete last line is read again at the next call. A missing file has no readings.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start()

    def _start(self) -> None:
        self.overhead: dict[str, Any] = {}
        self._parts: defaultdict[str, dict[Shape, list[Series]]] = defaultdict(dict)
        self._losses: list[tuple[np.ndarray, np.ndarray]] = []
        # Steps and the groups of the optimizers at each.
        self.settings: list[tuple[int, tuple[Group, ...]]] = []
        # Steps and the numbers that triage needs of each.
        self.signs: list[tuple[int, dict[str, Any]]] = []
        self._garbled: list[int] = []
        # True if the last line of `_garbled` is the beginning of one.
        self._incomplete = False
        self._torn = False
        self._lines = self._offset = 0
        self._file: tuple[int, int] | None = None

    @property
    def warnings(self) -> list[str]:
        """A sentence for every place that could not be read."""
        return skipped_lines(self.path.name, self._garbled, self._lines + 1 if self._torn else None)

    def read(self) -> bool:
        """Read the lines that are new. Returns True if there were any.

        Raises:
            RunDamaged: The file cannot be read.
        """
        try:
            with open_to_read(self.path) as file:
                return self._read(file)
        except FileNotFoundError:
            came = self._file is not None
            self._start()
            return came
        except OSError as error:
            raise RunDamaged(f"`{self.path}` cannot be read: {reason_of(error)}.") from error

    def _read(self, file: BinaryIO) -> bool:
        stat = os.fstat(file.fileno())
        if self._file != (stat.st_dev, stat.st_ino) or stat.st_size < self._offset:
            self._start()
            self._file = (stat.st_dev, stat.st_ino)
        if stat.st_size == self._offset:
            return False
        file.seek(self._offset)
        with _no_garbage_collection():
            rest = b""
            for piece in iter(partial(file.read, AT_ONCE), b""):
                whole, newline, rest = (rest + piece).rpartition(b"\n")
                if newline:
                    self._take(whole)
                    self._offset += len(whole) + 1
        self._torn = bool(rest.strip())
        record = _decode(rest) if self._torn else None
        if record is not None:  # complete except for its newline
            self._take_in([record])
            self._torn = False
            self._offset += len(rest)
        return True

    def _take(self, content: bytes) -> None:
        """Lines up to the last newline: all at once, or one by one if some cannot be read."""
        count = content.count(b"\n") + 1
        try:
            records = _decoder.decode_lines(content)
            self._repeat(self._lines + 1, records[:1])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            records = []
            for number, text in enumerate(content.split(b"\n"), start=self._lines + 1):
                if not text.strip():
                    continue
                record = _decode(text)
                if record is None:
                    self._garbled.append(number)
                    self._incomplete = is_incomplete(text)
                else:
                    self._repeat(number, [record])
                    records.append(record)
        self._lines += count
        self._take_in(records)

    def _repeat(self, number: int, records: list[Any]) -> None:
        """Forget an incomplete line directly before one from which on its steps are made again."""
        repeats = records and type(records[0]) is _ResumedLine
        if repeats and self._incomplete and self._garbled[-1:] == [number - 1]:
            self._garbled.pop()

    def _take_in(self, records: Iterable[Any]) -> None:
        readings: defaultdict[str, list[ReadingLine]] = defaultdict(list)
        for record in records:
            if type(record) is ReadingLine:
                readings[record.gauge].append(record)
            elif type(record) is _LossesLine:
                values = np.array(record.values, dtype=np.float64)
                steps = np.arange(record.from_step, record.from_step + len(values), dtype=np.int64)
                self._losses.append((steps, values))
            elif type(record) is _HyperparametersLine:
                self.settings.append((record.step, read(msgspec.structs.asdict(record))))
            elif type(record) is _SignsLine:
                self.signs.append((record.step, restored(record.signs)))
            elif type(record) is _OverheadLine:
                self.overhead = restored(msgspec.structs.asdict(record))
            else:
                self._stack(readings)
                readings.clear()
                self._drop_from(record.step)
        self._stack(readings)

    def _stack(self, readings: Mapping[str, list[ReadingLine]]) -> None:
        for gauge, lines in readings.items():
            by_shape = self._parts[gauge]
            try:
                # Lines of several shapes are rare, and to ask every line for its shape takes as
                # long as to read it.
                part = _arrays_of(gauge, lines)
                by_shape.setdefault(_shape(lines[0]), []).append(part)
            except (KeyError, TypeError, ValueError):
                for shape, alike in groupby(sorted(lines, key=_shape), key=_shape):
                    by_shape.setdefault(shape, []).append(_arrays_of(gauge, list(alike)))

    def _drop_from(self, step: int) -> None:
        """Drop what the previous process wrote from this step on."""
        for by_shape in self._parts.values():
            for parts in by_shape.values():
                parts[:] = [part[part.steps < step] for part in parts]
        self._losses = [
            (steps[steps < step], losses[steps < step]) for steps, losses in self._losses
        ]
        self.settings = [(at, groups) for at, groups in self.settings if at < step]
        self.signs = [(at, signs) for at, signs in self.signs if at < step]

    @property
    def losses(self) -> tuple[Int[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
        """Steps in increasing order, and their losses. If a step has two lines, the later one
        counts."""
        if not self._losses:
            return np.array([], dtype=np.int64), np.array([], dtype=np.float64)
        if len(self._losses) > 1:  # joined once, for the next call
            at, values = zip(*self._losses, strict=True)
            self._losses = [(np.concatenate(at), np.concatenate(values))]
        steps, losses = self._losses[0]
        order = in_order(steps)
        return steps[order], losses[order]

    def series(
        self, sampling: Sampling, layers: tuple[str, ...]
    ) -> tuple[dict[str, Series], list[str]]:
        """The usable readings of every gauge, and warnings about the others."""
        found: dict[str, Series] = {}
        warnings: list[str] = []
        for gauge, by_shape in self._parts.items():
            for parts in by_shape.values():
                parts[:] = [_join(parts)]  # joined once, for the next call
            series, complaints = usable([parts[0] for parts in by_shape.values()])
            warnings += complaints
            if series is not None:
                found[gauge] = replace(series, sampling=sampling, layers=layers)
        return found, warnings


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Decoded lines have no reference cycles, and the search for them takes longer than the
    decoding."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _decode(text: bytes) -> Any:
    """The record of a line, or None if it cannot be decoded."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
