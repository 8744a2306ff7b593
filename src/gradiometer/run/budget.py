"""The time that measuring may use: a share of the training time, measured and reported."""

import math
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.run.cadence.early import (
    IN_TIME,
    PROMISED,
    PROMISED_BY,
    START_UP,
    START_UP_STEPS,
    EarlyReadings,
)
from gradiometer.run.clock import Turns

# Part of the share that pays back what was used early, from step 1,000 on.
REPAID = 0.6

# Names of what time is spent on: measured steps, the run's start with the first measured step, and
# all other steps.
READINGS, START, BOOKKEEPING = "readings", "start", "bookkeeping"

# What reading training's own gradients costs. Its chains keep to the budget themselves.
PRODUCTS = "products of gradients"

# What the looks of `--cool` cost. Their number is chosen so that half of the share pays for them.
COOLING = "looks of cooling"

# What every step costs, measured or not.
BY_THE_WAY = BOOKKEEPING, COOLING, PRODUCTS


class Budget:
    """Decides from measured seconds whether another measurement fits into a share of the training
    time.

    Training time is the elapsed time minus the time used for measuring. It counts from the first
    call of `start`, `fits` or `spending`, so that loading data earns nothing. All time used is
    charged by name, and all of it counts against the share, except for branches of the run, which
    have a budget of their own.

    - In the long run at most `share` of the training time is used.
    - The first 1,000 steps have a start-up allowance of five times the share, for the first 40
      readings (20 if one costs more than 1.25 training steps), most of them in the first 300 steps.
      60 % of the share pays it back from step 1,000 on. Readings of up to 0.1 s together, at a
      share of 2 %, are made even if the steps are too short.
    - The first measurement of a process is slower than the later ones. It is not used to forecast
      the next, and is charged to the start of the run. The forecast is the median of the last five
      of a kind.
    - A fixed cost, such as the check of the edge before the first step, is not forecast. The same
      60 % of the share pay it back.
    - After them a reading is made whenever training is 1.1 times as long as at the newest one, so
      that the newest one is about now, as long as what is borrowed is at most the start-up
      allowance, and in any case at 1.2 times.
    - Readings and expensive measurements have half of the share each while an expensive one waits.
      A quarter of the share is left to the readings in any case.

    Args:
        share: Share of the training time, at least 0 and below 1. With 0 nothing fits.
        clock: A clock in seconds that never goes back. `clock_for` chooses it.

    >>> seconds = iter([0.0, 10.0, 10.0])
    >>> budget = Budget(0.02, clock=lambda: next(seconds))
    >>> budget.start()
    >>> budget.fits("batch_sharpness", guess=0.5)  # 0.5 s is more than 2 % of 10 s
    False
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share = share
        self.clock = clock
        # Steps of the whole training, if known: the first 40 readings are spread over at most its
        # first 1,000.
        self.planned: int | None = None
        self.spent_on: defaultdict[str, float] = defaultdict(float)
        # Names of what is reported but not counted against the share: branches of the run.
        self.outside: set[str] = set()
        # Names of costs that are not forecast, and are paid back later.
        self.fixed = {START}
        # Training steps so far.
        self.steps = 0
        # Measured steps so far.
        self.readings = 0
        # Readings that are made early, before the share has paid for them.
        self.promised = PROMISED
        # Called before the cost of a measurement is taken, for charges that are known only then.
        self.before_made: Callable[[], None] | None = None
        self._earlier = self._borrowed = self._last = 0.0
        self._newest = 0
        self._started: float | None = None
        self._repays_from: float | None = None
        # The newest five of a kind, since a measurement may become slower or faster on its way.
        self._costs: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=5))
        self._first: dict[str, float] = {}
        self._counted: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._mark = 0.0
        self._borrows = False
        self._saves_from: tuple[float, float] | None = None

    def start(self) -> None:
        """Start to count the time, unless it has started already."""
        if self._started is None:
            self._started = self.clock()

    def take_turn(self) -> None:
        """The time since any loop was last at work was that of the loop of this budget."""
        if isinstance(self.clock, Turns):
            self.clock.signal()

    def stop(self) -> None:
        """Stop to count the time: training has ended. `start` counts again."""
        self._earlier = self.elapsed
        self._started = None

    @property
    def spent(self) -> float:
        """Seconds that the instrument used."""
        return math.fsum(self.spent_on.values())

    @property
    def elapsed(self) -> float:
        """Seconds since the start, those of the instrument included."""
        return self._earlier + (self.clock() - self._started if self._started is not None else 0.0)

    @property
    def training(self) -> float:
        """Seconds of training: elapsed seconds minus those that the instrument used."""
        return self._training_at(self.clock())

    def _training_at(self, now: float) -> float:
        running = 0.0 if self._started is None else now - self._started
        return self._earlier + running - math.fsum(self.spent_on.values())

    @property
    def used(self) -> float:
        """Time that the instrument used, as a fraction of the training time."""
        spent = self.spent
        if spent == 0:
            return 0.0
        training = self.training
        return spent / training if training > 0 else float("inf")

    def passed(self, steps: int) -> None:
        """Note the number of training steps so far."""
        self.steps = steps
        if steps > START_UP_STEPS and self._repays_from is None:
            self._repays_from = self.training

    def expected(self, kind: str = READINGS, guess: float = 0.0) -> float:
        """Expected seconds of the next measurement of a kind: the median of the last five without
        the first.

        After the first alone it is `guess`, or for an expensive kind the first if that took longer.
        """
        if self._costs.get(kind):
            return statistics.median(self._costs[kind])
        return guess if kind == READINGS else max(guess, self._first.get(kind, 0.0))

    def fits(
        self, kind: str = READINGS, guess: float | None = None, *, saving: bool = False
    ) -> bool:
        """True if another measurement of a kind may be made.

        Args:
            kind: `READINGS`, or the name of an expensive measurement.
            guess: Seconds that the first one is expected to take. Default: half a training step.
            saving: True if an expensive measurement waits, so that readings leave half of the share
                to it.
        """
        if self.share == 0:
            return False
        self.start()
        training = self.training
        cost = self.expected(kind, self._half_step(training) if guess is None else guess)
        if kind == READINGS:
            earned = any(lacks <= 0 for lacks, _, _ in self._lacks(cost, training, saving, 0.0))
            self._borrows = (
                not earned and self.steps >= self._early(cost, training, self.readings).due
            )
            return earned or self._borrows
        income = self._income(training)
        reading = self.expected(guess=self._half_step(training))
        if self._early(reading, training, self.readings).promised_at < math.inf:
            return False
        return self.budgeted + cost <= income + self._lent and self._expensive + cost <= income / 2

    def steps_until(self, under_way: float = 0.0, *, saving: bool = False, pause: int = 1) -> int:
        """Steps until another reading fits, at least 1, if steps take as long as they did so far.

        Args:
            under_way: Seconds of the current measurement, which is not counted yet.
            saving: True if an expensive measurement waits.
            pause: Fewest steps, except for promised readings.
        """
        training, readings = self.training - under_way, self.readings + bool(under_way)
        if READINGS not in self._first:
            under_way = 0.0  # it will be charged to the start
        pace = training / max(self.steps, 1)
        if not (self.share > 0 and pace > 0):
            return 1
        costs = [*self._costs.get(READINGS, ()), *([under_way] if under_way else [])]
        cost = statistics.median(costs) if costs else self._half_step(training)
        repaying = self._repays_from is not None and self._repaid(training) < self._lent
        kept = 1 - REPAID if repaying else 1.0
        bookkeeping = self._by_the_way / max(self.steps, 1)
        ways = [
            (lacks, self.share * pace * (kept if repays else 1.0) - part * bookkeeping)
            for lacks, part, repays in self._lacks(cost, training, saving, under_way)
        ]
        earns = max(min(lacks / rate if rate > 0 else math.inf for lacks, rate in ways), pause)
        early = self._early(cost, training, readings, under_way).due - self.steps
        return max(math.ceil(min(earns, early, self.steps + 1e6)), 1)

    def beyond_allowance(self) -> bool:
        """True if the promised readings took more than the start-up allowance, since 300 steps are
        so short."""
        spent = self.budgeted - self._fixed_costs
        is_early = IN_TIME * PROMISED_BY <= self.steps <= START_UP_STEPS
        return is_early and spent > START_UP * self.share * self.training > 0

    def short_of(self) -> int | None:
        """The number of readings promised, if 300 steps were made with fewer because the budget
        could not pay."""
        training = self.training
        early = self._early(self.expected(guess=self._half_step(training)), training)
        if self.share == 0 or self.steps < IN_TIME * early.by:
            return None
        return early.target if self.readings < early.target else None

    @property
    def is_spending(self) -> bool:
        """True inside of `spending`: the instrument is at work, and not training."""
        return bool(self._open)

    @contextmanager
    def spending(
        self, name: str = BOOKKEEPING, *, fixed: bool = False, outside: bool = False
    ) -> Iterator[None]:
        """Charge the time inside to this name. Time in a nested region is charged to the inner name
        only.

        Args:
            name: What the time is spent on.
            fixed: True for a cost that is not forecast, and is paid back later, such as a check
                before the first step.
            outside: True for what does not count against the share: branches of the run.
        """
        if self._started is None:
            self.start()
        if fixed:
            self.fixed.add(name)
        if outside:
            self.outside.add(name)
        now = self.clock()
        if self._open:
            self.spent_on[self._open[-1]] += now - self._mark
        self._open.append(name)
        self._mark = now
        try:
            yield
        finally:
            now = self.clock()
            self.spent_on[self._open.pop()] += now - self._mark
            self._mark = now

    def settle(self, name: str = BOOKKEEPING) -> None:
        """Charge the time inside of `spending` so far, and what follows to this name."""
        now = self.clock()
        self.spent_on[self._open[-1]] += now - self._mark
        self._open[-1] = name
        self._mark = now

    def charge(self, name: str, seconds: float) -> None:
        """Charge seconds that were measured elsewhere."""
        self.spent_on[name] += seconds

    def made(self, kind: str = READINGS) -> None:
        """A measurement of this kind is complete: what was charged to it since the last one is its
        cost."""
        if self.before_made is not None:
            self.before_made()
        cost = self.spent_on[kind] - self._counted[kind]
        if kind not in self._first:
            self._first[kind] = cost
            if kind == READINGS:
                self.spent_on[kind] -= cost
                self.charge(START, cost)
        else:
            self._costs[kind].append(cost)
        self._counted[kind] = self.spent_on[kind]
        if kind == READINGS:
            self.readings += 1
            self._last = self._training_at(self._mark if self._open else self.clock())
            self._newest = self.steps
            if self._borrows:
                spent = self.budgeted - self._by_the_way
                lent = max(self._lent, spent - self._income(self._last))
                self._borrowed = lent - self._fixed_costs

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        spent = math.fsum(self.spent_on.values())
        return {
            # What is charged may be measured by another clock: on a busy machine it can be ahead in
            # the first steps.
            "elapsed": max(self.elapsed, spent),
            "spent": dict(self.spent_on),
            "outside": sorted(self.outside),
            "fixed": sorted(self.fixed),
            "costs": {kind: list(costs) for kind, costs in self._costs.items()},
            "steps": self.steps,
            "readings": self.readings,
            "lent": self._lent,
            "last": self._last,
            "newest": self._newest,
            "repays_from": self._repays_from,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint. The time between the two processes is not counted."""
        spent = {name: float(seconds) for name, seconds in state["spent"].items()}
        elapsed, total = float(state["elapsed"]), math.fsum(spent.values())
        if not 0 <= total <= elapsed:
            raise BadArgument(
                f"`state` must have 0 ≤ spent ≤ elapsed, got spent {total} s of {elapsed} s."
            )
        self._earlier = elapsed
        self._started = None
        self.spent_on = defaultdict(float, spent)
        self._counted = defaultdict(float, spent)
        self.outside = set(state["outside"])
        self.fixed = set(state["fixed"])
        self.steps = int(state["steps"])
        self.readings = int(state["readings"])
        self._borrowed = float(state["lent"]) - self._fixed_costs
        self._last = float(state["last"])
        self._newest = int(state.get("newest", self.steps))
        self._repays_from = state["repays_from"]
        self._first.clear()
        self._costs.clear()
        for kind, kept in state["costs"].items():
            self._costs[kind].extend(map(float, kept))

    def _half_step(self, training: float) -> float:
        return training / max(self.steps, 1) / 2

    @property
    def budgeted(self) -> float:
        """Seconds that count against the share."""
        return self.spent - math.fsum(self.spent_on[name] for name in self.outside)

    @property
    def _fixed_costs(self) -> float:
        return math.fsum(self.spent_on[name] for name in self.fixed)

    @property
    def _lent(self) -> float:
        """Seconds that are paid back later: the fixed costs, and what readings have borrowed."""
        return self._fixed_costs + self._borrowed

    @property
    def _by_the_way(self) -> float:
        """Seconds of what every step costs, measured or not."""
        return math.fsum(self.spent_on.get(name, 0.0) for name in BY_THE_WAY)

    @property
    def _expensive(self) -> float:
        others = {READINGS, *BY_THE_WAY, *self.fixed, *self.outside}
        return math.fsum(seconds for name, seconds in self.spent_on.items() if name not in others)

    def _repaid(self, training: float) -> float:
        """Seconds of the early allowance that are paid back."""
        if self._repays_from is None:
            return 0.0
        return min(REPAID * self.share * (training - self._repays_from), self._lent)

    def _income(self, training: float) -> float:
        return self.share * training - self._repaid(training)

    def _lacks(
        self, cost: float, training: float, saving: bool, under_way: float
    ) -> tuple[tuple[float, int, bool], ...]:
        """Two ways in which a reading of this cost may fit: for each, the seconds of income that
        are still needed, at most 0 if it fits, how often a second of bookkeeping counts in them,
        and if the income pays back first."""
        income, spent = self._income(training), self.budgeted + under_way + cost - self._lent
        readings = spent - self._expensive
        # Part of the share that readings have in any case.
        assured = (cost + under_way) / 0.25 - self.share * (training - self._last), 0, False
        if not saving:
            self._saves_from = None
            return (spent - income, 1, True), assured
        if self._saves_from is None:
            self._saves_from = readings - cost - under_way, income
        before, earned = self._saves_from
        return (2 * (readings - before) - (income - earned), 2, True), assured

    def _early(
        self, cost: float, training: float, readings: int = 0, under_way: float = 0.0
    ) -> EarlyReadings:
        """The readings that may be made before they are earned."""
        return EarlyReadings(
            share=self.share,
            planned=self.planned or 0,
            steps=self.steps,
            pace=training / max(self.steps, 1),
            cost=cost,
            spent=self.budgeted - self._fixed_costs + under_way + cost,
            readings=readings,
            newest=self.steps if under_way else self._newest,
            bookkeeping=self._by_the_way,
            most=self.promised,
        )
