"""A run's numbers as columns, and as CSV or Parquet files."""

import csv
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from gradiometer.errors import BadArgument
from gradiometer.run.reader import Run

Table = Mapping[str, np.ndarray]
"""Columns of equal length, by name."""


def table_of(run: Run, what: str) -> Table:
    """The readings, losses or evaluations of a run.

    Readings have one row a gauge and measured step; a moment taken by layer has a column for each, `moment/layer`.
    """
    makers = {"readings": _readings, "losses": _losses, "evaluations": _evaluations}
    return makers[what](run)


def write_table(table: Table, path: Path) -> int:
    """Write a table in the format its file's name ends in. Returns the number of rows.

    Raises:
        BadArgument: The ending is neither .csv nor .parquet, pyarrow is missing, or the file cannot be written.
    """
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise BadArgument(f"`{path}` ends in {path.suffix or 'nothing'!r}: name a file that ends in .csv or .parquet.")
    try:
        writers[path.suffix](table, path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadArgument(f"`{path}` cannot be written: {reason}; choose another place.") from error
    return len(next(iter(table.values()), ()))


def _readings(run: Run) -> Table:
    parts = []
    for gauge in run.gauges:
        series = run.series(gauge)
        if series is None:
            continue
        columns = {
            "gauge": np.full(len(series), gauge),
            "step": series.steps,
            "batch_size": series.batch_size,
            "learning_rate": series.learning_rate,
        }
        for moment, values in series.moments.items():
            if values.ndim == 1:
                columns[moment] = values
            else:
                columns |= {f"{moment}/{layer}": values[:, place] for place, layer in enumerate(run.layers)}
        parts.append(columns)
    return _stacked(parts)


def _losses(run: Run) -> Table:
    steps, losses = run.losses
    return {"step": steps, "loss": losses}


def _evaluations(run: Run) -> Table:
    rows = [
        {"step": event["step"], "quantity": name, **{key: estimate[key] for key in ("value", "low", "high", "level")}}
        for event in run.evaluations
        for name, estimate in event["estimates"].items()
    ]
    return {key: np.array([row[key] for row in rows]) for key in rows[0]} if rows else {}


def _stacked(parts: list[dict[str, np.ndarray]]) -> Table:
    """Tables one under the other; where one lacks a column there is NaN."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    return {
        name: np.concatenate([part[name] if name in part else np.full(len(part["step"]), np.nan) for part in parts])
        for name in names
    }


def _write_csv(table: Table, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))


def _write_parquet(table: Table, path: Path) -> None:
    if find_spec("pyarrow") is None:
        raise BadArgument(
            f"`{path}`: Parquet needs pyarrow, which is not installed: pip install 'gradiometer[parquet]', "
            "or name a file that ends in .csv."
        )
    import pyarrow  # noqa: PLC0415 (an extra)
    import pyarrow.parquet  # noqa: PLC0415

    pyarrow.parquet.write_table(pyarrow.table(dict(table)), path)
