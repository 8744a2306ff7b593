"""Logs of other tools whose series are degenerate: constant, one row, NaN, alternating, near the
ends of floating point, empty."""

import csv
import json
import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradiometer.logs import log_findings, read_log
from gradiometer.verdict.words.say import as_dict, say

Draw = Callable[[random.Random, int], list[Any]]

HUGE, TINY = 1e300, 1e-300
AMOUNTS = (0.0, -0.0, 1.0, -1.0, 1e-8, HUGE, -HUGE, TINY, 5e-324, 1.7e308, 2.0**63, math.pi)
MISSING = (None, "", "nan", math.nan, math.inf, -math.inf)


def constant(draw: random.Random, rows: int) -> list[Any]:
    return [draw.choice(AMOUNTS)] * rows


def missing(draw: random.Random, rows: int) -> list[Any]:
    return [draw.choice(MISSING)] * rows


def alternating(draw: random.Random, rows: int) -> list[Any]:
    pair = draw.choices((*AMOUNTS, *MISSING), k=2)
    return [pair[row % 2] for row in range(rows)]


def nearly_constant(draw: random.Random, rows: int) -> list[Any]:
    values = constant(draw, rows)
    for _ in range(draw.randint(1, 3)):
        values[draw.randrange(rows)] = draw.choice((*AMOUNTS, *MISSING))
    return values


def growing(draw: random.Random, rows: int) -> list[Any]:
    """Up to infinity, or down to zero."""
    factor = draw.choice((1e30, 10.0, 1.01, 0.99, 0.1, 1e-30))
    return [
        min(factor**row, math.inf) if abs(row * math.log10(factor)) < 308 else 0.0
        for row in range(rows)
    ]


def steps_up(draw: random.Random, rows: int) -> list[Any]:
    low, high = draw.choices(AMOUNTS, k=2)
    at = draw.randrange(rows)
    return [low if row < at else high for row in range(rows)]


def any_of_them(draw: random.Random, rows: int) -> list[Any]:
    return draw.choices((*AMOUNTS, *MISSING), k=rows)


def falling(draw: random.Random, rows: int) -> list[Any]:
    """A column that has nothing wrong."""
    return [2.0 / (row + 1) + 0.01 * draw.random() for row in range(rows)]


SERIES: tuple[Draw, ...] = (
    constant,
    missing,
    alternating,
    nearly_constant,
    growing,
    steps_up,
    any_of_them,
    falling,
)

STEPS: tuple[Draw, ...] = (
    lambda draw, rows: list(range(rows)),
    lambda draw, rows: list(range(0, 50 * rows, 50)),
    lambda draw, rows: [draw.choice((0, 1, 7, 2**53, 2**63, -1))] * rows,
    lambda draw, rows: list(range(rows, 0, -1)),
    lambda draw, rows: [draw.randrange(rows) for _ in range(rows)],
    lambda draw, rows: [row + 0.5 for row in range(rows)],
    lambda draw, rows: [row * 10**15 for row in range(rows)],
)

COLUMNS = ("loss", "lr", "grad_norm", "epoch", "eval_loss", "val_loss", "learning_rate")

ROWS = (1, 1, 2, 3, 4, 7, 16, 33, 64, 200, 400)


def table_of(draw: random.Random) -> dict[str, list[Any]]:
    """Columns of one length."""
    rows = draw.choice(ROWS)
    columns = {"loss": draw.choice(SERIES)(draw, rows)} if draw.random() < 0.95 else {}
    for name in draw.sample(COLUMNS, draw.randint(0, 4)):
        columns[name] = draw.choice(SERIES)(draw, rows)
    if "epoch" in columns and draw.random() < 0.5:
        columns["epoch"] = [row // draw.choice((1, 10, 20)) for row in range(rows)]
    if draw.random() < 0.8 or not columns:
        columns["step"] = draw.choice(STEPS)(draw, rows)
    return columns


def json_lines(folder: Path, table: dict[str, list[Any]]) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(table)))
    return path


def json_list(folder: Path, table: dict[str, list[Any]]) -> Path:
    path = folder / "log.json"
    path.write_text(json.dumps(rows_of(table)))
    return path


def history(folder: Path, table: dict[str, list[Any]]) -> Path:
    """Columns in one object, as Keras writes them."""
    path = folder / "history.json"
    path.write_text(json.dumps(table))
    return path


def trainer(folder: Path, table: dict[str, list[Any]]) -> Path:
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"log_history": rows_of(table), "global_step": 1}))
    return path


def comma_separated(folder: Path, table: dict[str, list[Any]]) -> Path:
    path = folder / "metrics.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table))
        writer.writeheader()
        writer.writerows(rows_of(table))
    return path


def mlflow(folder: Path, table: dict[str, list[Any]]) -> Path:
    metrics = folder / "metrics"
    metrics.mkdir()
    for name, values in table.items():
        lines = [f"{1700000000000 + row} {value} {row}" for row, value in enumerate(values)]
        (metrics / name).write_text("\n".join(lines))
    return folder


def printed(folder: Path, table: dict[str, list[Any]]) -> Path:
    path = folder / "train.log"
    lines = [" ".join(f"{name}: {value}" for name, value in row.items()) for row in rows_of(table)]
    path.write_text("\n".join(lines))
    return path


FORMATS = (json_lines, json_list, history, trainer, comma_separated, mlflow, printed)


def rows_of(table: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def degenerate_log(random: random.Random, folder: Path) -> None:
    """A log of a tool, and all that `gradiometer doctor` says of it, without a warning of NumPy."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        read_all(random, folder)


def read_all(random: random.Random, folder: Path) -> None:
    """Read a log, and make its sentences."""
    path = random.choice(FORMATS)(folder, table_of(random))
    log = read_log(path)
    max(int(column.steps.max()) for column in log.columns.values() if len(column))
    for finding in log_findings(log):
        assert str(say(finding))
        json.dumps(as_dict(finding), allow_nan=False)
