"""Claims: what limits a training, as names that programs can rely on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Evidence, Issue

# The name under which triage has findings.
GAUGE = "triage"


class Claim(StrEnum):
    """What limits a training, or that nothing does. The values are part of the interface: they do
    not change."""

    HEALTHY = "healthy"
    NOTHING_LEARNT = "nothing_learnt"
    UNDECIDED = "undecided"
    UNSTABLE = "unstable"
    MAY_STOP = "may_stop"
    RATE_LOW = "rate_low"
    RATE_HIGH = "rate_high"
    MOMENTUM_RATE = "momentum_rate"
    NO_DECAY = "no_decay"
    DECAY_EARLY = "decay_early"
    SCHEDULE_UNIT = "schedule_unit"
    STOPPED_EARLY = "stopped_early"
    BATCH_SMALL = "batch_small"
    BATCH_LARGE = "batch_large"
    OVERFIT = "overfit"
    UNSHUFFLED = "unshuffled"
    UNSCALED = "unscaled"
    VANISHING = "vanishing"
    EXPLODING = "exploding"
    DEAD_RELU = "dead_relu"
    NO_GRADIENT = "no_gradient"
    SOFTMAX_TWICE = "softmax_twice"
    EVAL_MODE = "eval_mode"
    DROPOUT = "dropout"
    LEAK = "leak"
    LABELS_RANDOM = "labels_random"
    LABELS_NOISY = "labels_noisy"
    CLIP_SMALL = "clip_small"
    WEIGHT_DECAY = "weight_decay"
    ZERO_GRAD = "zero_grad"
    ACCUMULATION = "accumulation"
    BAD_BATCH = "bad_batch"
    RATE_BURST = "rate_burst"
    NAN_EXAMPLE = "nan_example"
    FORK_BETTER = "fork_better"


# The issue of SGD that a claim is about. Claims that are not listed are about the batch gradient:
# estimation.
ISSUES: dict[Claim, Issue] = {
    claim: issue
    for issue, claims in {
        Issue.DRIFT: (
            Claim.RATE_HIGH,
            Claim.MOMENTUM_RATE,
            Claim.UNSTABLE,
            Claim.VANISHING,
            Claim.EXPLODING,
            Claim.DEAD_RELU,
            Claim.CLIP_SMALL,
            Claim.WEIGHT_DECAY,
            Claim.NO_GRADIENT,
            Claim.UNSCALED,
        ),
        Issue.CONVERGENCE: (
            Claim.RATE_LOW,
            Claim.NO_DECAY,
            Claim.DECAY_EARLY,
            Claim.SCHEDULE_UNIT,
            Claim.RATE_BURST,
            Claim.STOPPED_EARLY,
            Claim.HEALTHY,
            Claim.UNDECIDED,
            Claim.MAY_STOP,
            Claim.SOFTMAX_TWICE,
            Claim.NOTHING_LEARNT,
            Claim.FORK_BETTER,
        ),
        Issue.EXPLORATION: (Claim.OVERFIT,),
    }.items()
    for claim in claims
}


class Sign(StrEnum):
    """By what a claim is made that several signs lead to. Each has its own sentence."""

    USUAL = "usual"
    DIRECTION = "direction"  # the updates keep their direction
    EDGE = "edge"  # the curvature that steps meet
    SIGNAL = "signal"  # what reaches the last layer at the start
    NOTHING_SHARED = "nothing shared"  # successive gradients are no more alike than by chance
    FORK = "fork"  # a fork alone
    FIRST_WEIGHTS = "first weights"  # one branch from the first weights, beside training itself


class Code(str):
    """A cure that is a line of the program. A plain text is a change that a fork can try."""


class InWords(str):
    """A cure that is nothing to paste, such as to check the labels."""


@dataclass(frozen=True)
class Claimed:
    """A claim with its evidence.

    Args:
        claim: What limits the training.
        numbers: The numbers that it rests on, by name, each with an interval where there is one.
        cure: What to change, each a change of a fork as text (`rate 4x`), `Code` or `InWords`.
        doubts: What could make it wrong, as names of sentences in `verdict/words`.
        is_certain: False for a suspect: healthy trainings have such signs, too, and only a trial of
            the cure decides.
        evidence: What it rests on.
        sign: By what it is made.
    """

    claim: Claim
    numbers: Mapping[str, Estimate | float] = field(default_factory=dict)
    cure: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    is_certain: bool = True
    evidence: Evidence = Evidence.READING
    sign: Sign = Sign.USUAL


# The changes that settle a doubt about a training without a claim.
SETTLED_BY: dict[str, tuple[str, ...]] = {
    "rate_not_tried": ("rate 2x",),
    "decay_not_tried": ("cool now",),
    "still_falls": ("rate 2x", "cool now"),
}


def changes_in_doubt(claimed: Claimed) -> tuple[str, ...]:
    """The changes with which a training without a claim may end lower, by its doubts."""
    return tuple(change for doubt in claimed.doubts for change in SETTLED_BY.get(doubt, ()))
