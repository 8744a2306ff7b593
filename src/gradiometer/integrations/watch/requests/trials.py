"""Trials on the way: the cure of what limits a watched loop is tried by a fork, in a share of the
training time."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradiometer.drift.spikes.examination import SPREADS
from gradiometer.integrations.gradients import NEVER
from gradiometer.integrations.watch.requests.newest_updates import IncidentUpdates, NewestUpdates
from gradiometer.integrations.watch.shield import Shield, attempt, reason_of
from gradiometer.loop.changes.alternative import Alternative, CoolNow, Rate
from gradiometer.run.budget import Budget
from gradiometer.run.reader import Run
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import triage_of
from gradiometer.verdict.triage.tried import change_of, changes_that_settle, effects_by_change

# The name under which their time is charged, outside of the budget of readings.
COST = "trials"

# Orders of the data in a trial. Student's intervals of two are 2.6 times as wide, and four cost a
# third more.
REPLICATES = 3

# Branches of a trial: of one change, and of going on as it is.
BRANCHES = 2 * REPLICATES

# Fewest updates of a branch at the end; before it there are twice as many. In eight trainings of eight kinds
# at a 30th and an 8th of their rate, four times the rate was better in 19 of 32 forks with branches of
# 8 updates and of 16, and in 19 with 4; at the right rate in 4 and 2 of 15, and in 6 with 4.
FEWEST = 8

# Part of the affordable time that is planned with.
PLANNED = 0.9

# Updates that the search for the cause of an incident takes: 150 to 500 in planted ones.
SEARCH = 500


class Trials:
    """Tries the cure of the first claim of triage that a short fork can judge, at a few marks and
    at the end.

    A short fork prefers small rates. So only what this cannot explain is tried: a higher rate; the
    rate taken down at the end of a training at a constant rate; and any cure if the share pays for
    branches to the end. The cause of an incident comes first, if its updates are kept.

    Args:
        share: The largest share of the training time.
        watched: The watch of the loop, which has the account of the time, its optimizers, its run
            and its forks.
        say: Prints a line.
    """

    def __init__(self, share: float, watched: Any, say: Callable[[object], None]) -> None:
        self._share = share
        self._watched = watched
        self._say = say
        self._budget: Budget = watched.budget
        # The context for everything that training calls: an error ends the trials, and nothing
        # else.
        self.shield = Shield(self._stop, before_first_update=False)
        # The loader of the training data; None if it is not known.
        self.data: Any = None
        # Seconds that the newest trial took besides its updates; None before the second.
        self._beside: float | None = None
        self._made = 0
        self._explained: IncidentUpdates | None = None
        # The next step at which a trial may be made.
        self.next = FEWEST if share > 0 else NEVER

    def draw_from(self, loader: Any) -> None:
        """Take the data from this loader, if they are not known."""
        if self.data is None:
            self.data = loader

    def at_step(self, step: int) -> None:
        """Make a trial, if the share pays for one by now."""
        with self.shield:
            self._try(step, is_over=False)

    def close(self, step: int, error: BaseException | None) -> None:
        """Make a last trial, with what is left of the share, and say what all of them cost. None
        after an error."""
        if self.next == NEVER or error is not None:
            return
        with self.shield:
            self._try(step, is_over=True)
        if self.next == NEVER:
            return
        self.next = NEVER
        training = self._budget.training
        if self._made and training > 0:
            share = self._budget.spent_on[COST] / training
            self._say(
                f"{self._made} trial{'s' * (self._made > 1)} of cures took {share:.2g} of the "
                "training time"
            )
        elif step and self._updates(step) < FEWEST:
            shortest = FEWEST * BRANCHES + self._besides(step) / self._seconds(step)
            share = math.ceil(100 * shortest / PLANNED / step) / 100
            self._say(
                f"no cure was tried: trials={self._share:g} pays for {self._share * step:.0f} of the "
                f"{step:,} updates, and a trial takes {shortest:.0f} or more; trials={share:g} "
                "would pay for one"
            )

    def _try(self, step: int, *, is_over: bool) -> None:
        self.next = step + max(step // 8, 16)
        # 400: with a hundredth of the steps so far, no loop of small networks made a trial before
        # its end.
        shortest = FEWEST if is_over else max(2 * FEWEST, step // 400)
        if self._updates(step) < shortest:
            return
        if self.data is None:
            self._give_up(
                "trials need the training data: give sampling=loader, with a DataLoader that shuffles"
            )
            return
        with self._budget.spending(COST, outside=True):
            began = self._budget.clock()
            self.next = step + max(step // 2, 16)  # reading the run costs time, too
            planned = self._trial(step, is_over=is_over)
            if planned:
                branches = BRANCHES * planned * self._seconds(step)
                if self._made:  # the first one imports what it needs
                    self._beside = max(self._budget.clock() - began - branches, 0.0)
                self._made += 1

    def _seconds(self, step: int) -> float:
        return max(self._budget.training, 1e-9) / max(step, 1)

    def _updates(self, step: int) -> int:
        """Updates of each branch that the share pays for."""
        left = PLANNED * (self._share * self._budget.training - self._budget.spent_on[COST])
        return int((left - self._besides(step)) / self._seconds(step) / BRANCHES)

    def _besides(self, step: int) -> float:
        """Seconds that a trial takes besides the updates of its branches."""
        if self._beside is not None:
            return self._beside
        # Until one was made: 0.05 s for reading the run, its triage and its record, and 4 updates
        # a branch for its copy and its readout. Networks of 5,000 to 1,000,000 parameters took 0.06
        # to 0.28 s, 0.88 to 1.16 times of what this plans.
        return 0.05 + BRANCHES * 4 * self._seconds(step)

    def _trial(self, step: int, *, is_over: bool) -> int:
        """Fork the loop. Returns the updates of a branch; 0 if there is nothing to try."""
        run = self._watched.run
        if run is None:
            return 0
        if self._explain(run, step, is_over=is_over):
            return SEARCH // BRANCHES
        updates = self._updates(step)
        planned = self._watched._updates_in_all(self.data)
        left = planned - step if planned is not None and planned > step else None
        if left is not None and left < FEWEST:
            return 0  # what the last updates would change is no answer for the training
        shows_end = not is_over and left is not None and updates >= left
        change = _first(run, shows_end=shows_end, is_over=is_over)
        if change is None:
            return 0
        # without a plan, as if the training went on for as long again: short branches are known as
        # such
        assumed = left or step
        horizon = "end" if shows_end else f"{min(updates, assumed)} updates"
        settings: dict[str, Any] = (
            {} if shows_end or not isinstance(change, CoolNow) else {"tail": "none"}
        )
        self._watched._fork(
            batches=self.data,
            alternatives=[change],
            horizon=horizon,
            replicates=REPLICATES,
            left=f"{assumed} updates",
            readout_examples=256,
            charged_to=COST,
            **settings,
        )
        return updates

    def _explain(self, run: Run, step: int, *, is_over: bool) -> bool:
        """Look for the cause of an incident whose updates are kept. True if there was a new one."""
        newest: NewestUpdates = self._watched.newest_updates
        if is_over:
            newest.finish()
        held = newest.incident
        # noise comes as high as half of what is examined
        if held is None or held is self._explained or held.height < SPREADS:
            return False
        if self._updates(step) * BRANCHES < SEARCH:
            return False
        self._explained = held
        self._watched._explain_incident(run, self.data)
        return True

    def _give_up(self, why: str) -> None:
        self.next = NEVER
        self._watched._warn(why)

    def _stop(self, error: Exception) -> None:
        """An error: make no more trials. A refusal is not a fault of the loop."""
        attempt(lambda: self._give_up(f"no more cures are tried: {reason_of(error)}"))


def _first(run: Run, *, shows_end: bool, is_over: bool) -> Alternative | None:
    """The first cure, in the order of the claims, that a fork of this kind can judge and that none
    has judged. At the end also what settles a doubt about a training without a claim."""
    signs = replace(Signs.of(run), has_ended=True)  # what it would be told if it ended now
    if is_over and len(signs.rates) and signs.rates[-1] < 0.01 * signs.rates.max():
        return None  # the schedule is at its end: no change of the rate shows anything
    known = effects_by_change(run)
    for claimed in triage_of(signs).claims:
        # the signs of a large batch are also those of a low rate, and a fork separates the two
        cure = ("rate 4x", *claimed.cure) if claimed.claim is Claim.BATCH_LARGE else claimed.cure
        if is_over and claimed.claim in (Claim.UNDECIDED, Claim.HEALTHY):
            cure = changes_that_settle(claimed, signs)
            # a fork of the first half settles nothing about the end
            known = effects_by_change(run, since=run.steps // 2)
        for change in map(change_of, cure):
            if change is None or change.name in known:
                continue
            if (
                shows_end
                or isinstance(change, CoolNow)
                or (isinstance(change, Rate) and change.factor > 1)
            ):
                return change
    return None
