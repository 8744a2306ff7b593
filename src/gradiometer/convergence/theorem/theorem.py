"""The conditions of the classical convergence theorem on the learning rate: each is decided or
undecided.

For a smooth loss that is bounded below, η_t ≥ 0, η_t → 0, Σ η_t = ∞ and Σ η_t² < ∞ are enough for
the training loss to converge and for its gradient to go to zero. They are not necessary: a schedule
that fails one of them may converge too.

Source: Bertsekas & Tsitsiklis (2000), Gradient Convergence in Gradient Methods with Errors, prop.
3.
"""

import re
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from gradiometer.convergence.formulas.asymptotics import (
    LARGE_T,
    LEVELS,
    STEPS,
    Asymptotics,
    Monomial,
    Steps,
    largest_bound,
)
from gradiometer.convergence.formulas.number import Constant, Undecided
from gradiometer.convergence.schedules import Formula, Schedule
from gradiometer.errors import BadArgument


@dataclass(frozen=True)
class Conditions:
    """What the size of η_t for large t says about the conditions; None if undecided.

    Args:
        rates: η_t for large t, on sets of steps that cover all of them.
    """

    rates: tuple[Asymptotics, ...]

    @property
    def goes_negative(self) -> bool:
        """True if η_t < 0 again and again."""
        return any(rate.factor.apart < 0 for rate in self.rates)

    @property
    def limit_zero(self) -> bool | None:
        """True if η_t → 0."""
        if all(rate.size is None or rate.size.direction < 0 for rate in self.rates):
            return True
        stays = any(
            rate.factor.apart and rate.size and rate.size.direction >= 0 for rate in self.rates
        )
        return False if stays else None

    @property
    def sum_diverges(self) -> bool | None:
        """True if Σ η_t = ∞."""
        try:
            summable = [_is_summable(rate.size) for rate in self.rates]
            # A sum of rates that are negative may be −∞, and is never +∞.
            signs = [rate.factor.apart for rate in self.rates]
            if all(fine or sign < 0 for fine, sign in zip(summable, signs, strict=True)):
                return False
            grows = any(not fine and sign > 0 for fine, sign in zip(summable, signs, strict=True))
            return True if grows and all(map(_is_bounded_below, self.rates)) else None
        except Undecided:
            return None

    @property
    def sum_of_squares_converges(self) -> bool | None:
        """True if Σ η_t² < ∞."""
        try:
            infinite = [
                rate
                for rate in self.rates
                if rate.size and not rate.size.power(Fraction(2)).sum_converges
            ]
        except Undecided:
            return None
        if not infinite:
            return True
        return False if any(rate.factor.apart for rate in infinite) else None

    @property
    def decided(self) -> bool:
        """True if all three conditions are."""
        return None not in (self.limit_zero, self.sum_diverges, self.sum_of_squares_converges)

    @property
    def order(self) -> str:
        """How η_t decays, such as "falls as t^-1"."""
        size = largest_bound(rate.size for rate in self.rates)
        if size is None:
            return "is zero from some step on"
        if not all(rate.factor.apart and rate.size == size for rate in self.rates):
            return f"stays within a multiple of {as_text(size)}"
        verb = {-1: "falls as", 0: "stays of order", 1: "grows as"}[size.direction]
        return f"{verb} {as_text(size)}"


def _is_summable(size: Monomial | None) -> bool:
    return size is None or size.sum_converges


def _is_bounded_below(rate: Asymptotics) -> bool:
    """True if the negative values of a rate have a finite sum."""
    if rate.factor.apart > 0:
        return True
    negative = [monomial for monomial, factor in rate.terms if factor.low < 0]
    return all(_is_summable(size) for size in (*negative, rate.rest))


def as_text(monomial: Monomial) -> str:
    """A monomial as text: "t^-0.5 (log t)^-2", "exp(−0.01 t)", "1"."""
    factors = []
    for powers, c in monomial.exponent:
        if powers in LEVELS[1:]:
            factors.append(_as_power(LEVELS.index(powers) - 1, c))
        else:
            term = " ".join(_as_power(level, p) for level, p in enumerate(powers) if p)
            factors.append(f"exp({'−' if c < 0 else ''}{abs(float(c)):.3g} {term})")
    return " ".join(factors) or "1"


def _as_power(level: int, power: Constant) -> str:
    """A power of t (level 0), log t (level 1), …: "(log t)^-2"."""
    name = f"({'log ' * level}t)" if level else "t"
    if power == 1:
        return name
    whole = isinstance(power, Fraction) and power.denominator == 1
    return f"{name}^{power if whole else format(float(power), '.4g')}"


# Every step from t = 1 to this one is evaluated; after it, powers of two.
FIRST_STEPS = 256

# A longer period is not looked at, and of a period this many classes of steps at most. One class
# shows that a sum is infinite, and bounds on all steps that it is finite.
LONGEST_PERIOD = 100_000
CLASSES = 64

# The three conditions, and how a verdict says that they hold or fail.
CONDITIONS = {
    "limit_zero": ("it goes to zero", "it does not go to zero"),
    "sum_diverges": ("its sum is infinite", "its sum is finite"),
    "sum_of_squares_converges": (
        "the sum of its squares is finite",
        "the sum of its squares is infinite",
    ),
}

Subject = Schedule | str


@dataclass(frozen=True)
class TheoremVerdict:
    """The answers for the theorem's conditions. Each is True, False, or None if undecided.

    Args:
        expression: The schedule or the formula.
        limit_zero: True if η_t → 0.
        sum_diverges: True if Σ η_t = ∞.
        sum_of_squares_converges: True if Σ η_t² < ∞.
        theorem: True if all three hold and η_t is not negative.
        why: The reason, in a sentence.
    """

    expression: str
    limit_zero: bool | None
    sum_diverges: bool | None
    sum_of_squares_converges: bool | None
    theorem: bool | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        """The verdict as a dictionary, as `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class _Start:
    """The first step at which η is undefined, and why; the first steps at which it is negative, and
    at which it may be: below zero in doubles, and not decided by the algebra."""

    undefined: int | None = None
    reason: str = ""
    negative: int | None = None
    doubtful: int | None = None


def theorem(subject: Subject) -> TheoremVerdict:
    """Decide the theorem's conditions for a schedule or for a formula in t = 1, 2, …

    A formula may be undefined at finitely many steps, such as 1/(t log t) at t = 1: the verdict
    then names the step and judges the others.

    Raises:
        BadArgument: If the formula cannot be read or is undefined again and again, or a schedule
            gives no rate.

    >>> from gradiometer import theorem
    >>> theorem("1/t").theorem, theorem("1/sqrt(t)").theorem
    (True, False)
    >>> print(theorem("1/sqrt(t)").why)
    η_t falls as t^-0.5: it goes to zero, its sum is infinite and the sum of its squares is infinite, so the theorem
    does not apply; these conditions are sufficient, not necessary.
    """
    if isinstance(subject, str):
        return replace(theorem(read(subject)), expression=subject)
    if not isinstance(subject, Schedule):
        raise BadArgument(
            f"`subject` must be a schedule or a formula in t, got {type(subject).__name__}."
        )
    if isinstance(subject, Formula):
        return _verdict(subject.text, _conditions(subject), _start_of(subject))
    # A schedule that gives no rate is refused, as in training.
    for step in range(FIRST_STEPS):
        subject(step)
    return _verdict(repr(subject), _conditions(subject), _Start())


def read(text: str) -> Schedule:
    """The schedule in a text: a shape such as "Cosine(0.1, steps=1000)" if it has a capital letter,
    else a formula.

    >>> from gradiometer.convergence.theorem.theorem import read
    >>> read("0.1/sqrt(t)")(3)
    0.05
    """
    return Schedule.parse(text) if re.search(r"\b[A-Z]\w*\s*\(", text) else Formula(text)


def _conditions(schedule: Schedule) -> Conditions | None:
    """The conditions for all large t, or None if the algebra does not decide them.

    What all steps together leave open is decided on classes of steps: squares and the others, or
    t = period·s + remainder, on which `t % period` is a constant.
    """
    steps = Steps()
    whole = _rate(schedule, LARGE_T, steps)
    found = None if whole is None else Conditions((whole,))
    if found is not None and found.decided:
        return found
    if steps.root > 1:
        squares = _rate(schedule, LARGE_T * LARGE_T, Steps())
        others = _rate(schedule, LARGE_T, Steps(irrational=True))
        classes, covered = [squares, others], True
    else:
        # The remainder of a quotient shows its period only after that of the quotient is known.
        period, total = steps.period, 1
        while period > 1 and total < LONGEST_PERIOD:
            total, steps = total * period, Steps()
            _rate(schedule, LARGE_T * total, steps)
            period = steps.period
        if total == 1:
            return found
        stride = -(-total // CLASSES)
        classes = [
            _rate(schedule, LARGE_T * total + remainder, Steps())
            for remainder in range(0, total, stride)
        ]
        covered = stride == 1
    if not covered or None in classes:
        classes.append(whole)
    rates = [rate for rate in classes if rate is not None]
    return found if classes[-1] is None or not rates else Conditions(tuple(rates))


def _rate(schedule: Schedule, t: Asymptotics, steps: Steps) -> Asymptotics | None:
    """η on some steps; `steps` takes down what would decide more."""
    token = STEPS.set(steps)
    # A schedule of one's own may do anything with what it gets in place of a step.
    try:
        return schedule.asymptotics(t - 1)
    except (Undecided, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    finally:
        STEPS.reset(token)


def _start_of(formula: Formula) -> _Start:
    """Evaluate the first steps, and powers of two. A value too large for a double is skipped."""
    undefined: int | None = None
    reason, last = "", 0
    negative: int | None = None
    doubtful: int | None = None
    for t in (*range(1, FIRST_STEPS + 1), *(2**power for power in range(9, 61))):
        try:
            value = float(formula.formula(t - 1))
        except OverflowError:
            continue
        except (ZeroDivisionError, ValueError) as error:
            if undefined is None:
                undefined = t
                reason = "division by zero" if isinstance(error, ZeroDivisionError) else str(error)
            last = t
            continue
        # Rounding alone may take a rate below zero, and says nothing about the formula.
        if value < 0 and negative is None:
            try:
                if formula.asymptotics(Asymptotics.constant(t - 1)).sign < 0:
                    negative = t
            except (Undecided, ArithmeticError, ValueError):
                # So far below zero in doubles is no rounding at the first steps.
                if value < -1e-6 and t <= FIRST_STEPS and not doubtful:
                    doubtful = t
    if not (undefined is None or last <= FIRST_STEPS // 2):
        raise BadArgument(
            f"`expression` is undefined at t = {undefined} ({reason}) and again at t = {last}. It "
            "must have a value at all but a few first steps."
        )
    return _Start(undefined, reason, negative, doubtful)


def _verdict(name: str, conditions: Conditions | None, start: _Start) -> TheoremVerdict:
    answers = {condition: getattr(conditions, condition, None) for condition in CONDITIONS}
    negative = start.negative is not None or (conditions is not None and conditions.goes_negative)
    holds: bool | None = True
    if negative or False in answers.values():
        holds = False
    elif None in answers.values() or start.doubtful is not None:
        holds = None
    why = _why(answers, conditions, start, holds)
    return TheoremVerdict(name, **answers, theorem=holds, why=why)


def _why(
    answers: dict[str, bool | None],
    conditions: Conditions | None,
    start: _Start,
    holds: bool | None,
) -> str:
    falls_below_zero = conditions is not None and conditions.goes_negative
    known = [
        "its sum does not go to +∞"
        if falls_below_zero and name == "sum_diverges" and not answer
        else CONDITIONS[name][0 if answer else 1]
        for name, answer in answers.items()
        if answer is not None
    ]
    undecided = [
        f"whether {CONDITIONS[name][0]}" for name, answer in answers.items() if answer is None
    ]
    parts = [f"η_t {conditions.order}"] if conditions is not None else []
    parts += [_listing(known)] if known else []
    sentence = ": ".join(parts)
    if undecided:
        sentence += f"{'; ' if sentence else ''}it is undecided {_listing(undecided)}"
    if start.negative is not None:
        sentence += f"; it is negative at t = {start.negative}, but the theorem needs η_t ≥ 0"
    elif falls_below_zero:
        sentence += "; it is negative from some step on, but the theorem needs η_t ≥ 0"
    elif start.doubtful is not None:
        sentence += f"; it is undecided whether it is negative at t = {start.doubtful}"
    if holds is True:
        sentence += ", so the theorem applies"
    elif holds is False:
        sentence += (
            ", so the theorem does not apply; these conditions are sufficient, not necessary"
        )
    if start.undefined is not None:
        sentence += (
            f". It is undefined at t = {start.undefined} ({start.reason}): the verdict is about "
            "later steps"
        )
    return sentence + "."


def _listing(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
