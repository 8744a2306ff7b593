"""A fork in words: what was done, and what each alternative changed."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from gradiometer.loop.branch import BranchResult, Tail
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.comparison.racing import Stop
from gradiometer.measurement.estimate import Estimate, counted, significant
from gradiometer.measurement.uncertainty.differences import MOST_PAIRS

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TAILS = {
    "linear": "each cooled to zero",
    "half": "each cooled to zero over its second half",
    "third": "each cooled to zero over its last third",
    "none": "each at the rate of its schedule to the end",
}


@runtime_checkable
class ForkFacts(Protocol):
    """A fork, as far as these words say it."""

    @property
    def step(self) -> int:
        """Index of the first update of the branches."""

    @property
    def replicates(self) -> int:
        """Number of data orders."""

    @property
    def tail(self) -> Tail:
        """How the rate of every branch ends."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the baseline and of the alternatives."""

    @property
    def shows_end(self) -> bool:
        """True if the effects at the end of the training are known."""

    @property
    def leaves_some(self) -> bool:
        """True if the branches end before the training does."""

    def of(self, alternative: str) -> tuple[BranchResult, ...]:
        """The results of an alternative."""

    def at_end(self, readout: str | None = None, level: float = 0.9) -> tuple[Effect, ...]:
        """The effects at the end of the training."""


LABELS = {"test_loss": "test loss", "train_loss": "training loss", "test_accuracy": "test accuracy"}


def label_of(readout: str) -> str:
    """A readout as people call it.

    >>> label_of("test_loss"), label_of("my_metric")
    ('test loss', 'my metric')
    """
    return LABELS.get(readout, readout.replace("_", " "))


def setting(fork: ForkFacts) -> str:
    """What was done: "From step 2,000, four replicates of 500 updates, each cooled to zero."."""
    updates = [result.updates for result in fork.of(fork.names[0])]
    number = NUMBERS[fork.replicates] if fork.replicates < len(NUMBERS) else f"{fork.replicates:,}"
    replicates = "replicate" if fork.replicates == 1 else "replicates"
    length = counted(max(updates), "update")
    return f"From step {fork.step:,}, {number} {replicates} of {length}, {TAILS[fork.tail]}."


def comparison(fork: ForkFacts, effects: Sequence[Effect]) -> str:
    """What came of it, one part for each alternative."""
    parts = [
        f"{effect.alternative} {outcome(effect)}{_updates(fork, effect)}" for effect in effects
    ]
    if not parts:
        return ""
    return f"Against going on as it is, in {label_of(effects[0].readout)}: {'; '.join(parts)}."


def at_end(fork: ForkFacts, readout: str | None = None, level: float = 0.9) -> str:
    """What is expected at the end of the training, in a sentence; empty if the branches do not show
    it."""
    if not fork.shows_end or not fork.leaves_some:
        return ""
    effects = fork.at_end(readout, level)
    parts = "; ".join(f"{effect.alternative} {outcome(effect)}" for effect in effects)
    return (
        "At the end of the training, by the trend from a quarter to a half of what is left: "
        f"{parts}."
    )


def outcome(effect: Effect) -> str:
    """What the effect of an alternative shows, such as "ends 0.013 [0.004, 0.022] higher"."""
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
    higher = estimate.low > 0
    return f"ends {_size(estimate)} {'higher' if higher else 'lower'}"


def signed(estimate: Estimate) -> str:
    """An effect with its sign and its interval: "−0.002 [−0.009, 0.005]", in two digits."""
    if not estimate.tells:
        return "cannot tell yet"
    value, low, high = (
        significant(end, 2) for end in (estimate.value, estimate.low, estimate.high)
    )
    return f"{'+' * (estimate.value > 0)}{value} [{low}, {high}]"


def _size(estimate: Estimate) -> str:
    """The size of an effect that is shown, without its sign."""
    low, high = sorted((abs(estimate.low), abs(estimate.high)))
    return f"{significant(abs(estimate.value), 2)} [{significant(low, 2)}, {significant(high, 2)}]"


def _updates(fork: ForkFacts, effect: Effect) -> str:
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
