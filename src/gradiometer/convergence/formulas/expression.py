"""A formula in t, read against a short grammar and never executed as code.

The grammar: numbers, t, pi, + − * / // % **, comparisons, `a if c else b`, and the functions below. One reading of
the tree serves every kind of number: integers and doubles, the behaviour for large t, a computer algebra's symbols.
"""

import ast
import difflib
import functools
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, cast

from gradiometer.convergence.formulas import asymptotics as behaviour
from gradiometer.convergence.formulas.asymptotics import TIME_PASSES, Behaviour
from gradiometer.convergence.formulas.number import LARGEST_BITS, PI, Amount, Number
from gradiometer.errors import BadArgument

LONGEST = 1000
"""Characters of the longest formula that is read."""
DEEPEST = 60
FUNCTIONS = ("log", "log2", "log10", "sqrt", "exp", "sin", "cos", "floor", "int", "abs", "min", "max")
OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


@dataclass(frozen=True, eq=False)
class Dialect:
    """How a kind of number does what the grammar asks for beside Python's operators."""

    constant: Callable[[int | float], Any]
    pi: Any
    power: Callable[[Any, Any], Any]
    compared: Callable[[Any, str, Any], Any]
    chosen: Callable[[Any, Callable[[], Any], Callable[[], Any]], Any]
    functions: Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Expression:
    """A learning rate as a formula in t = 1, 2, …, such as `0.1/sqrt(t)`.

    Args:
        text: The formula.

    Raises:
        BadArgument: Where the formula is outside the grammar, or one of its constants is beyond doubles.
    """

    text: str

    def __post_init__(self) -> None:
        if not len(self.text) <= LONGEST:
            raise BadArgument(f"`expression` must have at most {LONGEST} characters, got {len(self.text):,}.")
        self._refuse_impossible_constants(self.tree)

    @cached_property
    def tree(self) -> ast.expr:
        """The formula's tree: nothing in it but the grammar."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", SyntaxWarning)
                tree = ast.parse(self.text.strip(), mode="eval").body
            _check(tree, self.text)
        except (SyntaxError, SyntaxWarning, ValueError, MemoryError, RecursionError) as error:
            if isinstance(error, BadArgument):
                raise
            raise BadArgument(
                f"`expression` {self.text[:80]!r} is not a formula: write one such as '0.1/sqrt(t)'."
            ) from None
        return tree

    def __call__(self, t: int) -> float:
        """Its value at t, in double precision with whole steps.

        Raises:
            ZeroDivisionError, ValueError: Where it is undefined at t.
            OverflowError: Where an intermediate value is beyond doubles.
        """
        return float(self.read(t, NUMBERS))

    def behaviour(self, t: Behaviour = TIME_PASSES) -> Behaviour:
        """Its behaviour in the long run."""
        return Behaviour.constant(self.read(t, BEHAVIOURS))

    def read(self, t: Any, dialect: Dialect) -> Any:
        """Its value for any kind of t that the dialect knows."""
        return _function(self.text, dialect)(t)

    def _refuse_impossible_constants(self, node: ast.AST) -> None:
        """Every part without a t must have a value, so that 9**9**9 is refused and not waited for."""
        if any(isinstance(part, ast.Name) and part.id == "t" for part in ast.walk(node)):
            for child in ast.iter_child_nodes(node):
                self._refuse_impossible_constants(child)
        elif isinstance(node, ast.expr) and not isinstance(node, ast.Name):
            part = ast.unparse(node)
            try:
                if not math.isfinite(float(_reading(node, NUMBERS)(1))):
                    raise OverflowError
            except OverflowError:
                raise BadArgument(f"`expression` {self.text!r}: {part} is too large for a double.") from None
            except (ZeroDivisionError, ValueError) as error:
                raise BadArgument(f"`expression` {self.text!r}: {part} has no value ({error}).") from None


def _check(node: ast.AST, text: str, depth: int = 0) -> None:  # noqa: PLR0912  one case a rule
    """Refuse everything outside the grammar, by name."""
    match node:
        case _ if depth > DEEPEST:
            _refuse(text, f"it is nested more than {DEEPEST} deep")
        case ast.Constant(value=bool()) | ast.Constant(value=complex() | str() | bytes() | None):
            _refuse(text, f"{ast.unparse(node)} is not a number")
        case ast.Constant(value=float() as number) if not math.isfinite(number):
            _refuse(text, "a constant is too large for a double")
        case ast.Name(id=name) if name not in ("t", "pi"):
            _refuse(text, _unknown(name, ("t", "pi")))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            several = name in ("min", "max")
            if not (len(arguments) >= 2 if several else len(arguments) == 1):
                _refuse(text, f"{name} takes {'two numbers or more' if several else 'one number'}")
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            _refuse(text, _unknown(name, FUNCTIONS))
        case ast.BinOp(op=ast.BitXor()):
            _refuse(text, "a power is written **, not ^")
        case ast.BinOp(op=ast.Pow()) | ast.Constant() | ast.Name() | ast.IfExp():
            pass
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            pass
        case ast.Compare(ops=ops) if all(type(op) in COMPARISONS for op in ops):
            pass
        case _:
            _refuse(text, f"{ast.unparse(node)} is not part of a formula")
    children = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    for child in children:
        if isinstance(child, ast.expr):
            _check(child, text, depth + 1)


def _refuse(text: str, reason: str) -> None:
    raise BadArgument(f"`expression` {text!r}: {reason}; the grammar is numbers, t, pi, + - * / // % **, "
                   f"comparisons, `a if c else b` and {', '.join(FUNCTIONS)}.")  # fmt: skip


def _unknown(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, (*known, *FUNCTIONS, "t", "pi"), n=1, cutoff=0.5)
    return f"unknown name {name}" + (f", did you mean {near[0]}?" if near else "")


@functools.lru_cache(maxsize=256)
def _function(text: str, dialect: Dialect) -> Callable[[Any], Any]:
    """A formula as one function of t: its tree is walked once, not at every step."""
    return _reading(Expression(text).tree, dialect)


def _reading(node: ast.AST, dialect: Dialect) -> Callable[[Any], Any]:  # noqa: PLR0911  one case a kind of node
    match node:
        case ast.Constant(value=value):
            constant = dialect.constant(cast("Amount", value))
            return lambda _: constant
        case ast.Name(id=name):
            return (lambda t: t) if name == "t" else lambda _: dialect.pi
        case ast.UnaryOp(op=op, operand=operand):
            inner = _reading(operand, dialect)
            return (lambda t: -inner(t)) if isinstance(op, ast.USub) else inner
        case ast.BinOp(left=left, op=op, right=right):
            combine = dialect.power if isinstance(op, ast.Pow) else OPERATORS[type(op)]
            one, two = _reading(left, dialect), _reading(right, dialect)
            return lambda t: combine(one(t), two(t))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return _chain([_reading(part, dialect) for part in (left, *comparators)], ops, dialect)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            asked, yes, no = (_reading(part, dialect) for part in (test, body, orelse))
            return lambda t: dialect.chosen(asked(t), lambda: yes(t), lambda: no(t))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            function, parts = dialect.functions[name], [_reading(part, dialect) for part in arguments]
            return lambda t: function(*(part(t) for part in parts))
    raise BadArgument(f"`expression`: {ast.unparse(node)} is not part of a formula.")


def _chain(parts: list[Callable[[Any], Any]], signs: list[ast.cmpop], dialect: Dialect) -> Callable[[Any], Any]:
    """A comparison such as a < b <= c: the product of its links."""
    links = [
        _link(one, COMPARISONS[type(sign)], two, dialect)
        for one, sign, two in zip(parts, signs, parts[1:], strict=False)
    ]
    return lambda t: functools.reduce(operator.mul, [link(t) for link in links])


def _link(one: Callable[[Any], Any], sign: str, two: Callable[[Any], Any], dialect: Dialect) -> Callable[[Any], Any]:
    return lambda t: dialect.compared(one(t), sign, two(t))


def _power_of_numbers(base: Amount, exponent: Amount) -> Amount:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if abs(base) <= 1:
            return base if exponent % 2 else base * base if exponent else 1
        if exponent * base.bit_length() <= 4 * LARGEST_BITS:
            whole: int = base**exponent
            return whole
    result: float | complex = float(base) ** float(exponent)
    if isinstance(result, complex):
        raise ValueError("a negative number to a fractional power")
    return result


def _choice_of_numbers(test: Amount, one: Callable[[], Amount], two: Callable[[], Amount]) -> Amount:
    return one() if test else two()


def _choice_of_behaviours(test: Behaviour, one: Callable[[], Any], two: Callable[[], Any]) -> Behaviour:
    signs = {band.sign for band in test.branches}
    if None not in signs and len({sign != 0 for sign in signs}) == 1:
        return Behaviour.constant(one() if signs != {0} else two())
    return behaviour.chosen(test, one(), two())


def _log_to_base(base: int) -> Callable[[Behaviour], Behaviour]:
    return lambda value: behaviour.log(value) / Number(Fraction(base)).log()


def _truncated(value: Behaviour) -> Behaviour:
    if all(band.low.sign >= 0 for band in value.branches):
        return behaviour.floor(value)
    return behaviour.chosen(behaviour.compared(value, ">=", 0), behaviour.floor(value), -behaviour.floor(-value))


def _folded(function: Callable[[Any, Any], Behaviour]) -> Callable[..., Behaviour]:
    def fold(first: Any, *others: Any) -> Behaviour:
        for other in others:
            first = function(first, other)
        return Behaviour.constant(first)

    return fold


def _floor_of_number(value: Amount) -> int:
    return math.floor(value)


PYTHON_COMPARISONS: dict[str, Callable[[Amount, Amount], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

NUMBERS = Dialect(
    constant=lambda value: value,
    pi=math.pi,
    power=_power_of_numbers,
    compared=lambda one, symbol, two: int(PYTHON_COMPARISONS[symbol](one, two)),
    chosen=_choice_of_numbers,
    functions={
        "log": math.log,
        "log2": math.log2,
        "log10": math.log10,
        "sqrt": math.sqrt,
        "exp": math.exp,
        "sin": math.sin,
        "cos": math.cos,
        "floor": _floor_of_number,
        "int": int,
        "abs": abs,
        "min": min,
        "max": max,
    },
)

BEHAVIOURS = Dialect(
    constant=Behaviour.constant,
    pi=Behaviour.constant(Number(Fraction(1), ((PI, 1),))),
    power=operator.pow,
    compared=behaviour.compared,
    chosen=_choice_of_behaviours,
    functions={
        "log": behaviour.log,
        "log2": _log_to_base(2),
        "log10": _log_to_base(10),
        "sqrt": lambda value: value ** Fraction(1, 2),
        "exp": behaviour.exp,
        "sin": behaviour.sin,
        "cos": behaviour.cos,
        "floor": behaviour.floor,
        "int": _truncated,
        "abs": abs,
        "min": _folded(behaviour.smaller),
        "max": _folded(behaviour.larger),
    },
)
