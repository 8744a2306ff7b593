"""Words about what limits a run: the sentences of triage's claims."""

import math
from collections.abc import Callable, Mapping

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.measurement.optimizer.hyperparameters import number
from gradiometer.verdict.claims import Claim, InWords, Sign
from gradiometer.verdict.words.sentences import Sentences, Words, always, fill, inside_a_sentence

# The words for each claim, with slots for its numbers.
WORDS: Mapping[Claim, Words] = {
    Claim.NAN_EXAMPLE: Words(
        "Some training examples hold NaN or infinity.",
        "Every weight that such an example reaches becomes NaN with it. Find these examples and "
        "leave them out.",
        brief="losses of NaN",
    ),
    Claim.NO_GRADIENT: Words(
        "Some trainable parameters are never updated: of {tensors} tensors, {untrained} are in no "
        "optimizer and {unreached} get no gradient.",
        "They keep their initial values.",
        brief="parameters without gradient",
    ),
    Claim.SOFTMAX_TWICE: Words(
        "Softmax is applied twice: the loss gets probabilities instead of logits.",
        "The loss then cannot come near zero, and gradients are small. Pass logits to the loss.",
        brief="softmax applied twice",
    ),
    Claim.EVAL_MODE: Words(
        "The model is trained in eval mode: its dropout and batch normalisation ({layers} layers) "
        "are switched off.",
        "Usually `model.train()` is missing after an evaluation.",
        brief="trained in eval mode",
    ),
    Claim.ZERO_GRAD: Words(
        "Gradients are not cleared before each update: at {looks:%} of the steps `.grad` still "
        "held earlier ones.",
        "Such an update is made with the sum of all gradients since they were cleared.",
        brief="gradients add up",
    ),
    Claim.ACCUMULATION: Words(
        "Accumulated losses are summed, not averaged: one update adds {backwards} micro-batch "
        "losses.",
        "The gradient, and under SGD the learning rate, is {backwards} times larger than for the "
        "mean loss.",
        brief="accumulation counted wrongly",
    ),
    Claim.DROPOUT: Words(
        "Dropout removes {dropped:%} of a layer.",
        "The rest may be too little to learn from.",
        brief="too much dropout",
    ),
    Claim.UNSCALED: Words(
        "The inputs are not scaled: their spread is {spread} and their mean {mean}.",
        "Layers are initialised for inputs with mean 0 and spread 1.",
        brief="unscaled inputs",
    ),
    Claim.UNSHUFFLED: Words(
        "The training data are not shuffled: examples in one batch are more alike than in a random "
        "order.",
        "Each update then fits one kind of example, and the next ones undo it.",
        brief="unshuffled data",
    ),
    Claim.CLIP_SMALL: Words(
        "Clipping removes much of the gradient: {left:%} of its length is left at a usual step.",
        "The steps are then as small as with a learning rate lower by this factor.",
        brief="clipping too tight",
    ),
    Claim.RATE_BURST: Words(
        "The learning rate jumped: from step {step} on it was {times} times higher for {steps} "
        "steps.",
        "Such a jump undoes much of what the weights had learnt.",
        brief="the rate jumped",
    ),
    Claim.SCHEDULE_UNIT: Words(
        "The schedule counts in the wrong unit: the loop does not step it as often as it expects, "
        "or too often.",
        "A scheduler that is made for epochs must be stepped once an epoch, and one made for "
        "updates at every update.",
        brief="schedule in wrong unit",
    ),
    Claim.DECAY_EARLY: Words(
        "The learning rate decayed too early: it was near zero from step {from_step} on, for "
        "{low_for:%} of the run.",
        "In that time hardly anything was learnt.",
        brief="decayed too early",
    ),
    Claim.EXPLODING: Words(
        "The network starts with far too large outputs: the first loss is {first_loss}, and the "
        "chance-level loss is {guess}.",
        "The weights are too large at the start.",
        brief="outputs start too large",
    ),
    Claim.DEAD_RELU: Words(
        "Most units of a layer are dead: from the start, {zeros:%} of its gradient is exactly zero.",
        "A unit whose input is always negative has no gradient and never learns.",
        brief="dead units",
    ),
    Claim.WEIGHT_DECAY: Words(
        "The weight decay of {decay} is too large: it alone makes {share:%} of what moves the "
        "weights.",
        "Every weight is pulled to zero more than the loss allows.",
        brief="weight decay too large",
    ),
    Claim.VANISHING: Words(
        "The gradient vanishes in the network: at the start, gradients in its first half are up to "
        "{ratio:%} of the last layer's, and the loss stays at chance level for {steps} steps.",
        "Weights, activations or depth make gradients smaller from layer to layer.",
        brief="gradient vanishes",
    ),
    Claim.RATE_HIGH: Words(
        "The learning rate is too high: a step changes the weights by {movement:%} of their size. "
        "They are now {growth}× as large as at the start.",
        "Steps this large overshoot: the loss stays high, or ReLU units die.",
        brief="rate too high",
    ),
    Claim.MOMENTUM_RATE: Words(
        "The learning rate is too high for momentum: with μ = {momentum}, a step changes the "
        "weights by {movement:%} of their size. They are now {growth}× as large as at the start.",
        "With momentum μ every gradient counts 1/(1 − μ) times.",
        brief="rate times momentum high",
    ),
    Claim.RATE_LOW: Words(
        "The learning rate is too low: over {steps} steps the weights moved only {share:%} as far "
        "as in the well-tuned runs that moved least.",
        "Steps this short need many more updates for the same loss.",
        brief="rate too low",
    ),
    Claim.NO_DECAY: Words(
        "It is time to decay the learning rate: it was constant, and at the end every step still "
        "moved the weights by {movement:%} of their size.",
        "At a constant rate the gradient noise keeps the loss up.",
        brief="time to decay",
    ),
    Claim.STOPPED_EARLY: Words(
        "The training stopped early: in its second half the loss still fell by {fell:%}, after "
        "{epochs} epochs.",
        "More steps at this rate, with a decay at the end, gain more.",
        brief="stopped too early",
    ),
    Claim.BATCH_SMALL: Words(
        "The batch is too small: successive gradients of {batch:example} share {shared:%} of "
        "their size.",
        "Nearly all of a step is noise. With the same number of updates a larger batch lowers the "
        "loss; with the same number of examples it only saves time.",
        brief="batch is small",
    ),
    Claim.BATCH_LARGE: Words(
        "The batch is too large for this length: a batch of {batch} gives {steps} updates, {updates} "
        "an epoch.",
        "The examples in a batch already agree; a smaller batch makes more updates in the same "
        "number of epochs.",
        brief="batch is large",
    ),
    Claim.OVERFIT: Words(
        "The model overfits: the loss on held-out examples was lowest at step {best_step}, {best}, "
        "and is {now} now; on training examples it is {train}.",
        "Since then it has learnt the training examples only.",
        brief="the model overfits",
    ),
    Claim.LABELS_RANDOM: Words(
        "The labels seem unrelated to the inputs: the loss on held-out examples "
        "never came below {lowest:%} of the chance-level loss.",
        "The weights moved far, so the training works; look at a few examples with their labels.",
        brief="random labels",
    ),
    Claim.LABELS_NOISY: Words(
        "Some training labels seem to be wrong: the loss on held-out examples is {ratio:%} of the "
        "training loss.",
        "Wrong labels keep the training loss up, and the held-out ones have fewer of them.",
        brief="noisy labels",
    ),
    Claim.LEAK: Words(
        "Held-out examples are also in the training set: {share:%} of those that were compared.",
        "The evaluation then cannot show overfitting.",
        brief="test data in training",
    ),
    Claim.BAD_BATCH: Words(
        "One batch damaged the run: at step {step} the loss rose by {rise}× the chance-level loss, "
        "and the step before was normal.",
        "Look at the examples of this batch.",
        brief="a bad batch",
    ),
    Claim.UNSTABLE: Words(
        "The training is unstable: the loss jumped {jumps} times.",
        "The steps are not large, so rare gradients are: clipping keeps them small.",
        brief="training is unstable",
    ),
    Claim.FORK_BETTER: Words(
        "Another learning rate did better when tested: on copies of this run it changed the final "
        "result by {fork}.",
        "A test on copies of the training outranks what was read from it.",
        brief="a fork was better",
    ),
    Claim.MAY_STOP: Words(
        "The training may stop: in the second half of {steps} steps the loss fell by {fell:%}.",
        "More steps like these change little.",
        brief="it may stop",
    ),
    Claim.HEALTHY: Words(
        "No sign of a limit was found: the weights moved {travel:%} of their size, and the loss "
        "came down to {loss:%} of the chance-level loss.",
        "Checked: the loop, the schedule, the learning rate, the length and the data. In small "
        "trainings this missed 19 % [11, 30] of rates that were 10 times too low, and 3 % [1, 8] "
        "of those 30 times too low. It can miss smaller faults.",
        brief="no sign of limits",
    ),
    Claim.NOTHING_LEARNT: Words(
        "Nothing was learnt: after {steps} steps the loss is {loss:%} of the chance-level loss, and "
        "no measurement says why.",
        "Labels that have nothing to do with the inputs look like this, and inputs that do not "
        "reach the loss.",
        brief="nothing was learnt",
    ),
    Claim.UNDECIDED: Words(
        "No sign so far of something that limits this run, after {steps} steps.",
        "The learning rate and the length can be judged at the end of the training, or at its "
        "planned length.",
        brief="cannot tell yet",
    ),
}

# The words for a rate that is too low by the direction of the path.
STRAIGHT_ON = Words(
    "The learning rate is too low: over {steps} steps the updates kept pointing the same way, with "
    "mean cosine similarity {direction} between distant parts of training.",
    "In most well-tuned runs it is below 0.13. Larger steps would cover the same path in less "
    "time.",
)

# The words for a rate that is too low by the curvature that its steps meet.
BELOW_THE_EDGE = Words(
    "The learning rate is too low: in {steps} steps even the sharpest moment reached only "
    "{edge:%} of the stability limit.",
    "Well-tuned runs reach an eighth of it; below that, even 8× the rate does not overshoot.",
)

# The words for a rate that is too high by the curvature that its steps meet.
BEYOND_THE_EDGE = Words(
    "The learning rate is too high: a step reached {edge}× the stability limit of small batches.",
    "Well-tuned runs stayed below 76×: with Adam's usual momentum, this is 4× the limit of large "
    "batches.",
)

# The words for a batch whose gradients share so little that the measured share is below zero.
SHARE_NOTHING = Words(
    "The batch is too small: successive gradients of {batch:example} have nothing in common.",
    WORDS[Claim.BATCH_SMALL].means,
)

# The words for a network whose weights begin far too small.
SMALL_START = Words(
    "The network starts with far too small weights: the last layer gets {signal:%} of the signal "
    "that PyTorch's own start would give it.",
    "Weights that are small in every layer make the signal, and its gradient, smaller from layer "
    "to layer.",
)

# The words for a constant rate that only a fork showed to be wrong.
CUT_IN_A_FORK = Words(
    "It is time to decay the learning rate: it was constant, and a fork that cut it at the end "
    "changed the result by {fork}.",
    WORDS[Claim.NO_DECAY].means,
)

# The words for a rate that only a fork showed to be too low.
RAISED_IN_A_FORK = Words(
    "The learning rate is too low: a fork at a higher one changed the result by {fork}.",
    "Short forks favour small rates, so this is a strong sign. The gain by the end of the training "
    "is not known.",
)

# The words for a rate that only a fork from the beginning showed to be too high.
LOWERED_IN_A_FORK = Words(
    "The learning rate is too high: a fork from the first steps at a lower one changed the result "
    "by {fork}.",
    "Short forks from the first steps favour large rates, so this is a strong sign.",
)

# The words of claims by the sign that they are made by, where it is not the usual one.
BY_SIGN: Mapping[tuple[Claim, Sign], Words] = {
    (Claim.RATE_LOW, Sign.DIRECTION): STRAIGHT_ON,
    (Claim.RATE_LOW, Sign.EDGE): BELOW_THE_EDGE,
    (Claim.RATE_HIGH, Sign.EDGE): BEYOND_THE_EDGE,
    (Claim.BATCH_SMALL, Sign.NOTHING_SHARED): SHARE_NOTHING,
    (Claim.VANISHING, Sign.SIGNAL): SMALL_START,
    (Claim.NO_DECAY, Sign.FORK): CUT_IN_A_FORK,
    (Claim.RATE_LOW, Sign.FORK): RAISED_IN_A_FORK,
    (Claim.RATE_HIGH, Sign.FORK): LOWERED_IN_A_FORK,
    (Claim.RATE_LOW, Sign.FIRST_WEIGHTS): Words(
        "The learning rate is too low: restarted from the initial weights with 4× the rate, the "
        "loss was {gained:%} lower after the same number of updates.",
        "In most well-tuned runs it was higher, or diverged. Based on a single data order.",
    ),
    (Claim.RATE_HIGH, Sign.FIRST_WEIGHTS): Words(
        "The learning rate is too high: restarted from the initial weights with a quarter of the "
        "rate, the loss was {gained:%} lower after the same number of updates.",
        "In well-tuned runs it was higher. Based on a single data order.",
    ),
}

# What forks of a training without a claim could have shown.
SHOWS = " Its forks can show effects above {shows:%} of the loss."

# The words for a training that has ended without a claim, while a doubt says that it may end lower.
MAY_END_LOWER = Words(
    "No clear problem in {steps} steps, but {untested} may do better.",
    "Checked: the loop and the data.",
    brief="may end lower",
)

# What may do better in a training without a claim, by the doubt that says so.
UNTESTED = {
    "rate_not_tried": "a higher learning rate",
    "decay_not_tried": "a learning-rate decay",
    "still_falls": "another learning rate or a decay",
}

# What a training did not show, as the end of a sentence.
MISSING = {
    "labels": "without the outputs and labels of a batch",
    "batch": "without the batch in `w.step(loss, batch)`",
    "evaluations": "without `w.evaluated(test=..., train=...)`",
    "examples": "without the number of training examples (`examples=`)",
    "rate": "without the learning rate",
    "looks": "without measurements of gradients and updates",
    "end": "before the end of the training",
}


def limits(finding: Finding) -> Sentences:
    """What limits a run, or that nothing was found."""
    claim = Claim(finding.claim)
    words = BY_SIGN.get((claim, finding.facts.get("sign", Sign.USUAL)), WORDS[claim])
    numbers = {**finding.facts.get("numbers", {}), **finding.numbers}
    if finding.claim == Claim.UNDECIDED and finding.doubts:
        words = MAY_END_LOWER
        untested = (UNTESTED[doubt.kind] for doubt in finding.doubts if doubt.kind in UNTESTED)
        numbers["untested"] = next(untested, "another setting")
    unknown = [
        name
        for name, value in numbers.items()
        if not isinstance(value, Estimate | str) and not math.isfinite(value)
    ]
    shown = {**numbers, **dict.fromkeys(unknown, "unknown")}
    seen, means = fill(words.seen, shown), fill(words.means, shown)
    lead, _, _ = seen.partition(": ")
    # without its numbers the sentence ends after its first clause
    if any(f"{{{name}" in words.seen for name in unknown):
        seen = f"{lead.removesuffix('.')}."
    if "shows" in numbers:
        means += fill(SHOWS, shown)
    unseen = finding.facts.get("unseen", {})
    if unseen:
        parts = [
            f"{MISSING[missing]}: {', '.join(WORDS[claim].brief for claim in claims)}"
            for missing, claims in unseen.items()
        ]
        means = f"{means} Could not be seen {'; '.join(parts)}."
    if finding.facts.get("is_possible"):
        seen, lead = f"{POSSIBLY}{inside_a_sentence(seen)}", f"{POSSIBLY}{inside_a_sentence(lead)}"
    first, *others = [*finding.cure, *finding.facts.get("lines", ())] or [InWords()]
    paste, then = _to_paste(first, finding)
    or_else = "".join(
        f" or {line if isinstance(line, InWords) else f'`{line}`'}" for line in others
    )
    # a cure such as to check the labels is nothing to paste
    in_words = paste if isinstance(paste, InWords) else ""
    return Sentences(
        seen,
        means,
        (paste,) if paste and not in_words else (),
        f"{in_words}{then}{or_else}",
        lead=lead if ": " in seen else "",
    )


# Before the words of a suspect.
POSSIBLY = "Perhaps "


def _to_paste(line: str, finding: Finding) -> tuple[str, str]:
    """A change of the rate as the rate itself, if there is one, and how it relates to the present
    one; a larger batch with the number of updates that it needs."""
    rates = finding.facts.get("rates", ())
    if finding.claim == Claim.BATCH_SMALL:
        size = round(8 * finding.facts["numbers"]["batch"])
        if finding.facts.get("at_keyboard") and len(rates) == 1:
            line = f"--batch-size {size} --lr {number(math.sqrt(8) * rates[0])}"
        return line, ", with as many updates as now"
    if not (line.startswith("rate ") and len(rates) == 1):
        return line, ""
    from gradiometer.loop import Rate, alternative_of  # noqa: PLC0415 (few claims change a rate)

    change = alternative_of(line)
    if not isinstance(change, Rate):
        return line, ""
    peak = "" if finding.facts["is_constant"] else " as the peak of the schedule"
    name = "--lr" if finding.facts.get("at_keyboard") else "lr ="
    return (
        f"{name} {number(change.factor * rates[0])}",
        f"{peak}, {change.factor:g} times the present rate",
    )


# A function that says each claim.
CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {claim.value: limits for claim in Claim}

# A function that says each doubt.
DOUBTS: Mapping[str, Callable[[Doubt], str]] = {
    "no_decay": always("A rate without decay looks the same: a fork can show it (`cool now`)."),
    "stopped_early": always(
        "A training that stopped early looks the same: a fork can show it (`go on`)."
    ),
    "few_looks": always("Too few steps were seen at this learning rate to judge it."),
    "decay_not_tried": always(
        "The learning rate never decayed: gradient noise may keep the loss up. A fork can show it "
        "(`cool now`)."
    ),
    "no_floor": always(
        "The loss was below zero, as of a player of a game, a policy or a density: how far it came "
        "down cannot be judged. Give what is wanted of the model, `w.evaluated(test=...)`."
    ),
    "judge": always(
        "This network judges another one, as a discriminator does: its loss need not fall while "
        "both learn. Give what is wanted of the model, `w.evaluated(test=...)`."
    ),
    "judged": always(
        "The loss goes through the parameters of another network, like the loss of a generator: it "
        "need not fall while both learn. Give what is wanted of the model, "
        "`w.evaluated(test=...)`. If both are trained for one loss, give `watch` both."
    ),
    "test_above_guess": always(
        "The loss on held-out examples is above chance level. Check that they are prepared as "
        "the training examples are, and that the model is in eval mode."
    ),
    "no_level": always(
        "The loss jumps again and again although the steps are small, or ended far above its "
        "start, like the loss of a policy or a game: how far it came down cannot be judged. Give what is "
        "wanted of the model, `w.evaluated(test=...)`. If its data never change, clipping may "
        "help: a fork can show it (`clip 1`)."
    ),
    "not_evaluated": always(
        "Nothing was found in training, but its examples were seen several times and no others: it "
        "may overfit. Give the loss on held-out examples, `w.evaluated(test=...)`."
    ),
    "still_falls": always(
        "The rate is high and the loss still falls fast: more updates, another rate or a decay "
        "could end far lower. A fork can show it (`rate 2x`, `cool now`)."
    ),
    "rate_not_tried": always(
        "A higher learning rate could end lower: the weights did not move far, or the updates kept "
        "pointing partly the same way. A fork can show it (`rate 2x`)."
    ),
    "steep": always(
        "Under plain SGD the updates can keep pointing the same way while a few sharp directions "
        "are at the stability limit: then a higher rate diverges. A fork can show it (`rate 2x`)."
    ),
    "fine_tuning": always("Fine-tuning a trained model looks the same."),
}
