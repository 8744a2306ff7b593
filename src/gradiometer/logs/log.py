"""A log: columns of numbers over steps, in the order they were written."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument

HELD_OUT = re.compile(r"(^|[/_\-. ])(val|valid|validation|eval|test|dev)([/_\-. ]|$)", re.IGNORECASE)
STEP = ("step", "global_step", "_step", "steps", "iteration", "iter", "iters", "update", "updates", "it")
LOSSES = ("loss", "train_loss", "train/loss", "training_loss", "train_loss_step", "loss/train", "train/train_loss")
RATES = ("learning_rate", "lr", "train/learning_rate", "train/lr", "lrs")
NORMS = ("grad_norm", "train/grad_norm", "gradient_norm", "grad_2.0_norm_total", "train/gradient_norm")
EPOCHS = ("epoch", "train/epoch", "epochs")


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
        """Without NaN and inf."""
        kept = np.isfinite(self.values)
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
    """

    path: str
    tool: str
    columns: Mapping[str, Column]
    notes: tuple[str, ...] = ()
    loss: str | None = field(default=None)

    def __post_init__(self) -> None:
        if not any(len(column) for column in self.columns.values()):
            raise BadArgument(f"`{self.path}` has no numbers over steps, but was read as the log of {self.tool}.")
        if self.loss is not None and self.loss not in self.columns:
            raise BadArgument(
                f"`--loss` must be a column of the log, got {self.loss!r}: available are {', '.join(self.columns)}."
            )

    @property
    def losses(self) -> Column | None:
        """The training loss; None if no column has such a name."""
        if self.loss is not None:
            return self.columns[self.loss]
        others = [name for name in self.columns if "loss" in name.lower() and not HELD_OUT.search(name)]
        return self._named(LOSSES, others)

    @property
    def learning_rates(self) -> Column | None:
        """The learning rate; the first one if there are several groups."""
        return self._named(RATES, [name for name in self.columns if re.match(r"lr([-_/]|$)", name, re.IGNORECASE)])

    @property
    def gradient_norms(self) -> Column | None:
        """The norm of the batch gradient."""
        return self._named(NORMS, [name for name in self.columns if "grad" in name.lower() and "norm" in name.lower()])

    @property
    def epochs(self) -> Column | None:
        """The epoch, whole or in fractions."""
        return self._named(EPOCHS, [])

    def _named(self, usual: Sequence[str], others: Iterable[str]) -> Column | None:
        by_name = {name.lower(): name for name in self.columns}
        names = [by_name[name] for name in usual if name in by_name] + list(others)
        return next((self.columns[name] for name in names if len(self.columns[name])), None)


def columns_of(rows: Iterable[Mapping[str, object]]) -> tuple[dict[str, Column], tuple[str, ...]]:
    """Columns from the numbers in rows, and a note if no column has the step.

    Missing values and values that are not numbers are omitted.
    """
    rows = [{str(name).strip(): value for name, value in row.items()} for row in rows]
    step = next((name for wanted in STEP for row in rows[:50] for name in row if name.lower() == wanted), None)
    gathered: dict[str, tuple[list[int], list[float]]] = {}
    for place, row in enumerate(rows):
        at = place if step is None else _number(row.get(step))
        if at is None or not math.isfinite(at):
            continue
        for name, value in row.items():
            number = None if name == step else _number(value)
            if number is not None:
                steps, values = gathered.setdefault(name, ([], []))
                steps.append(int(at))
                values.append(number)
    notes = () if step is not None else ("No column has the step: rows are counted instead.",)
    return {
        name: Column(name, np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))
        for name, (steps, values) in gathered.items()
    }, notes


def _number(value: object) -> float | None:
    """The value as a number, if it is one or is the text of one; else None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        text = re.sub(r"^tensor\((.*?)(,.*)?\)$", r"\1", value.strip())
        try:
            return float(text)
        except ValueError:
            return None
    return None
