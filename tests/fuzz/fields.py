"""Every field of every kind of record in a run, broken in every way.

A kind is a whole file, or the lines of a journal with the same name. A broken record is the last
one of its kind, with one field left out, added, or put in the place of another value.
"""

import json
import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spoiled
import tomli_w

LEFT_OUT = object()
MANY = 12
"""Most fields of a mapping that names layers, settings or examples: the others are alike."""

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Field:
    """A field of the last record of a kind.

    Args:
        file: The file in the folder of the run.
        line: Number of the line, from 0; None for a whole file.
        kind: The kind of record, for the table.
        place: The names and numbers that lead to the field; empty for the record itself.
    """

    file: str
    line: int | None
    kind: str
    place: Place

    def broken(self, folder: Path, value: Any) -> None:
        """Write the record with another value of this field into a run."""
        path = folder / self.file
        if self.file.endswith(".toml"):
            changed = _without_none(_with(tomllib.loads(path.read_text()), self.place, value))
            written = tomli_w.dumps(changed) if isinstance(changed, dict) else json.dumps(changed)
            path.write_text(written, encoding="utf-8", errors="replace")
            return
        if self.line is None:
            path.write_text(json.dumps(_with(json.loads(path.read_text()), self.place, value)))
            return
        lines = path.read_text().splitlines()
        lines[self.line] = json.dumps(_with(json.loads(lines[self.line]), self.place, value))
        path.write_text("\n".join(lines) + "\n")


def fields_of(folder: Path) -> list[Field]:
    """The fields of all records in a run."""
    found = []
    for path in sorted(
        each for each in folder.rglob("*") if each.suffix in (".toml", ".json", ".jsonl")
    ):
        name = path.relative_to(folder).as_posix()
        if "checkpoints" in path.parts:  # with checksums: another generator spoils these
            continue
        if path.suffix == ".toml":
            found += [
                Field(name, None, name, place) for place in places(tomllib.loads(path.read_text()))
            ]
        elif path.suffix == ".json":
            found += [
                Field(name, None, name, place) for place in places(json.loads(path.read_text()))
            ]
        else:
            records = [json.loads(line) for line in path.read_text().splitlines()]
            newest = {
                _kind(name, record): (number, record) for number, record in enumerate(records)
            }
            for kind, (number, record) in newest.items():
                found += [Field(name, number, kind, place) for place in places(record)]
    return found


def _kind(file: str, record: dict[str, Any]) -> str:
    """The file, and what tells one record in it from another; warnings also differ in what they
    carry."""
    named = [str(record[name]) for name in ("event", "kind", "gauge") if name in record]
    carried = [name for name in ("stopped", "repeats", "not_finite") if name in record]
    return " ".join((file, *named, *carried))


def places(value: Any, before: Place = ()) -> Iterator[Place]:
    """The value itself, and all that is in it: of a list the last."""
    yield before
    if isinstance(value, dict):
        for name in list(value)[:MANY] if len(value) > 2 * MANY else value:
            yield from places(value[name], (*before, name))
    elif isinstance(value, list) and value:
        yield from places(value[-1], (*before, len(value) - 1))


def _with(record: Any, place: Place, value: Any) -> Any:
    """A record with another value at a place."""
    if not place:
        return {} if value is LEFT_OUT else value
    inner = record
    for part in place[:-1]:
        inner = inner[part]
    if value is not LEFT_OUT:
        inner[place[-1]] = value
    else:
        del inner[place[-1]]
    return record


def value_at(record: Any, place: Place) -> Any:
    """The value that is there now."""
    for part in place:
        record = record[part]
    return record


def other_value(draw: random.Random, field: Field, folder: Path) -> Any:
    """What to put in the place of a field: nothing, something of another type, or a near value."""
    kind = draw.random()
    if kind < 0.12:
        return LEFT_OUT
    if kind < 0.6:
        return draw.choice(spoiled.NASTY)
    path = folder / field.file
    text = path.read_text()
    if field.file.endswith(".toml"):
        record = tomllib.loads(text)
    else:
        record = json.loads(text if field.line is None else text.splitlines()[field.line])
    return _near(draw, value_at(record, field.place))


def _near(draw: random.Random, value: Any) -> Any:
    """A value of the same type that does not fit, or fits by chance."""
    if isinstance(value, bool) or value is None:
        return draw.choice((not value, 0, 1.0, "true", "", [], {}))
    if isinstance(value, int | float):
        return draw.choice(
            (
                -value,
                0,
                value * 2,
                value + 0.5,
                value * 10**9,
                1e300,
                2**53 - 1,
                str(value),
                [value],
            )
        )
    if isinstance(value, str):
        return draw.choice(
            (
                "",
                value + "x",
                value.upper(),
                value[:-1],
                [value],
                "../" * 9 + "etc/passwd",
                "\x1b[2J",
            )
        )
    if isinstance(value, list):
        return draw.choice(
            ([], value[:1], value * 2, value[::-1], [value], dict.fromkeys(map(str, value)), [None])
        )
    changed = dict(value)
    changed[draw.choice(("unknown", "step", "kind", "event", ""))] = draw.choice((1, "x", None, {}))
    return draw.choice((changed, [value], list(value.items()), dict(list(value.items())[:1]), {}))


def _without_none(value: Any) -> Any:
    """A value that TOML can have."""
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_none(part) for part in value if part is not None]
    return value
