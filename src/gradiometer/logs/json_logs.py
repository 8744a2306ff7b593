"""Read logs in JSON: the Trainer's state, the history of Keras, lists of objects, and one object
per line."""

import json
from pathlib import Path
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.logs.log import HELD_OUT, Log, columns_of

Row = dict[str, Any]


def read_json(path: Path, text: str, loss: str | None, supported: str) -> Log | None:
    """The log in a JSON text; None if it is not JSON.

    Args:
        path: Where the text is from.
        text: One object, a list of objects, or one object per line.
        loss: Name of the training loss, if it is an unusual one.
        supported: The formats to pass instead, for the error.
    """
    try:
        whole: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError, ValueError):
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("log_history"), list):
        columns, notes = columns_of([row for row in whole["log_history"] if isinstance(row, dict)])
        summary = "train_runtime" in columns  # the last row is a summary, under the name of a loss
        columns = {
            name: column
            for name, column in columns.items()
            if not (summary and name == "train_loss")
        }
        return Log(str(path), "Hugging Face's Trainer", columns, notes, loss)
    if isinstance(whole, dict) and (history := _history(whole)):
        columns, notes = columns_of(history)
        return Log(str(path), "Keras", columns, notes, loss)
    if (
        isinstance(whole, list)
        and whole
        and all(isinstance(row, list) and len(row) == 3 for row in whole)
    ):
        # TensorBoard's download of one scalar: wall time, step, value
        columns, notes = columns_of(
            [{"step": step, named_after(path): value} for _, step, value in whole]
        )
        return Log(str(path), "TensorBoard's export", columns, notes, loss)
    if isinstance(whole, list):
        rows, torn = [row for row in whole if isinstance(row, dict)], 0
    elif isinstance(whole, dict) and "\n" in text.strip():
        raise BadArgument(
            f"`{path}` is one JSON object without a `log_history` or lists of numbers: pass "
            f"{supported}."
        )
    else:
        rows, torn = _lines(text)
    if not rows or torn > len(rows):
        return None
    columns, notes = columns_of(rows)
    return Log(str(path), "JSON lines", columns, notes, loss, (len(rows), len(rows) + torn))


def named_after(path: Path) -> str:
    """The name of the only column of a file: a loss, on held-out examples if the file's name says
    so."""
    return "val_loss" if HELD_OUT.search(path.stem) else "loss"


def _history(whole: Row) -> list[Row]:
    """The rows of a `History` of Keras, a list per quantity with one number per epoch; empty if it
    is none."""
    lists = whole["history"] if isinstance(whole.get("history"), dict) else whole
    columns = {
        name: values
        for name, values in lists.items()
        if isinstance(values, list)
        and values
        and all(isinstance(value, int | float | str) for value in values)
    }
    if not columns or len({len(values) for values in columns.values()}) > 1:
        return []
    count = len(next(iter(columns.values())))
    given = whole.get("epoch")
    epochs = given if isinstance(given, list) and len(given) == count else range(1, count + 1)
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return [{"epoch": epoch, **row} for epoch, row in zip(epochs, rows, strict=True)]


def _lines(text: str) -> tuple[list[Row], int]:
    """The objects in JSON lines, and the number of lines that are not objects."""
    rows, torn = [], 0
    for line in text.splitlines():
        if line.strip():
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError, ValueError):
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                torn += 1
    return rows, torn
