"""The limit of a run in at most four words, for lists of runs."""

from gradiometer.measurement.finding import Finding, State
from gradiometer.verdict.claims import Claim

IN_BRIEF: dict[str, str] = {
    Claim.HEALTHY: "no sign of limits",
    Claim.NOTHING_LEARNT: "nothing was learnt",
    Claim.UNDECIDED: "cannot tell yet",
    Claim.UNSTABLE: "training is unstable",
    Claim.MAY_STOP: "it may stop",
    Claim.RATE_LOW: "rate too low",
    Claim.RATE_HIGH: "rate too high",
    Claim.MOMENTUM_RATE: "rate times momentum high",
    Claim.NO_DECAY: "time to decay",
    Claim.DECAY_EARLY: "decayed too early",
    Claim.SCHEDULE_UNIT: "schedule in wrong unit",
    Claim.STOPPED_EARLY: "stopped too early",
    Claim.BATCH_SMALL: "batch is small",
    Claim.BATCH_LARGE: "batch is large",
    Claim.OVERFIT: "the model overfits",
    Claim.UNSHUFFLED: "unshuffled data",
    Claim.UNSCALED: "unscaled inputs",
    Claim.VANISHING: "gradient vanishes",
    Claim.EXPLODING: "outputs start too large",
    Claim.DEAD_RELU: "dead units",
    Claim.NO_GRADIENT: "parameters without gradient",
    Claim.SOFTMAX_TWICE: "softmax applied twice",
    Claim.EVAL_MODE: "trained in eval mode",
    Claim.DROPOUT: "too much dropout",
    Claim.LEAK: "test data in training",
    Claim.LABELS_RANDOM: "random labels",
    Claim.LABELS_NOISY: "noisy labels",
    Claim.CLIP_SMALL: "clipping too tight",
    Claim.WEIGHT_DECAY: "weight decay too large",
    Claim.ZERO_GRAD: "gradients add up",
    Claim.ACCUMULATION: "accumulation counted wrongly",
    Claim.BAD_BATCH: "a bad batch",
    Claim.RATE_BURST: "the rate jumped",
    Claim.NAN_EXAMPLE: "losses of NaN",
    Claim.FORK_BETTER: "a fork was better",
    "another_loss": "trained on another loss",
}


def in_brief(finding: Finding | None) -> str:
    """The claim of a headline in at most four words.

    Args:
        finding: The finding that leads; None if nothing was measured.
    """
    if finding is None:
        return "nothing was measured"
    if finding.claim == Claim.UNDECIDED and finding.doubts:
        return "may end lower"
    if finding.claim in IN_BRIEF:
        return IN_BRIEF[finding.claim]
    if finding.state is State.CANNOT_TELL:
        return "cannot tell yet"
    if finding.state is State.OK:
        return "no sign of limits"
    return f"look at {finding.gauge.replace('_', ' ')}"
