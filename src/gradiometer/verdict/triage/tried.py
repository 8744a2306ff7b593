"""What forks of a run say about the claims of triage: a fork outranks a reading."""

from dataclasses import replace

from gradiometer.errors import BadArgument
from gradiometer.loop.changes.text import alternative_of
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.recorded.record import forks_of
from gradiometer.run.reader import Run
from gradiometer.verdict.claims import Claim, Claimed

CONFUSED = {Claim.NO_DECAY: Claim.STOPPED_EARLY, Claim.STOPPED_EARLY: Claim.NO_DECAY}
"""Claims that readings take for each other. A fork that shows one of them takes the other back."""


def as_tried(claims: tuple[Claimed, ...], run: Run) -> tuple[Claimed, ...]:
    """The claims that forks of this run leave, each with the effect of its cure as the number `fork`.

    A claim whose cure ended worse, or diverged, is taken back.
    """
    effects = effects_by_change(run)
    if not effects:
        return claims
    tried = {each.claim: effect_of(each, effects) for each in claims}
    shown = {claim for claim, effect in tried.items() if effect is not None and effect.verdict == "better"}
    left = []
    for each in claims:
        effect = tried[each.claim]
        if effect is None:
            if CONFUSED.get(each.claim) not in shown:
                left.append(each)
        elif effect.verdict not in ("worse", "diverged"):
            left.append(replace(each, numbers={**each.numbers, "fork": effect.estimate}))
    return tuple(left)


def effect_of(claimed: Claimed, effects: dict[str, Effect]) -> Effect | None:
    """The effect of the first of its cures that was tried; None if none was."""
    names = []
    for change in claimed.cure:
        try:
            names.append(alternative_of(change).name)
        except BadArgument:  # a line of the program, which no fork can change
            continue
    return next((effects[name] for name in names if name in effects), None)


def effects_by_change(run: Run) -> dict[str, Effect]:
    """The effect of every change that forks of this run have tried, of the newest fork that did.

    Short forks, and those at constant rates, are left out: they lean to small rates, whatever the end would show.
    """
    found: dict[str, Effect] = {}
    for record in forks_of(run):
        if not record.fork.results or record.fork.leans:
            continue
        try:
            found |= {effect.alternative: effect for effect in record.fork.effects()}
        except BadArgument:  # a fork that has just begun has no branch of the baseline
            continue
    return found
