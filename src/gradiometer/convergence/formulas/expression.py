"""A formula in t, checked against a short grammar and never executed as code.

The grammar: numbers, t, pi, + − * / // % **, comparisons, `a if c else b`, and the functions below.
The same tree is
evaluated for two kinds of t: a whole number, and asymptotics for large t.
"""

import ast
import difflib
import functools
import math
import operator
import warnings
from collections.abc import Callable, Iterable
from typing import Any, cast

from gradiometer.convergence.formulas import asymptotics
from gradiometer.convergence.formulas.asymptotics import (
    Asymptotics,
    Comparison,
    Time,
    choose,
    compare,
)
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument

LONGEST = 1000
"""Characters in the longest formula accepted."""
DEEPEST = 60
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "log": asymptotics.logarithm,
    "log2": asymptotics.binary_logarithm,
    "log10": asymptotics.decimal_logarithm,
    "sqrt": asymptotics.square_root,
    "exp": asymptotics.exponential,
    "sin": asymptotics.sine,
    "cos": asymptotics.cosine,
    "floor": math.floor,
    "ceil": math.ceil,
    "int": math.trunc,
    "abs": abs,
    "min": asymptotics.smaller,
    "max": asymptotics.larger,
}
OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: asymptotics.power,
}
COMPARISONS: dict[type[ast.AST], Comparison] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@functools.lru_cache(maxsize=256)
def formula_in(text: str) -> Callable[[Time], Time]:
    """A text as a function of t = 1, 2, …, such as `0.1/sqrt(t)`: of a whole t in double precision,
    or of asymptotics.

    The function raises `ZeroDivisionError` or `ValueError` where the formula is undefined, and
    `OverflowError` if an intermediate value is too large for a double.

    Raises:
        BadArgument: If the formula is outside the grammar, or one of its constants is too large for
            a double.

    >>> from gradiometer.convergence.formulas.expression import formula_in
    >>> formula_in("0.1/sqrt(t)")(4)
    0.05
    """
    if not len(text) <= LONGEST:
        raise BadArgument(
            f"`expression` must have at most {LONGEST} characters, got {len(text):,}."
        )
    try:
        with warnings.catch_warnings():
            # The parser warns of forms such as `1if t else 2`, which are no formula either.
            warnings.simplefilter("error", SyntaxWarning)
            tree = ast.parse(text.strip(), mode="eval").body
        _check(tree, text)
    except BadArgument:
        raise
    except (SyntaxError, SyntaxWarning, ValueError, MemoryError, RecursionError):
        raise BadArgument(
            f"`expression` {text[:80]!r} is not a formula: write one such as '0.1/sqrt(t)'."
        ) from None
    _refuse_impossible_constants(tree, text)
    return _reading(tree)


def _refuse_impossible_constants(node: ast.AST, text: str) -> None:
    """Every part without a t must have a value: 9**9**9 is refused before it is computed."""
    if any(isinstance(part, ast.Name) and part.id == "t" for part in ast.walk(node)):
        for child in ast.iter_child_nodes(node):
            _refuse_impossible_constants(child, text)
    elif isinstance(node, ast.expr) and not isinstance(node, ast.Name):
        part = ast.unparse(node)
        try:
            if not math.isfinite(float(_reading(node)(1))):
                raise OverflowError
        except OverflowError:
            raise BadArgument(f"`expression` {text!r}: {part} is too large for a double.") from None
        except (ZeroDivisionError, ValueError) as error:
            raise BadArgument(f"`expression` {text!r}: {part} has no value ({error}).") from None


def _check(node: ast.AST, text: str, depth: int = 0) -> None:  # noqa: PLR0912  one case a rule
    """Raise on the first part that is outside the grammar."""
    match node:
        case _ if depth > DEEPEST:
            _refuse(text, f"it is nested more than {DEEPEST} deep")
        case ast.Constant(value=value) if isinstance(value, bool) or not isinstance(
            value, int | float
        ):
            _refuse(text, f"{ast.unparse(node)} is not a number")
        # 1e999 is infinite for the parser.
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
        case ast.Constant() | ast.Name() | ast.IfExp():
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


def _reading(node: ast.AST) -> Callable[[Time], Time]:  # noqa: PLR0911  one case a kind of node
    """A part of a formula as a function of t, so that its tree is walked once and not at every
    step."""
    match node:
        case ast.Constant(value=value):
            exact = Asymptotics.constant(cast("Amount", value))
            return lambda t: exact if isinstance(t, Asymptotics) else value
        case ast.Name(id="t"):
            return lambda t: t
        case ast.Name():
            return lambda t: asymptotics.PI_EXACT if isinstance(t, Asymptotics) else math.pi
        case ast.UnaryOp(op=op, operand=operand):
            inner = _reading(operand)
            return (lambda t: -inner(t)) if isinstance(op, ast.USub) else inner
        case ast.BinOp(left=left, op=op, right=right):
            combine = OPERATORS[type(op)]
            one, two = _reading(left), _reading(right)
            return lambda t: combine(one(t), two(t))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            parts = [_reading(part) for part in (left, *comparators)]
            links = list(
                zip(parts, [COMPARISONS[type(sign)] for sign in ops], parts[1:], strict=False)
            )
            # a < b <= c is the product of its comparisons of neighbours.
            return lambda t: functools.reduce(
                operator.mul, [compare(one(t), holds, two(t)) for one, holds, two in links]
            )
        case ast.IfExp(test=test, body=body, orelse=orelse):
            asked, yes, no = (_reading(part) for part in (test, body, orelse))
            return lambda t: choose(asked(t), lambda: yes(t), lambda: no(t))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            function = FUNCTIONS[name]
            parts = [_reading(part) for part in arguments]
            return lambda t: function(*(part(t) for part in parts))
    raise BadArgument(f"`expression`: {ast.unparse(node)} is not part of a formula.")
