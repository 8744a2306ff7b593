"""The verdict on a run in one sentence: how it ended, and what leads."""

from collections.abc import Mapping

from gradiometer.measurement.estimate import Estimate, counted
from gradiometer.measurement.finding import Finding, State
from gradiometer.run.configuration import Configuration, WatchedConfiguration
from gradiometer.verdict.words.say import say


def ending(status: str, steps: int) -> str:
    """How a run ended, or where it is."""
    if status == "diverged":
        return f"Training diverged at step {steps:,} and was stopped"
    if status == "finished":
        return f"Trained for {counted(steps, 'step')}"
    return f"{'Stopped' if status == 'interrupted' else 'Under way'} at step {steps:,}"


def outcome_of(ended: str, estimates: Mapping[str, Estimate]) -> str:
    """The state of the run and its test score.

    Args:
        ended: How it ended.
        estimates: The estimates of the run, among them those of its last evaluation.
    """
    accuracy, loss = estimates.get("test_accuracy"), estimates.get("test_loss")
    if accuracy is not None:
        return (
            f"{ended}; test accuracy {accuracy.value:.1%} [{accuracy.low:.1%}, {accuracy.high:.1%}]"
        )
    if loss is not None:
        return f"{ended}; " + (
            f"test loss {loss}" if loss.tells else f"test loss not known ({loss.method})"
        )
    return ended


def headline_in_words(
    finding: Finding | None, configuration: Configuration | WatchedConfiguration, *, is_over: bool
) -> str:
    """The finding that leads, or why none does, as it follows the outcome after a
    semicolon.

    Only its first clause: the finding has the numbers. If there is no verdict, the reason belongs to
    it. What a run that is over cannot tell, it never will.
    """
    if finding is None:
        return _why_nothing(configuration)
    sentences = say(finding)
    if finding.claim == "another_loss":
        return _after_a_semicolon(sentences.seen.removesuffix("."))
    seen = _after_a_semicolon(sentences.beginning)
    if finding.state is not State.CANNOT_TELL:
        return seen
    return f"cannot tell: {seen}" if is_over else f"cannot tell yet: {seen}"


def _after_a_semicolon(sentence: str) -> str:
    """A sentence whose first letter is lower-case unless it starts a symbol."""
    first, _, _ = sentence.partition(" ")
    if len(first) > 1 and first.isalpha() and first.istitle():
        return sentence[0].lower() + sentence[1:]
    return sentence


def _why_nothing(configuration: Configuration | WatchedConfiguration) -> str:
    """The reason that nothing was measured, and what to do."""
    if configuration.budget == 0:
        return "measuring was off (budget 0)"
    if configuration.every is not None:
        return "nothing was measured"
    return (
        f"nothing was measured: the budget of {100 * configuration.budget:.2g} % has not yet "
        "covered one measurement (set a larger `budget`, or `every` = 1 to measure every step, at "
        "any cost)"
    )
