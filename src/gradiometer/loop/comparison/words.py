"""Words for the effects of a fork: what each alternative changed, and what more would show."""

import math
from collections.abc import Sequence

from gradiometer.loop.branch import BranchResult
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.comparison.racing import Stop
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.uncertainty.differences import MOST_PAIRS

LABELS = {"test_loss": "test loss", "train_loss": "training loss", "test_accuracy": "test accuracy"}


def label_of(readout: str) -> str:
    """A readout as people call it.

    >>> label_of("test_loss"), label_of("my_metric")
    ('test loss', 'my metric')
    """
    return LABELS.get(readout, readout.replace("_", " "))


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
