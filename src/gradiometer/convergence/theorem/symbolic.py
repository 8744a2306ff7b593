"""Second opinion of a computer algebra system, in a process of its own that can be stopped.

Only for formulas without rounding, remainders and conditions, whose limits sympy gets right or leaves alone. It finds
p, q and r of η_t = t^-p (log t)^-q (log log t)^-r as limits, one after the other, until one is off its critical value.
"""

import json
import operator
import os
import subprocess
import sys
from importlib import import_module
from typing import Any

from gradiometer.convergence.formulas.expression import PYTHON_COMPARISONS, Dialect, Expression

SECONDS = 10.0
ROUGH = ("//", "%", "floor", "int", "abs", "min", "max", "if", "<", ">", "=")


def second_opinion(expression: Expression, seconds: float = SECONDS) -> dict[str, bool | None]:
    """The conditions a computer algebra system decides; None for those it does not, or not in time."""
    nothing: dict[str, bool | None] = dict.fromkeys(("limit_zero", "sum_diverges", "sum_of_squares_converges"))
    if any(sign in expression.text for sign in ROUGH):
        return nothing
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-W", "ignore", "-m", "gradiometer.convergence.theorem.symbolic", expression.text]
    try:
        finished = subprocess.run(command, env=environment, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return nothing
    lines = finished.stdout.decode().splitlines()
    return json.loads(lines[-1]) if finished.returncode == 0 and lines else nothing


def precisely(expression: Expression, t: int) -> float:
    """The sign of its value at t, −1, 0 or 1, with a hundred digits carried."""
    mpmath: Any = import_module("mpmath")
    with mpmath.workdps(100):
        chosen: Any = lambda test, one, two: one() if test else two()  # noqa: E731
        dialect = Dialect(
            constant=lambda value: mpmath.mpf(repr(value)),
            pi=+mpmath.pi,
            power=operator.pow,
            compared=lambda one, symbol, two: int(PYTHON_COMPARISONS[symbol](one, two)),
            chosen=chosen,
            functions={
                **{name: getattr(mpmath, name) for name in ("log", "sqrt", "exp", "sin", "cos", "floor", "log10")},
                "log2": lambda value: mpmath.log(value, 2),
                "int": lambda value: mpmath.floor(value) if value >= 0 else mpmath.ceil(value),
                "abs": abs,
                "min": min,
                "max": max,
            },
        )
        value = expression.read(mpmath.mpf(t), dialect)
        return float(mpmath.sign(value)) if abs(value) > mpmath.mpf(10) ** -80 else 0.0


def _decided(text: str) -> dict[str, bool | None]:
    sympy: Any = import_module("sympy")  # half a second, and only here
    t = sympy.Symbol("t", positive=True)
    dialect = Dialect(
        constant=lambda value: sympy.Rational(repr(value)),
        pi=sympy.pi,
        power=lambda base, exponent: base**exponent,
        compared=lambda *_: None,
        chosen=lambda *_: None,
        functions={
            "log": sympy.log,
            "log2": lambda value: sympy.log(value) / sympy.log(2),
            "log10": lambda value: sympy.log(value) / sympy.log(10),
            "sqrt": sympy.sqrt,
            "exp": sympy.exp,
            "sin": sympy.sin,
            "cos": sympy.cos,
        },
    )
    rate = Expression(text).read(t, dialect)
    limit = _limit(rate, t)
    return {
        "limit_zero": None if limit is None else bool(limit == 0),
        "sum_diverges": _negated(_sum_converges(rate, t)),
        "sum_of_squares_converges": _sum_converges(rate**2, t),
    }


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _limit(rate: Any, t: Any) -> Any:
    """A limit at infinity that is a number or an infinity, else None."""
    sympy: Any = import_module("sympy")
    try:
        limit = sympy.limit(rate, t, sympy.oo)
    except (NotImplementedError, ValueError, TypeError, RecursionError, AttributeError):
        return None
    known = limit in (sympy.oo, -sympy.oo) or (limit.is_number and limit.is_extended_real)
    return sympy.simplify(limit) if known else None


def _sum_converges(rate: Any, t: Any) -> bool | None:
    sympy: Any = import_module("sympy")
    logarithms = [t]
    for _ in range(3):
        logarithms.append(sympy.log(logarithms[-1]))
    for scale in logarithms[1:]:
        exponent = _limit(sympy.log(rate) / scale, t)
        if exponent is None:
            return None
        if exponent != -1:
            beyond = exponent + 1
            return True if beyond.is_negative else False if beyond.is_positive else None
        rate = rate * logarithms[logarithms.index(scale) - 1]
    return None


if __name__ == "__main__":
    print(json.dumps(_decided(sys.argv[1])))  # noqa: T201  the answer to the process that asked
