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
from types import EllipsisType
from typing import Any

from gradiometer.convergence.formulas import asymptotics
from gradiometer.convergence.formulas.asymptotics import Asymptotics, Time, choose, compare
from gradiometer.convergence.formulas.number import Undecided
from gradiometer.errors import BadArgument

# Characters in the longest formula accepted.
LONGEST = 1000
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
    "min": asymptotics.least,
    "max": asymptotics.largest,
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
COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@functools.lru_cache
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
    if len(text) > LONGEST:
        raise BadArgument(
            f"`expression` must have at most {LONGEST} characters, got {len(text):,}."
        )
    try:
        with warnings.catch_warnings():
            # The parser warns of forms such as `1if t else 2`, which are no formula either.
            warnings.simplefilter("error", SyntaxWarning)
            tree = ast.parse(text.strip(), mode="eval").body
        reading = _reading(tree, text)
    except BadArgument:
        raise
    except (SyntaxError, SyntaxWarning, ValueError, MemoryError, RecursionError):
        raise BadArgument(
            f"`expression` {text[:80]!r} is not a formula: write one such as '0.1/sqrt(t)'."
        ) from None
    _refuse_impossible_constants(tree, text)
    return reading


def _refuse_impossible_constants(node: ast.AST, text: str) -> None:
    """Every part without a t must have a value: 9**9**9 is refused before it is computed."""
    if any(isinstance(part, ast.Name) and part.id == "t" for part in ast.walk(node)):
        for child in ast.iter_child_nodes(node):
            _refuse_impossible_constants(child, text)
    elif isinstance(node, ast.expr) and not isinstance(node, ast.Name):
        part = ast.unparse(node)
        try:
            if not math.isfinite(float(_reading(node, text)(1))):
                raise OverflowError
        except OverflowError:
            raise BadArgument(f"`expression` {text!r}: {part} is too large for a double.") from None
        except (ZeroDivisionError, ValueError) as error:
            raise BadArgument(f"`expression` {text!r}: {part} has no value ({error}).") from None


def _refusal(text: str, reason: str, hint: str = "") -> BadArgument:
    return BadArgument(
        f"`expression` {text!r}: {reason}.{hint} The grammar is numbers, t, pi, + - * / // % **, "
        f"comparisons, `a if c else b` and {', '.join(FUNCTIONS)}."
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence for an error message with the most similar name, if there is one."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _reading(  # noqa: PLR0911, PLR0912  one case a kind of node
    node: ast.AST, text: str, depth: int = 0
) -> Callable[[Time], Time]:
    """A part of a formula as a function of t, so that its tree is walked once and not at every
    step; refuses the first part that is outside the grammar."""
    if depth > DEEPEST:
        raise _refusal(text, f"it is nested more than {DEEPEST} deep")

    def part(child: ast.AST) -> Callable[[Time], Time]:
        return _reading(child, text, depth + 1)

    match node:
        case ast.Constant(value=bool() | complex() | str() | bytes() | None | EllipsisType()):
            raise _refusal(text, f"{ast.unparse(node)} is not a number")
        case ast.Constant(value=int() | float() as value):
            # 1e999 is infinite for the parser.
            if value == math.inf:
                raise _refusal(text, "a constant is too large for a double")
            # 0.1 + 0.2 is three tenths in the exact arithmetic, and not in doubles.
            exact = Asymptotics.constant(value)
            return lambda t: exact if isinstance(t, Asymptotics) else value
        case ast.Name(id="t"):
            return lambda t: t
        case ast.Name(id="pi"):
            return lambda t: Asymptotics.term(math.pi) if isinstance(t, Asymptotics) else math.pi
        case ast.Name(id=name):
            raise _refusal(text, f"unknown name {name}", nearest(name, ("pi", *FUNCTIONS)))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = part(operand)
            return lambda t: -inner(t)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return part(operand)
        case ast.BinOp(op=ast.BitXor()):
            raise _refusal(text, "a power is written **, not ^")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            combine, one, two = OPERATORS[type(op)], part(left), part(right)
            return lambda t: combine(one(t), two(t))
        case ast.Compare(ops=ops) if all(type(op) in COMPARISONS for op in ops):
            terms = [part(term) for term in (node.left, *node.comparators)]
            signs = [COMPARISONS[type(op)] for op in ops]
            # a < b <= c is the product of its comparisons of neighbours.
            links = list(zip(terms, signs, terms[1:], strict=False))
            return lambda t: math.prod(compare(a(t), holds, b(t)) for a, holds, b in links)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            asked, yes, no = part(test), part(body), part(orelse)

            def chosen(t: Time) -> Time:
                # The other value is not computed: it may be undefined, as 1/(t − 9) is at step 9.
                truth = asked(t)
                try:
                    return yes(t) if truth else no(t)
                except Undecided:
                    return choose(yes(t), no(t))

            return chosen
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            if name not in FUNCTIONS:
                raise _refusal(text, f"unknown name {name}", nearest(name, FUNCTIONS))
            several = name in ("min", "max")
            if not (len(arguments) >= 2 if several else len(arguments) == 1):
                wanted = "two numbers or more" if several else "one number"
                raise _refusal(text, f"{name} takes {wanted}")
            function, inputs = FUNCTIONS[name], [part(argument) for argument in arguments]
            return lambda t: function(*(value(t) for value in inputs))
    raise _refusal(text, f"{ast.unparse(node)} is not part of a formula")
