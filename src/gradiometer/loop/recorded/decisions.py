"""What forks decided on the way of a training, and what they forecast."""

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Doubt, Evidence, Finding, Issue, State, Trial
from gradiometer.run.reader import Run


def cooling_finding(run: Run) -> Finding | None:
    """What the forks of `--cool auto` decided, and what they cost; None without a decision."""
    decisions = [event for event in run.events if event["event"] == "cooling"]
    if not decisions:
        return None
    forked = any(event["fork"] for event in decisions)
    facts = {
        "decisions": decisions,
        "steps": run.manifest.get("steps"),
        "spent": decisions[-1]["spent"] if forked else None,
    }
    doubts = (Doubt("cooling_forks"),) if forked else ()
    return Finding(
        "cooling",
        Issue.CONVERGENCE,
        "rate_goes_to_zero",
        State.OK,
        facts=facts,
        doubts=doubts,
        evidence=Evidence.FORK if forked else Evidence.EXACT,
    )


def rate_finding(run: Run) -> Finding | None:
    """What the forks of `fork_budget` decided, and what they cost; None without a decision."""
    decisions = {event["step"]: event for event in run.events if event["event"] == "rate fork"}
    if not decisions:
        return None
    facts = {
        "decisions": list(decisions.values()),
        "spent": max(event["spent"] for event in decisions.values()),
    }
    doubts = (Doubt("rate_forks"),)
    return Finding(
        "rate",
        Issue.CONVERGENCE,
        "rate_by_forks",
        State.OK,
        facts=facts,
        doubts=doubts,
        evidence=Evidence.FORK,
    )


def cooled_finding(run: Run) -> Finding | None:
    """The forecast of the loss if the rate went to zero now, and how often forks found it right;
    None without one."""
    events = {event["step"]: event for event in run.events if event["event"] == "cooled forecast"}
    forecasts = [event for event in events.values() if event["forecast"] is not None]
    if not forecasts:
        return None
    newest = forecasts[-1]
    scored = [event for event in forecasts if event["seen"] is not None]
    held = sum(
        event["forecast"]["low"] <= event["seen"] <= event["forecast"]["high"] for event in scored
    )
    return Finding(
        gauge="if_cooled",
        issue=Issue.CONVERGENCE,
        claim="loss_if_cooled",
        evidence=Evidence.FORECAST,
        state=State.OK,
        facts={
            "averaged": newest["averaged"],
            "step": newest["step"],
            "if_cooled": Estimate(**newest["forecast"]),
        },
        trial=Trial(facts={"forecasts": len(scored), "held": held}),
        doubts=(Doubt("next_fifth"),),
    )
