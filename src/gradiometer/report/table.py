"""A run's numbers as columns, and as CSV or Parquet files."""

import csv
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from gradiometer.errors import BadArgument
from gradiometer.run.reader import Run
from gradiometer.storage.disk import writing

Table = Mapping[str, np.ndarray]
"""Columns of equal length, by column name."""


def table_of(run: Run, what: str) -> Table:
    """The readings, losses or evaluations of a run as a table.

    Readings have one row per gauge and measured step. A moment measured by layer has one column per
    layer, named `moment/layer`.

    Args:
        run: The run.
        what: "readings", "losses" or "evaluations".
    """
    if what == "losses":
        return dict(zip(("step", "loss"), run.losses, strict=True))
    if what == "evaluations":
        rows = [
            {
                "step": event["step"],
                "quantity": name,
                **{key: estimate[key] for key in ("value", "low", "high", "level")},
            }
            for event in run.evaluations
            for name, estimate in event["estimates"].items()
        ]
        return {key: np.array([row[key] for row in rows]) for key in rows[0]} if rows else {}
    return _readings(run)


def write_table(table: Table, path: Path) -> int:
    """Write a table as CSV or Parquet, by the suffix of the file's name. Returns the number of
    rows.

    Raises:
        BadArgument: The suffix is neither .csv nor .parquet, or pyarrow is missing.
        StorageFailed: The file cannot be written.

    >>> import tempfile
    >>> import numpy as np
    >>> from gradiometer.report.table import write_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_table({"step": np.arange(3), "loss": np.array([2.3, 1.1, 0.7])}, Path(folder) / "losses.csv")
    3
    """
    if path.suffix not in (".csv", ".parquet"):
        raise BadArgument(f"`path` must end in .csv or .parquet, got {str(path)!r}.")
    with writing(path, "choose another file"):
        if path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(table)
                writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
        elif find_spec("pyarrow") is None:
            raise BadArgument(
                f"`path` {path}: Parquet needs pyarrow, which is not installed. "
                "Run pip install 'gradiometer[parquet]', or write a .csv file."
            )
        else:
            import pyarrow  # noqa: PLC0415 (an extra)
            import pyarrow.parquet  # noqa: PLC0415

            pyarrow.parquet.write_table(pyarrow.table(dict(table)), path)
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
            elif values.shape[1] != len(run.layers):
                columns[moment] = values[:, 0]  # products are of the whole model
            else:
                columns |= {
                    f"{moment}/{layer}": values[:, place] for place, layer in enumerate(run.layers)
                }
        parts.append(columns)
    # One below the other. A column that a gauge does not have is NaN there.
    names = list(dict.fromkeys(name for part in parts for name in part))
    return {
        name: np.concatenate(
            [part[name] if name in part else np.full(len(part["step"]), np.nan) for part in parts]
        )
        for name in names
    }
