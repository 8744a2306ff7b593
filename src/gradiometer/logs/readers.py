"""Readers of logs: which reader a file needs, JSON, CSV (also Lightning's), MLflow's metrics,
TensorBoard's event files, and printed lines.
"""

import csv
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.logs.log import HELD_OUT, STEP, Log, columns_of
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
    found = []
    for file in sorted(folder.rglob("*")):
        with suppress(OSError, UnicodeDecodeError):
            if file.is_file():
                with open_to_read(file) as lines:
                    first = lines.readline(200).decode().rstrip("\r\n")
                found += [file] * bool(_LINE.match(first))
    return found


Row = dict[str, Any]


def read_json(path: Path, text: str, loss: str | None) -> Log | None:
    """The log in a JSON text; None if it is not JSON.

    Args:
        path: Where the text is from.
        text: One object, a list of objects, or one object per line.
        loss: Name of the training loss, if it is an unusual one.
    """
    whole = _parse(text)
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
    if isinstance(whole, dict) and "\n" in text.strip():
        raise BadArgument(
            f"`{path}` is one JSON object without a `log_history` or lists of numbers: pass "
            f"{SUPPORTED}."
        )
    if isinstance(whole, list):
        rows, torn = [row for row in whole if isinstance(row, dict)], 0
    else:
        lines = [_parse(line) for line in text.splitlines() if line.strip()]
        rows = [row for row in lines if isinstance(row, dict)]
        torn = len(lines) - len(rows)
    if not rows or torn > len(rows):
        return None
    return Log.of(path, "JSON lines", rows, loss, (len(rows), len(rows) + torn))


def _parse(text: str) -> Any:
    """The value of a JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
        return None


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


SUPPORTED = (
    "a Hugging Face trainer_state.json, a CSV with a header (such as Lightning's metrics.csv), "
    "JSON lines (such as W&B's), a Keras history as JSON, MLflow's metrics, a TensorBoard event "
    "file, or printed lines with a step or an epoch and a loss"
)
EVENTS = "tfevents"

# Stands for MLflow's files, which have any name.
METRICS = "metrics/"

# Logs in a folder, the tools' own files first, printed lines last.
PATTERNS = (
    "trainer_state.json",
    "metrics.csv",
    f"*{EVENTS}*",
    "*.jsonl",
    METRICS,
    "*history*.json",
    "*.log",
    "*.out",
)

# Most files that are looked through, in two seconds. A home folder has more.
MOST_FILES = 100_000
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
    log = read_json(found, text, loss) if in_json else None
    if log is None and found.suffix.lower() not in TABLES:
        log = read_lines(found, text, loss)
    if log is None and in_json:
        raise BadArgument(f"`{found}` is neither JSON nor JSON lines: pass {SUPPORTED}.")
    return _csv(found, text, loss) if log is None else log


def _in_folder(folder: Path) -> Path:
    """The newest log below a folder, by kind: the tools' own files first, printed lines last."""
    # Parts that may not be read are left out. Unlike that of `Path`, this `isfile` is False for a
    # file that is gone.
    below = (
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.isfile(os.path.join(parent, name))  # noqa: PTH113, PTH118
    )
    files = list(islice(below, MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise BadArgument(
            f"`{folder}` has more than {MOST_FILES:,} files: give the folder of the training, or "
            "its log."
        )
    for pattern in PATTERNS:
        logs = [file for file in files if fnmatchcase(file.name, pattern)]
        if pattern == METRICS:
            logs = [file for file in files if metrics_folder(file) is not None]
        found = []
        for file in logs:
            with suppress(OSError):  # it has just been deleted
                if not _is_run(file.parent):
                    found.append((file.stat().st_mtime, file.name, file))
        if found:
            return max(found)[-1]
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
    proto: Any = import_module("tensorboard.compat.proto.event_pb2")
    size = path.stat().st_size
    understood = 0
    rows = list[Row]()
    try:
        for record in loader.RawEventFileLoader(str(path)).Load():
            # a record also has its length and two checksums
            understood += len(record) + 16
            event = proto.Event.FromString(record)
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
    columns, notes = columns_of(rows)
    if understood < size:
        damaged = (
            f"The last {size - understood:,} of {size:,} bytes cannot be read: they are damaged, "
            "or not written yet."
        )
        notes = (*notes, damaged)
    return Log(str(path), "TensorBoard", columns, notes, loss)


def _scalar(value: Any) -> float | None:
    """The number in either of the two forms of an event file."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if value.HasField("tensor") and value.metadata.plugin_data.plugin_name in ("scalars", ""):
        numbers = [*value.tensor.float_val, *value.tensor.double_val]
        return float(numbers[0]) if len(numbers) == 1 else None
    return None


# All repetitions in these patterns are bounded, so that no line takes long, however odd it is.
_NUMBER = r"[-+]?(?:\d[\d,]{0,400}\.?\d{0,400}(?:e[-+]?\d{1,9})?|\.\d{1,400}(?:e[-+]?\d{1,9})?|nan|inf(?:inity)?)"

_COLOURS = re.compile(r"\x1b\[[0-9;]{0,40}m|\x08")
_BEFORE = r"['\"]?\s{0,40}[:=#]?\s{0,40}[\[(]?\s{0,40}"
_STEP = re.compile(
    rf"\b(?:global[_ ]step|step|iter(?:ation)?|it|update)\b{_BEFORE}(\d[\d,]{{0,30}})"
    r"(?:\s{0,40}/\s{0,40}(\d[\d,]{0,30}))?",
    re.I,
)
_COUNTER = r"(\d{1,15})\s{0,40}/\s{0,40}(\d{1,15})"

# Step and length of an epoch after its number: `Epoch: [0][ 10/500]`, `epoch 001: 100 / 1000`,
# `3:120/500`.
_IN_EPOCH = re.compile(
    rf"(?:\bepoch\b\W{{0,4}}(\d{{1,15}})\]?\s{{0,40}}(?:\[\s{{0,40}}|:\s{{0,40}})|^\s{{0,40}}(\d{{1,15}}):\s{{0,40}}){_COUNTER}",
    re.I,
)

# `batch=10/300`, only with the length of the epoch: a batch alone may be its size.
_BATCH = re.compile(rf"\bbatch(?:es)?\b{_BEFORE}{_COUNTER}", re.I)

# The progress bar of tqdm: `12%|█▏ | 120/1000 [00:01<00:08, 100.00it/s, loss=2.3]`.
_BAR = re.compile(r"\|\s{0,40}(\d{1,15})/(\d{1,15}) \[\d{1,15}:")
_EPOCH = re.compile(
    rf"\bepoch\b{_BEFORE}(\d{{1,15}}(?:\.\d{{1,40}})?)(?:\s{{0,40}}/\s{{0,40}}\d+)?", re.I
)

# The examples of the epoch that were seen, in PyTorch's examples: `Train Epoch: 1 [640/60000
# (1%)]`.
_WITHIN = re.compile(
    r"\[\s{0,40}(\d{1,15})\s{0,40}/\s{0,40}(\d{1,15})\s{0,40}\(\s{0,40}\d{1,15}%\)\s{0,40}\]"
)
_WORD = r"[a-z_][\w./-]{0,100}"
_NAMED = re.compile(
    rf"(?<![a-z_])['\"]?({_WORD}(?: {_WORD})?)['\"]?\s{{0,40}}[:=]\s{{0,40}}['\"]?({_NUMBER})(?![\w/])",
    re.I,
)
_SPACED = re.compile(
    rf"\b((?:(?:train|training|val|valid|validation|eval|test) )?(?:loss|lr|grad_norm|norm))\s{{1,40}}({_NUMBER})",
    re.I,
)
_TIMES = {*STEP, "epoch", "epochs", "global step"}


def read_lines(path: Path, text: str, loss: str | None) -> Log | None:
    """The numbers in printed lines; None if no line has a step or an epoch together with a loss.

    A step that counts from the start of its epoch is counted on. The last line of an epoch counts
    if lines have no step, since a progress bar prints its line many times.

    Args:
        path: Where the text is from.
        text: The lines.
        loss: Name of the training loss, if it is an unusual one. Spaces in a name are written as
            `_`.
    """
    lines = [
        line for line in re.split(r"[\r\n]+", _COLOURS.sub("", text)) if re.search(r"\d", line)
    ]
    rows = list(_rows(lines))
    if not any("loss" in name.lower() for row in rows for name in row):
        return None
    counters = sum(bool(_EPOCH.search(line)) and not _NAMED.search(line) for line in lines)
    understood = min(len(rows) + counters, len(lines)), len(lines)
    if any("step" in row for row in rows):
        rows = _counted_on([row for row in rows if "step" in row])
    elif all(float(str(row["epoch"])).is_integer() for row in rows):
        last: dict[object, Row] = {}
        for row in rows:
            last[row["epoch"]] = {**last.get(row["epoch"], {}), **row}
        rows = list(last.values())
    return Log.of(path, "printed lines", rows, loss, understood)


def _rows(lines: list[str]) -> Iterator[Row]:
    """The step, the epoch and the named numbers of every line that has them."""
    epoch: float | None = None
    for line in lines:
        within = _WITHIN.search(line)
        within_epoch = None if within else _IN_EPOCH.search(line)
        found_epoch = _EPOCH.search(line)
        found_step = _BAR.search(line) or _STEP.search(line) or _BATCH.search(line)
        row: Row = {}
        if within_epoch:
            epoch = float(within_epoch[1] or within_epoch[2])
        elif found_epoch:
            epoch = float(found_epoch[1])
        if within:
            row["epoch"] = (epoch or 1.0) - 1 + int(within[1]) / max(int(within[2]), 1)
        elif epoch is not None:
            row["epoch"] = epoch
        if within_epoch:
            row["step"], row["of"] = within_epoch[3], within_epoch[4]
        elif found_step and not within:
            row["step"] = _plain(found_step[1])
            if found_step[2]:
                row["of"] = _plain(found_step[2])
        numbers = {
            name.strip().replace(" ", "_").lower(): _plain(value)
            for name, value in (*_SPACED.findall(line), *_NAMED.findall(line))
        }
        if "num_updates" in numbers:
            row["step"] = numbers["num_updates"]
        numbers = {name: value for name, value in numbers.items() if name not in _TIMES}
        if numbers and ("step" in row or "epoch" in row):
            yield {**numbers, **row}


def _plain(number: str) -> str:
    return number.replace(",", "")


def _counted_on(rows: list[Row]) -> list[Row]:
    """Steps that start again in each epoch, added to those of the epochs before."""
    offset, before, epoch = 0, 0, None
    counted = []
    for row in rows:
        number, length = float(str(row["step"])), row.pop("of", None)
        # A step may be written as `120.0`.
        if not number.is_integer():
            continue
        step = int(number)
        new = row.get("epoch") != epoch
        if epoch is not None and new and step <= before - offset:
            offset = offset + int(str(length)) if length else before
        epoch, before = row.get("epoch"), offset + step
        counted.append({**row, "step": before})
    return counted
