"""Trials on the way: the cure of what limits a watched loop is tried by a fork, in a share of the
training time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradiometer.drift.spikes.examination import SPREADS
from gradiometer.errors import GradiometerError
from gradiometer.integrations.gradients import NEVER
from gradiometer.integrations.watch.requests.newest_updates import IncidentUpdates, NewestUpdates
from gradiometer.integrations.watch.shield import Shield, attempt, reason_of
from gradiometer.integrations.watch.triage.exact import schedulers_of
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

# Fewest updates of a branch, as in a race, and before the end not fewer than a 400th of the steps so
# far. With a hundredth, no loop of small networks made a trial before its end.
FEWEST, SHORTEST = 16, 400

# What the copies and the readouts of a branch cost, in updates.
COPIES = 6

# Seconds that a trial costs besides: reading the run, its triage, the updates that are compared. A
# network of 5,000 parameters took 0.15 to 0.2 in the first one, which also imports what it needs, and
# 0.03 to 0.05 later.
FIRST, LATER = 0.2, 0.05


# Updates that the search for the cause of an incident takes: 150 to 500 in planted ones.
SEARCH = 500

# Training examples on which a trial reads the loss.
EXAMPLES = 512

EXAMPLE = "data: give sampling=loader, with a DataLoader that shuffles"


class Trials:
    """Tries the cure of the first claim of triage that a short fork can judge, at a few marks and
    at the end.

    A short fork prefers small rates. So only what this cannot explain is tried: a higher rate; the
    rate taken down at the end of a training at a constant rate; and any cure if the share pays for
    branches that show the end. The cause of an incident comes first, if its updates are kept.

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
        self._beside = FIRST
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
        self.next = NEVER
        if self._made and self._budget.training > 0:
            share = self._budget.spent_on[COST] / self._budget.training
            self._say(
                f"{self._made} trial{'s' * (self._made > 1)} of cures took {share:.2g} of the "
                "training time"
            )

    def _try(self, step: int, *, is_over: bool) -> None:
        self.next = step + max(step // 8, FEWEST)
        shortest = FEWEST if is_over else max(FEWEST, step // SHORTEST)
        if self._updates(step) < shortest:
            return
        if self.data is None:
            self._give_up(f"trials need the training {EXAMPLE}")
            return
        with self._budget.spending(COST, outside=True):
            began = self._budget.clock()
            self.next = step + max(step // 2, FEWEST)  # reading the run costs time, too
            planned = self._trial(step, is_over=is_over)
            if planned:
                branches = BRANCHES * (planned + COPIES) * self._seconds(step)
                besides = max(self._budget.clock() - began - branches, 0.0)
                self._beside = besides if self._made else LATER
                self._made += 1

    def _seconds(self, step: int) -> float:
        return max(self._budget.training, 1e-9) / max(step, 1)

    def _updates(self, step: int) -> int:
        """Updates of each branch that the share pays for."""
        # Part of the affordable time that is planned with.
        left = 0.9 * (self._share * self._budget.training - self._budget.spent_on[COST])
        return int((left - self._beside) / self._seconds(step) / BRANCHES) - COPIES

    def _trial(self, step: int, *, is_over: bool) -> int:
        """Fork the loop. Returns the updates of a branch; 0 if there is nothing to try."""
        run = self._watched.run
        if run is None:
            return 0
        if self._explain(run, step, is_over=is_over):
            return SEARCH // BRANCHES
        updates = self._updates(step)
        planned = self._budget.planned
        facts = Signs.of(run).facts
        schedulers, each = schedulers_of(self._watched._optimizers, run.steps)
        if planned is None and schedulers and each == "update" and "scheduled" in facts:
            planned = int(facts["scheduled"])
        left = planned - step if planned is not None and planned > step else None
        shows_end = not is_over and left is not None and left >= 4 and updates >= 0.75 * left
        change = _first(run, shows_end=shows_end, is_over=is_over)
        if change is None:
            return 0
        horizon = "end" if shows_end else f"{min(updates, left or updates)} updates"
        settings: dict[str, Any] = (
            {} if shows_end or not isinstance(change, CoolNow) else {"tail": "none"}
        )
        # without a plan, as if the training went on for as long again: short branches are known as
        # such
        self._watched._fork(
            batches=self.data,
            alternatives=[change],
            horizon=horizon,
            replicates=REPLICATES,
            left=f"{left or step} updates",
            readout_examples=EXAMPLES,
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
        why = (
            reason_of(error)
            if isinstance(error, GradiometerError)
            else f"{type(error).__name__}: {error}"
        )
        attempt(lambda: self._give_up(f"no more cures are tried: {why}"))


def _first(run: Run, *, shows_end: bool, is_over: bool) -> Alternative | None:
    """The first cure, in the order of the claims, that a fork of this kind can judge and that none
    has judged. At the end also what settles a doubt about a training without a claim."""
    signs = replace(Signs.of(run), has_ended=True)  # what it would be told if it ended now
    known = effects_by_change(run)
    for claimed in triage_of(signs).claims:
        # the signs of a large batch are also those of a low rate, and a fork separates the two
        cure = ("rate 4x", *claimed.cure) if claimed.claim is Claim.BATCH_LARGE else claimed.cure
        if is_over and claimed.claim is Claim.UNDECIDED:
            cure = changes_that_settle(claimed)
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
