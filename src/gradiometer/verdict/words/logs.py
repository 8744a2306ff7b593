"""Words for the logs of other tools."""

from collections.abc import Callable, Mapping
from functools import partial

from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Sentences, always, fixed

FILTER = (
    "Hugging Face's Trainer omits NaN and inf from its average loss (`logging_nan_inf_filter`), "
    "so it logs 0 or an old value instead."
)

# Most jumps, and most steps, that are listed.
PLACES, STEPS = 3, 4


# Finite numbers


def _not_finite(finding: Finding, means: str) -> Sentences:
    places = (
        f"{name} in {wrong:,} of {values:,} values, first at step {first:,}"
        for name, wrong, values, first in finding.facts["places"]
    )
    hidden = finding.facts["logged_as_zero"]
    zeros = "; the logged loss at these steps is 0" if hidden else ""
    lead = "Not a finite number"
    return Sentences(
        seen=f"{lead}: {'; '.join(places)}{zeros}.",
        means=f"{means} {FILTER}" if hidden else means,
        suggestion=(
            "Go back to a checkpoint before that step; look at the examples of its batch; try a "
            "smaller learning rate, a warm-up, or float32 instead of half precision."
        ),
        caveat=(
            "If the log averages over steps, the true first step is earlier, by up to the steps "
            "between two lines."
        ),
        lead=lead,
    )


def log_zero_at_end(finding: Finding) -> Sentences:
    """Zeros that may hide NaN."""
    loss, step = finding.facts["loss"], finding.facts["first_step"]
    return Sentences(
        seen=f"{loss} is exactly 0 from step {step:,} to the end, and was positive before.",
        means=f"It may hide a NaN. {FILTER}",
        suggestion=(
            "Print the loss of one batch from the last checkpoint; log the gradient norm, or set "
            "logging_nan_inf_filter=False."
        ),
        caveat="A loss that can reach zero, such as a hinge loss, looks the same.",
    )


def log_finite(finding: Finding) -> Sentences:
    """Every value is finite."""
    columns = " and of ".join(f"{name} ({values:,})" for name, values in finding.facts["columns"])
    return Sentences(
        seen=f"Every value of {columns} is a finite number.",
        means="There is no sign of NaN or inf.",
    )


# The learning rate


def log_steps_back(finding: Finding) -> Sentences:
    """The step counter goes back."""
    jumps = finding.facts["jumps"]
    places = ", ".join(f"from {before:,} to {after:,}" for before, after in jumps[:PLACES])
    lead = f"The step goes back {_times(len(jumps))}"
    return Sentences(
        seen=f"{lead}: {places}.",
        means=(
            "The run was resumed from a checkpoint, or two runs share the file. About "
            f"{finding.facts['repeated']:,} steps were made twice; the later values count."
        ),
        suggestion=(
            "Compare the loss before and after: a jump means that the optimizer's state was lost, "
            "too."
        ),
        lead=lead,
    )


def _jumps(finding: Finding, means: str, suggestion: str = "", caveat: str = "") -> Sentences:
    jumps = finding.facts["jumps"]
    places = "; ".join(
        f"from {significant(before)} at step {one:,} to {significant(after)} at step {other:,}"
        for (one, before), (other, after) in jumps[:PLACES]
    )
    lead = f"{finding.facts['rate']} jumps up {_times(len(jumps))}"
    return Sentences(f"{lead}: {places}.", means, suggestion=suggestion, caveat=caveat, lead=lead)


def _times(number: int) -> str:
    return f"{number} time" if number == 1 else f"{number} times"


def log_rate_scheduled(finding: Finding) -> Sentences:
    """The schedule: constant, or warm-up, steps down and the end."""
    facts = finding.facts
    highest = significant(facts["highest"])
    parts = []
    if facts["constant"]:
        parts.append(f"constant at {highest}")
    else:
        if facts["rises"]:
            parts.append(f"rises to {highest} by step {facts['highest_step']:,}")
        if facts["steps_down"]:
            at = ", ".join(f"{step:,}" for step in facts["steps_down"][:STEPS])
            parts.append(f"steps down at {at}")
        share = facts["last"] / facts["highest"]
        parts.append(f"ends at {share:.2g} of its largest, {highest}")
    lead = facts["rate"]
    return Sentences(
        f"{lead}: {', '.join(parts)}; it never jumps up.",
        "It never jumps as after a resume.",
        lead=lead,
    )


# The staircase


def log_staircase(finding: Finding) -> Sentences:
    """The loss falls when an epoch begins."""
    loss, fall = finding.facts["loss"], finding.facts["fall"]
    share = fall.value / finding.facts["mean_loss"]
    return Sentences(
        seen=(
            f"{loss} falls by {fall} when an epoch begins ({fall.samples} epochs), {share:.0%} of "
            "its mean."
        ),
        means=(
            "The network remembers single examples, and has seen all of them from the second "
            "epoch on: the training loss no longer estimates the loss on new examples."
        ),
        suggestion=(
            "Judge by held-out examples only; try more data, augmentation, weight decay, or fewer "
            "epochs."
        ),
        caveat=(
            "A learning rate that is cut at every epoch, or examples without shuffling, look the "
            "same."
        ),
    )


def log_no_staircase(finding: Finding) -> Sentences:
    """The loss does not fall when an epoch begins."""
    bound = significant(max(finding.facts["fall"].high, 0.0))
    means = f"No staircase: seeing the examples again gains at most {bound} at once."
    return Sentences(_change_at_epochs(finding), means)


def _change_at_epochs(finding: Finding) -> str:
    loss, fall = finding.facts["loss"], finding.facts["fall"]
    return (
        f"{loss} changes by {_minus(fall)} when an epoch begins, apart from its trend "
        f"({fall.samples} epochs)."
    )


def _minus(fall: Estimate) -> str:
    """The change, which is minus the fall."""
    low, high = significant(-fall.high), significant(-fall.low)
    return f"{significant(-fall.value)} [{low}, {high}]"


# The limits of a log

MISSING = {
    "losses": "no training loss (name its column with --loss)",
    "gradient_norms": "no gradient norm (NaN and inf in the gradient stay hidden)",
    "epochs": "no epoch (a staircase cannot be seen)",
    "learning_rates": (
        "no learning rate (the schedule, a missing decay and a broken resume cannot be seen)"
    ),
    "held_out_losses": "no loss on held-out examples (overfitting cannot be seen)",
}


def log_limits(finding: Finding) -> Sentences:
    """What no log can show."""
    missing = [MISSING[name] for name in finding.facts["missing"]]
    seen = "This log has a loss, a gradient norm, epochs, a rate and a held-out loss."
    if missing:
        seen = f"This log has {'; '.join(missing)}."
    return Sentences(
        seen=seen,
        means=(
            "A log cannot show if the learning rate or the batch is too small or too large, faults "
            "of the loop and the data, or how accurate the batch gradient is: this needs "
            "gradients, weights and batches during training."
        ),
        suggestion="Use gradiometer train, or gradiometer.watch in your training loop.",
    )


CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {
    "log_finite": log_finite,
    "log_limits": log_limits,
    "log_no_staircase": log_no_staircase,
    "log_not_finite": partial(
        _not_finite,
        means="It passed: the batches were skipped, as the loss scaling of mixed precision does.",
    ),
    "log_not_finite_at_end": partial(
        _not_finite,
        means=(
            "It lasted to the end: the parameters are no longer finite, and no step after it was "
            "useful."
        ),
    ),
    "log_rate_jumps": partial(
        _jumps,
        means=(
            "A decreasing schedule does not do this. If the run was resumed there, the "
            "scheduler's state was not restored, or the length of the run was changed."
        ),
        suggestion=(
            "Load the scheduler's state with the model's, or start the new schedule at the "
            "current step."
        ),
        caveat="A single intended warm restart looks the same.",
    ),
    "log_rate_restarts": partial(
        _jumps, means="The distances are equal: this is a schedule with restarts."
    ),
    "log_rate_scheduled": log_rate_scheduled,
    "log_staircase": log_staircase,
    "log_staircase_unclear": fixed(
        _change_at_epochs, "Too few values to see a fall of the loss when epochs begin."
    ),
    "log_steps_back": log_steps_back,
    "log_zero_at_end": log_zero_at_end,
}

DOUBTS = {
    "no_gradient_norm": always(
        "Without a gradient norm in the log, skipped batches cannot be seen."
    )
}
