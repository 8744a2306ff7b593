"""Claims: what limits a training, as names that programs can rely on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gradiometer.measurement.estimate import Estimate


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


@dataclass(frozen=True)
class Claimed:
    """A claim with its evidence.

    Args:
        claim: What limits the training.
        numbers: The numbers that it rests on, by name, each with an interval where there is one.
        cure: What to change, each a change of a fork as text (`rate 4x`), or else a line of the
            program.
        doubts: What could make it wrong, as names of sentences in `verdict/words`.
    """

    claim: Claim
    numbers: Mapping[str, Estimate | float] = field(default_factory=dict)
    cure: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
