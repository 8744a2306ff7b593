"""The readings of a run, taken in as far as they are written: from the start, or only what came since.

A million readings are decoded a block of lines at a time and kept as arrays; no line stays an object.
"""

import gc
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument
from gradiometer.measurement.reading import Sampling, Series
from gradiometer.run.columns import Columns, columns_of, in_order, merged, usable
from gradiometer.run.journal import NOT_FINITE, grouped

AT_ONCE = 1 << 20
"""Bytes taken in at a time: few enough that what is made of them lies in the processor's cache, at half the time."""

_Number = float | Literal["inf", "-inf", "nan"]
_StepNumber = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _ReadingLine(msgspec.Struct, tag_field="kind", tag="reading", gc=False):
    gauge: str
    step: _StepNumber
    batch_size: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
    learning_rate: _Number
    moments: dict[str, _Number | list[_Number]]


class _LossesLine(msgspec.Struct, tag_field="kind", tag="losses", rename={"from_step": "from"}, gc=False):
    from_step: _StepNumber
    values: list[_Number]


class _ResumedLine(msgspec.Struct, tag_field="kind", tag="resumed"):
    step: _StepNumber


class _OverheadLine(msgspec.Struct, tag_field="kind", tag="overhead"):
    budget: _Number | None
    used: _Number
    measured_steps: int
    every: _Number | None
    mode: str


_decoder = msgspec.json.Decoder(_ReadingLine | _LossesLine | _ResumedLine | _OverheadLine)


class Readings:
    """One rank's file of readings and losses, without what a resumed run has overtaken. Missing, it is empty.

    Call `read` for what came since; a file that was replaced is read from its start. What lies beyond the last
    newline is looked at again at the next call.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start()

    def _start(self) -> None:
        self.overhead: dict[str, Any] = {}
        self._columns: dict[str, list[Columns]] = {}
        self._losses: list[tuple[np.ndarray, np.ndarray]] = []
        self._garbled: list[int] = []
        self._torn = False
        self._lines = self._offset = 0
        self._file: tuple[int, int] | None = None

    @property
    def warnings(self) -> list[str]:
        """A sentence for every place that could not be read."""
        told = [f"{self.path.name}:{place}: {count} left out." for place, count in grouped(self._garbled)]
        if self._torn:
            place = f"{self.path.name}:{self._lines + 1}"
            told.append(f"{place}: the last line is torn, its writing did not finish: left out.")
        return told

    def read(self) -> bool:
        """Take in what was written since. Returns whether there was anything.

        Raises:
            BadArgument: The file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except FileNotFoundError:
            came = self._file is not None
            self._start()
            return came
        except OSError as error:
            raise BadArgument(f"`{self.path}` cannot be read: {(error.strerror or str(error)).lower()}.") from error

    def _read(self, file: BinaryIO) -> bool:
        stat = os.fstat(file.fileno())
        if self._file != (stat.st_dev, stat.st_ino) or stat.st_size < self._offset:
            self._start()
            self._file = (stat.st_dev, stat.st_ino)
        if stat.st_size == self._offset:
            return False
        file.seek(self._offset)
        with _collector_at_rest():
            rest = b""
            while piece := file.read(AT_ONCE):
                whole, newline, rest = (rest + piece).rpartition(b"\n")
                if newline:
                    self._take(whole)
                    self._offset += len(whole) + 1
        self._torn = bool(rest.strip())
        if self._torn and (record := _decoded(rest)) is not None:  # whole, but for its newline
            self._take_in([record])
            self._torn = False
            self._offset += len(rest)
        return True

    def _take(self, content: bytes) -> None:
        """Lines up to the last newline: all at once, and one by one where some are garbled."""
        count = content.count(b"\n") + 1
        try:
            records = _decoder.decode_lines(content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            records = []
            for number, text in enumerate(content.split(b"\n"), start=self._lines + 1):
                if not text.strip():
                    continue
                record = _decoded(text)
                self._garbled.append(number) if record is None else records.append(record)
        self._lines += count
        self._take_in(records)

    def _take_in(self, records: Iterable[Any]) -> None:
        readings: defaultdict[str, list[_ReadingLine]] = defaultdict(list)
        for record in records:
            if type(record) is _ReadingLine:
                readings[record.gauge].append(record)
            elif type(record) is _LossesLine:
                values = np.array(record.values, dtype=np.float64)
                steps = np.arange(record.from_step, record.from_step + len(values), dtype=np.int64)
                self._losses.append((steps, values))
            elif type(record) is _OverheadLine:
                self.overhead = {name: NOT_FINITE.get(x, x) for name, x in msgspec.structs.asdict(record).items()}
            else:
                self._stack(readings)
                readings.clear()
                self._drop_from(record.step)
        self._stack(readings)

    def _stack(self, readings: Mapping[str, list[_ReadingLine]]) -> None:
        for gauge, lines in readings.items():
            self._columns.setdefault(gauge, []).extend(columns_of(lines))

    def _drop_from(self, step: int) -> None:
        """What the process before wrote from this step on."""
        for blocks in self._columns.values():
            blocks[:] = [block.kept(block.steps < step) for block in blocks]
        self._losses = [(steps[steps < step], losses[steps < step]) for steps, losses in self._losses]

    @property
    def losses(self) -> tuple[Int[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
        """In increasing order of steps; where a step came twice, the later line counts."""
        if not self._losses:
            return np.array([], dtype=np.int64), np.array([], dtype=np.float64)
        if len(self._losses) > 1:  # kept as one, for whoever asks again
            at, values = zip(*self._losses, strict=True)
            self._losses = [(np.concatenate(at), np.concatenate(values))]
        steps, losses = self._losses[0]
        order = in_order(steps)
        return steps[order], losses[order]

    def series(self, sampling: Sampling, layers: tuple[str, ...]) -> tuple[dict[str, Series], list[str]]:
        """The readings of every gauge that can be stacked, and a sentence for those that cannot."""
        found: dict[str, Series] = {}
        warnings: list[str] = []
        for gauge, blocks in self._columns.items():
            blocks[:] = merged([block for block in blocks if len(block)])  # kept so, for whoever asks again
            columns, complaints = usable(gauge, blocks)
            warnings += complaints
            if columns is not None:
                found[gauge] = Series(
                    gauge,
                    columns.steps,
                    columns.batch_size,
                    columns.learning_rate,
                    columns.moments,
                    sampling,
                    layers,
                )
        return found, warnings


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """No search for cycles among what cannot have any: it takes more time than the decoding itself."""
    was_at_work = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_at_work:
            gc.enable()


def _decoded(text: bytes) -> Any:
    """The record of a line, or None where it is garbled."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
