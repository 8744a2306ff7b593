"""What forks of a run say about the claims of triage: a fork outranks a reading."""

import math
from collections.abc import Sequence
from dataclasses import replace

from gradiometer.errors import BadArgument
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import Alternative, CoolNow, Rate
from gradiometer.loop.changes.text import alternative_of
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.recorded.record import ForkRecord, forks_of
from gradiometer.loop.recorded.trials import is_beyond_lean
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.optimizer.groups import largest_rate
from gradiometer.run.configuration import Configuration
from gradiometer.run.reader import Run
from gradiometer.verdict.claims import Claim, Claimed
from gradiometer.verdict.triage.rate import is_near, usual_reach
from gradiometer.verdict.triage.schedule import is_constant
from gradiometer.verdict.triage.signs import Signs

# Claims that readings take for each other. A fork that shows one of them takes the other back.
CONFUSED = {Claim.NO_DECAY: Claim.STOPPED_EARLY, Claim.STOPPED_EARLY: Claim.NO_DECAY}

# The changes that settle a doubt about a training without a claim.
SETTLED_BY: dict[str, tuple[str, ...]] = {
    "rate_not_tried": ("rate 2x",),
    "decay_not_tried": ("cool now",),
    "still_falls": ("rate 2x", "cool now"),
}

# A rate that fell by more than the square root of this since a fork was cooled.
COOLED = 0.01


def as_tried(claims: tuple[Claimed, ...], run: Run) -> tuple[Claimed, ...]:
    """The claims that forks of this run leave, each with the effect of its cure as the number
    `fork`.

    A claim whose cure ended worse, or diverged, is taken back. So is one about the rate if a
    smaller change in the same direction ended worse, or a change in the other direction better.
    """
    effects = effects_by_change(run)
    if not effects:
        return claims
    tried = {each.claim: effect_of(each, effects) for each in claims}
    shown = {
        claim
        for claim, effect in tried.items()
        if effect is not None and effect.verdict == "better"
    }
    left = []
    for each in claims:
        if each.claim is Claim.BATCH_LARGE and (instead := rate_instead(run, effects)) is not None:
            left.append(instead)
            continue
        effect = tried[each.claim]
        if effect is None:
            if CONFUSED.get(each.claim) not in shown and not is_contradicted(each, effects):
                left.append(each)
        elif effect.verdict not in ("worse", "diverged"):
            left.append(replace(each, numbers={**each.numbers, "fork": effect.estimate}))
    return tuple(left)


def rate_instead(run: Run, effects: dict[str, Effect]) -> Claimed | None:
    """The claim that the rate is too low, if weights moved little and a fork at a higher rate ended
    better.

    A batch that is too large for the length leaves the same signs.
    """
    raised = [
        effect
        for name, effect in effects.items()
        if isinstance(change := change_of(name), Rate)
        and change.factor > 1
        and effect.verdict == "better"
    ]
    signs = Signs.of(run)
    if not raised or not is_near(signs):
        return None
    best = max(raised, key=lambda effect: abs(effect.estimate.value))
    numbers: dict[str, Estimate | float] = {
        "reach": signs.reach,
        "share": signs.reach / usual_reach(signs),
        "steps": float(signs.steps),
        "fork": best.estimate,
    }
    return Claimed(Claim.RATE_LOW, numbers, (best.alternative,), ("fine_tuning",))


def better_change(run: Run) -> Claimed | None:
    """The change of the rate that ended best in forks of this run, if it ended better and was not
    followed since."""
    newest: dict[str, tuple[int, Effect]] = {}
    for record in forks_of(run):
        for effect in effects_of_record(record, also_short=False):
            newest[effect.alternative] = record.plan.step, effect
    better = []
    for name, (step, effect) in newest.items():
        change = change_of(name)
        if (
            effect.verdict == "better"
            and isinstance(change, Rate | CoolNow)
            and not was_followed(run, step, change)
        ):
            better.append(effect)
    if not better:
        return None
    best = max(better, key=lambda effect: abs(effect.estimate.value))
    return Claimed(Claim.FORK_BETTER, {"fork": best.estimate}, (best.alternative,))


def changes_that_settle(claimed: Claimed, signs: Signs) -> tuple[str, ...]:
    """The changes that settle the doubts of a claim. A constant rate may be healthy and still cost
    something: a training that ended at 1 % of a guess ended 16 % lower with a decay."""
    if claimed.claim is Claim.HEALTHY and is_constant(signs):
        return ("cool now",)
    return tuple(change for doubt in claimed.doubts for change in SETTLED_BY.get(doubt, ()))


def after_trials(passed: Claimed, run: Run) -> Claimed:
    """A training without a claim, after forks of its second half have tried what its doubt names: a
    change that ends better, no doubt any more, or still the doubt."""
    tried = effects_by_change(run, since=run.steps // 2)
    if not tried:
        return passed
    wanted = changes_that_settle(passed, Signs.of(run))
    effects = [tried[change] for change in wanted if change in tried]
    for effect in effects:
        if effect.verdict == "better":
            return Claimed(Claim.FORK_BETTER, {"fork": effect.estimate}, (effect.alternative,))
    ended_worse = [effect for effect in effects if effect.verdict in ("worse", "diverged")]
    if wanted and len(ended_worse) == len(wanted):
        return replace(passed, claim=Claim.HEALTHY, doubts=())
    return passed


def was_followed(run: Run, step: int, change: Rate | CoolNow) -> bool:
    """True if the rates of the run after a fork may be those of this change: then a fork shows what
    was done."""
    if any(event["event"] in ("rate fork", "cooling") for event in run.events):
        return True  # the run decides on its rate by forks
    settings = run.hyperparameters
    if settings is None or isinstance(run.configuration, Configuration):
        return False
    at_fork = largest_rate(settings.at(step))
    at_end = largest_rate(settings.now)
    if not at_fork > 0 or not at_end > 0:
        return True
    moved = math.log(at_end / at_fork)
    factor = change.factor if isinstance(change, Rate) else COOLED
    return abs(moved - math.log(factor)) < abs(moved)


def is_contradicted(claimed: Claimed, effects: dict[str, Effect]) -> bool:
    """True if forks with other changes of the rate show that the claim is wrong."""
    cures = [change for change in map(change_of, claimed.cure) if isinstance(change, Rate)]
    if not cures:
        return False
    wanted = math.log(cures[0].factor)
    for name, effect in effects.items():
        change = change_of(name)
        if not isinstance(change, Rate):
            continue
        moved = math.log(change.factor)
        if moved * wanted < 0 and effect.verdict == "better":
            return True
        if (
            moved * wanted > 0
            and abs(moved) <= abs(wanted)
            and effect.verdict in ("worse", "diverged")
        ):
            return True
    return False


def change_of(text: str) -> Alternative | None:
    """A change from its text; None for a line of the program, which no fork can change."""
    try:
        return alternative_of(text)
    except BadArgument:
        return None


def effect_of(claimed: Claimed, effects: dict[str, Effect]) -> Effect | None:
    """The effect of the first of its cures that was tried; None if none was."""
    names = [change.name for change in map(change_of, claimed.cure) if change is not None]
    return next((effects[name] for name in names if name in effects), None)


def effects_by_change(run: Run, since: int = 0) -> dict[str, Effect]:
    """The effect of every change that forks of this run have tried from this step on, of the newest
    fork that did."""
    found: dict[str, Effect] = {}
    for record in forks_of(run):
        if record.plan.step < since:
            continue
        found |= {effect.alternative: effect for effect in effects_of_record(record)}
    return found


def effects_of_record(record: ForkRecord, *, also_short: bool = True) -> Sequence[Effect]:
    """The effects of a fork at the end of its branches.

    Of short forks, and of those at constant rates, only those count that a lean to small rates does
    not explain; none without `also_short`, since what is gained in a short fork may be nothing at
    the end of the training.
    """
    try:
        effects = record.fork.effects()
        if not record.fork.leans:
            return effects
        return tuple(effect for effect in effects if also_short and is_shown(effect, record.fork))
    except BadArgument:  # a fork that has just begun has no branch of the baseline
        return ()


def is_shown(effect: Effect, fork: Fork) -> bool:
    """True if the lean of a short fork to small rates does not explain an effect.

    That a constant rate gains by a cut at the end of the training is what the claim says.
    """
    is_cut = isinstance(change_of(effect.alternative), CoolNow) and fork.tail == "none"
    return is_beyond_lean(effect, fork) or (is_cut and effect.verdict == "better")
