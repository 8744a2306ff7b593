"""Functions for the `formula` of a schedule: they take numbers, and the asymptotics that decide the theorem."""

import math
from typing import Any

from gradiometer.convergence.formulas import asymptotics
from gradiometer.convergence.formulas.asymptotics import Asymptotics

Time = Any
"""A step, or a value computed from one: an int, a float or `Asymptotics`. Formulas use only arithmetic on it."""


def exponential(value: Time) -> Time:
    """e^x."""
    return asymptotics.exp(value) if isinstance(value, Asymptotics) else math.exp(value)


def logarithm(value: Time) -> Time:
    """The natural logarithm."""
    return asymptotics.log(value) if isinstance(value, Asymptotics) else math.log(value)


def larger(one: Time, two: Time) -> Time:
    """The larger of two."""
    return asymptotics.larger(one, two) if _large(one, two) else max(one, two)


def smaller(one: Time, two: Time) -> Time:
    """The smaller of two."""
    return asymptotics.smaller(one, two) if _large(one, two) else min(one, two)


def _large(*values: Time) -> bool:
    return any(isinstance(value, Asymptotics) for value in values)
