"""Words for the logs of other tools."""

from collections.abc import Mapping
from typing import Any

from gradiometer.measurement import Estimate, Finding, significant
from gradiometer.verdict.words.sentences import Words, always

FILTER = (
    "Hugging Face's Trainer omits NaN and inf from its average loss (`logging_nan_inf_filter`), "
    "so it logs 0 or an old value instead."
)

# Most jumps, and most steps, that are listed.
PLACES, STEPS = 3, 4

MISSING = {
    "losses": "no training loss (name its column with --loss)",
    "gradient_norms": "no gradient norm (NaN and inf in the gradient stay hidden)",
    "epochs": "no epoch (a staircase cannot be seen)",
    "learning_rates": (
        "no learning rate (the schedule, a missing decay and a broken resume cannot be seen)"
    ),
    "held_out_losses": "no loss on held-out examples (overfitting cannot be seen)",
}


def places(finding: Finding) -> Mapping[str, str]:
    """Where numbers are not finite, and if the log hides them."""
    found = (
        f"{name} in {wrong:,} of {values:,} values, first at step {first:,}"
        for name, wrong, values, first in finding.facts["places"]
    )
    hidden = finding.facts["logged_as_zero"]
    zeros = "; the logged loss at these steps is 0" if hidden else ""
    return {"places": "; ".join(found) + zeros, "filter": f" {FILTER}" if hidden else ""}


def _not_finite(means: str) -> Words:
    return Words(
        "{lead}: {places}.",
        means + "{filter}",
        "Go back to a checkpoint before that step; look at the examples of its batch; try a "
        "smaller learning rate, a warm-up, or float32 instead of half precision.",
        "If the log averages over steps, the true first step is earlier, by up to the steps "
        "between two lines.",
        "Not a finite number",
        slots=places,
    )


def finite_columns(finding: Finding) -> Mapping[str, str]:
    """The columns with the number of their values."""
    named = (f"{name} ({values:,})" for name, values in finding.facts["columns"])
    return {"columns": " and of ".join(named)}


def steps_back(finding: Finding) -> Mapping[str, str]:
    """Where the step goes back, and how often."""
    jumps = finding.facts["jumps"]
    listed = (f"from {before:,} to {after:,}" for before, after in jumps[:PLACES])
    return {"times": _times(len(jumps)), "places": ", ".join(listed)}


def rate_jumps(finding: Finding) -> Mapping[str, str]:
    """Where the rate jumps, and how often."""
    jumps = finding.facts["jumps"]
    listed = (
        f"from {significant(before)} at step {one:,} to {significant(after)} at step {other:,}"
        for (one, before), (other, after) in jumps[:PLACES]
    )
    return {"times": _times(len(jumps)), "places": "; ".join(listed)}


def _rate_jumps(means: str, suggestion: str = "", caveat: str = "") -> Words:
    lead = "{rate} jumps up {times}"
    return Words("{lead}: {places}.", means, suggestion, caveat, lead, slots=rate_jumps)


def _times(number: int) -> str:
    return f"{number} time" if number == 1 else f"{number} times"


def shape_of_schedule(finding: Finding) -> Mapping[str, str]:
    """The schedule: constant, or warm-up, steps down and the end."""
    facts = finding.facts
    highest = significant(facts["highest"])
    if facts["constant"]:
        return {"shape": f"constant at {highest}"}
    parts = []
    if facts["rises"]:
        parts.append(f"rises to {highest} by step {facts['highest_step']:,}")
    if facts["steps_down"]:
        at = ", ".join(f"{step:,}" for step in facts["steps_down"][:STEPS])
        parts.append(f"steps down at {at}")
    parts.append(f"ends at {facts['last'] / facts['highest']:.2g} of its largest, {highest}")
    return {"shape": ", ".join(parts)}


def fall(finding: Finding) -> Mapping[str, Any]:
    """The fall when an epoch begins, its share of the loss, its bound, and the change it is."""
    found: Estimate = finding.facts["fall"]
    low, high = significant(-found.high), significant(-found.low)
    return {
        "share": found.value / finding.facts["mean_loss"],
        "bound": max(found.high, 0.0),
        "change": f"{significant(-found.value)} [{low}, {high}]",
    }


CHANGE_AT_EPOCHS = (
    "{loss} changes by {change} when an epoch begins, apart from its trend ({fall.samples} epochs)."
)


def missing(finding: Finding) -> Mapping[str, str]:
    """What this log has, or has not."""
    absent = "; ".join(MISSING[name] for name in finding.facts["missing"])
    return {"has": absent or "a loss, a gradient norm, epochs, a rate and a held-out loss"}


CLAIMS: Mapping[str, Words] = {
    "log_finite": Words(
        "Every value of {columns} is a finite number.",
        "There is no sign of NaN or inf.",
        slots=finite_columns,
    ),
    "log_limits": Words(
        "This log has {has}.",
        "A log cannot show if the learning rate or the batch is wrong, nor faults of the loop and "
        "the data. This needs gradients, weights and batches during training.",
        "Use gradiometer train, or gradiometer.watch in your training loop.",
        slots=missing,
    ),
    "log_no_staircase": Words(
        CHANGE_AT_EPOCHS,
        "No staircase: seeing the examples again gains at most {bound:3} at once.",
        slots=fall,
    ),
    "log_not_finite": _not_finite(
        "It passed: the batches were skipped, as the loss scaling of mixed precision does."
    ),
    "log_not_finite_at_end": _not_finite(
        "It lasted to the end: the parameters are no longer finite, and no step after it was "
        "useful."
    ),
    "log_rate_jumps": _rate_jumps(
        "A decreasing schedule does not do this. If the run was resumed there, the scheduler's "
        "state was not restored, or the length of the run was changed.",
        "Load the scheduler's state with the model's, or start the new schedule at the current step.",
        "A single intended warm restart looks the same.",
    ),
    "log_rate_restarts": _rate_jumps("The distances are equal: this is a schedule with restarts."),
    "log_rate_scheduled": Words(
        "{lead}: {shape}; it never jumps up.",
        "It never jumps as after a resume.",
        lead="{rate}",
        slots=shape_of_schedule,
    ),
    "log_staircase": Words(
        "{loss} falls by {fall} when an epoch begins ({fall.samples} epochs), {share:.0%} of its "
        "mean.",
        "The network remembers single examples, and has seen all of them from the second epoch on: "
        "the training loss no longer estimates the loss on new examples.",
        "Judge by held-out examples only; try more data, augmentation, weight decay, or fewer "
        "epochs.",
        "A learning rate that is cut at every epoch, or examples without shuffling, look the same.",
        slots=fall,
    ),
    "log_staircase_unclear": Words(
        CHANGE_AT_EPOCHS,
        "Too few values to see a fall of the loss when epochs begin.",
        slots=fall,
    ),
    "log_steps_back": Words(
        "{lead}: {places}.",
        "The run was resumed from a checkpoint, or two runs share the file. About {repeated:,} "
        "steps were made twice; the later values count.",
        "Compare the loss before and after: a jump means that the optimizer's state was lost, too.",
        lead="The step goes back {times}",
        slots=steps_back,
    ),
    "log_zero_at_end": Words(
        "{loss} is exactly 0 from step {first_step:,} to the end, and was positive before.",
        f"It may hide a NaN. {FILTER}",
        "Print the loss of one batch from the last checkpoint; log the gradient norm, or set "
        "logging_nan_inf_filter=False.",
        "A loss that can reach zero, such as a hinge loss, looks the same.",
    ),
}

DOUBTS = {
    "no_gradient_norm": always(
        "Without a gradient norm in the log, skipped batches cannot be seen."
    )
}
