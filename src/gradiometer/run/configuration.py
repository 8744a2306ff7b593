"""The configuration of a run: one flat set of names, the same as flags, as TOML keys and in Python."""

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import tomli_w

from gradiometer.errors import BadArgument

SCHEDULES = ("constant", "cosine", "linear", "cycles")
"""Schedules by a word: from the learning rate on; to zero over the run; to zero in each of its `snapshots` cycles."""

DEFAULT_RATE = 0.1
"""η where none is given."""

MOST_THREADS = 512
"""Beyond what helps on any machine; torch ends the process where the system refuses it a thread."""

_EXPECTED = {
    int: "an integer",
    float: "a number",
    str: "text in quotes",
    bool: "true or false",
}


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run was asked to do. Refuses nonsense by name when it is made.

    Args:
        problem: Name of a problem, or `module:function`.
        model: Name of a model; None: the problem's default.
        learning_rate: η at the start; where the schedule is given in full, about the largest η it takes.
        schedule: How η goes on from there: constant, cosine or linear (to zero); or η in full, as a formula in
            t = 1, 2, … such as '0.1/sqrt(t)', or a named shape such as 'Cosine(0.1, steps=1000)'.
        snapshots: M ≥ 2: η cools to zero M times over, and the model at the end of each cycle is kept, for an ensemble;
            under another schedule than a constant one, M models are kept without cycles.
        cool: Whether the rate has stopped paying: off (not asked), watch (told), or auto (cut to a tenth when it has,
            and linearly to zero at the end of the run).
        batch_size: B, in examples.
        epochs: Passes over the training set.
        momentum: Heavy-ball momentum μ, in [0, 1).
        nesterov: Nesterov's momentum instead of the heavy ball's.
        weight_decay: Coefficient of the parameters added to ĝ.
        sampling: Epochs in random order, or independent draws.
        accumulation: Above 1, the training gradient is accumulated over so many and read as it is made.
        parts: Parts of the batch-batches measured beside the step where `accumulation` is 1; 0 means per example.
        budget: Share of the training time the instrument may use, in [0, 1); 0 switches it off.
        gauges: What is measured, as names with commas between them; dear ones are asked now and then.
        check_edge: Compare the learning rate with the sharpness at the start, before the first step: a fixed cost
            outside the budget.
        check_endpoint: Look, after the last step, for a saddle, dead units and a symmetry that training has kept: a
            fixed cost outside the budget.
        every: Measure every so many steps instead of keeping to the budget.
        level: Confidence level of every interval.
        seed: Seed of the initial parameters, the order of the examples and the probes.
        threads: Threads of one process.
        device: Where tensors live, in torch's words.
        checkpoint_seconds: Seconds from one checkpoint to the next; 0: after every step, inf: only at the end.
        keep_checkpoints: Newest checkpoints kept.
        data_dir: Where data on disk lies; None: the problem's default.
    """

    problem: str = "digits"
    model: str | None = None
    learning_rate: float = DEFAULT_RATE
    schedule: str = "constant"
    snapshots: int = 0
    cool: Literal["off", "watch", "auto"] = "off"
    batch_size: int = 32
    epochs: int = 10
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    sampling: Literal["reshuffled", "replacement"] = "reshuffled"
    accumulation: int = 1
    parts: int = 2
    budget: float = 0.02
    gauges: str = "noise,batch_sharpness,trajectory"
    check_edge: bool = True
    check_endpoint: bool = True
    every: int | None = None
    level: float = 0.9
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    checkpoint_seconds: float = 30.0
    keep_checkpoints: int = 2
    data_dir: str | None = None

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(type(self)):
            value = getattr(self, field.name)
            msgspec.structs.force_setattr(self, field.name, _typed(field.name, value, field.type))
        if self.snapshots and self.schedule == "constant":
            msgspec.structs.force_setattr(self, "schedule", "cycles")
        if self.schedule not in SCHEDULES:
            msgspec.structs.force_setattr(self, "learning_rate", _largest_rate(self.schedule, self.learning_rate))
        for complaint in self._complaints():
            raise BadArgument(complaint)

    @classmethod
    def from_toml(cls, path: Path | str) -> "Configuration":
        """Read a TOML file whose keys are the names above, with `_` or `-`.

        Raises:
            BadArgument: Naming the file, the line and the key.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            mapping = tomllib.loads(text)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadArgument(f"`{path}` cannot be read as a configuration: {reason}.") from error
        except UnicodeDecodeError as error:
            raise BadArgument(f"`{path}` is not text in UTF-8: a configuration is a TOML file.") from error
        except tomllib.TOMLDecodeError as error:
            raise BadArgument(_syntax_sentence(path.name, str(error))) from error
        return cls.from_mapping(mapping, path.name, _lines_of_keys(text))

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], where: str, lines: Mapping[str, int] | None = None
    ) -> "Configuration":
        """Check names and values.

        Args:
            mapping: Values by name.
            where: What the errors begin with, such as the name of the file; may be empty.
            lines: Line of each name in that file, where known.
        """
        names = cls.__struct_fields__
        values: dict[str, Any] = {}
        for key, value in mapping.items():
            name = str(key).replace("-", "_")
            if name not in names:
                nearest = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {nearest[0]}?" if nearest else f"the keys are {', '.join(names)}."
                raise BadArgument(f"{_place(where, lines, name)}{key}: unknown key; {hint}")
            if name in values:
                raise BadArgument(f"{_place(where, lines, name)}{name} is given twice, with `-` and with `_`.")
            values[name] = value
        try:
            return cls(**values)
        except BadArgument as error:
            named = re.match(r"[`\[]?(\w+)", str(error))
            raise BadArgument(_place(where, lines, named[1] if named else "") + str(error)) from None

    def to_toml(self) -> str:
        """The configuration as TOML, as `from_toml` reads it; what is None is left out."""
        return tomli_w.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The values by name, without those that are None (TOML has none)."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}

    def _complaints(self) -> Iterator[str]:
        yield from _text_complaints(self)
        yield from _training_complaints(self)
        yield from _instrument_complaints(self)
        yield from _bookkeeping_complaints(self)


def _largest_rate(schedule: str, learning_rate: float) -> float:
    """The largest η of a schedule given in full, read at steps ever further apart, up to a million.

    Raises:
        BadArgument: It cannot be read, it gives no rate at step 0, or a learning rate is given that is not its own.
    """
    if re.fullmatch(r"[A-Za-z_-]{2,}|", schedule.strip()):
        nearest = difflib.get_close_matches(schedule, SCHEDULES, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"name one of {', '.join(SCHEDULES)}, or give η in full."
        raise BadArgument(f"`schedule` {schedule!r} is not known: {hint}")
    from gradiometer.convergence.theorem.theorem import read  # noqa: PLC0415 (not for every `--help`)

    try:
        shape = read(schedule)
        largest = shape(0)
    except BadArgument as error:
        raise BadArgument(f"`schedule`: {error}") from None
    with suppress(BadArgument):  # a training looks at every step it will take
        for power in range(81):
            largest = max(largest, shape(int(2 ** (power / 4))))
    if learning_rate not in (largest, DEFAULT_RATE):
        raise BadArgument(
            f"`learning_rate` is {learning_rate:g}, but the schedule gives η in full, up to {largest:g}: leave it out."
        )
    return largest


def _text_complaints(c: Configuration) -> Iterator[str]:
    for name in ("problem", "model", "device", "data_dir"):
        value = getattr(c, name)
        if value is not None and not value.strip():
            yield f"`{name}` must not be empty: name one, or leave it out."


def _training_complaints(c: Configuration) -> Iterator[str]:
    if not 0 < c.learning_rate < math.inf:
        yield f"`learning_rate` must be positive and finite, got {c.learning_rate}."
    if c.cool != "off" and c.schedule in ("cosine", "linear"):
        yield (
            f"`cool` is {c.cool!r}, but the {c.schedule} schedule never holds a rate that could stop paying, and"
            " goes to zero by itself: leave one of the two out."
        )
    if c.cool != "off" and c.snapshots:
        yield f"`cool` is {c.cool!r}, but the cycles of `snapshots` cool the rate by themselves: leave out one of them."
    for name in ("batch_size", "epochs", "accumulation"):
        if not getattr(c, name) >= 1:
            yield f"`{name}` must be at least 1, got {getattr(c, name)}."
    if not (c.snapshots == 0 or c.snapshots >= 2):
        yield f"`snapshots` must be 0 or at least 2, got {c.snapshots}: the average of one model is that model."
    if c.schedule == "cycles" and c.snapshots == 0:
        yield "`schedule` is cycles, of which there are as many as `snapshots`: set snapshots, for example to 5."
    if not 0 <= c.momentum < 1:
        yield f"`momentum` must be at least 0 and below 1, got {c.momentum}."
    if c.nesterov and not c.momentum > 0:
        yield f"`nesterov` needs a momentum above 0, got momentum = {c.momentum}: set momentum, for example to 0.9."
    if not 0 <= c.weight_decay < math.inf:
        yield f"`weight_decay` must be at least 0 and finite, got {c.weight_decay}."
    if not c.accumulation <= c.batch_size:
        yield (
            f"`accumulation` must be at most batch_size, got {c.accumulation} micro-batches"
            f" of a batch of {c.batch_size}."
        )


def _instrument_complaints(c: Configuration) -> Iterator[str]:
    if not 0 <= c.budget < 1:
        yield f"`budget` is a share of the training time, at least 0 and below 1, got {c.budget}."
    if c.every is not None and not c.every >= 1:
        yield f"`every` must be at least 1 step, got {c.every}."
    if c.every is not None and c.budget == 0:
        yield f"`every` is {c.every}, but a budget of 0 switches the instrument off: leave one of the two out."
    if not 0 < c.level < 1:
        yield f"`level` must lie between 0 and 1, got {c.level}."
    if not (c.parts == 0 or c.parts >= 2):
        yield f"`parts` must be 0 (per example) or at least 2, got {c.parts}: one gradient has no spread."
    if c.budget > 0 and c.batch_size == 1:
        yield (
            "batch_size = 1: batch of 1 and one backward a step: there is no spread within a step to see:"
            " raise batch_size to 2 or more, or set budget to 0."
        )
    if c.budget > 0 and c.accumulation == 1 and not c.parts <= c.batch_size:
        yield (
            f"`parts` must be at most batch_size, got {c.parts} parts of a batch of {c.batch_size}:"
            " lower parts, or set it to 0 to measure per example."
        )


def _bookkeeping_complaints(c: Configuration) -> Iterator[str]:
    if not 0 <= c.seed < 2**63:
        yield f"`seed` must be at least 0 and below 2^63, got {c.seed}."
    if not 1 <= c.threads <= MOST_THREADS:
        yield f"`threads` must lie between 1 and {MOST_THREADS}, got {c.threads}."
    if not c.keep_checkpoints >= 1:
        yield f"`keep_checkpoints` must be at least 1, got {c.keep_checkpoints}."
    if not c.checkpoint_seconds >= 0:
        yield f"`checkpoint_seconds` must be at least 0, got {c.checkpoint_seconds}."


def _typed(name: str, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise BadArgument(f"{_assignment(name, value)}: expected {_expected(kind)}.") from None


def _expected(kind: Any) -> str:
    choices = get_args(kind)
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if type(None) in choices:
        return _expected(choices[0])
    return "one of " + ", ".join(f'"{choice}"' for choice in choices)


def _assignment(name: str, value: Any) -> str:
    """How the value stands in a TOML file, on one line."""
    if isinstance(value, dict):
        return f"[{name}]"
    if isinstance(value, str | bool | int | float):
        return tomli_w.dumps({name: value}).strip()
    return f"{name} = {value!r}"


def _place(where: str, lines: Mapping[str, int] | None, name: str) -> str:
    if not where:
        return ""
    return f"{where}:{lines[name]}: " if lines and name in lines else f"{where}: "


def _lines_of_keys(text: str) -> dict[str, int]:
    """Line of every key, and of every table's name, the first where it stands twice."""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if key := re.match(r"""\s*(?:\[+\s*)?["']?([\w-]+)["']?\s*[=.\]]""", line):
            lines.setdefault(key[1].replace("-", "_"), number)
    return lines


def _syntax_sentence(name: str, reason: str) -> str:
    """tomllib's own words, with the line brought to the front."""
    found = re.match(r"(.*) \(at line (\d+), column (\d+)\)$", reason)
    if found is None:
        return f"{name}: not valid TOML: {reason}."
    return f"{name}:{found[2]}: not valid TOML: {found[1]}, at column {found[3]}."
