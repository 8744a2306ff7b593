"""Read the lines that a training prints: nanoGPT's, Keras's, torchvision's, fairseq's, and others
like them."""

import re
from collections.abc import Iterator
from pathlib import Path

from gradiometer.logs.log import STEP, Log

Row = dict[str, object]

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
