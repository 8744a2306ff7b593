"""A log: columns of numbers over steps, in the order they were written."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument

HELD_OUT = re.compile(
    r"(^|[/_\-. ])(val|valid|validation|eval|test|dev)([/_\-. ]|$)", re.IGNORECASE
)
STEP = (
    "step",
    "global_step",
    "_step",
    "steps",
    "iteration",
    "iter",
    "iters",
    "num_updates",
    "update",
    "updates",
    "it",
)
LOSSES = (
    "loss",
    "train_loss",
    "train/loss",
    "training_loss",
    "train_loss_step",
    "loss/train",
    "train/train_loss",
)
RATES = ("learning_rate", "lr", "train/learning_rate", "train/lr", "lrs")
NORMS = (
    "grad_norm",
    "train/grad_norm",
    "gradient_norm",
    "grad_2.0_norm_total",
    "train/gradient_norm",
    "gnorm",
)
HELD_OUT_LOSSES = (
    "val_loss",
    "valid_loss",
    "validation_loss",
    "eval_loss",
    "test_loss",
    "val/loss",
    "eval/loss",
)
EPOCHS = ("epoch", "train/epoch", "epochs")


# Steps are whole numbers below this one, up to which floats hold every whole number.
LARGEST_STEP = 2**53


@dataclass(frozen=True)
class Column:
    """One logged quantity.

    Args:
        name: Name in the log.
        steps: Step of each value, in the order written. After a resume they may go back.
        values: May be infinite or NaN.
    """

    name: str
    steps: Int[np.ndarray, " logged"]
    values: Float[np.ndarray, " logged"]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def latest(self) -> "Column":
        """In increasing order of steps. If a step was logged twice, the later value counts."""
        _, last = np.unique(self.steps[::-1], return_index=True)
        chosen = len(self.steps) - 1 - last
        return Column(self.name, self.steps[chosen], self.values[chosen])

    @property
    def finite(self) -> "Column":
        """Without NaN, inf, and numbers whose squares are beyond a float."""
        kept = np.abs(self.values) < 1e150
        return Column(self.name, self.steps[kept], self.values[kept])


@dataclass(frozen=True)
class Log:
    """The log of a training.

    Args:
        path: Path of the file.
        tool: The tool that wrote it.
        columns: Columns by name.
        notes: Problems found while reading, one sentence each.
        loss: Name of the training loss, if it is not a usual one.
        understood: Number of lines that gave a number, and of all lines with numbers; None for a
            format without lines.
    """

    path: str
    tool: str
    columns: Mapping[str, Column]
    notes: tuple[str, ...] = ()
    loss: str | None = field(default=None)
    understood: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.understood is not None and 2 * self.understood[0] < self.understood[1]:
            raise BadArgument(
                f"`{self.path}` was read as {self.tool}, and {self.understood[0]:,} of "
                f"{self.understood[1]:,} lines were understood, less than half: pass the log "
                "alone, or a CSV with a header."
            )
        if not any(len(column) for column in self.columns.values()):
            raise BadArgument(
                f"`{self.path}` has no numbers over steps, but was read as the log of {self.tool}."
            )
        if self.loss is not None and self.loss not in self.columns:
            raise BadArgument(
                f"`--loss` must be a column of the log, got {self.loss!r}: available are "
                f"{', '.join(self.columns)}."
            )

    @classmethod
    def of(
        cls,
        path: Path,
        tool: str,
        rows: Iterable[Mapping[str, object]],
        loss: str | None,
        understood: tuple[int, int] | None = None,
    ) -> "Log":
        """The log in rows of named numbers."""
        columns, notes = columns_of(rows)
        return cls(str(path), tool, columns, notes, loss, understood)

    @property
    def losses(self) -> Column | None:
        """The training loss; None if no column has such a name."""
        if self.loss is not None:
            return self.columns[self.loss]
        others = [
            name for name in self.columns if "loss" in name.lower() and not HELD_OUT.search(name)
        ]
        return self._column(LOSSES, others)

    @property
    def held_out_losses(self) -> Column | None:
        """The loss on held-out examples; None if no column has such a name."""
        others = [name for name in self.columns if "loss" in name.lower() and HELD_OUT.search(name)]
        return self._column(HELD_OUT_LOSSES, others)

    @property
    def learning_rates(self) -> Column | None:
        """The learning rate; the first one if there are several groups."""
        others = [name for name in self.columns if re.match(r"lr([-_/]|$)", name, re.IGNORECASE)]
        return self._column(RATES, others)

    @property
    def gradient_norms(self) -> Column | None:
        """The norm of the batch gradient."""
        return self._column(
            NORMS,
            [name for name in self.columns if "grad" in name.lower() and "norm" in name.lower()],
        )

    @property
    def epochs(self) -> Column | None:
        """The epoch, whole or in fractions."""
        return self._column(EPOCHS, [])

    def _column(self, usual: Sequence[str], others: Iterable[str]) -> Column | None:
        by_name = {name.lower(): name for name in self.columns}
        names = [by_name[name] for name in usual if name in by_name] + list(others)
        return next((self.columns[name] for name in names if len(self.columns[name])), None)


def columns_of(rows: Iterable[Mapping[str, object]]) -> tuple[dict[str, Column], tuple[str, ...]]:
    """Columns from the numbers in rows, and notes on the steps.

    Objects within a row are opened: {"train": {"loss": 1.0}} has the column train/loss. Missing
    values and values that are not numbers are omitted. Without a step, whole epochs count as steps
    if they rise from row to row; otherwise rows are counted.
    """
    flat = [dict(_flat(row)) for row in rows]
    step = next(
        (name for wanted in STEP for row in flat[:50] for name in row if name.lower() == wanted),
        None,
    )
    epoch = _epochs_as_steps(flat) if step is None else None
    gathered: dict[str, tuple[list[int], list[float]]] = {}
    beyond = 0
    for place, row in enumerate(flat):
        at = place if step is None and epoch is None else _number(row.get(step or epoch or ""))
        if at is None or math.isnan(at):
            continue
        if not abs(at) < LARGEST_STEP:
            beyond += 1
            continue
        for name, value in row.items():
            number = None if name == step else _number(value)
            if number is not None:
                steps, values = gathered.setdefault(name, ([], []))
                steps.append(int(at))
                values.append(number)
    notes = []
    if step is None:
        instead = "rows are counted" if epoch is None else f"the column {epoch} is used"
        notes.append(f"No column has the step: {instead} instead.")
    if beyond:
        notes.append(
            f"{beyond:,} row{'s' * (beyond > 1)} had a step beyond 2⁵³ and "
            f"{'were' if beyond > 1 else 'was'} skipped."
        )
    return {
        name: Column(name, np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))
        for name, (steps, values) in gathered.items()
    }, tuple(notes)


def _flat(row: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of a row and of the objects in it, with `/` between the names."""
    for name, value in row.items():
        whole = f"{prefix}{str(name).strip()}"
        # objects that are nested more deeply are not opened
        if isinstance(value, Mapping) and prefix.count("/") < 10:
            yield from _flat(value, f"{whole}/")
        else:
            yield whole, value


def _epochs_as_steps(rows: Sequence[Mapping[str, object]]) -> str | None:
    """The column of epochs, if it has whole numbers that rise from row to row."""
    for wanted in EPOCHS:
        name = next((name for row in rows[:50] for name in row if name.lower() == wanted), None)
        if name is not None:
            numbers = [number for row in rows if (number := _number(row.get(name))) is not None]
            whole = all(
                math.isfinite(number) and number == math.floor(number) for number in numbers
            )
            rising = len(numbers) == len(rows) and all(
                one < other for one, other in pairwise(numbers)
            )
            return name if whole and rising else None
    return None


def _number(value: object) -> float | None:
    """The value as a number, if it is one or the text of one; else None. An integer beyond all
    floats is infinite."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str):
        text = re.sub(r"^tensor\((.*?)(,.*)?\)$", r"\1", value.strip())
        try:
            return float(text)
        except ValueError:
            return None
    return None
