"""The time the instrument may use: a share of training, measured, kept to, and stated."""

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import counted

FEW = 40
"""Measured steps below which intervals are wide mostly because there are so few readings."""

_REMEMBERED = 5


class Budget:
    """Decides from measured seconds whether another measurement fits into a share of the training time.

    Training time is the time that has gone by, less what the instrument used. It is counted from the first
    question or the first use, not from when the budget is made, so that loading data earns nothing.
    Measurements of one kind are taken to cost what the last few of them did. One of a kind of which none was made yet
    is let through unless a guess is given; until what it cost is earned, more than the share is used.

    Args:
        share: Share of the training time, at least 0 and below 1; 0: nothing ever fits.
        clock: Seconds from any origin, never going back.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        if not 0 <= share < 1:
            raise BadArgument(f"`share` must be at least 0 and below 1, got {share}.")
        self.share = share
        self.clock = clock
        self.spent = 0.0
        self._earlier = 0.0
        self._started: float | None = None
        self._costs: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._depth = 0

    def start(self) -> None:
        """Begin to count, if that has not begun."""
        if self._started is None:
            self._started = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds gone by, the instrument's included."""
        return self._earlier + (self.clock() - self._started if self._started is not None else 0.0)

    @property
    def training(self) -> float:
        """Seconds of training: those gone by, less those the instrument used."""
        return self.elapsed - self.spent

    def expected(self, kind: str = "", guess: float = 0.0) -> float:
        """Seconds the next measurement of a kind will take: the mean of the last few, a guess before the first."""
        costs = self._costs.get(kind)
        return sum(costs) / len(costs) if costs else guess

    @property
    def used(self) -> float:
        """What the instrument used, as a fraction of the training time."""
        if self.spent == 0:
            return 0.0
        training = self.training
        return self.spent / training if training > 0 else float("inf")

    def fits(self, kind: str = "", guess: float = 0.0) -> bool:
        """Whether another measurement of a kind keeps within the share; before the first, by a guess of its seconds."""
        if self.share == 0:
            return False
        self.start()
        return self.spent + self.expected(kind, guess) <= self.share * self.training

    def steps_to_earn(self, steps: int, under_way: float = 0.0, kind: str = "") -> int:
        """Steps until another measurement fits, at least 1, at the pace of those made so far.

        Args:
            steps: Made since counting began.
            under_way: Seconds of a measurement that is going on and is not counted yet.
            kind: Of the next.
        """
        training = self.training - under_way
        pace, next_one = training / max(steps, 1), max(self.expected(kind), under_way)
        if not (self.share > 0 and pace > 0):
            return 1
        return max(math.ceil(((self.spent + under_way + next_one) / self.share - training) / pace), 1)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count what is done inside as the instrument's time; one inside another counts once."""
        self.start()
        began = self.clock()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.spent += self.clock() - began

    @contextmanager
    def measuring(self, kind: str = "") -> Iterator[None]:
        """Count what is done inside, and expect the next measurement of the kind to take about as long."""
        with self.spending():
            began = self.clock()
            yield
            self._costs[kind].append(self.clock() - began)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "elapsed": self.elapsed,
            "spent": self.spent,
            "costs": {kind: list(costs) for kind, costs in self._costs.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; the time between the two processes is nobody's.

        Costs that were written without their kinds, as they once were, say nothing of any and are left behind.
        """
        elapsed, spent = float(state["elapsed"]), float(state["spent"])
        if not 0 <= spent <= elapsed:
            raise BadArgument(f"`state` must have 0 ≤ spent ≤ elapsed, got spent {spent} s of {elapsed} s.")
        self._earlier, self.spent, self._started = elapsed, spent, None
        self._costs.clear()
        kept = state["costs"]
        for kind, costs in kept.items() if isinstance(kept, Mapping) else ():
            self._costs[kind].extend(map(float, costs))


def time_used(overhead: Mapping[str, Any], every: int | None = None) -> str:
    """The share of the training time that the instrument used, with its budget if it had one.

    Args:
        overhead: `Recorder.overhead`.
        every: The interval between measured steps, in steps, if the user set one. Then there is no budget.
    """
    budget = overhead.get("budget") if every is None else None
    used = f"{100 * overhead['used']:.2g} % of the training time"
    return used if budget is None else f"{used} (budget {100 * budget:.2g} %)"


def overhead_sentence(overhead: Mapping[str, Any], every: int | None = None) -> str:
    """How much time the instrument used and how many steps it measured. Arguments as in `time_used`."""
    if not overhead:
        return "The time that the instrument used was not recorded."
    if overhead["mode"] == "off":
        return "The instrument was off."
    steps, spacing = overhead["measured_steps"], overhead.get("every")
    cadence = "" if not spacing else ", every step" if spacing == 1 else f", about one in {spacing:.3g}"
    if every is not None:
        cadence = f", as `every` = {every:,} asks"
    how = {"apart": "apart from training", "shared": "on the gradients that training accumulates"}[overhead["mode"]]
    measured = f"It measured {counted(steps, 'step')}{cadence}, {how}."
    if every is None and steps < FEW:
        measured += " That is few: `every` = 1 measures every step, whatever it costs."
    return f"The instrument used {time_used(overhead, every)}. {measured}"
