"""A log: columns of numbers over steps, in the order in which they were written, whatever tool wrote them."""

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
    """One quantity as it was logged.

    Args:
        name: As the log calls it.
        steps: Step of each value, in the order written: where a run was taken up again, they go back.
        values: They may be infinite or not a number.
    """

    name: str
    steps: Int[np.ndarray, " logged"]
    values: Float[np.ndarray, " logged"]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def latest(self) -> "Column":
        """In increasing order of steps; of a step that was logged twice, the later value."""
        _, last = np.unique(self.steps[::-1], return_index=True)
        chosen = len(self.steps) - 1 - last
        return Column(self.name, self.steps[chosen], self.values[chosen])

    @property
    def finite(self) -> "Column":
        """Without what is infinite or not a number."""
        kept = np.isfinite(self.values)
        return Column(self.name, self.steps[kept], self.values[kept])


@dataclass(frozen=True)
class Log:
    """What a tool wrote while a model was trained.

    Args:
        path: Where it lies.
        tool: What wrote it, in words.
        columns: By name.
        notes: What was odd in reading it, a sentence each.
        loss: Name of the training loss, where it is not one of the usual names.
    """

    path: str
    tool: str
    columns: Mapping[str, Column]
    notes: tuple[str, ...] = ()
    loss: str | None = field(default=None)

    def __post_init__(self) -> None:
        if not any(len(column) for column in self.columns.values()):
            raise BadArgument(f"`{self.path}` holds no numbers over steps: {self.tool} was expected to have some.")
        if self.loss is not None and self.loss not in self.columns:
            raise BadArgument(f"`--loss` names {self.loss!r}, which the log has not: it has {', '.join(self.columns)}.")

    @property
    def losses(self) -> Column | None:
        """The training loss; None where no column is called so."""
        if self.loss is not None:
            return self.columns[self.loss]
        others = [name for name in self.columns if "loss" in name.lower() and not HELD_OUT.search(name)]
        return self._named(LOSSES, others)

    @property
    def learning_rates(self) -> Column | None:
        """The learning rate; of several groups, the first."""
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
    """Columns from rows: what is a number, at the row's step; and a note where no column says the step.

    A row without the column has no value there; a value that is no number counts as none.
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
    notes = () if step is not None else ("No column says the step: rows are counted in its place.",)
    return {
        name: Column(name, np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))
        for name, (steps, values) in gathered.items()
    }, notes


def _number(value: object) -> float | None:
    """A number, or the text of one; None for what is neither."""
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
