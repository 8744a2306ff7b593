"""The time that measuring may use: a share of the training time, measured and reported."""

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import counted

FEW = 40
"""With fewer measured steps, intervals are wide mostly because there are few readings."""

_REMEMBERED = 5


class Budget:
    """Decides from measured seconds whether another measurement fits into a share of the training time.

    Training time is the elapsed time minus the time used for measuring. It counts from the first call of `fits` or
    the first measurement, not from the construction, so that loading data earns nothing. The expected cost of a
    measurement is the mean of the last five of its kind. The first of a kind always fits unless a guess is given;
    until its cost is earned, more than the share is used.

    Args:
        share: Share of the training time, at least 0 and below 1. With 0 nothing fits.
        clock: A clock in seconds that never goes back.

    >>> seconds = iter([0.0, 10.0])
    >>> budget = Budget(0.02, clock=lambda: next(seconds))
    >>> budget.start()
    >>> budget.fits("noise", guess=0.5)  # 0.5 s is more than 2 % of 10 s
    False
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
        """Start to count the time, unless it has started already."""
        if self._started is None:
            self._started = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start, those of the instrument included."""
        return self._earlier + (self.clock() - self._started if self._started is not None else 0.0)

    @property
    def training(self) -> float:
        """Seconds of training: elapsed seconds minus those that the instrument used."""
        return self.elapsed - self.spent

    def expected(self, kind: str = "", guess: float = 0.0) -> float:
        """Expected seconds of the next measurement of a kind: the mean of the last five, or `guess` for the first."""
        costs = self._costs.get(kind)
        return sum(costs) / len(costs) if costs else guess

    @property
    def used(self) -> float:
        """Time that the instrument used, as a fraction of the training time."""
        if self.spent == 0:
            return 0.0
        training = self.training
        return self.spent / training if training > 0 else float("inf")

    def fits(self, kind: str = "", guess: float = 0.0) -> bool:
        """True if another measurement of a kind keeps within the share. The first is expected to take `guess`."""
        if self.share == 0:
            return False
        self.start()
        return self.spent + self.expected(kind, guess) <= self.share * self.training

    def steps_to_earn(self, steps: int, under_way: float = 0.0, kind: str = "") -> int:
        """Steps until another measurement fits, at least 1, if steps take as long as they did so far.

        Args:
            steps: Steps since the start.
            under_way: Seconds of the current measurement, which is not counted yet.
            kind: Kind of the next measurement.
        """
        training = self.training - under_way
        pace, next_one = training / max(steps, 1), max(self.expected(kind), under_way)
        if not (self.share > 0 and pace > 0):
            return 1
        return max(math.ceil(((self.spent + under_way + next_one) / self.share - training) / pace), 1)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time inside as the instrument's. A nested region counts once."""
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
        """Count the time inside as the instrument's and as the cost of a measurement of this kind."""
        with self.spending():
            began = self.clock()
            yield
            self._costs[kind].append(self.clock() - began)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {
            "elapsed": self.elapsed,
            "spent": self.spent,
            "costs": {kind: list(costs) for kind, costs in self._costs.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint. The time between the two processes is not counted.

        Costs without kinds, as earlier versions wrote them, are ignored.
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
    """How much time the instrument used and how many steps it measured. Arguments as in `time_used`.

    >>> overhead_sentence({"mode": "apart", "budget": 0.02, "used": 0.019, "measured_steps": 100})
    'The instrument used 1.9 % of the training time (budget 2 %). It measured 100 steps, apart from training.'
    """
    if not overhead:
        return "The time used for measuring was not recorded."
    if overhead["mode"] == "off":
        return "Measuring was off."
    steps, spacing = overhead["measured_steps"], overhead.get("every")
    if overhead["mode"] == "given":
        return f"The program gave the norms of {counted(steps, 'step')}. The time that it used for them is not known."
    cadence = "" if not spacing else ", every step" if spacing == 1 else f", about one in {spacing:.3g}"
    if every is not None:
        cadence = f" (`every` = {every:,})"
    how = {"apart": "apart from training", "shared": "on gradients that training accumulates"}[overhead["mode"]]
    measured = f"It measured {counted(steps, 'step')}{cadence}, {how}."
    if every is None and steps < FEW:
        measured += " That is few: `every` = 1 measures every step, at any cost."
    return f"The instrument used {time_used(overhead, every)}. {measured}"
