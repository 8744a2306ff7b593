"""The sentences of triage: for each claim what was seen, what it means, and what could make it wrong."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.verdict.claims import Claim, Claimed
from gradiometer.verdict.triage.triage import Triage


class Sentences(NamedTuple):
    """The words for a claim. Numbers stand in braces by their names; `{name:%}` is a percentage."""

    seen: str
    means: str
    issue: Issue = Issue.CONVERGENCE


WORDS: dict[Claim, Sentences] = {
    Claim.NAN_EXAMPLE: Sentences(
        "Some training examples hold NaN or infinity.",
        "Every weight that such an example reaches becomes NaN with it. Find these examples and leave them out.",
        Issue.ESTIMATION,
    ),
    Claim.NO_GRADIENT: Sentences(
        "Some trainable parameters are never updated: {untrained} of {tensors} tensors are in no optimizer, and "
        "{unreached} get no gradient.",
        "They stay as they were initialised, and the rest has to work around them.",
        Issue.DRIFT,
    ),
    Claim.SOFTMAX_TWICE: Sentences(
        "The loss takes a softmax of outputs that are probabilities already.",
        "The loss then cannot come near zero, and gradients are small: give it the outputs before the softmax.",
    ),
    Claim.EVAL_MODE: Sentences(
        "The model is trained in eval mode: its dropout and batch normalisation ({layers} layers) are switched off.",
        "It is usually forgotten to switch back to training mode after an evaluation.",
        Issue.ESTIMATION,
    ),
    Claim.ZERO_GRAD: Sentences(
        "Gradients are never cleared: at {looks:%} of the steps `.grad` still held the earlier ones.",
        "Each update is then made with the sum of all gradients so far.",
        Issue.ESTIMATION,
    ),
    Claim.ACCUMULATION: Sentences(
        "The losses of {backwards} backwards of one update are added, not averaged.",
        "The gradient, and under SGD the learning rate, is {backwards} times larger than for the mean loss.",
        Issue.ESTIMATION,
    ),
    Claim.DROPOUT: Sentences(
        "Dropout removes most of a layer: {dropped:%}.",
        "What is left is too little to learn from.",
        Issue.ESTIMATION,
    ),
    Claim.UNSCALED: Sentences(
        "The inputs are not scaled: their spread is {spread} and their mean {mean}.",
        "Layers are initialised for inputs with mean 0 and spread 1.",
        Issue.DRIFT,
    ),
    Claim.UNSHUFFLED: Sentences(
        "The training data are not shuffled: examples in one batch are more alike than in a random order.",
        "Each update then fits one kind of example, and the next ones undo it.",
        Issue.ESTIMATION,
    ),
    Claim.CLIP_SMALL: Sentences(
        "Clipping removes nearly all of the gradient: {left:%} of its length is left at a usual step.",
        "The steps are then as small as with a learning rate lower by this factor.",
        Issue.DRIFT,
    ),
    Claim.RATE_BURST: Sentences(
        "The learning rate jumped: from step {step} on it was {times} times higher for {steps} steps.",
        "Such a jump throws the weights away from what they had learnt.",
    ),
    Claim.SCHEDULE_UNIT: Sentences(
        "The schedule counts in another unit than the loop steps it.",
        "A scheduler that is made for epochs must be stepped once an epoch, and one made for updates at every update.",
    ),
    Claim.DECAY_EARLY: Sentences(
        "The learning rate was next to zero too early: from step {from_step} on, for {low_for:%} of the run.",
        "In that time hardly anything was learnt.",
    ),
    Claim.EXPLODING: Sentences(
        "The network starts with far too large outputs: the first loss is {first_loss}, where a guess costs {guess}.",
        "The weights are too large at the start.",
        Issue.DRIFT,
    ),
    Claim.DEAD_RELU: Sentences(
        "Most units of a layer are dead from the start: {zeros:%} of its gradient is exactly zero.",
        "A unit whose input is always negative has no gradient and never learns.",
        Issue.DRIFT,
    ),
    Claim.WEIGHT_DECAY: Sentences(
        "Weight decay of {decay} shrinks the weights faster than the loss can hold them: to {growth:%} of their size.",
        "The loss stays high, since every weight is pulled to zero.",
        Issue.DRIFT,
    ),
    Claim.VANISHING: Sentences(
        "The gradient hardly reaches the first layer: it is {ratio:%} of that in the last one, and nothing is learnt.",
        "Weights, activations or depth make gradients smaller from layer to layer.",
        Issue.DRIFT,
    ),
    Claim.RATE_HIGH: Sentences(
        "The learning rate is too high: a step changes the weights by {movement:%} of their size, and they have grown "
        "{growth} times.",
        "Steps this large overshoot what the gradient can tell.",
        Issue.DRIFT,
    ),
    Claim.MOMENTUM_RATE: Sentences(
        "The learning rate is too high for a momentum of {momentum}: a step changes the weights by {movement:%} of "
        "their size, and they have grown {growth} times.",
        "With momentum μ every gradient counts 1/(1 − μ) times.",
        Issue.DRIFT,
    ),
    Claim.RATE_LOW: Sentences(
        "The learning rate is too low: in {steps} steps the weights moved {travel:%} of their size (healthy runs: 150 "
        "% or more).",
        "The training has hardly left its start.",
    ),
    Claim.NO_DECAY: Sentences(
        "It is time to decay the learning rate: it was constant, and at the end every step still moved the weights by "
        "{movement:%} of their size.",
        "At a constant rate the noise of the gradients keeps the loss up.",
    ),
    Claim.STOPPED_EARLY: Sentences(
        "The training stopped early: in its second half the loss still fell by {fell:%}, after {epochs} epochs.",
        "More steps at this rate, with a decay at the end, gain more.",
    ),
    Claim.BATCH_SMALL: Sentences(
        "The batch is too small: successive gradients of {batch} examples share {shared:%} of their size.",
        "Nearly all of a step is noise.",
        Issue.ESTIMATION,
    ),
    Claim.BATCH_LARGE: Sentences(
        "The batch is too large for this length: {updates} updates an epoch, whose gradients share {shared:%} of their "
        "size.",
        "The examples in a batch say the same; a smaller batch makes more updates in the same time.",
        Issue.ESTIMATION,
    ),
    Claim.OVERFIT: Sentences(
        "The model overfits: the loss on held-out examples was lowest at step {best_step}, {best}, and is {now} now; "
        "on training examples it is {train}.",
        "What it learnt since then holds for the training examples only.",
        Issue.EXPLORATION,
    ),
    Claim.LABELS_RANDOM: Sentences(
        "The labels seem to have nothing to do with the inputs: the loss on held-out examples never came below "
        "{lowest:%} of a guess.",
        "The weights moved far, so the training works; look at a few examples with their labels.",
        Issue.ESTIMATION,
    ),
    Claim.LABELS_NOISY: Sentences(
        "Some training labels seem to be wrong: the loss on held-out examples is {ratio:%} of that in training.",
        "Wrong labels keep the training loss up, and the held-out ones have fewer of them.",
        Issue.ESTIMATION,
    ),
    Claim.LEAK: Sentences(
        "Held-out examples are also in the training set: {share:%} of those that were compared.",
        "The evaluation then cannot show overfitting.",
        Issue.ESTIMATION,
    ),
    Claim.BAD_BATCH: Sentences(
        "One batch did harm: at step {step} the loss rose by {rise} guesses, and the step before was normal.",
        "Look at the examples of this batch.",
        Issue.ESTIMATION,
    ),
    Claim.UNSTABLE: Sentences(
        "The training is unstable: the loss jumped {jumps} times.",
        "A lower learning rate or clipping keeps such steps small.",
        Issue.DRIFT,
    ),
    Claim.MAY_STOP: Sentences("The training may stop: nothing more is gained.", "More steps change little."),
    Claim.HEALTHY: Sentences(
        "Nothing that was looked for limits this run: the weights moved {travel:%} of their size, and the loss came "
        "down to {loss:%} of a guess.",
        "It was looked for faults of the loop, the schedule, the learning rate, the length and the data.",
    ),
    Claim.UNDECIDED: Sentences(
        "No sign so far of something that limits this run, after {steps} steps.",
        "The learning rate and the length can be judged at the end of the training, or at its planned length.",
    ),
}

DOUBTS = {
    "no_decay": "A rate without decay looks the same: only a fork can tell (`cool now`).",
    "stopped_early": "A training that stopped early looks the same: only a fork can tell (`go on`).",
    "fine_tuning": "A trained model that is trained further also moves little.",
}
"""What could make a claim wrong, by name."""

MISSING = {
    "labels": "without the outputs and labels of a batch",
    "batch": "without the batch in `w.step(loss, batch)`",
    "evaluations": "without `w.evaluated(test=..., train=...)`",
    "looks": "without looks at gradients and weights",
    "end": "before the end of the training",
}
"""What a training did not show, as the end of a sentence."""


class _Number:
    """A number of a claim in a sentence."""

    def __init__(self, value: Estimate | float) -> None:
        self._value = value

    def __format__(self, form: str) -> str:
        if isinstance(self._value, Estimate):
            return str(self._value)
        if not math.isfinite(self._value):
            return "unknown"
        if form == "%":
            return f"{significant(100 * self._value, 2)} %"
        if self._value.is_integer():
            return f"{self._value:,.0f}"
        return significant(self._value)


def sentence(claimed: Claimed) -> str:
    """What was seen, with its numbers.

    >>> from gradiometer.verdict.claims import Claim, Claimed
    >>> sentence(Claimed(Claim.DROPOUT, {"dropped": 0.9}))
    'Dropout removes most of a layer: 90 %.'
    """
    return _filled(WORDS[claimed.claim].seen, claimed.numbers)


def findings_of(triage: Triage) -> tuple[Finding, ...]:
    """The claims as findings, in their order."""
    return tuple(_finding(claimed, triage) for claimed in triage.claims)


def _finding(claimed: Claimed, triage: Triage) -> Finding:
    words = WORDS[claimed.claim]
    passes = claimed.claim in (Claim.HEALTHY, Claim.UNDECIDED, Claim.MAY_STOP)
    means = words.means
    if passes and triage.unseen:
        names = [f"{', '.join(claims)} {MISSING[missing]}" for missing, claims in triage.unseen.items()]
        means += f" Not to be seen: {'; '.join(names)}."
    return Finding(
        gauge="triage",
        issue=words.issue,
        state=State.OK if passes else State.ACT,
        seen=sentence(claimed),
        means=means,
        advice=" or ".join(f"`{change}`" for change in claimed.cure),
        caveat=" ".join(DOUBTS[doubt] for doubt in claimed.doubts),
        alternatives=changes_of(claimed),
        claim=claimed.claim.value,
    )


def changes_of(claimed: Claimed) -> tuple[str, ...]:
    """The cures that a fork can try."""
    starts = ("rate ", "batch ", "momentum ", "weight decay ", "cool now", "clip ", "skip ", "follow ")
    return tuple(change for change in claimed.cure if change.startswith(starts))


def _filled(text: str, numbers: Mapping[str, Estimate | float]) -> str:
    return text.format(**{name: _Number(value) for name, value in numbers.items()})
