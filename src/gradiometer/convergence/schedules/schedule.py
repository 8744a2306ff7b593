"""The schedule: a learning rate as a pure function of the step, composed, written down and proven about."""

import json
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

from gradiometer.convergence.formulas.asymptotics import Asymptotics
from gradiometer.convergence.formulas.functions import Time
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument

if TYPE_CHECKING:  # torch is loaded only where a schedule meets an optimizer
    import torch.optim.lr_scheduler

READER = "gradiometer.convergence.schedules.text"
LAST_STEP = 2**1000
"""The last step a schedule answers for."""


class Schedule(ABC):
    """A learning rate η as a pure function of the step, counted from 0.

    Schedules are frozen dataclasses: equal where their settings are, recreated by their `repr`, and written as JSON.
    They form an algebra: `+`, `*`, `at_least`, `at_most`, `shifted`, `warmed_up`, `then`, `held`, `repeated`.

    To add one, write `formula`. If it uses only arithmetic, comparisons and `formulas.functions`, the convergence
    theorem is decided for it; otherwise there is evidence only.
    """

    kinds: ClassVar[dict[str, type["Schedule"]]] = {}
    """Every schedule by its name, for reading one back."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.__name__.startswith("_"):
            Schedule.kinds[cls.__name__] = cls

    @abstractmethod
    def formula(self, step: Time) -> Time:
        """η at a step, for whole and fractional steps and for their behaviour in the long run."""

    def __call__(self, step: SupportsIndex) -> float:
        """η at a step, in double precision.

        Args:
            step: Steps taken so far, from 0 to 2^1000.

        Raises:
            BadArgument: Where the step is not one, or η is negative, infinite or NaN there.
        """
        rate = self._rate(whole_step(step))
        if not (rate >= 0 and math.isfinite(rate)):
            raise BadArgument(f"`{self!r}` gives {rate} at step {step}: a rate must be finite and not negative.")
        return rate

    def _rate(self, step: int) -> float:
        try:
            return float(self.formula(step))
        except OverflowError:
            return math.inf
        except (ArithmeticError, ValueError):
            return math.nan

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """η in the long run, for a step known in the long run. Raises `Undecided` where it cannot tell."""
        return Asymptotics.constant(self.formula(step))

    def __add__(self, other: "Schedule | Amount") -> "Schedule":
        return _made("Sum", self, _lifted(other))

    def __mul__(self, other: "Schedule | Amount") -> "Schedule":
        return _made("Product" if isinstance(other, Schedule) else "Scaled", self, other)

    __radd__ = __add__
    __rmul__ = __mul__

    def at_least(self, other: "Schedule | Amount") -> "Schedule":
        """The larger of the two at every step."""
        return _made("Maximum", self, _lifted(other))

    def at_most(self, other: "Schedule | Amount") -> "Schedule":
        """The smaller of the two at every step."""
        return _made("Minimum", self, _lifted(other))

    def shifted(self, steps: int) -> "Schedule":
        """The schedule as it is some steps later: η at step + steps."""
        return _made("Shifted", self, steps)

    def warmed_up(self, steps: int, start: Amount = 0.0, *, within: bool = False) -> "Schedule":
        """A linear rise from `start` first. The schedule begins after it, or runs on beneath it where `within`."""
        return _made("Warmup", self, steps, start, within)

    def then(self, steps: int, other: "Schedule | Amount") -> "Schedule":
        """This one for some steps, then another from its own step 0."""
        return _made("Then", self, steps, _lifted(other))

    def held(self, every: int) -> "Schedule":
        """The schedule counted in epochs of `every` steps: constant within each."""
        return _made("Held", self, every)

    def repeated(self, length: int, lengthen: Amount = 1.0, shrink: Amount = 1.0) -> "Schedule":
        """Its first `length` steps over and over, each cycle `lengthen` times as long and `shrink` times as high."""
        return _made("Cycles", self, length, lengthen, shrink)

    def scheduler(
        self,
        optimizer: "torch.optim.Optimizer",
        parameter: str = "lr",
        *,
        reference: Amount | None = None,
        last_epoch: int = -1,
    ) -> "torch.optim.lr_scheduler.LRScheduler":
        """Torch's own scheduler that follows this schedule; see `schedule_torch.scheduler`."""
        bridge = import_module("gradiometer.convergence.schedules.torch_schedulers")
        made: torch.optim.lr_scheduler.LRScheduler = bridge.scheduler(
            self, optimizer, parameter, reference=reference, last_epoch=last_epoch
        )
        return made

    def to_dict(self) -> dict[str, Any]:
        """Its name and settings, in what JSON knows."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {
            "kind": type(self).__name__,
            **{name: value.to_dict() if isinstance(value, Schedule) else value for name, value in settings.items()},
        }

    def to_json(self) -> str:
        """`to_dict` as text; `from_json` reads it back."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Schedule":
        """The schedule that `to_json` wrote."""
        try:
            settings = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadArgument(f"`text` is not JSON: {error}.") from None
        return cls.from_dict(settings)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Schedule":
        """The schedule that `to_dict` wrote."""
        if not isinstance(settings, Mapping) or "kind" not in settings:
            raise BadArgument(f"`settings` must be an object with the key 'kind', got {settings!r}.")
        given = {
            name: cls.from_dict(value) if isinstance(value, Mapping) else value
            for name, value in settings.items()
            if name != "kind"
        }
        return _made(settings["kind"], **given)

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """The schedule whose `repr` the text is, such as "Cosine(0.1, steps=1000)"; the text is never executed."""
        made: Schedule = import_module(READER).parsed(text)
        return made

    def _refuse_unless(self, condition: bool, name: str, must: str) -> None:
        """Refuse a setting by name."""
        if not condition:
            raise BadArgument(f"`{name}` of {type(self).__name__} must {must}, got {getattr(self, name)!r}.")

    def _need_rates(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            self._refuse_unless(good and math.isfinite(value), name, "be a finite number and not negative")

    def _need_positive(self, *names: str) -> None:
        self._need_rates(*names)
        for name in names:
            self._refuse_unless(getattr(self, name) > 0, name, "be positive")

    def _need_whole(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            good = isinstance(value, int) and not isinstance(value, bool) and value >= least
            self._refuse_unless(good, name, f"be a whole number of at least {least}")

    def _need_schedules(self, *names: str) -> None:
        for name in names:
            self._refuse_unless(isinstance(getattr(self, name), Schedule), name, "be a schedule")


def whole_step(step: SupportsIndex) -> int:
    """A step as Python's own integer; anything else is refused."""
    try:
        whole = operator.index(step)
    except TypeError:
        raise BadArgument(f"`step` must be a whole number, got {step!r}.") from None
    if isinstance(step, bool) or not 0 <= whole <= LAST_STEP:
        raise BadArgument(f"`step` must lie between 0 and 2^1000, got {step}.")
    return whole


def _made(kind: Any, *values: Any, **settings: Any) -> Schedule:
    """A schedule by the name of its kind; the kinds stand in files that import this one."""
    made: Schedule = import_module(READER).built(kind, values, settings)
    return made


def _lifted(other: "Schedule | Amount") -> Schedule:
    return other if isinstance(other, Schedule) else _made("Constant", other)
