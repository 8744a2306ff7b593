"""Trials on the way: the cure of what limits a watched loop is tried by a fork, in a share of the
training time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradiometer.drift.spikes.examination import SPREADS
from gradiometer.integrations.gradients import NEVER
from gradiometer.integrations.watch.observers.kept_updates import COST as COST_OF_STATES
from gradiometer.integrations.watch.observers.kept_updates import PAID
from gradiometer.integrations.watch.observers.newest_updates import IncidentUpdates
from gradiometer.integrations.watch.observers.observer import Observer, Step
from gradiometer.integrations.watch.record import WatchedRun
from gradiometer.integrations.watch.requests.forks import LoopForks
from gradiometer.integrations.watch.shield import Shield, attempt, reason_of
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.branches import BEGINNING, Fork, sentence
from gradiometer.loop.changes.alternative import Alternative, CoolNow, Rate
from gradiometer.loop.changes.text import alternative_of
from gradiometer.loop.data import data_of
from gradiometer.loop.recorded.record import ForkRecord, Plan, forks_of
from gradiometer.loop.recorded.trials import beats_its_lean, by_late_loss
from gradiometer.run.budget import Budget
from gradiometer.run.reader import Run
from gradiometer.verdict.claims import Claim, Claimed
from gradiometer.verdict.triage.schedule import is_constant
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import triage_of
from gradiometer.verdict.triage.tried import (
    EARLIEST,
    change_of,
    changes_that_settle,
    effects_by_change,
)

# The name under which their time is charged, outside of the budget of readings.
COST = "trials"

# Orders of the data in the trial of a rate. A higher rate needs long branches to show its worth:
# Student's intervals of two orders are 2.6 times as wide, and four cost a third more.
REPLICATES = 3

# Orders of the data in the trial of a cut, whose worth shows soon, and the fewest updates of its
# branches if there are more than the first number of orders. Half of the interval of five cuts
# that a tenth of the training paid for was 9.3 % of the loss in the median, at the ends of branches
# in three orders; by means over their second halves 4.6 % in three, 6.0 % in four, 3.5 % in six and
# 5.3 % in eight. In branches of 12 updates a cut by which 24 % are gained was not shown yet.
ORDERS_OF_CUT = (4, 6)
SHOWS_CUT = 25

# Fewest branches of a trial: of one change, and of going on as it is.
BRANCHES = 2 * REPLICATES

# Fewest updates of a branch at the end; before it there are twice as many. In eight trainings of
# eight kinds at a 30th and an 8th of their rate, four times the rate was better in 19 of 32 forks
# with branches of 8 updates and of 16, and in 19 with 4; at the right rate in 4 and 2 of 15, and in
# 6 with 4.
FEWEST = 8

# Part of the affordable time that is planned with.
PLANNED = 0.9

# Updates that the search for the cause of an incident takes: 150 to 500 in planted ones.
SEARCH = 500

# States that are kept, of steps 4, 8, 16, 32, ...: one of the newest four is from the twelfth to
# the sixth of a training at its end.
STATES = 4

# A rate is tried from the newest state before this part of the training. There twice the rate was
# better in 3 of 7 trainings at a quarter of their rate, in branches of a 60th of the training, and
# in none of 8 at the right one; from a quarter on in none.
EARLY = 6

# The earliest step whose state shows if a rate is too low that nothing speaks against. From steps
# 16 and 32 of trainings of 100 to 300 updates twice the rate was better in branches of 8 healthy
# ones, and ended better in 4.
SETTLED = 100

# The rate that is tried if nothing is wrong. Four times the rate gains more if it is right, but its
# noise is so much larger that it was 0.6 to 0.9 times as far from zero.
HIGHER = "rate 2x"

# The rates that are tried from the first weights, against the first updates of the training itself;
# the fewest and the most updates of such a branch, and the part of the training that it has at
# most. In four orders of the data of 6,000 updates, four times the rate changed the mean loss of
# updates 100 to 200 by +9 to +212 % in 6 trainings under Adam at a good rate that fell to zero, and
# by −76 to −21 % in 6 at a quarter of it; under SGD by −62 to +45 %, or a divergence, and by −65 to
# −11 %. A quarter of the rate changed that of updates 150 to 300 by −72 to −20 % in eight at three
# to six times a good rate, and by −11 to +191 % in 16 at a good one; those of 100 to 200 by −3 and
# −6 % at three times two good rates, and those of 300 to 600 by −42 to −10 % at three good ones.
LOWER, RAISED = Rate(0.25), Rate(4)
FEWEST_AT_BEGINNING, MOST_AT_BEGINNING = 100, {LOWER.name: 300, RAISED.name: 200}
PART_AT_BEGINNING = 20

# The largest stride of an adaptive optimizer, and the stride that one step in fifty of SGD exceeds,
# above which a lower rate is tried from the beginning before a higher one. Under Adam and AdamW 4.2
# and more in seven trainings at 3 to 8 times their rate, at most 2.2 in nine at a good one. Under
# SGD 0.08 to 0.37 in six at a good rate; a rate that is too high mostly diverges.
LONG_STRIDE, LONG_STRIDES_OF_SGD = 3.0, 0.3

# How much longer an update of a branch takes than one of the training, by what the loop of a fork
# does besides: 1.2 to 1.5 times as long at 0.25 to 0.55 ms. Branches that took longer than planned
# ended after two of three orders of the data, which show next to nothing.
SLOWER = 1.3


@dataclass(frozen=True)
class TriedChange:
    """What is tried, and from where.

    Args:
        change: The change that is tried.
        from_first_weights: True for one branch from the first weights, which is compared with the
            updates that the training has made itself.
    """

    change: Alternative
    from_first_weights: bool = False


class Trials(Observer):
    """Tries the cure of the first claim or suspect of triage that a short fork can judge: at the
    end, also of a training without a claim, and at a few marks if the end is not known.

    A short fork prefers small rates. So only what this cannot explain is tried: a higher rate, the
    rate taken down at the end of a training at a constant rate, and a quarter of the rate from the
    first weights, from where branches prefer large rates. At the end a rate is tried from an early
    state, since the schedule may have taken it to zero, and little is left to be learnt; a higher
    one from the first weights, if the rate fell on the way and began high. From there the training
    itself is the branch without a change. One change gets all of the share: a second one is tried
    with what the first one leaves. The cause of an incident comes first, if its updates are kept.

    Args:
        share: The largest share of the training time.
        budget: The account of the time.
        record: The run.
        forks: Forks of the loop.
        warn: Takes a warning.
        say: Prints a line.
        checkpoints: Number of earlier states that are kept without trials, too.
        on_request: True for trials that are made once, when they are asked for, from the states
            that are kept already.
    """

    def __init__(
        self,
        share: float,
        budget: Budget,
        record: WatchedRun,
        forks: LoopForks,
        warn: Callable[[str], None],
        say: Callable[[object], None],
        *,
        checkpoints: int = 0,
        on_request: bool = False,
    ) -> None:
        self._share = share
        # The name of the share where it was given.
        self._argument = "share" if on_request else "trials"
        self._budget = budget
        self._record = record
        self._forks = forks
        self._warn = warn
        self._say = say
        self._checkpoints = checkpoints
        # The context for everything that training calls: an error ends the trials, and nothing
        # else.
        self.shield = Shield(self._stop, before_first_update=False)
        if not on_request:
            states = max(STATES, checkpoints)
            forks.kept_updates.keep_states(states, None if checkpoints else self._wants_state)
        # Seconds that the newest trial took besides its updates; None before the second.
        self._beside: float | None = None
        # Seconds of all trials when the branches of the newest one began, and their updates.
        self._before_branches = 0.0
        self._branch_updates = 0
        # Updates of the training that stand for its branch without a change; None if it is trained.
        self._own: int | None = None
        self._made = 0
        self._forked: list[Fork] = []
        self._explained: IncidentUpdates | None = None
        self.next = FEWEST

    def at_step(self, event: Step) -> None:
        """Make a trial, if the share pays for one by now."""
        if event.place:
            return
        with self.shield:
            self._try(event.index, is_over=False)

    def close(self, error: BaseException | None) -> None:
        """Make a last trial, with what is left of the share, and say what all of them cost. None
        after an error."""
        if self.next == NEVER or error is not None:
            return
        step = self._forks.steps
        with self.shield:
            self._try(step, is_over=True)
        if self.next != NEVER:
            self._report(step)

    def _report(self, step: int) -> None:
        """Say what the trials cost, or why there was none."""
        self.next = NEVER
        training = self._budget.training
        if self._made and training > 0:
            share = self._budget.spent_on[COST] / training
            self._say(
                f"{self._made} trial{'s' * (self._made > 1)} of cures took {share:.2g} of the "
                "training time"
            )
            # a finding has the result of its own cure only
            for fork in map(by_late_loss, self._forked):
                self._say(f"tried: {sentence(fork, fork.effects())}")
        elif step and self._updates(step) < FEWEST:
            shortest = FEWEST * BRANCHES + self._besides(step) / self._seconds(step)
            share = math.ceil(100 * shortest / PLANNED / step) / 100
            self._say(
                f"no cure was tried: {self._argument}={self._share:g} pays for {self._share * step:.0f} of "
                f"the {step:,} updates, and a trial takes {shortest:.0f} or more; {self._argument}={share:g} "
                "would pay for one"
            )

    def make_now(self) -> None:
        """Make the trials of a training that has ended, and say what they cost.

        Raises:
            Unsupported: The training cannot be copied.
        """
        step = self._forks.steps
        self._say(
            f"testing what may limit this training on copies of it, for {self._share:.2g} of the "
            f"training time at most ({self._share * self._budget.training:.2g} s)"
        )
        # of trials before this one nothing is left to pay for
        self._share += self._budget.spent_on[COST] / max(self._budget.training, 1e-9)
        self._try(step, is_over=True)
        self._report(step)

    def _try(self, step: int, *, is_over: bool) -> None:
        self.next = step + max(step // 8, 16)
        if not is_over:
            # trainings of 60 to 800 updates took 8 % longer by states for no trial
            kept = STATES if self._will_pay(step) else 0
            self._forks.kept_updates.keep_states(max(kept, self._checkpoints))
        # 400: with a hundredth of the steps so far, no loop of small networks made a trial before
        # its end.
        shortest = FEWEST if is_over else max(2 * FEWEST, step // 400)
        if self._updates(step, is_over=is_over) < shortest:
            return
        if self._forks.data is None:
            self._give_up(
                "trials need the training data: give sampling=loader, with a DataLoader that "
                "shuffles"
            )
            return
        self.next = step + max(step // 2, 16)  # reading the run costs time, too
        with self._budget.spending(COST, outside=True):
            trials = self._trials(step, is_over=is_over)
        for trial in trials:
            with self._budget.spending(COST, outside=True):
                began, self._branch_updates = self._budget.clock(), 0
                updates = self._updates(step, is_over=is_over)
                if updates < FEWEST:
                    return
                if not self._make(trial, step, updates, is_over=is_over):
                    continue
                branches = self._branch_updates * self._seconds(step)
                self._beside = max(self._budget.clock() - began - branches, 0.0)
                self._made += 1

    def _begin(self, plan: Plan) -> None:
        """The branches of a trial begin; the training may have made one of them itself."""
        self._budget.settle(COST)
        self._before_branches = self._budget.spent_on[COST]
        if self._own is not None:
            # the last batch of an epoch may be smaller
            size, epoch = (
                plan.horizon // self._own,
                data_of(self._forks.data, None).epoch or plan.horizon,
            )
            epochs, rest = divmod(plan.horizon, epoch)
            number = epochs * math.ceil(epoch / size) + math.ceil(rest / size)
            run = self._record.run
            assert run is not None  # a fork is made of it
            ForkRecord.keep(run.path, plan).keep_own(Signs.of(run).losses[:number])

    def _goes_on(self, result: BranchResult, done: int, _: int) -> bool:
        """True if the share pays for the next two branches, by what those before have cost."""
        self._branch_updates += result.updates if result.seconds else 0
        self._budget.settle(COST)
        spent = self._budget.spent_on[COST]
        pair = 2 * (spent - self._before_branches) / done
        return done % 2 == 1 or pair <= self._rest(self._share)

    def _will_pay(self, step: int) -> bool:
        """False if the length of the training is known, and the share will not pay for a trial at
        its end."""
        total = self._forks.updates_in_all(self._forks.data)
        if total is None:
            return True
        left = PLANNED * self._share * self._seconds(step) * total
        return left - self._besides(step) >= FEWEST * BRANCHES * self._seconds(step)

    def _seconds(self, step: int) -> float:
        return max(self._budget.training, 1e-9) / max(step, 1)

    def _updates(self, step: int, *, is_over: bool = True) -> int:
        """Updates of each branch that the share pays for; on the way half of it, since at the end
        all is known that a trial can be about."""
        left = PLANNED * self._rest(self._share if is_over else self._share / 2)
        updates = (left - self._besides(step)) / self._seconds(step) / BRANCHES
        return int(max(min(updates, FEWEST), updates / SLOWER))

    def _rest(self, share: float) -> float:
        """Seconds that are left of a share for trials. The states that they need count, too, beyond
        what any watch may spend on states."""
        training, spent = self._budget.training, self._budget.spent_on
        states = max(spent[COST_OF_STATES] - PAID * training, 0.0)
        return share * training - spent[COST] - states

    def _besides(self, step: int) -> float:
        """Seconds that a trial takes besides the updates of its branches."""
        if self._beside is not None:
            return self._beside
        # Until one was made: 0.05 s for reading the run, its triage, the comparison with a copy and
        # the record, and 4 updates a branch for its copy and its readout. It took 0.042 s and 4
        # updates in a small network; branches end when the share is spent.
        return 0.05 + BRANCHES * 4 * self._seconds(step)

    def _wants_state(self, step: int) -> bool:
        """True if a trial may use the state of a step: an early one, or one of the later part whose
        updates are compared with those of a copy. Those of all powers of two took 6 to 9 % of five
        trainings of 1,500 to 6,000 updates."""
        total = self._forks.updates_in_all(self._forks.data)
        if total is None:
            return True
        return total // EARLIEST <= step <= total // EARLY or step >= total // 2

    def _updates_ahead(self, step: int) -> int | None:
        """Updates that are left of the training; None if that is not known."""
        planned = self._forks.updates_in_all(self._forks.data)
        return planned - step if planned is not None and planned > step else None

    def _trials(self, step: int, *, is_over: bool) -> list[TriedChange]:
        """The trials to try now."""
        run = self._record.run
        if run is None or self._explain(run, step, is_over=is_over):
            return []
        if is_over:
            is_long = step // PART_AT_BEGINNING >= FEWEST_AT_BEGINNING
            return _trials_at_end(
                run,
                early=self._early(step, is_over=True),
                has_beginning=is_long and self._beginning() is not None,
            )
        if self._updates_ahead(step) is not None:
            return []  # at the end more is known, and the share pays for more
        change = _first(run)
        return [] if change is None else [TriedChange(change)]

    def _make(self, trial: TriedChange, step: int, updates: int, *, is_over: bool) -> bool:
        """Fork the loop as it is now, or an early state of it for a rate that branches to the end
        do not judge. False if that cannot be compared."""
        settings: dict[str, Any] = {}
        early = None
        self._own = None
        change = trial.change
        if trial.from_first_weights:
            early, most = self._beginning(), MOST_AT_BEGINNING[change.name]
            updates = min(updates * BRANCHES, most, step // PART_AT_BEGINNING)
            if updates < FEWEST_AT_BEGINNING:
                return False
            self._own = updates
            settings |= {"from_first_weights": True, "tail": "none"}
        elif isinstance(change, Rate):
            early = self._early(step, is_over=is_over)
        # without a plan, as if the training went on for as long again: short branches are known as
        # such
        left = step
        if early is not None:
            settings["at"] = early
            left = step - early
        else:
            settings["left"] = f"{left} updates"
        in_all, replicates = updates * REPLICATES, REPLICATES
        if self._own is not None:
            in_all, replicates = updates, 1
        if isinstance(change, CoolNow):
            settings["tail"] = "none"
            few, many = ORDERS_OF_CUT
            replicates = many if in_all >= many * SHOWS_CUT else few
            replicates = min(replicates, in_all // FEWEST)
        updates = in_all // replicates
        made = self._forks.fork(
            batches=self._forks.data,
            alternatives=[change],
            horizon="end"
            if early is not None and updates >= left
            else f"{min(updates, left)} updates",
            replicates=replicates,
            kept=False,
            readout_examples=256,
            charged_to=COST,
            begin=self._begin,
            progress=self._goes_on,
            **settings,
        )
        if made is not None and any(one.alternative == made.names[0] for one in made.results):
            self._forked.append(made)
        return made is not None

    def _early(self, step: int, *, is_over: bool) -> int | None:
        """The step of the state that a rate is tried from; None for the present one, on the way of
        a training without a plan, or if none is kept from there."""
        total = step if is_over else self._forks.updates_in_all(self._forks.data)
        if total is None:
            return None
        kept = [one.step for one in self._forks.kept_updates.stretches]
        return max(
            (one for one in kept if total // EARLIEST <= one <= total // EARLY), default=None
        )

    def _beginning(self) -> int | None:
        """The step of the state of the beginning; None if it is not kept."""
        if self._forks.kept_updates.at_start is None:
            return None
        kept = [one.step for one in self._forks.kept_updates.stretches]
        return min((one for one in kept if one <= BEGINNING), default=None)

    def _explain(self, run: Run, step: int, *, is_over: bool) -> bool:
        """Look for the cause of an incident whose updates are kept. True if there was a new one."""
        newest = self._forks.newest_updates
        if is_over:
            newest.finish()
        held = newest.incident
        # noise comes as high as half of what is examined
        if held is None or held is self._explained or held.height < SPREADS:
            return False
        if self._updates(step) * BRANCHES < SEARCH:
            return False
        self._explained = held
        self._forks.explain_incident(run, self._forks.data)
        self._made += 1
        return True

    def _give_up(self, why: str) -> None:
        self.next = NEVER
        self._warn(why)

    def _stop(self, error: Exception) -> None:
        """An error: make no more trials. A refusal is not a fault of the loop."""
        attempt(lambda: self._give_up(f"no more cures are tried: {reason_of(error)}"))


def _first(run: Run) -> Alternative | None:
    """The first cure, in the order of the claims and suspects, that a short fork can judge and that
    none has tried."""
    signs = replace(Signs.of(run), has_ended=True)  # what it would be told if it ended now
    tried = {change.name for record in forks_of(run) for change in record.fork.alternatives}
    for claimed in triage_of(signs).claims:
        for change in changes_of_claim(claimed):
            if change.name not in tried and beats_its_lean(change):
                return change
    return None


def _trials_at_end(run: Run, *, early: int | None, has_beginning: bool) -> list[TriedChange]:
    """The trials at the end: the first cure of each claim and suspect that a short fork can judge,
    and a cut for one that looks like a rate without a decay; for a training without a claim then
    the changes that settle its doubt, a lower rate and a higher one. At most three changes.

    Args:
        run: The run.
        early: Step of the state that a rate is tried from; None without one.
        has_beginning: True if branches may begin at the first weights.
    """
    signs = replace(Signs.of(run), has_ended=True)
    is_low = len(signs.rates) > 0 and signs.rates[-1] < 0.01 * signs.rates.max()
    known = effects_by_change(run)
    late = effects_by_change(run, since=run.steps // 2)
    found: dict[str, TriedChange] = {}
    triage = triage_of(signs)
    # during a warm-up any higher rate is better
    has_beginning = has_beginning and signs.rates[BEGINNING] > signs.rates.max() / 2
    # Branches of an early state showed none of four rates under Adam that were four times too low.
    # What is gained from the first weights at a constant rate says nothing about its end, and with
    # a small batch the rate that goes with it is low.
    made = {claimed.claim for claimed in triage.claims}
    is_raised_there = triage.passes and has_beginning and signs.family != "other"
    is_raised_there &= Claim.BATCH_SMALL not in made and not is_constant(signs)
    changes = [change for claimed in triage.claims for change in changes_of_claim(claimed)]
    if Claim.STOPPED_EARLY in made:
        changes.append(CoolNow())
    if triage.passes:
        for claimed in triage.claims:
            changes += map(alternative_of, changes_that_settle(claimed, signs))
        changes.append(alternative_of(HIGHER))
        is_early = early is not None and early < SETTLED and not is_raised_there
        if is_early and not any(map(changes_of_claim, triage.claims)):
            changes = [change for change in changes if not isinstance(change, Rate)]
        if has_beginning and has_long_strides(signs):
            changes.append(LOWER)
        # Whatever the doubt: two constant rates with another doubt were not cut, and both would
        # have gained by it.
        if is_constant(signs):
            changes.append(CoolNow())
    for change in changes:
        trial = TriedChange(change, from_first_weights=change == LOWER)
        if is_raised_there and isinstance(change, Rate) and change.factor > 1:
            trial = TriedChange(RAISED, from_first_weights=True)
        # a fork of the first half settles nothing about the end
        is_cut = isinstance(change, CoolNow)
        is_known = trial.change.name in (late if is_cut else known)
        # a rate of zero shows nothing
        shows_nothing = is_low and (is_cut or (early is None and not trial.from_first_weights))
        if (beats_its_lean(change) or change == LOWER) and not (is_known or shows_nothing):
            found.setdefault(trial.change.name, trial)
    # a cut is short, and its gain is the largest
    order = (lambda change: isinstance(change, CoolNow), lambda change: change == LOWER)
    return sorted(found.values(), key=lambda one: [not is_it(one.change) for is_it in order])[:3]


def has_long_strides(signs: Signs) -> bool:
    """True if steps are so long that the rate is rather too high than too low."""
    if signs.family == "sgd":
        usual = np.quantile(signs.strides, 0.98) if len(signs.strides) else 0.0
        return bool(usual > LONG_STRIDES_OF_SGD)
    return bool(np.nanmax(signs.strides, initial=0.0) > LONG_STRIDE)


def changes_of_claim(claimed: Claimed) -> list[Alternative]:
    """The changes among the cures of a claim. The signs of a large batch are also those of a low
    rate, and a fork separates the two. The rate of a suspect is doubled, which shows sooner than
    four times the rate."""
    cures = ("rate 4x", *claimed.cure) if claimed.claim is Claim.BATCH_LARGE else claimed.cure
    if claimed.claim is Claim.RATE_LOW and not claimed.is_certain:
        cures = (HIGHER,)
    return [change for change in map(change_of, cures) if change is not None]
