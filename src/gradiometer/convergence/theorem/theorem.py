"""The classical convergence theorem's conditions on the learning rate, decided or said to be undecided.

For a smooth loss that is bounded below, η_t ≥ 0, η_t → 0, Σ η_t = ∞ and Σ η_t² < ∞ are enough for the training loss to
converge and its gradient to go to zero. They are not necessary: a schedule that fails one of them may converge too.

Source: Bertsekas & Tsitsiklis (2000), Gradient Convergence in Gradient Methods with Errors, prop. 3.
"""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from gradiometer.convergence.formulas.asymptotics import TIME_PASSES, Behaviour
from gradiometer.convergence.formulas.expression import Expression
from gradiometer.convergence.formulas.number import Undecided
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.schedules.shapes import Formula
from gradiometer.convergence.theorem.conditions import Tail
from gradiometer.convergence.theorem.evidence import Evidence, evidence
from gradiometer.convergence.theorem.symbolic import precisely, second_opinion
from gradiometer.errors import BadArgument

FIRST_STEPS = 256
"""Steps from t = 1 on that are looked at one by one; larger powers of two after them."""
LATER_STEPS = tuple(2**power for power in range(9, 61))
CONDITIONS = ("limit_zero", "sum_diverges", "sum_of_squares_converges")
WORDS = {
    "limit_zero": ("it goes to zero", "it does not go to zero", "whether it goes to zero"),
    "sum_diverges": ("its sum is infinite", "its sum is finite", "whether its sum is infinite"),
    "sum_of_squares_converges": (
        "the sum of its squares is finite",
        "the sum of its squares is infinite",
        "whether the sum of its squares is finite",
    ),
}
DOWNWARD = {"sum_diverges": ("its sum is infinite", "its sum never rises", "whether its sum is infinite")}
"""The same of a sequence that is negative from some step on."""
LEANINGS = {
    "limit_zero": ("it looks as if it went to zero", "it does not look as if it went to zero"),
    "sum_diverges": ("its sum looks infinite", "its sum looks finite"),
    "sum_of_squares_converges": ("the sum of its squares looks finite", "the sum of its squares looks infinite"),
}
SUFFICIENT = "these conditions are sufficient, not necessary"

Subject = Schedule | Expression | str | Callable[[int], float]


@dataclass(frozen=True)
class Verdict:
    """What is known of the theorem's conditions; None where it is undecided.

    Args:
        expression: The schedule or the formula.
        limit_zero: Whether η_t → 0.
        sum_diverges: Whether Σ η_t = ∞.
        sum_of_squares_converges: Whether Σ η_t² < ∞.
        theorem: Whether all three hold and η_t is not negative.
        why: The reason, in a sentence.
        evidence: What the dyadic blocks suggest where a condition is undecided; it decides nothing.
    """

    expression: str
    limit_zero: bool | None
    sum_diverges: bool | None
    sum_of_squares_converges: bool | None
    theorem: bool | None
    why: str
    evidence: Evidence | None = None

    def to_dict(self) -> dict[str, Any]:
        """The verdict by name, as `--json` prints it."""
        return {name: value for name, value in asdict(self).items() if name != "evidence"}


@dataclass(frozen=True)
class _Start:
    """What the first steps are like: where η is undefined or negative at first, and why."""

    undefined: int | None = None
    reason: str = ""
    negative: tuple[int, float] | None = None


def theorem(subject: Subject) -> Verdict:
    """Decide the theorem's conditions for a schedule or for a formula in t = 1, 2, …

    A formula may be undefined at finitely many steps (1/(t log t) is at t = 1): its tail is judged, and that is said.
    A function that cannot be looked into is called with t = 1, 2, … and gets evidence only.

    Raises:
        BadArgument: Where the formula cannot be read, is undefined for ever, or a schedule gives no rate.
    """
    if isinstance(subject, str):
        return replace(theorem(read(subject)), expression=subject)
    if isinstance(subject, Formula):
        subject = Expression(subject.text)
    if isinstance(subject, Expression):
        return _of_expression(subject)
    if isinstance(subject, Schedule):
        return _of_schedule(subject)
    if callable(subject):
        return _of_function(subject)
    raise BadArgument(f"`subject` must be a schedule, a formula in t or a function of t, got {type(subject).__name__}.")


def read(text: str) -> Schedule:
    """The schedule a text names, such as Cosine(0.1, steps=1000), where it has a capital letter; else its formula."""
    return Schedule.parse(text) if re.search(r"\b[A-Z]\w*\s*\(", text) else Formula(text)


def _of_expression(expression: Expression) -> Verdict:
    start = _start_of(expression)
    tail = _tail(expression.behaviour)
    if start.negative is not None and not _negative_for_certain(expression, start.negative[0]):
        start = _Start(start.undefined, start.reason)
    answers = _answers(tail)
    seen: Evidence | None = None
    if None in answers.values() and start.negative is None:
        if tail is None:
            answers = second_opinion(expression)
        if None in answers.values():
            seen = evidence(expression)
    return _verdict(expression.text, answers, tail, start, seen)


def _of_schedule(schedule: Schedule) -> Verdict:
    for step in range(FIRST_STEPS):
        schedule(step)
    tail = _tail(lambda: schedule.behaviour(TIME_PASSES - 1))
    answers = _answers(tail)
    seen = evidence(lambda t: schedule(t - 1)) if None in answers.values() else None
    return _verdict(repr(schedule), answers, tail, _Start(), seen)


def _of_function(function: Callable[[int], float]) -> Verdict:
    start = _start_of(function, first=range(1, 65), later=())
    seen = evidence(function)
    name = getattr(function, "__name__", "") or repr(function)
    if start.negative is None and seen.negative is not None:
        start = _Start(negative=(seen.negative, float(function(seen.negative))))
    return _verdict(name, dict.fromkeys(CONDITIONS), None, start, seen)


def _tail(behaviour: Callable[[], Behaviour]) -> Tail | None:
    """The tail where our own analysis finds it, else None."""
    try:
        return Tail.of(behaviour())
    except (Undecided, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _answers(tail: Tail | None) -> dict[str, bool | None]:
    return {condition: getattr(tail, condition, None) for condition in CONDITIONS}


def _start_of(
    function: Callable[[int], float],
    first: Iterable[int] = range(1, FIRST_STEPS + 1),
    later: Iterable[int] = LATER_STEPS,
) -> _Start:
    """Look at the first steps, and at powers of two. What is beyond doubles says nothing and is passed over."""
    undefined: int | None = None
    reason, last, negative = "", 0, None
    for t in itertools.chain(first, later):
        try:
            value = float(function(t))
        except OverflowError:
            continue
        except (ZeroDivisionError, ValueError) as error:
            undefined, reason, last = undefined or t, reason or _plain(error), t
            continue
        except TypeError:
            raise BadArgument(f"`subject` must give a number at t = {t}, and does not.") from None
        if value < 0 and negative is None:
            negative = (t, value)
    if undefined is not None and last > FIRST_STEPS // 2:
        raise BadArgument(f"`expression` is undefined at t = {undefined} ({reason}) and again at t = {last}: mend it.")
    return _Start(undefined, reason, negative)


def _plain(error: Exception) -> str:
    return "division by zero" if isinstance(error, ZeroDivisionError) else str(error)


def _negative_for_certain(expression: Expression, t: int) -> bool:
    """Whether it is negative at t in many digits too, not by rounding only."""
    return precisely(expression, t) < 0


def _verdict(
    name: str, answers: dict[str, bool | None], tail: Tail | None, start: _Start, seen: Evidence | None
) -> Verdict:
    negative = start.negative is not None or (tail is not None and tail.sign == -1)
    holds = False if negative or False in answers.values() else None if None in answers.values() else True
    sentence = _why(answers, tail, start, holds)
    if seen is not None:
        sentence += f" {_leaning(answers, seen)}"
    limit, diverges, squares = (answers[condition] for condition in CONDITIONS)
    return Verdict(name, limit, diverges, squares, holds, sentence, seen)


def _why(answers: dict[str, bool | None], tail: Tail | None, start: _Start, holds: bool | None) -> str:
    words = WORDS | DOWNWARD if tail is not None and tail.sign == -1 else WORDS
    known = [words[name][0 if answer else 1] for name, answer in answers.items() if answer is not None]
    open_questions = [WORDS[name][2] for name, answer in answers.items() if answer is None]
    parts = [f"η_t {tail.order}"] if tail is not None else []
    if known:
        parts.append(_joined(known))
    sentence = ": ".join(parts)
    if open_questions:
        sentence += ("; " if sentence else "") + f"{_joined(open_questions)} is undecided"
    if start.negative is not None:
        sentence += f"; it is negative at t = {start.negative[0]}, and the theorem asks for η_t ≥ 0"
    elif tail is not None and tail.sign == -1:
        sentence += "; it is negative from some step on, and the theorem asks for η_t ≥ 0"
    if holds is True:
        sentence += ", so the theorem applies"
    elif holds is False:
        sentence += f", so the theorem does not apply; {SUFFICIENT}"
    if start.undefined is not None:
        sentence += f". It is undefined at t = {start.undefined} ({start.reason}): only what follows was judged"
    return sentence + "."


def _leaning(answers: dict[str, bool | None], seen: Evidence) -> str:
    leanings = []
    for name, answer in answers.items():
        leaning = getattr(seen, name)
        if answer is None and leaning is not None:
            leanings.append(LEANINGS[name][0 if leaning else 1])
    said = _joined(leanings) if leanings else "it does not lean either way"
    reach = f"{seen.blocks:,} dyadic blocks, up to t = 2^{seen.blocks + 1}"
    return f"Evidence only, from {reach}: {said}."


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
