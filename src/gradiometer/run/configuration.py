"""The configuration of a run: a flat set of names, which are the same as flags, as TOML keys and in
Python."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli_w

from gradiometer.errors import BadArgument
from gradiometer.measurement.optimizer.groups import Group, family_of
from gradiometer.run.settings.values import SCHEDULES, largest_rate, typed
from gradiometer.storage.toml import read_toml

# Default of η.
DEFAULT_RATES = {"sgd": 0.1, "adamw": 0.001, "schedulefree": 1.0}

# Class names of the optimizers.
OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW", "schedulefree": "SGDScheduleFree"}

GAUGES = {
    "sgd": "noise,batch_sharpness,trajectory",
    "adamw": "noise,preconditioned_noise,trajectory",
    "schedulefree": "noise,trajectory",
}
"""What is measured by default. Batch sharpness is for SGD, whose edge of stability is known."""

# More threads help on no machine, and torch ends the process if the system refuses it a thread.
MOST_THREADS = 512

# Numbers of steps are below this. Above it, a float does not tell one step from the next.
MOST_STEPS = 2**53

# names of 0.1.0
RENAMED = {
    "microbatches": "accumulation",
    "spread": "parts",
    "check_standing": "check_endpoint",
}
_LOWEST = {
    "batch_size": 1,
    "epochs": 1,
    "accumulation": 1,
    "keep_checkpoints": 1,
    "checkpoint_seconds": 0,
}


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a training run and of its measurements. They are checked when it is made.

    Args:
        problem: Name of a problem, or `module:function`.
        model: Name of a model. Default: that of the problem.
        learning_rate: η at the start. Default: 0.1, 0.001 with adamw, 1 with schedulefree; if
            `schedule` is a formula, its largest η.
        schedule: Shape of η over the run: constant, cosine or linear (both to zero), trapezoid
            (kept for the first half, then linear to zero), a formula in t = 1, 2, … such as
            '0.1/sqrt(t)', or a named shape such as 'Cosine(0.1, steps=1000)'.
        snapshots: Number of models to keep for an ensemble, 0 or at least 2. With a constant
            schedule, η decays to zero in each of as many cycles and the model at the end of each is
            kept; with another, models are kept at the same steps, without cycles.
        cool: Test whether the loss still falls at this η. off: no test. watch: report the result.
            auto: also end with η linearly to zero, from the step that forks choose: branches that
            are really trained.
        cool_budget: Most that the forks of `cool` = auto may cost, in units of the whole run. With
            2 they decide at 10 %, 80 % and 95 % of the steps, with 1 at the last two of these; with
            less, η goes to zero over the last fifth. With more than 2, also where the test proposes
            to lower η.
        batch_size: Batch size B, in examples.
        epochs: Number of passes over the training set.
        steps: Number of steps, instead of `epochs`.
        optimizer: sgd, adamw with PyTorch's defaults for β and ε, or schedulefree: schedule-free
            SGD, which averages its iterates at a constant η, and is evaluated and ends at the
            average. Only sgd takes `momentum`.
        momentum: Heavy-ball momentum μ of SGD, in [0, 1).
        nesterov: Use Nesterov momentum instead of heavy-ball momentum.
        weight_decay: Weight decay: this times the parameters is added to ĝ; with adamw, this times
            η times the parameters is subtracted from them.
        clip: Largest norm of all gradients together; above it they are scaled down before the
            update. Default: none.
        fork_budget: Most that forks at 10, 30 and 60 % of the steps may cost, in units of the run.
            A fork tries half and twice η, and changes it if that is shown to end at a lower
            training loss. Under schedulefree: most that forks may cost that score the forecast of
            the loss if η went to zero, in units of the steps so far.
        sampling: reshuffled: every example once per epoch, in random order. replacement:
            independent draws.
        held_out: Share of the training examples, chosen at random by the seed, that training leaves
            out, in [0, 1): those by which `tune --aim test` chooses.
        accumulation: Number of micro-batches over which each training gradient is accumulated.
            Above 1, the measurements use the micro-batch gradients themselves.
        parts: Number of parts of a batch whose gradients are compared if `accumulation` is 1; 0:
            one per example.
        probe: Measure independent examples instead of the training batches, which are biased in
            shuffled epochs over few examples. A reading then costs a whole step.
        budget: Share of the training time that measuring may use, in [0, 1). 0 switches it off.
        gauges: Comma-separated gauge names. Expensive gauges run only at every 16th measured step.
            Default: noise,batch_sharpness,trajectory, with adamw
            noise,preconditioned_noise,trajectory, and with schedulefree noise,trajectory.
        check_edge: Compare the learning rate with the sharpness before the first step. A fixed
            cost, which later readings pay back.
        check_endpoint: After the last step, search for a saddle, dead units and an unbroken
            symmetry. A fixed cost.
        every: Measure at every n-th step and ignore the budget.
        level: Confidence level of every interval.
        seed: Seed of the initial parameters, of the order of the examples and of the probes.
        threads: Number of CPU threads of one process.
        device: Device of torch, such as cpu or cuda.
        checkpoint_seconds: Seconds between checkpoints. 0: after every step, inf: only at the end.
        keep_checkpoints: Number of checkpoints to keep, the newest ones.
        checkpoint_at: Comma-separated steps with a checkpoint that is kept besides the newest ones,
            such as 500,1000.
        data_dir: Folder of the data on disk. Default: that of the problem.

    >>> from gradiometer import Configuration
    >>> Configuration(batch_size=64, momentum=0.9).momentum
    0.9
    >>> Configuration(momentum=1.5)
    Traceback (most recent call last):
    gradiometer.errors.BadArgument: `momentum` must be at least 0 and below 1, got 1.5.
    """

    problem: str = "digits"
    model: str | None = None
    learning_rate: float | None = None
    schedule: str = "constant"
    snapshots: int = 0
    cool: Literal["off", "watch", "auto"] = "off"
    cool_budget: float = 2.0
    batch_size: int = 32
    epochs: int = 10
    steps: int | None = None
    optimizer: Literal["sgd", "adamw", "schedulefree"] = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip: float | None = None
    fork_budget: float = 0.0
    sampling: Literal["reshuffled", "replacement"] = "reshuffled"
    held_out: float = 0.0
    accumulation: int = 1
    parts: int = 2
    probe: bool = False
    budget: float = 0.02
    gauges: str | None = None
    check_edge: bool = True
    check_endpoint: bool = True
    every: int | None = None
    level: float = 0.9
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    checkpoint_seconds: float = 30.0
    keep_checkpoints: int = 2
    checkpoint_at: str = ""
    data_dir: str | None = None

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(type(self)):
            value = getattr(self, field.name)
            msgspec.structs.force_setattr(self, field.name, typed(field.name, value, field.type))
        if self.snapshots and self.schedule == "constant":
            msgspec.structs.force_setattr(self, "schedule", "cycles")
        if self.schedule not in SCHEDULES:
            msgspec.structs.force_setattr(
                self, "learning_rate", largest_rate(self.schedule, self.learning_rate)
            )
        elif self.learning_rate is None:
            msgspec.structs.force_setattr(self, "learning_rate", DEFAULT_RATES[self.optimizer])
        for complaints in (
            _general_complaints,
            _training_complaints,
            _fork_complaints,
            _instrument_complaints,
        ):
            for complaint in complaints(self):
                raise BadArgument(complaint)

    @property
    def rate(self) -> float:
        """`learning_rate`, which is always known after the defaults are set."""
        assert self.learning_rate is not None
        return self.learning_rate

    @property
    def group(self) -> Group:
        """The settings of its optimizer at the start."""
        name = OPTIMIZERS[self.optimizer]
        return Group(
            name,
            family_of([name]),
            self.rate,
            self.momentum,
            self.nesterov,
            self.weight_decay,
        )

    @property
    def measured(self) -> str:
        """Comma-separated names of the gauges: `gauges`, or the default for the optimizer."""
        return GAUGES[self.optimizer] if self.gauges is None else self.gauges

    @property
    def penalty(self) -> float:
        """λ of the penalty ½λ‖Φ‖² that weight decay adds to the loss: 0 with AdamW, whose decay is
        no gradient."""
        return self.weight_decay if self.optimizer != "adamw" else 0.0

    @classmethod
    def from_toml(cls, path: Path | str) -> "Configuration":
        """Read a TOML file whose keys are the names above, with `_` or `-`.

        Raises:
            BadArgument: The file cannot be used. The message names the file, the line and the key.
        """
        return cls(**cls.given_in(path))

    @classmethod
    def given_in(cls, path: Path | str) -> dict[str, Any]:
        """The values by name that a TOML file gives, without the defaults of what it leaves out.

        Raises:
            BadArgument: The file cannot be used. The message names the file, the line and the key.
        """
        written, lines = read_toml(Path(path))
        return cls._checked(written, Path(path).name, lines)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> "Configuration":
        """The configuration of these values.

        Args:
            mapping: Values by name.
            where: Prefix of the error messages. May be empty.

        Raises:
            BadArgument: A name or a value cannot be used.
        """
        return cls(**cls._checked(mapping, where))

    @classmethod
    def _checked(
        cls, mapping: Mapping[str, Any], where: str, lines: Mapping[str, int] | None = None
    ) -> dict[str, Any]:
        """The values, whose names are checked too. `lines` are the line numbers of the names in the
        file `where`."""
        names = cls.__struct_fields__
        values: dict[str, Any] = {}
        for key, value in mapping.items():
            name = str(key).replace("-", "_")
            if name not in names:
                nearest = (
                    [RENAMED[name]]
                    if name in RENAMED
                    else difflib.get_close_matches(name, names, n=1)
                )
                hint = (
                    f"did you mean {nearest[0]}?"
                    if nearest
                    else f"the keys are {', '.join(names)}."
                )
                raise BadArgument(f"{_place(where, lines, name)}unknown key `{key}`: {hint}")
            if name in values:
                raise BadArgument(
                    f"{_place(where, lines, name)}`{name}` is given twice, with - and with _: "
                    "remove one of them."
                )
            values[name] = value
        try:
            cls(**values)
        except BadArgument as error:
            raise BadArgument(_place(where, lines, error.argument) + str(error)) from None
        return values

    @property
    def lasting_checkpoints(self) -> frozenset[int]:
        """The steps of `checkpoint_at`."""
        return frozenset(int(step) for step in self.checkpoint_at.split(",") if step.strip())

    def to_toml(self) -> str:
        """The configuration as TOML for `from_toml`. Values of None are omitted."""
        return tomli_w.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The values by name, without None, which TOML cannot store."""
        return {
            name: value for name, value in msgspec.structs.asdict(self).items() if value is not None
        }


def _general_complaints(c: Configuration) -> Iterator[str]:
    for name in ("problem", "model", "device", "data_dir"):
        value = getattr(c, name)
        if value is not None and not value.strip():
            yield f"`{name}` must not be empty: give a value, or leave it out."
    if not 0 <= c.seed < 2**63:
        yield f"`seed` must be at least 0 and below 2^63, got {c.seed}."
    if not 1 <= c.threads <= MOST_THREADS:
        yield f"`threads` must lie between 1 and {MOST_THREADS}, got {c.threads}."
    if not re.fullmatch(r"( *\d{1,15} *(, *\d{1,15} *)*)?", c.checkpoint_at):
        yield (
            "`checkpoint_at` must be steps with commas between them, such as 500,1000, got "
            f"{c.checkpoint_at!r}."
        )
    for name in (
        "batch_size",
        "epochs",
        "steps",
        "accumulation",
        "parts",
        "every",
        "snapshots",
        "keep_checkpoints",
    ):
        if not (getattr(c, name) or 0) < MOST_STEPS:
            yield f"`{name}` must be below 2^53, got about 2^{getattr(c, name).bit_length() - 1}."
    for name, lowest in _LOWEST.items():
        if not getattr(c, name) >= lowest:
            yield f"`{name}` must be at least {lowest}, got {getattr(c, name)}."


def _fork_complaints(c: Configuration) -> Iterator[str]:
    if c.cool != "off" and c.schedule in ("cosine", "linear", "trapezoid"):
        yield (
            f"`cool` is {c.cool!r}, but the {c.schedule} schedule decays to zero by itself: leave "
            "out one of the two."
        )
    for name in ("cool_budget", "fork_budget"):
        if not 0 <= getattr(c, name) < math.inf:
            yield f"`{name}` must be at least 0 and finite, got {getattr(c, name)}."
    if c.cool != "off" and c.snapshots:
        yield (
            f"`cool` is {c.cool!r}, but the cycles of `snapshots` decay to zero by themselves: "
            "leave out one."
        )
    if c.fork_budget and not (c.cool == "off" and c.level > 0.5):
        yield (
            f"`fork_budget` needs cool = off and a level above 0.5, got cool = {c.cool} and level "
            f"= {c.level}."
        )


def _training_complaints(c: Configuration) -> Iterator[str]:
    if not 0 < c.rate < math.inf:
        yield f"`learning_rate` must be positive and finite, got {c.learning_rate}."
    if not (c.snapshots == 0 or c.snapshots >= 2):
        yield (
            f"`snapshots` must be 0 or at least 2, got {c.snapshots}: the average of one model is "
            "that model."
        )
    if c.schedule == "cycles" and c.snapshots == 0:
        yield (
            "`schedule` is cycles, and `snapshots` is the number of cycles: set snapshots, for "
            "example to 5."
        )
    if not 0 <= c.held_out < 1:
        yield f"`held_out` must be at least 0 and below 1, got {c.held_out}."
    if not 0 <= c.momentum < 1:
        yield f"`momentum` must be at least 0 and below 1, got {c.momentum}."
    if c.optimizer != "sgd" and (c.momentum or c.nesterov):
        yield (
            f"`momentum` and `nesterov` are settings of SGD, and `optimizer` is {c.optimizer}: "
            "leave them out."
        )
    if c.optimizer == "schedulefree" and (
        c.schedule != "constant" or c.cool != "off" or c.snapshots
    ):
        yield (
            "`optimizer` is schedulefree, which needs no schedule: leave out `schedule`, `cool` "
            "and `snapshots`."
        )
    if c.nesterov and not c.momentum > 0:
        yield (
            f"`nesterov` needs a momentum above 0, got {c.momentum}: set momentum, for example to "
            "0.9."
        )
    if not 0 <= c.weight_decay < math.inf:
        yield f"`weight_decay` must be at least 0 and finite, got {c.weight_decay}."
    if c.clip is not None and not 0 < c.clip < math.inf:
        yield f"`clip` must be positive and finite, got {c.clip}."
    if not c.accumulation <= c.batch_size:
        yield (
            f"`accumulation` must be at most batch_size = {c.batch_size}, got {c.accumulation} "
            "micro-batches."
        )


def _instrument_complaints(c: Configuration) -> Iterator[str]:
    if not 0 <= c.budget < 1:
        yield (
            "`budget` must be a share of the training time, at least 0 and below 1, got "
            f"{c.budget}."
        )
    if c.steps is not None and not c.steps >= 1:
        yield f"`steps` must be at least 1, got {c.steps}."
    if c.every is not None and not c.every >= 1:
        yield f"`every` must be at least 1 step, got {c.every}."
    if c.every is not None and c.budget == 0:
        yield (
            f"`every` is {c.every}, but a budget of 0 switches measuring off: leave out one of the "
            "two."
        )
    if not 0 < c.level < 1:
        yield f"`level` must lie between 0 and 1, got {c.level}."
    elif c.cool == "auto" and not c.level > 0.5:
        yield (
            "`level` must be above 0.5 for `cool` = auto, whose forks decide by one-sided bounds, "
            f"got {c.level}."
        )
    if not (c.parts == 0 or c.parts >= 2):
        yield (
            f"`parts` must be 0 (per example) or at least 2, got {c.parts}: a single gradient has "
            "no spread."
        )
    if c.budget > 0 and c.batch_size == 1:
        yield (
            "`batch_size` is 1, so a step has no spread: raise batch_size to 2 or more, or set "
            "budget to 0."
        )
    if c.budget > 0 and c.accumulation == 1 and not c.parts <= c.batch_size:
        yield (
            f"`parts` must be at most batch_size, got {c.parts} parts of a batch of {c.batch_size}:"
            " lower it, or set it to 0 to measure per example."
        )


def _place(where: str, lines: Mapping[str, int] | None, name: str) -> str:
    if not where:
        return ""
    return f"{where}:{lines[name]}: " if lines and name in lines else f"{where}: "
