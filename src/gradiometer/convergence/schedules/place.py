"""Where a step stands in cycles that may grow geometrically."""

import math
from fractions import Fraction

from gradiometer.convergence.formulas.asymptotics import Asymptotics, floor, log
from gradiometer.convergence.formulas.number import Amount, Number


def place_in_cycles(step: Amount, first: int, lengthen: Amount = 1.0) -> tuple[int, Amount]:
    """The cycle a step belongs to, from 0, and the share of that cycle gone by, in [0, 1).

    Cycle k has first·lengthen^k steps. Exact for whole steps of any size where `lengthen` is whole.

    Args:
        step: Steps taken so far.
        first: Steps of cycle 0.
        lengthen: Ratio of the lengths of successive cycles, at least 1.
    """
    if lengthen == 1:
        cycle = int(step // first)
        return cycle, (step - cycle * first) / first
    if lengthen == int(lengthen):
        return _place_in_whole_cycles(step, first, int(lengthen))
    grown = 1 + step * (lengthen - 1) / first
    cycle = math.floor(math.log(grown) / math.log(lengthen))
    share = (grown / lengthen**cycle - 1) / (lengthen - 1)
    return cycle, min(max(share, 0.0), math.nextafter(1.0, 0.0))


def _place_in_whole_cycles(step: Amount, first: int, lengthen: int) -> tuple[int, Amount]:
    cycle = max(math.floor(math.log(1 + step * (lengthen - 1) // first) / math.log(lengthen)) - 1, 0)
    while first * (lengthen ** (cycle + 1) - 1) // (lengthen - 1) <= step:
        cycle += 1
    start = first * (lengthen**cycle - 1) // (lengthen - 1)
    return cycle, (step - start) / (first * lengthen**cycle)


def shrinking(step: Asymptotics, first: int, lengthen: Amount, shrink: Amount) -> Asymptotics:
    """shrink^k in the long run, where k is the cycle: exponential in t, or a power of t where cycles grow."""
    if shrink == 1:
        return Asymptotics.constant(1)
    if lengthen == 1:
        return Asymptotics.constant(shrink) ** (step // first)
    ratio = Fraction(repr(float(lengthen)))
    return Asymptotics.constant(shrink) ** floor(log(1 + step * (ratio - 1) / first) / Number(ratio).log())
