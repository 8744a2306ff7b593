"""Evidence about a Python function whose formula is not known. It is never a verdict.

Partial sums prove nothing: 1e-12/t diverges and looks converged after a million terms. But a pure function can be
evaluated at t = 2^k up to 2^1000, and there the sum condenses: Σ η_t behaves as Σ_k 2^k η(2^k). This sum has a
thousand terms, and its decay in k, and in log k, is measured.

Source: Cauchy's condensation test; Hardy (1910), Orders of Infinity.
"""

import itertools
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import linear_regression
from types import FrameType
from typing import TypeVar

SECONDS = 0.5
"""Time for all blocks."""
BUSY = 4
"""A limit of time may take this many times as long on a busy machine."""
SMALLEST = -1022.0
"""log₂ of the smallest double with all its digits. Below it values are rounded, and then zero."""

Function = Callable[[int], float]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Evidence:
    """The conditions as the blocks suggest them.

    Args:
        limit_zero, sum_diverges, sum_of_squares_converges: The three conditions; None if the blocks give no clear sign.
        blocks: Number of dyadic blocks that could be evaluated.
        negative: The first evaluated step with a negative value.

    >>> from gradiometer.convergence.theorem.evidence import evidence
    >>> evidence(lambda t: 1 / t).sum_diverges
    True
    """

    limit_zero: bool | None
    sum_diverges: bool | None
    sum_of_squares_converges: bool | None
    blocks: int
    negative: int | None = None


def evidence(function: Function, seconds: float = SECONDS) -> Evidence:
    """Evaluate a function of t = 1, 2, … at steps up to 2^1000 and judge how its dyadic blocks decay."""
    blocks: list[tuple[float, float, float]] = []
    negative: int | None = None
    underflown = False
    generator = random.Random(0)
    spent = time.thread_time()

    def evaluate() -> None:
        nonlocal negative, underflown
        # 1000: the last dyadic block [2^k, 2^(k+1)) that is evaluated.
        for k in range(1, 1000):
            values = _values_in_block(function, k, generator)
            if values is None or time.thread_time() - spent > seconds:
                break
            negative = negative or next((t for t, value in values if value < 0), None)
            block = _summary([abs(value) for _, value in values])
            if block[2] < SMALLEST and _underflows([largest for *_, largest in blocks]):
                underflown = True
                break
            blocks.append(block)

    within(seconds, evaluate)
    if len(blocks) < 24:
        steep = True if underflown and _falls_steeply([largest for *_, largest in blocks]) else None
        return Evidence(steep, None if steep is None else False, steep, len(blocks), negative)
    means, squares, largest = zip(*blocks, strict=True)
    converges = _sum_converges([k + 1 + mean for k, mean in enumerate(means)])
    squares_converge = _sum_converges([k + 1 + square for k, square in enumerate(squares)])
    diverges = None if converges is None or negative is not None else not converges
    return Evidence(_vanishes(largest), diverges, squares_converge, len(blocks), negative)


class _OutOfTime(BaseException):
    """The function took too long. Not an Exception, so that an `except Exception` in the function cannot catch it."""


def within(seconds: float, call: Callable[[], Result]) -> Result | None:
    """What a call returns, or None if it takes longer. In other threads than the main one there is no limit.

    The time is that of the processor, so that a busy machine does not change an answer, up to four times as long.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        return call()
    ours = _OutOfTime()
    armed = [True]

    def stop(_: int, __: FrameType | None) -> None:
        if not armed:
            return
        if time.thread_time() - spent < seconds and time.monotonic() - began < BUSY * seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds / BUSY)
            return
        armed.clear()
        raise ours

    began, spent = time.monotonic(), time.thread_time()
    outer, _ = signal.getitimer(signal.ITIMER_REAL)
    seconds = min(seconds, outer) if outer else seconds
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        found = call()
        armed.clear()
        return found
    except _OutOfTime as error:
        if error is not ours:
            raise
        return None
    finally:
        armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:  # the time of the outer call goes on
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - began), 1e-3))


def _values_in_block(function: Function, k: int, generator: random.Random) -> list[tuple[int, float]] | None:
    start = 1 << k
    # 12 steps are evaluated per block: its first two, and ten others at random.
    steps = {start, start + 1, *(start + generator.randrange(start) for _ in range(10))}
    try:
        values = [(t, float(function(t))) for t in sorted(steps)]
    except (ArithmeticError, ValueError, TypeError, IndexError, KeyError):
        return None  # too large a step for this function: the blocks before still count
    return values if all(math.isfinite(value) for _, value in values) else None


def _summary(values: list[float]) -> tuple[float, float, float]:
    """log₂ of the mean, of the mean square and of the largest value of a block; −∞ for zero."""
    logs = [math.log2(value) if value >= 5e-324 else -math.inf for value in values]
    largest = max(logs)
    if largest == -math.inf:
        return largest, largest, largest
    mean = largest + math.log2(sum(2 ** (value - largest) for value in logs) / len(logs))
    square = 2 * largest + math.log2(sum(4 ** (value - largest) for value in logs) / len(logs))
    return mean, square, largest


def _underflows(largest: Sequence[float]) -> bool:
    """True if the next block is too small for doubles because the blocks fall at a steady rate, as a power of t does.

    If they fall faster and faster, as an exponential does, or stop being positive at once, zero is as good a value.
    """
    if len(largest) < 3 or largest[-1] == -math.inf:
        return False
    newest, before = largest[-1] - largest[-2], largest[-2] - largest[-3]
    return largest[-1] + 2 * newest < SMALLEST and newest > 1.5 * before - 1


def _falls_steeply(largest: Sequence[float]) -> bool:
    """True if the blocks fall by a factor of more than 4 each, so that even Σ_k 2^k η(2^k) converges."""
    falls = [after - before for before, after in itertools.pairwise(largest[len(largest) // 2 :])]
    return len(falls) >= 2 and max(falls) < -2


def _vanishes(largest: Sequence[float]) -> bool | None:
    """True if the largest value of a block keeps falling, as a power of t or of log t, or faster."""
    if largest[-1] == -math.inf:
        return True
    slope = _slope([math.log2(k + 1) for k in range(len(largest))], largest)
    if slope is None or slope > -0.02:
        return False
    return True if slope < -0.2 else None


def _sum_converges(logs: list[float]) -> bool | None:
    """True if Σ_k 2^(logs[k]) is finite, from its slope in k and then in log k."""
    if logs[-1] == -math.inf:
        return True
    margin = max(0.01, 2 / len(logs))
    slope = _slope([float(k) for k in range(len(logs))], logs)
    if slope is None:
        return None
    if abs(slope) > margin:
        return slope < 0
    slope = _slope([math.log2(k + 1) for k in range(len(logs))], logs)
    if slope is None or len(logs) < 200:
        return None
    if slope > -0.95:
        return False
    # 1/(k log k) and 1/(k log k log log k) have infinite sums, and slopes of −1.15 and −1.23 at k = 1000.
    return True if slope < -1.3 else None


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The least-squares slope over the second half of the blocks with finite values."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
    pairs = pairs[len(pairs) // 2 :]
    if len(pairs) < 8:
        return None
    return linear_regression(*zip(*pairs, strict=True)).slope
