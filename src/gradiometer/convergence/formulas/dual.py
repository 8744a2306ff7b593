"""Functions for formulas read twice: on numbers for the rate, on behaviours for a proof about its tail."""

import math
from typing import Any

from gradiometer.convergence.formulas import asymptotics as behaviour
from gradiometer.convergence.formulas.asymptotics import Behaviour

Time = Any
"""A step or what is made of one: an int, a float, or a `Behaviour`. Formulas use nothing but arithmetic on it."""


def exponential(value: Time) -> Time:
    """e^x."""
    return behaviour.exp(value) if isinstance(value, Behaviour) else math.exp(value)


def logarithm(value: Time) -> Time:
    """log x."""
    return behaviour.log(value) if isinstance(value, Behaviour) else math.log(value)


def larger(one: Time, two: Time) -> Time:
    """The larger of two."""
    return behaviour.larger(one, two) if _any_behaviour(one, two) else max(one, two)


def smaller(one: Time, two: Time) -> Time:
    """The smaller of two."""
    return behaviour.smaller(one, two) if _any_behaviour(one, two) else min(one, two)


def _any_behaviour(*values: Time) -> bool:
    return any(isinstance(value, Behaviour) for value in values)
