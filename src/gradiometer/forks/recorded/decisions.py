"""Findings about the forks that decided on the rate of a run: when it goes to zero, and if it changes."""

from collections.abc import Mapping
from typing import Any

from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.run.reader import Run

COMPARED = "Forks compared keeping the rate for a share of the branch (hold) with taking it to zero from its start."

CAVEAT = (
    "The forks compared the training loss, and no other ways to lower the rate. Each end of their intervals is a "
    "one-sided bound at the level of the run."
)


def cooling_finding(run: Run) -> Finding | None:
    """What the forks of `--cool auto` decided, and what they cost; None without a decision."""
    decisions = [event for event in run.events if event["event"] == "cooling"]
    if not decisions:
        return None
    forked = any(event["fork"] for event in decisions)
    return Finding(
        gauge="cooling",
        issue=Issue.CONVERGENCE,
        state=State.OK,
        seen=" ".join(_sentence(event, run.manifest.get("steps")) for event in decisions),
        means=f"{COMPARED} They cost {significant(decisions[-1]['spent'], 2)} times the updates of the run."
        if forked
        else "No fork was made: the rate goes to zero over the last fifth.",
        advice="",
        caveat=CAVEAT if forked else "",
    )


def rate_finding(run: Run) -> Finding | None:
    """What the forks of `fork_budget` decided, and what they cost; None without a decision."""
    decisions = {event["step"]: event for event in run.events if event["event"] == "rate fork"}
    if not decisions:
        return None
    spent = significant(max(event["spent"] for event in decisions.values()), 2)
    return Finding(
        gauge="rate",
        issue=Issue.CONVERGENCE,
        state=State.OK,
        seen=" ".join(_changed(event) for event in decisions.values()),
        means=f"Forks compared half and twice the rate with going on. They cost {spent} times the updates of the run.",
        caveat="The branches take a fifth of what was left of the run, and shorter branches lean to small rates.",
    )


def cooled_finding(run: Run) -> Finding | None:
    """The forecast of the loss if the rate went to zero now, and how often forks found it right; None without one."""
    events = {event["step"]: event for event in run.events if event["event"] == "cooled forecast"}
    made = [event for event in events.values() if event["forecast"] is not None]
    if not made:
        return None
    newest, scored = made[-1], [event for event in made if event["seen"] is not None]
    held = sum(event["forecast"]["low"] <= event["seen"] <= event["forecast"]["high"] for event in scored)
    tried = f"Tried: {held} of {len(scored)} such forecasts of this run held in a fork." if scored else "Not tried."
    return Finding(
        gauge="if_cooled",
        issue=Issue.CONVERGENCE,
        state=State.OK,
        seen=f"The training loss of the average was {significant(newest['averaged'])} at step {newest['step']:,}.",
        means=f"Forecast: if the rate went to zero from there, the loss would be {Estimate(**newest['forecast'])}. "
        "The training can be stopped at any step, and counts at its average.",
        caveat="The forecast is for a fall of the rate over the next fifth of the steps so far, on training examples.",
        tried=tried,
    )


def _changed(event: Mapping[str, Any]) -> str:
    change = "stayed" if event["factor"] == 1 else f"was multiplied by {event['factor']:g}"
    return f"At step {event['step']:,} the rate {change}: {event['outcome']} in training loss (fork {event['fork']})."


def _sentence(event: Mapping[str, Any], steps: int | None) -> str:
    step, begins = event["step"], event["begins"]
    if event["fork"] is None:
        return f"From step {step:,} the rate goes to zero; `cool_budget` did not pay for a fork."
    if begins == step:
        decision = f"From step {step:,} the rate goes to zero"
    else:
        decision = f"At step {step:,} the rate was kept{' to the end' if begins == steps else ''}"
    return f"{decision}: {event['outcome']} in training loss (fork {event['fork']})."
