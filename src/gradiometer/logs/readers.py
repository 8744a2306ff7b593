"""Readers of logs: which reader a file needs, JSON, CSV (also Lightning's), MLflow's metrics, and
TensorBoard's event files."""

import csv
import json
import re
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.logs.log import HELD_OUT, Log, columns_of
from gradiometer.logs.printed import read_lines
from gradiometer.storage.disk import open_to_read, read_file, reason_of

FOLDER = "metrics"

_LINE = re.compile(r"^\d{9,} \S+( \d+)?$")


def metrics_folder(path: Path) -> Path | None:
    """The folder `metrics` that this file or folder is, or is in, if its files are MLflow's; else
    None."""
    for folder in (path, *path.parents[:4]):
        if folder.name == FOLDER and folder.is_dir() and _files(folder):
            return folder
    return None


def read_metrics(folder: Path, loss: str | None) -> Log:
    """All metrics of a run. In the name of a metric, `/` stands for a folder."""
    rows: list[dict[str, object]] = []
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        for place, line in enumerate(read_file(file).decode(errors="replace").splitlines()):
            if _LINE.match(line):
                _, value, *step = line.split()
                rows.append({"step": step[0] if step else place, name: value})
    return Log.of(folder, "MLflow", rows, loss)


def _files(folder: Path) -> list[Path]:
    """The files whose first line has the form of a metric."""
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and _is_metric(file)]


def _is_metric(file: Path) -> bool:
    try:
        with open_to_read(file) as lines:
            return bool(_LINE.match(lines.readline(200).decode().rstrip("\r\n")))
    except (OSError, UnicodeDecodeError):
        return False


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
        history = [row for row in whole["log_history"] if isinstance(row, dict)]
        # The last row may be a summary, under the name of a loss.
        if any("train_runtime" in row for row in history):
            for row in history:
                row.pop("train_loss", None)
        return Log.of(path, "Hugging Face's Trainer", history, loss)
    epochs = _history(whole) if isinstance(whole, dict) else []
    if epochs:
        return Log.of(path, "Keras", epochs, loss)
    if (
        isinstance(whole, list)
        and whole
        and all(isinstance(row, list) and len(row) == 3 for row in whole)
    ):
        # TensorBoard's download of one scalar: wall time, step, value
        scalars = [{"step": step, named_after(path): value} for _, step, value in whole]
        return Log.of(path, "TensorBoard's export", scalars, loss)
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
    return Log.of(path, "JSON lines", rows, loss, (len(rows), len(rows) + torn))


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
    rows, torn = list[Row](), 0
    for line in filter(str.strip, text.splitlines()):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError, ValueError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn += 1
    return rows, torn


SUPPORTED = (
    "a Hugging Face trainer_state.json, a CSV with a header (such as Lightning's metrics.csv), "
    "JSON lines (such as W&B's), a Keras history as JSON, MLflow's metrics, a TensorBoard event "
    "file, or printed lines with a step or an epoch and a loss"
)
EVENTS = "tfevents"
TABLES = (".csv", ".tsv")

# Ends of the names of columns that W&B exports beside each one.
BANDS = ("__MIN", "__MAX")


def read_log(path: Path, loss: str | None = None) -> Log:
    """The log in a file, or the newest one in a folder.

    Args:
        path: A file, or a folder that a tool made.
        loss: Name of the training loss, if it is an unusual one.

    Raises:
        BadArgument: There is no log, its format is unknown, it has no numbers, or a package is
            missing.

    Example:
        >>> from gradiometer.logs import log_findings, read_log
        >>> rows = [f'{{"step": {step}, "loss": {2.0 - 0.01 * step}}}' for step in range(40)]
        >>> _ = Path("log.jsonl").write_text("\\n".join(rows))
        >>> log = read_log(Path("log.jsonl"))
        >>> log.tool, len(log.losses)
        ('JSON lines', 40)
    """
    if not path.exists():
        raise BadArgument(f"`{path}` does not exist.")
    run = path if path.is_dir() else path.parent
    if _is_run(run):
        raise BadArgument(
            f"`{run}` is a run of gradiometer, which has more than a log: use gradiometer show "
            f"{run}"
        )
    found = _in_folder(path) if path.is_dir() and metrics_folder(path) is None else path
    metrics = metrics_folder(found)
    if metrics is not None:
        return read_metrics(metrics, loss)
    if not found.is_file():
        raise BadArgument(f"`{found}` is not a file: pass {SUPPORTED}.")
    if EVENTS in found.name:
        return _events(found, loss)
    try:
        text = TextIOWrapper(BytesIO(read_file(found)), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise BadArgument(f"`{found}` is not text: pass {SUPPORTED}.") from error
    except OSError as error:
        raise BadArgument(f"`{found}` cannot be read: {reason_of(error)}.") from error
    if not text.strip():
        raise BadArgument(f"`{found}` is empty: pass {SUPPORTED}.")
    # JSON, printed lines or CSV, by what the text looks like.
    in_json = text.lstrip()[0] in "{["
    log = read_json(found, text, loss, SUPPORTED) if in_json else None
    if log is None and found.suffix.lower() not in TABLES:
        log = read_lines(found, text, loss)
    if log is None and in_json:
        raise BadArgument(f"`{found}` is neither JSON nor JSON lines: pass {SUPPORTED}.")
    return _csv(found, text, loss) if log is None else log


def _in_folder(folder: Path) -> Path:
    """The newest log below a folder, by kind: the tools' own files first, printed lines last."""
    patterns = (
        "trainer_state.json",
        "metrics.csv",
        f"*{EVENTS}*",
        "*.jsonl",
        "metrics/**/*",
        "*history*.json",
    )
    for pattern in (*patterns, "*.log", "*.out"):
        logs = (
            path for path in folder.rglob(pattern) if path.is_file() and not _is_run(path.parent)
        )
        if pattern == "metrics/**/*":
            logs = (path for path in logs if metrics_folder(path) is not None)
        found = sorted(logs, key=lambda path: (path.stat().st_mtime, path.name))
        if found:
            return found[-1]
    raise BadArgument(f"`{folder}` has no log of a known format: pass {SUPPORTED}.")


def _is_run(folder: Path) -> bool:
    """True for a run of gradiometer, for which `gradiometer show` shows more."""
    return (folder / "run.toml").is_file()


def _csv(path: Path, text: str, loss: str | None) -> Log:
    """A header, then rows; missing values are blank."""
    try:
        dialect: Any = csv.Sniffer().sniff(text[:4096], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    try:
        rows = list(csv.DictReader(text.splitlines(), dialect=dialect))
    except csv.Error as error:
        raise BadArgument(f"`{path}` is not a CSV ({error}): pass {SUPPORTED}.") from error
    if not rows or not any(
        name and not name.replace(".", "").strip().isdigit() for name in rows[0]
    ):
        raise BadArgument(f"`{path}` is not a CSV with a header and rows: pass {SUPPORTED}.")
    if set(rows[0]) == {"Wall time", "Step", "Value"}:  # TensorBoard's download of one scalar
        rows = [{"Step": row["Step"], named_after(path): row["Value"]} for row in rows]
    kept = [
        {name: value for name, value in row.items() if name and not name.endswith(BANDS)}
        for row in rows
    ]
    columns, notes = columns_of(kept)
    if not columns:
        raise BadArgument(f"`{path}` has no column of numbers: pass {SUPPORTED}.")
    tool = "Lightning's CSV" if path.name == "metrics.csv" else "a CSV"
    return Log(str(path), tool, columns, notes, loss)


def _events(path: Path, loss: str | None) -> Log:
    """The scalars of an event file."""
    if find_spec("tensorboard") is None:
        raise BadArgument(
            f"`{path}` is a TensorBoard event file, which needs the package tensorboard: "
            "pip install 'gradiometer[tensorboard]'."
        )
    loader: Any = import_module("tensorboard.backend.event_processing.event_file_loader")
    rows = list[Row]()
    try:
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = _scalar(value)
                if number is not None:
                    rows.append({value.tag: number, "step": int(event.step)})
    except Exception as error:  # the package raises many types for a damaged file
        raise BadArgument(
            f"`{path}` cannot be read as an event file ({type(error).__name__}): pass {SUPPORTED}."
        ) from error
    if not rows:
        raise BadArgument(f"`{path}` has no scalars, or is not an event file: pass {SUPPORTED}.")
    return Log.of(path, "TensorBoard", rows, loss)


def _scalar(value: Any) -> float | None:
    """The number in either of the two forms of an event file."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if value.HasField("tensor") and value.metadata.plugin_data.plugin_name in ("scalars", ""):
        numbers = [*value.tensor.float_val, *value.tensor.double_val]
        return float(numbers[0]) if len(numbers) == 1 else None
    return None
