"""`Fork`: a state, a baseline, alternatives, replicates; what came of every branch, and the fork in
words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gradiometer.errors import BadArgument
from gradiometer.loop.branch import BranchResult, Tail
from gradiometer.loop.changes.alternative import Alternative, GoOn
from gradiometer.loop.comparison.effects import Effect, effects_of, readout_name
from gradiometer.loop.comparison.racing import REPLICATES, SHORT, Stop
from gradiometer.measurement.estimate import LEVEL, Estimate, counted, significant
from gradiometer.measurement.uncertainty.differences import MOST_PAIRS

LABELS = {"test_loss": "test loss", "train_loss": "training loss", "test_accuracy": "test accuracy"}

# The latest step of a state of the beginning. Branches from there have everything still to learn,
# and so prefer large rates, as later ones prefer small rates.
BEGINNING = 8


def label_of(readout: str) -> str:
    """A readout as people call it.

    >>> label_of("test_loss"), label_of("my_metric")
    ('test loss', 'my metric')
    """
    return LABELS.get(readout, readout.replace("_", " "))


def outcome(effect: Effect, *, is_at_end: bool) -> str:
    """What the effect of an alternative shows: "ends 0.013 [0.004, 0.022] higher" at the end of the
    training, else "is 0.013 [0.004, 0.022] higher"."""
    estimate = effect.estimate
    match effect.verdict:
        case "diverged":
            return (
                f"diverged in {effect.diverged} of {max(effect.replicates, effect.diverged)} "
                "replicates"
            )
        case "baseline diverged":
            return "cannot be compared, because going on as it is diverged"
        case "open":
            if not estimate.tells:
                return "has too few replicates to be compared"
            return f"no difference shown, {signed(estimate)}"
    low, high = sorted((abs(estimate.low), abs(estimate.high)))
    size = f"{significant(abs(estimate.value), 2)} [{significant(low, 2)}, {significant(high, 2)}]"
    verb = "ends" if is_at_end else "is"
    return f"{verb} {size} {'higher' if estimate.low > 0 else 'lower'}"


def signed(estimate: Estimate) -> str:
    """An effect with its sign and its interval: "−0.002 [−0.009, 0.005]", in two digits."""
    if not estimate.tells:
        return "cannot tell yet"
    value, low, high = (
        significant(end, 2) for end in (estimate.value, estimate.low, estimate.high)
    )
    return f"{'+' * (estimate.value > 0)}{value} [{low}, {high}]"


def mean_end(results: Sequence[BranchResult], readout: str) -> str:
    """The mean of a readout over the replicates that have it."""
    ends = [result.readouts[readout].mean for result in results if readout in result.readouts]
    return significant(sum(ends) / len(ends)) if ends else "—"


def stopped(stops: Sequence[Stop]) -> tuple[str, ...]:
    """Why a race has stopped alternatives, one sentence for each."""
    found = []
    for stop in stops:
        if stop.gap is None:
            found.append(f"{stop.alternative} was stopped because it diverged.")
            continue
        found.append(
            f"{stop.alternative} was stopped after {stop.horizon:,} examples in {stop.replicates} "
            f"replicates: it was {signed(stop.gap)} behind {stop.behind}."
        )
    return tuple(found)


def undecided(effects: Sequence[Effect]) -> tuple[str, ...]:
    """What more replicates would decide, one sentence for each open effect."""
    found = []
    for effect in effects:
        needed = effect.replicates_needed
        if effect.verdict == "open" and needed is not None:
            count = str(needed) if math.isfinite(needed.about) else f"more than {MOST_PAIRS:,}"
            found.append(
                f"{effect.alternative}: {count} replicates would show an effect of this size."
            )
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Fork:
    """What would have happened: branches of several alternatives from one state, on common data.

    Args:
        step: Index of the first update of the branches, as training counts.
        alternatives: What was tried.
        replicates: Number of data orders, each common to all alternatives.
        horizon: Length of a branch in examples.
        results: The results of the branches.
        tail: How the rate of every branch ends.
        seed: Seed of the data orders and random draws.
        left: Examples that are left in the training; None if that is not known.
        path: The folder in which it is kept; None if it is in memory only.
        notes: Sentences about the state that the branches start from.
        shorter: The results of shorter branches, as a race has them.
        averaged: True if branches are read out at the mean of their last parameters, as the lanes
            of a tuning are.
        kept: The same alternatives with the rate kept to the end of the training, beside these,
            which are cooled; None if they were not trained.
    """

    step: int
    alternatives: tuple[Alternative, ...]
    replicates: int
    horizon: int
    results: tuple[BranchResult, ...]
    tail: Tail = "linear"
    seed: int = 0
    left: int | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()
    shorter: tuple[BranchResult, ...] = ()
    averaged: bool = False
    kept: "Fork | None" = None

    def __str__(self) -> str:
        """What was found and what could make it wrong, and a row for each alternative: the readout
        at the end of its branches, and its effect there."""
        if not self._has_baseline:
            return self._without_baseline
        effects = self.effects()
        said = " ".join([sentence(self, effects), *self.warnings])
        found = {effect.alternative: str(effect.estimate) for effect in effects}
        readout = readout_name(self.results, None)
        rows = [["alternative", label_of(readout), "effect"]]
        for name in self.names:
            values = [
                result.readouts[readout].mean
                for result in self.of(name)
                if readout in result.readouts
            ]
            mean = significant(float(np.mean(values))) if values else "diverged"
            rows.append([name, mean, found.get(name, "")])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
        table = "\n".join([said, "", *(line.rstrip() for line in lines)])
        return table if self.kept is None else f"{table}\n\n{KEPT} {self.kept}"

    __repr__ = __str__

    def of(self, alternative: Alternative | str) -> tuple[BranchResult, ...]:
        """The results of an alternative, or of the baseline, by replicate.

        Raises:
            BadArgument: It was not tried.
        """
        name = alternative if isinstance(alternative, str) else alternative.name
        found = [result for result in self.results if result.alternative == name]
        if not found:
            names = ", ".join(dict.fromkeys(result.alternative for result in self.results))
            raise BadArgument(f"`alternative` {name!r} was not tried. There are {names}.")
        return tuple(sorted(found, key=lambda result: result.replicate))

    def effects(self, readout: str | None = None, level: float = LEVEL) -> tuple[Effect, ...]:
        """Each alternative minus the baseline, with intervals that cover all of them together: see
        `effects_of`.

        Args:
            readout: Name of the readout; by default "test_loss" if there is one, else the first.
            level: Probability that all intervals cover.

        Raises:
            BadArgument: The baseline has no finished branch, or there is no such readout.
        """
        if not self._has_baseline:
            raise BadArgument(f"{self._without_baseline} So nothing can be compared with it.")
        return effects_of(self.results, self.names[0], readout, level=level)

    def at_end(self, readout: str | None = None, level: float = LEVEL) -> tuple[Effect, ...]:
        """Each alternative minus the baseline at the end of the training: see `effects_of`.

        Unknown unless the branches go there, as with `horizon="end"`. Judged once on 108 effects of
        12 trainings, intervals of four replicates covered 94 % in test loss and 90 % in training
        loss; 96 and 98 % of the effects above the noise between seeds were decided, none with the
        wrong sign.

        Args:
            readout: Name of the readout; by default "test_loss" if there is one, else the first.
            level: Probability that all intervals cover.

        Raises:
            BadArgument: What is left of the training is not known.
        """
        if self.left is None:
            raise BadArgument(
                "`left` of this fork is not known: give `left`, such as left='4000 updates', to "
                "`Loop`."
            )
        found = self.effects(readout, level)
        if self.shows_end:
            return found
        why = "branches end before the training does"
        unknown = Estimate.unknown(level=level, method=why, samples=self.replicates)
        return tuple(
            replace(
                effect, estimate=unknown, single=unknown, in_general=None, replicates_needed=None
            )
            for effect in found
        )

    @property
    def _has_baseline(self) -> bool:
        return any(result.alternative == self.names[0] for result in self.results)

    @property
    def _without_baseline(self) -> str:
        return (
            f"The fork from step {self.step:,} has no finished branch of {self.names[0]!r} with "
            f"{self.horizon:,} examples."
        )

    @property
    def leaves_some(self) -> bool:
        """True if the branches end before the training does."""
        return self.left is not None and self.horizon < self.left

    @property
    def shows_end(self) -> bool:
        """True if the branches go to the end of the training."""
        return self.left is not None and not self.leaves_some

    @property
    def updates(self) -> int:
        """Updates of a branch without a change, also if it diverged before."""
        longest = max(self.of(self.names[0]), key=lambda result: result.updates)
        if longest.diverged is None or not longest.examples:
            return longest.updates
        return round(self.horizon * longest.updates / longest.examples)

    @property
    def ends_after(self) -> tuple[int, int | None] | None:
        """Updates of a branch, and those that are left of the training, if that is known; None if
        the branches go to its end."""
        if self.shows_end:
            return None
        if self.left is None:
            return self.updates, None
        return self.updates, round(self.updates * self.left / self.horizon)

    def best(self, readout: str | None = None) -> str:
        """Name of the alternative, or of the baseline, with the best mean; those with a branch that
        diverged are last.

        The best of several means is not shown to be better than the others: see `effects`.

        Args:
            readout: Name of the readout; by default "test_loss" if there is one, else the first.
        """
        name = readout_name(self.results, readout)

        def mean(alternative: str) -> float:
            ends = [result.readouts.get(name) for result in self.of(alternative)]
            return float(np.mean([np.inf if end is None else end.cost for end in ends]))

        return min(self.names, key=mean)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the baseline and of the alternatives."""
        return (GoOn().name, *(alternative.name for alternative in self.alternatives))

    @property
    def readouts(self) -> tuple[str, ...]:
        """The names of the readouts."""
        return tuple(dict.fromkeys(name for result in self.results for name in result.readouts))

    @property
    def leans(self) -> bool:
        """True if the branches prefer small rates, because their rates stay constant or they are
        short; or large ones from the first steps."""
        if self.shows_end:
            return False
        return self.tail == "none" or (self.left is not None and self.horizon < SHORT * self.left)

    @property
    def leans_to_large(self) -> bool:
        """True if they prefer large rates, because their rates stay constant where everything is
        still to be learnt."""
        return self.leans and self.tail == "none" and self.step <= BEGINNING

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could make the comparison wrong."""
        found = list(self.notes)
        # In tunings the mean of a lane's last parameters chose rates that were too high as often as
        # rates that were too low.
        may_lean = not (self.shows_end or self.averaged)
        if may_lean and self.leans_to_large:
            found.append(
                "Branches from the first steps favour large rates, which an interval does not see: "
                "what is better there may be worse at the end."
            )
        elif may_lean and self.tail == "none":
            found.append(
                "The rates stay constant in all branches, which favours small rates at any length: "
                "an interval does not see that. Use tail='linear'."
            )
        elif may_lean and self.left is not None and self.leans:
            found.append(
                f"The branches are {self.horizon / self.left:.0%} of what is left of the training: "
                f"below {SHORT:.0%} they lean to small rates."
            )
        elif may_lean and self.leaves_some:
            # of 24 decided effects at a quarter of what was left three were reversed at the end
            found.append(
                "The branches end before the training does, where an effect may be smaller or "
                "reversed: horizon='end' answers for that."
            )
        if self.replicates == 1:
            found.append(f"One replicate gives no interval: {REPLICATES} or more are better.")
        elif self.replicates < REPLICATES:
            found.append(
                f"Only {counted(self.replicates, 'replicate')}, so intervals are wide: "
                f"{REPLICATES} or more are better."
            )
        return tuple(found)


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TAILS = {
    "linear": "each cooled to zero",
    "half": "each cooled to zero over its second half",
    "third": "each cooled to zero over its last third",
    "none": "each at the rate of its schedule to the end",
}
KEPT = "As the training has it, with the rate kept:"
AVERAGED = "each read out at the mean of its last parameters"


def sentence(fork: Fork, effects: Sequence[Effect], state: str = "") -> str:
    """What was done and what came of it. It begins with the horizon if the branches end before the
    training does.

    Args:
        fork: The fork.
        effects: Its effects.
        state: More about the branches, such as "stopped, 3 of 6 branches".
    """
    number = NUMBERS[fork.replicates] if fork.replicates < len(NUMBERS) else f"{fork.replicates:,}"
    done = f"{number} {'replicate' if fork.replicates == 1 else 'replicates'}"
    if fork.shows_end:
        done += f" of {counted(fork.updates, 'update')}, to the end of the training"
    done += f", {AVERAGED if fork.averaged else TAILS[fork.tail]}"
    if state:
        done += f" ({state})"
    where = place(fork.step, fork.ends_after)
    begin = where[0].upper() + where[1:]
    found = comparison(fork, effects)
    if fork.shows_end or not found:
        return f"{begin}, {done}. {found}".rstrip()
    return f"{begin}, {found[0].lower()}{found[1:]} {done[0].upper()}{done[1:]}."


def place(step: int, ends_after: tuple[int, int | None] | None) -> str:
    """Where branches are compared, as a part of a sentence: "from step 120" at the end of the
    training, else "after 270 of 1,080 updates from step 120".

    Args:
        step: Their first step.
        ends_after: As in `Fork.ends_after`.
    """
    if ends_after is None:
        return f"from step {step:,}"
    updates, left = ends_after
    if left is None:
        return f"after {counted(updates, 'update')} from step {step:,}"
    return f"after {updates:,} of {counted(left, 'update')} from step {step:,}"


def comparison(fork: Fork, effects: Sequence[Effect]) -> str:
    """What came of it, one part for each alternative."""
    parts = [
        f"{effect.alternative} {outcome(effect, is_at_end=fork.shows_end)}{_more_updates(fork, effect)}"
        for effect in effects
    ]
    if not parts:
        return ""
    return f"Against going on as it is, in {label_of(effects[0].readout)}: {'; '.join(parts)}."


def _more_updates(fork: Fork, effect: Effect) -> str:
    """How many updates it took, if they are more or fewer than those of the baseline."""
    ours = max(result.updates for result in fork.of(fork.names[0]))
    theirs = max(result.updates for result in fork.of(effect.alternative))
    if effect.diverged or not ours or abs(theirs / ours - 1) < 0.1:
        return ""
    ratio = theirs / ours
    words = {0.25: "a quarter of the updates", 0.5: "half the updates", 2.0: "twice the updates"}
    nearest = min(words, key=lambda known: abs(known - ratio))
    if abs(nearest - ratio) < 0.02 * nearest:
        return f", in {words[nearest]}"
    return f", in {significant(ratio, 2)} times the updates"
