"""The configuration of a run: a flat set of names, which are the same as flags, as TOML keys and in
Python."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import tomli_w

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.optimizer.groups import Group, family_of
from gradiometer.run.rules import SCHEDULES, check_values, largest_rate, typed
from gradiometer.storage.disk import read_toml


class OptimizerKind(NamedTuple):
    """A kind of optimizer: the name of its class, its default η, and what is measured by
    default."""

    class_name: str
    rate: float
    gauges: str


OPTIMIZERS = {
    "sgd": OptimizerKind("SGD", 0.1, "noise,batch_sharpness,trajectory"),
    "adamw": OptimizerKind(
        "AdamW", 0.001, "noise,preconditioned_noise,preconditioned_sharpness,trajectory"
    ),
    "schedulefree": OptimizerKind("SGDScheduleFree", 1.0, "noise,trajectory"),
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
            one per example. Default: 2, if the gradients of successive steps do not show the noise.
        probe: Measure independent examples instead of the training batches, which are biased in
            shuffled epochs over few examples. A reading then costs a whole step.
        budget: Share of the training time that measuring may use, in [0, 1). 0 switches it off.
        gauges: Comma-separated gauge names. Expensive gauges run only at every 16th measured step.
            Default: noise,batch_sharpness,trajectory, with adamw
            noise,preconditioned_noise,preconditioned_sharpness,trajectory, and with schedulefree
            noise,trajectory.
        check_edge: Compare the learning rate with the sharpness before the first step. A fixed
            cost, which later readings pay back.
        check_endpoint: After the last step, search for a saddle, dead units and an unbroken
            symmetry. A fixed cost.
        every: Measure at every n-th step and ignore the budget. With 1 the noise is read from the
            gradients of all steps, and gauges that run the model run at one in 16 (after
            step 512 as often in each doubling).
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
    parts: int | None = None
    probe: bool = False
    budget: float = 0.02
    gauges: str | None = None
    check_edge: bool = True
    check_endpoint: bool = True
    every: int | None = None
    level: float = LEVEL
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
            msgspec.structs.force_setattr(self, "learning_rate", OPTIMIZERS[self.optimizer].rate)
        check_values(self)

    @property
    def rate(self) -> float:
        """`learning_rate`, which is always known after the defaults are set."""
        assert self.learning_rate is not None
        return self.learning_rate

    @property
    def group(self) -> Group:
        """The settings of its optimizer at the start."""
        name = OPTIMIZERS[self.optimizer].class_name
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
        return OPTIMIZERS[self.optimizer].gauges if self.gauges is None else self.gauges

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
        return cls._check(written, Path(path).name, lines)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> "Configuration":
        """The configuration of these values.

        Args:
            mapping: Values by name.
            where: Prefix of the error messages. May be empty.

        Raises:
            BadArgument: A name or a value cannot be used.
        """
        return cls(**cls._check(mapping, where))

    @classmethod
    def _check(
        cls, mapping: Mapping[str, Any], where: str, lines: Mapping[str, int] | None = None
    ) -> dict[str, Any]:
        """The values, whose names are checked too. `lines` are the line numbers of the names in the
        file `where`."""
        names = cls.__struct_fields__
        values: dict[str, Any] = {}
        for key, value in mapping.items():
            name = str(key).replace("-", "_")
            if name not in names:
                nearest = difflib.get_close_matches(name, names, n=1)
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


def _place(where: str, lines: Mapping[str, int] | None, name: str) -> str:
    if not where:
        return ""
    return f"{where}:{lines[name]}: " if lines and name in lines else f"{where}: "


class WatchedConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a watched run. `Run.hyperparameters` has its optimizer, learning rate and
    momentum.

    The fields have the meaning that they have in `Configuration`, and are checked in the same way.

    Args:
        problem: The name that was given to `watch`.
        batch_size: Examples per update: of all its backwards, on all processes.
        sampling: How batches are drawn: reshuffled, or replacement for independent draws.
        accumulation: Number of backwards per update, on all processes.
        parts: Number of parts of a batch whose gradients are compared if `accumulation` is 1; 0:
            one per example. Default: 2, if the gradients of successive steps do not show the noise.
        budget: Share of the training time that measuring may use.
        gauges: Comma-separated gauge names.
        every: Measure at every n-th step and ignore the budget. With 1 the noise is read from the
            gradients of all steps, and gauges that run the model run at one in 16 (after
            step 512 as often in each doubling).
        level: Confidence level of every interval.
        seed: Seed of the random numbers that measuring draws.
        threads: Number of CPU threads of one process.
        device: Device of the model's parameters.

    Raises:
        BadArgument: A setting cannot be used.

    >>> from gradiometer.run.configuration import WatchedConfiguration
    >>> WatchedConfiguration(batch_size=64, every=10).to_dict()["batch_size"]
    64
    """

    problem: str = "loop"
    batch_size: int
    sampling: Literal["reshuffled", "replacement"] = "replacement"
    accumulation: int = 1
    parts: int | None = None
    budget: float = 0.02
    gauges: str = "noise"
    every: int | None = None
    level: float = LEVEL
    seed: int = 0
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        Configuration(**_with_two_examples(self.to_dict()))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> "WatchedConfiguration":
        """Check names and values. Settings of a training that `watch` does not know are left out.

        Args:
            mapping: Values by name.
            where: Prefix of the error messages, such as the name of the file.
        """
        checked = Configuration.from_mapping(_with_two_examples(mapping), where)
        known = {name: getattr(checked, name) for name in cls.__struct_fields__}
        known["batch_size"] = mapping.get("batch_size", checked.batch_size)
        return cls(**{name: value for name, value in known.items() if value is not None})

    @property
    def measured(self) -> str:
        """Comma-separated names of the gauges."""
        return self.gauges

    def to_dict(self) -> dict[str, Any]:
        """The values by name, without None, which TOML cannot store."""
        return {
            name: value for name, value in msgspec.structs.asdict(self).items() if value is not None
        }


def _with_two_examples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same without a batch of one example: a watched loop may have it, since successive steps
    are compared."""
    size = settings.get("batch_size")
    return {**settings, "batch_size": 2} if size == 1 else dict(settings)
