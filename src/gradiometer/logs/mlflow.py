"""Read the metric files of MLflow: one file per metric, with lines of time, value and step."""

import re
from pathlib import Path

from gradiometer.logs.log import Log, columns_of
from gradiometer.storage.disk import open_to_read, read_file

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
    columns, notes = columns_of(rows)
    return Log(str(folder), "MLflow", columns, notes, loss)


def _files(folder: Path) -> list[Path]:
    """The files whose first line has the form of a metric."""
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and _is_metric(file)]


def _is_metric(file: Path) -> bool:
    try:
        with open_to_read(file) as lines:
            return bool(_LINE.match(lines.readline(200).decode().rstrip("\r\n")))
    except (OSError, UnicodeDecodeError):
        return False
