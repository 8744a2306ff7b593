"""A formula in t, checked against a short grammar and never executed as code.

The grammar: numbers, t, pi, + − * / // % **, comparisons, `a if c else b`, and the functions below.
The same tree is
evaluated with two kinds of numbers: integers and doubles, and asymptotics for large t.
"""

import ast
import difflib
import functools
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, cast

from gradiometer.convergence.formulas import asymptotics
from gradiometer.convergence.formulas.angles import PI_NUMBER
from gradiometer.convergence.formulas.asymptotics import LARGE_T, Asymptotics, Comparison
from gradiometer.convergence.formulas.number import LARGEST_BITS, Amount, Number
from gradiometer.errors import BadArgument

LONGEST = 1000
"""Characters in the longest formula accepted."""
DEEPEST = 60
FUNCTIONS = (
    "log",
    "log2",
    "log10",
    "sqrt",
    "exp",
    "sin",
    "cos",
    "floor",
    "ceil",
    "int",
    "abs",
    "min",
    "max",
)
OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARISONS: dict[type[ast.AST], Comparison] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True, eq=False)
class Dialect:
    """The parts of the grammar that depend on the kind of number: all but Python's operators."""

    constant: Callable[[int | float], Any]
    pi: Any
    power: Callable[[Any, Any], Any]
    compared: Callable[[Any, Comparison, Any], Any]
    chosen: Callable[[Any, Callable[[], Any], Callable[[], Any]], Any]
    functions: Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Expression:
    """A learning rate as a formula in t = 1, 2, …, such as `0.1/sqrt(t)`.

    Args:
        text: The formula.

    Raises:
        BadArgument: If the formula is outside the grammar, or one of its constants is too large for
            a double.

    >>> from gradiometer.convergence.formulas.expression import Expression
    >>> Expression("0.1/sqrt(t)")(4)
    0.05
    """

    text: str

    def __post_init__(self) -> None:
        if not len(self.text) <= LONGEST:
            raise BadArgument(
                f"`expression` must have at most {LONGEST} characters, got {len(self.text):,}."
            )
        self._refuse_impossible_constants(self.tree)

    @cached_property
    def tree(self) -> ast.expr:
        """The formula's syntax tree, checked against the grammar."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", SyntaxWarning)
                tree = ast.parse(self.text.strip(), mode="eval").body
            _check(tree, self.text)
        except BadArgument:
            raise
        except (SyntaxError, SyntaxWarning, ValueError, MemoryError, RecursionError):
            raise BadArgument(
                f"`expression` {self.text[:80]!r} is not a formula: write one such as "
                "'0.1/sqrt(t)'."
            ) from None
        return tree

    def __call__(self, t: int) -> float:
        """Its value at a whole t, in double precision.

        Raises:
            ZeroDivisionError, ValueError: If it is undefined at t.
            OverflowError: If an intermediate value is too large for a double.
        """
        return float(self.read(t, NUMBERS))

    def asymptotics(self, t: Asymptotics = LARGE_T) -> Asymptotics:
        """Its asymptotics for large t, or its exact value if `t` is a constant."""
        return Asymptotics.constant(self.read(t, ASYMPTOTICS))

    def read(self, t: Any, dialect: Dialect) -> Any:
        """Its value for the dialect's kind of t."""
        return _function(self.text, dialect)(t)

    def _refuse_impossible_constants(self, node: ast.AST) -> None:
        """Every part without a t must have a value: 9**9**9 is refused before it is computed."""
        if any(isinstance(part, ast.Name) and part.id == "t" for part in ast.walk(node)):
            for child in ast.iter_child_nodes(node):
                self._refuse_impossible_constants(child)
        elif isinstance(node, ast.expr) and not isinstance(node, ast.Name):
            part = ast.unparse(node)
            try:
                if not math.isfinite(float(_reading(node, NUMBERS)(1))):
                    raise OverflowError
            except OverflowError:
                raise BadArgument(
                    f"`expression` {self.text!r}: {part} is too large for a double."
                ) from None
            except (ZeroDivisionError, ValueError) as error:
                raise BadArgument(
                    f"`expression` {self.text!r}: {part} has no value ({error})."
                ) from None


def _check(node: ast.AST, text: str, depth: int = 0) -> None:  # noqa: PLR0912  one case a rule
    """Raise on the first part that is outside the grammar."""
    match node:
        case _ if depth > DEEPEST:
            _refuse(text, f"it is nested more than {DEEPEST} deep")
        case ast.Constant(value=value) if isinstance(value, bool) or not isinstance(
            value, int | float
        ):
            _refuse(text, f"{ast.unparse(node)} is not a number")
        case ast.Constant(value=float() as number) if not math.isfinite(number):
            _refuse(text, "a constant is too large for a double")
        case ast.Name(id=name) if name not in ("t", "pi"):
            _refuse(text, f"unknown name {name}", nearest(name, ("pi", *FUNCTIONS)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            several = name in ("min", "max")
            if not (len(arguments) >= 2 if several else len(arguments) == 1):
                _refuse(text, f"{name} takes {'two numbers or more' if several else 'one number'}")
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            _refuse(text, f"unknown name {name}", nearest(name, FUNCTIONS))
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


def _refuse(text: str, reason: str, hint: str = "") -> None:
    raise BadArgument(
        f"`expression` {text!r}: {reason}.{hint} The grammar is numbers, t, pi, + - * / // % **, "
        f"comparisons, `a if c else b` and {', '.join(FUNCTIONS)}."
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence for an error message with the most similar name, if there is one."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


@functools.lru_cache(maxsize=256)
def expression_in(text: str) -> Expression:
    """The expression of a text, which is checked once and not at every step."""
    return Expression(text)


@functools.lru_cache(maxsize=256)
def _function(text: str, dialect: Dialect) -> Callable[[Any], Any]:
    """A formula as one function of t, so that its tree is walked once and not at every step."""
    return _reading(expression_in(text).tree, dialect)


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
            function, parts = (
                dialect.functions[name],
                [_reading(part, dialect) for part in arguments],
            )
            return lambda t: function(*(part(t) for part in parts))
    raise BadArgument(f"`expression`: {ast.unparse(node)} is not part of a formula.")


def _chain(
    parts: list[Callable[[Any], Any]], signs: list[ast.cmpop], dialect: Dialect
) -> Callable[[Any], Any]:
    """A comparison such as a < b <= c: the product of its comparisons of neighbors."""
    links = [
        (one, COMPARISONS[type(sign)], two)
        for one, sign, two in zip(parts, signs, parts[1:], strict=False)
    ]
    return lambda t: functools.reduce(
        operator.mul, [dialect.compared(one(t), holds, two(t)) for one, holds, two in links]
    )


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


def _chosen(test: Asymptotics, one: Callable[[], Any], two: Callable[[], Any]) -> Asymptotics:
    signs = {branch.sign for branch in test.branches}
    if None not in signs and len({sign != 0 for sign in signs}) == 1:
        return Asymptotics.constant(one() if signs != {0} else two())
    return asymptotics.chosen(test, one(), two())


def _integer_part(value: Asymptotics) -> Asymptotics:
    if all(branch.low.sign >= 0 for branch in value.branches):
        return asymptotics.floor(value)
    positive = asymptotics.compared(value, operator.ge, 0)
    return asymptotics.chosen(positive, asymptotics.floor(value), -asymptotics.floor(-value))


NUMBERS = Dialect(
    constant=lambda value: value,
    pi=math.pi,
    power=_power_of_numbers,
    compared=lambda one, holds, two: int(holds(one, two)),
    chosen=lambda test, one, two: one() if test else two(),
    functions={
        **{
            name: getattr(math, name)
            for name in ("log", "log2", "log10", "sqrt", "exp", "sin", "cos", "floor", "ceil")
        },
        "int": int,
        "abs": abs,
        "min": min,
        "max": max,
    },
)

ASYMPTOTICS = Dialect(
    constant=Asymptotics.constant,
    pi=Asymptotics.constant(PI_NUMBER),
    power=operator.pow,
    compared=asymptotics.compared,
    chosen=_chosen,
    functions={
        "log": asymptotics.logarithm,
        "log2": lambda value: asymptotics.logarithm(value) / Number.of(2).log(),
        "log10": lambda value: asymptotics.logarithm(value) / Number.of(10).log(),
        "sqrt": lambda value: value ** Fraction(1, 2),
        "exp": asymptotics.exponential,
        "sin": asymptotics.sin,
        "cos": asymptotics.cos,
        "floor": asymptotics.floor,
        "ceil": lambda value: -asymptotics.floor(-value),
        "int": _integer_part,
        "abs": abs,
        "min": lambda *values: functools.reduce(asymptotics.smaller, values),
        "max": lambda *values: functools.reduce(asymptotics.larger, values),
    },
)
