"""`Schedule`: a learning rate as a pure function of the step. It can be combined, stored, and
proven about, and so can every combination."""

import ast
import math
import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, SupportsIndex

from gradiometer.convergence.formulas.asymptotics import Asymptotics, Time
from gradiometer.convergence.formulas.expression import DEEPEST, nearest
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument

if TYPE_CHECKING:  # torch is loaded only when a schedule is attached to an optimizer
    import torch.optim.lr_scheduler


# Characters in the longest text accepted.
LONGEST = 20_000
METHODS = ("warmed_up", "then")


@dataclass(frozen=True)
class Setting:
    """A rule for a field of a schedule, written in its annotation."""

    must: str
    holds: Callable[[Any], bool]


def _number(least: Amount, most: Amount = sys.float_info.max) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    )


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


SMALLEST = math.ulp(0.0)
Rate = Annotated[Amount, Setting("be a finite number and not negative", _number(0))]
Positive = Annotated[Amount, Setting("be a finite number above 0", _number(SMALLEST))]
Count = Annotated[int, Setting("be a whole number of at least 1", _whole(1))]
CountOrZero = Annotated[int, Setting("be a whole number of at least 0", _whole(0))]
Lengthening = Annotated[Amount, Setting("be at least 1 and finite", _number(1))]
Shrinking = Annotated[Amount, Setting("be at most 1 and above 0", _number(SMALLEST, 1))]


class Schedule(ABC):
    """A learning rate η as a pure function of the step, counted from 0.

    Schedules are frozen dataclasses: they are equal if their settings are, their `repr` recreates
    them, and JSON stores
    them. They can be combined: `*`, `warmed_up`, `then`.

    To add one, write `formula`. If it uses only arithmetic, comparisons and the functions of
    `convergence.formulas`, the convergence theorem is decided for it; otherwise it stays undecided.

    >>> from gradiometer.convergence.schedules import Cosine
    >>> schedule = Cosine(0.1, steps=100).warmed_up(10)
    >>> schedule(0), schedule(5), schedule(10)
    (0.0, 0.05, 0.1)
    """

    # Every schedule class by its name, to read schedules from text.
    kinds: ClassVar[dict[str, type["Schedule"]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.__name__.startswith("_"):
            Schedule.kinds[cls.__name__] = cls

    def __post_init__(self) -> None:
        """Validate the settings by the rules in their annotations."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.type is Schedule:
                self._require(isinstance(value, Schedule), field.name, "be a schedule")
            for setting in getattr(field.type, "__metadata__", ()):
                self._require(setting.holds(value), field.name, setting.must)

    @abstractmethod
    def formula(self, step: Time) -> Time:
        """η at a step: a whole or fractional number, or `Asymptotics` for large steps."""

    def __call__(self, step: SupportsIndex) -> float:
        """η at a step, in double precision.

        Args:
            step: Steps taken so far, from 0 to 2^1000.

        Raises:
            BadArgument: If the step is not such a number, or η is negative, infinite or NaN there.
        """
        whole = whole_step(step)
        # Too large for a double, or undefined: both are refused with the step.
        try:
            rate = float(self.formula(whole))
        except OverflowError:
            rate = math.inf
        except (ArithmeticError, ValueError):
            rate = math.nan
        if not (rate >= 0 and math.isfinite(rate)):
            raise BadArgument(
                f"`{self!r}` gives {rate} at step {step}: a rate must be finite and not negative."
            )
        return rate

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """η for large steps, or something of its order at a share of them. Raises `Undecided` if
        the algebra has no answer."""
        return Asymptotics.constant(self.formula(step))

    def __mul__(self, other: "Schedule | Amount") -> "Schedule":
        return Product(self, _as_schedule(other))

    __rmul__ = __mul__

    def warmed_up(self, steps: int, start: Amount = 0.0, *, within: bool = False) -> "Schedule":
        """Starts with a linear rise. The schedule begins after it or, if `within`, at step 0 under
        the rise."""
        return Warmup(self, steps, start, within)

    def then(self, steps: int, other: "Schedule | Amount") -> "Schedule":
        """This one for some steps, then another one, which begins at its step 0."""
        return Then(self, steps, _as_schedule(other))

    def scheduler(self, optimizer: "torch.optim.Optimizer") -> "torch.optim.lr_scheduler.LambdaLR":
        """A PyTorch scheduler that follows this schedule. Call its `step` after every optimizer
        step.

        A group with the optimizer's default `lr` follows η exactly. A group with another `lr` keeps
        its ratio to the default, so that layer-wise rates stay in proportion.

        >>> import torch
        >>> from gradiometer.convergence.schedules import Linear
        >>> optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)
        >>> scheduler = Linear(0.1, steps=10).scheduler(optimizer)
        >>> for _ in range(5):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.05]
        """
        from torch.optim.lr_scheduler import LambdaLR  # noqa: PLC0415  schedules are read on machines without torch

        unit = float(optimizer.defaults["lr"])
        if not unit > 0:
            raise BadArgument(
                f"`lr` of the optimizer must be positive, got {unit}: it is what η is measured in."
            )
        # Torch multiplies the rate of each group by this, so groups with rates of their own keep
        # them in proportion.
        return LambdaLR(optimizer, lambda step: self(step) / unit)

    def to_dict(self) -> dict[str, Any]:
        """Its name and settings as JSON types."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {
            "kind": type(self).__name__,
            **{
                name: value.to_dict() if isinstance(value, Schedule) else value
                for name, value in settings.items()
            },
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Schedule":
        """The schedule from the result of `to_dict`."""
        if not (isinstance(settings, Mapping) and "kind" in settings):
            raise BadArgument(
                f"`settings` must be an object with the key 'kind', got {settings!r}."
            )
        given = {
            name: cls.from_dict(value) if isinstance(value, Mapping) else value
            for name, value in settings.items()
            if name != "kind"
        }
        return _build(settings["kind"], (), given)

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """The schedule from its `repr`, also with operators and methods; the text is never executed
        as code.

        >>> from gradiometer import Schedule
        >>> Schedule.parse("Linear(0.1, steps=100).warmed_up(5) * 0.5")(55)
        0.025
        """
        if len(text) > LONGEST:
            raise BadArgument(
                f"`text` must have at most {LONGEST:,} characters, got {len(text):,}."
            )
        try:
            schedule = _value(ast.parse(text.strip(), mode="eval").body)
        except (SyntaxError, MemoryError, RecursionError):
            raise BadArgument(
                f"`text` {text[:80]!r} is not a schedule: write one such as Cosine(0.1, "
                "steps=1000)."
            ) from None
        if not isinstance(schedule, Schedule):
            raise BadArgument(
                f"`text` {text[:80]!r} is a number: write a schedule such as "
                f"Constant({text.strip()[:20]})."
            )
        return schedule

    def _require(self, condition: bool, name: str, must: str) -> None:
        if not condition:
            raise BadArgument(
                f"`{name}` of {type(self).__name__} must {must}, got {getattr(self, name)!r}."
            )


def whole_step(step: SupportsIndex) -> int:
    """A step as a Python integer."""
    try:
        whole = operator.index(step)
    except TypeError:
        raise BadArgument(f"`step` must be a whole number, got {step!r}.") from None
    if isinstance(step, bool) or not 0 <= whole <= 2**1000:
        raise BadArgument(f"`step` must lie between 0 and 2^1000, got {step}.")
    return whole


def power(base: Amount, exponent: Time) -> Time:
    """base^exponent. A whole base is not raised to a number of thousands of digits."""
    return float(base) ** exponent if isinstance(exponent, int | float) else base**exponent


def _as_schedule(other: "Schedule | Amount") -> Schedule:
    return other if isinstance(other, Schedule) else _build("Constant", (other,), {})


@dataclass(frozen=True)
class Product(Schedule):
    """η = η₁ η₂."""

    first: Schedule
    second: Schedule

    def formula(self, step: Time) -> Time:
        return _at(self.first, step) * _at(self.second, step)


@dataclass(frozen=True)
class Then(Schedule):
    """The first schedule before `steps`; from there on the second one, which begins at its step 0.

    >>> from gradiometer.convergence.schedules import Constant, Linear
    >>> schedule = Constant(0.1).then(20, Linear(0.1, steps=10))
    >>> schedule(19), schedule(25)
    (0.1, 0.05)
    """

    first: Schedule
    steps: CountOrZero
    second: Schedule

    def formula(self, step: Time) -> Time:
        return _at(self.first, step) if step < self.steps else _at(self.second, step - self.steps)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear rise from `start` to the schedule's first rate, then the schedule.

    Args:
        schedule: The schedule after the rise.
        steps: Length of the rise.
        start: η at step 0.
        within: True if the schedule's step 0 is the first step of the rise, so that the rise
            replaces its beginning; False if it is the first step after the rise.
    """

    schedule: Schedule
    steps: Count
    start: Rate = 0.0
    within: bool = False

    def formula(self, step: Time) -> Time:
        if step < self.steps:
            return self.start + (_at(self.schedule, 0) - self.start) * step / self.steps
        return _at(self.schedule, step if self.within else step - self.steps)


def _at(schedule: Schedule, step: Time) -> Time:
    """The rate of a part: a number, or its asymptotics for large steps."""
    return schedule.asymptotics(step) if isinstance(step, Asymptotics) else schedule.formula(step)


def _build(name: Any, values: Sequence[Any], settings: Mapping[str, Any]) -> Schedule:
    """A schedule from its class name and settings."""
    kind = Schedule.kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise BadArgument(f"`schedule` {name!r} is not known.{nearest(str(name), Schedule.kinds)}")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise BadArgument(
                f"`{setting}` is not a setting of {name}.{nearest(setting, known)} Its settings "
                f"are {', '.join(known)}."
            )
    try:
        return kind(
            *(_tuples(value) for value in values),
            **{key: _tuples(value) for key, value in settings.items()},
        )
    except TypeError as error:
        raise BadArgument(
            f"`{name}` does not accept these settings ({error}); its settings are "
            f"{', '.join(known)}."
        ) from None


def _value(node: ast.AST, depth: int = 0) -> Any:
    # The parser accepts deeper texts than a recursion over its tree survives.
    if not depth < DEEPEST:
        raise BadArgument(f"`text` is nested more than {DEEPEST} deep: combine fewer schedules.")

    def inner(part: ast.AST) -> Any:
        return _value(part, depth + 1)

    def settings(keywords: Sequence[ast.keyword]) -> dict[str, Any]:
        given = {word.arg: inner(word.value) for word in keywords if word.arg is not None}
        names = ", ".join(str(word.arg) for word in keywords)
        if len(given) != len(keywords):
            raise BadArgument(f"`text`: a setting is given twice in {names}.")
        return given

    match node:
        case ast.Constant(value=int() | float() | bool() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(map(inner, parts))
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=keywords) if all(
            word.arg for word in keywords
        ):
            return _build(name, list(map(inner, parts)), settings(keywords))
        case ast.Call(
            func=ast.Attribute(value=owner, attr=method), args=parts, keywords=keywords
        ) if method in METHODS:
            schedule = inner(owner)
            if not isinstance(schedule, Schedule):
                raise BadArgument(
                    f"`text`: .{method} needs a schedule on its left, got {schedule!r}."
                )
            try:
                return getattr(schedule, method)(*map(inner, parts), **settings(keywords))
            except TypeError as error:
                raise BadArgument(
                    f"`text`: .{method} does not accept these settings ({error})."
                ) from None
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return inner(left) * inner(right)
    raise BadArgument(f"`text`: {ast.unparse(node)[:80]} is not part of a schedule.")


def _tuples(value: Any) -> Any:
    """Turns the lists of JSON into tuples, which a frozen dataclass needs."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
