"""What forks of a run say about the claims of triage: a fork outranks a reading."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from gradiometer.errors import BadArgument
from gradiometer.loop.branches import BEGINNING, Fork
from gradiometer.loop.changes.alternative import Alternative, CoolNow, Rate
from gradiometer.loop.changes.text import alternative_of
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.recorded.record import ForkRecord, forks_of
from gradiometer.loop.recorded.trials import by_late_loss, end_of, is_beyond_lean
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Evidence
from gradiometer.measurement.optimizer.groups import largest_rate
from gradiometer.run.configuration import Configuration
from gradiometer.run.reader import Run
from gradiometer.verdict.claims import Claim, Claimed, InWords, Sign, changes_in_doubt
from gradiometer.verdict.triage.course import late_fall
from gradiometer.verdict.triage.length import learns_by_heart
from gradiometer.verdict.triage.rate import is_near, is_plain
from gradiometer.verdict.triage.schedule import is_constant
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import SEEN_AGAIN

# Claims that readings take for each other: see `tell_apart`.
CONFUSED = Claim.NO_DECAY, Claim.STOPPED_EARLY

# Of the fall of the loss from the first to the last quarter of the second half, in logarithms, what
# twice the steps add if it goes on falling as a power of the steps: log 2 / log (15 / 9). In seven
# trainings at a constant rate this and the gain of a trial that cut the rate chose the cure that
# gained more.
TWICE = 1.36

# The share of the loss that twice the steps must gain on the training examples. If it was 19 to 49 %,
# more steps gained 5 to 22 % on fresh rows in four trainings at constant rates of Adam; if it was
# 9 %, nothing in one.
WORTH_MORE_STEPS = 0.12

# The part of what twice the steps gain from which a cut in short branches stands for more than they
# do, since a whole decay gains more than it. Of the two cures of trainings at constant rates of Adam,
# the decay gained more at 0.81 of it, and twice the steps at 0.78.
STANDS_FOR_MORE = 0.8

# The earliest part of a training whose trials count for all of it. After a hundredth of it twice
# the rate was better in 5 of 8 healthy trainings, at an eighth in none.
EARLIEST = 12

# Orders of the data from which the mean of a trial from the beginning makes a suspect. In three,
# half of the rate gained 2 % and more in 5 or 6 of 8 trainings at 3 to 8 times their rate, and in
# none of 26 at a good one.
FEWEST_ORDERS = 3

# The share of the loss that a higher rate must gain in a fork. One of 1.3 % was of a training that
# the higher rate made 34 % worse on fresh rows; of trainings at a quarter of their rate it was 1.2
# to 7 %.
LITTLE = 0.02

# The share of the loss that four times the rate must gain from the first weights. Under Adam it was
# 21 to 76 % at a quarter of six good rates, and nothing at these. Under SGD it was 11 to 65 % at a
# quarter of eight; at these it diverged or was higher in six, gained 30 % in one and loses by the
# end, and 62 % in one and gains by the end, as 71 % in one with momentum.
MUCH = {"adaptive": 0.1, "sgd": 0.35}

# The same under plain SGD whose steps stay below the edge of stability, in the mean: it was 16 to
# 50 % at six rates that were four to five times too low, whose steps came to 0.26 to 0.68 of the
# edge. At ten good rates it diverged or was higher in seven, and gains by the end in one; one was at
# 1.2 times the edge, and one learnt its training examples by heart.
MUCH_BELOW_THE_EDGE = 0.1

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
    left = []
    for each in tell_apart(claims, run):
        if each.claim is Claim.BATCH_LARGE and (instead := rate_instead(run, effects)) is not None:
            left.append(instead)
            continue
        effect = effect_of(each, effects)
        if effect is None:
            if not is_contradicted(each, effects):
                left.append(each)
        elif effect.verdict not in ("worse", "diverged"):
            left.append(with_effect(each, effect))
    return tuple(left)


def with_effect(claimed: Claimed, effect: Effect) -> Claimed:
    """A claim with what came of its cure in a fork, which is its evidence if it ended better."""
    numbers = {**claimed.numbers, "fork": effect.estimate}
    is_shown = effect.verdict == "better"
    return replace(
        claimed, numbers=numbers, evidence=Evidence.FORK if is_shown else claimed.evidence
    )


def tell_apart(claims: tuple[Claimed, ...], run: Run) -> tuple[Claimed, ...]:
    """The claims with one of two that readings take for each other, once a fork has cut the rate at
    the end: the one whose cure gains more, the cut or twice the steps."""
    made = {each.claim: each for each in claims if each.claim in CONFUSED}
    cut = cut_at_end(run)
    if not made or cut is None:
        return claims
    effect, gain = cut
    stopped = made.get(Claim.STOPPED_EARLY)
    fell = 0.0 if stopped is None else stopped.numbers["fell"]
    gains_more = gain > STANDS_FOR_MORE * gain_of_twice(fell)
    if effect.verdict == "better" and gains_more:
        kept = made.get(Claim.NO_DECAY) or decay_shown(effect)
    elif stopped is not None and not (effect.verdict == "open" and gains_more):
        kept = stopped
    else:
        return claims
    first = min(claims.index(each) for each in made.values())
    others = [each for each in claims if each.claim not in CONFUSED]
    return (*others[:first], replace(kept, doubts=()), *others[first:])


def gain_of_twice(fell: Estimate | float) -> float:
    """The share of the loss that twice the steps gain, from its fall from the first to the last
    quarter of the second half."""
    return 1 - (1 - fell) ** TWICE if isinstance(fell, float) and fell < 1 else 0.0


def cut_at_end(run: Run) -> tuple[Effect, float] | None:
    """The effect of a cut of the rate in the newest fork of the second half that tried one, and the
    share of the loss that it gained in the mean; None if none did, or too few orders of the data
    leave it open."""
    for record in reversed(forks_of(run)):
        if record.plan.step < run.steps // 2:
            continue
        fork = by_late_loss(record.fork)
        with suppress(BadArgument):  # a fork that has just begun has no branch of the baseline
            for effect in fork.effects():
                if not isinstance(change_of(effect.alternative), CoolNow):
                    continue
                is_told = not fork.leans or is_shown(effect, fork)
                in_the_mean = fork.tail == "none" and effect.estimate.samples >= FEWEST_ORDERS
                if is_told or (effect.verdict == "open" and in_the_mean):
                    end = abs(end_of(fork, effect.readout))
                    return effect, -effect.estimate.value / end if end > 0 else 0.0
    return None


def what_ends_a_constant_rate(signs: Signs, run: Run) -> Claimed | None:
    """The decay, or more steps, that a training at a constant rate is missing after a trial that cut
    it, whichever gains more. It is a suspect if the interval of the cut has zero in it.

    A decay of the whole training takes half of its way, so that it gains if the cut does so by more
    than the second half of the steps did. More steps gain what they are worth on fresh rows.
    """
    cut = cut_at_end(run)
    if cut is None or not is_constant(signs):
        return None
    effect, gain = cut
    fell, error = late_fall(signs)
    twice = gain_of_twice(fell) if fell > 1.645 * error and not learns_by_heart(signs) else 0.0
    is_certain = effect.verdict == "better"
    if gain > STANDS_FOR_MORE * twice:
        shown = is_certain or (effect.verdict == "open" and gain > LITTLE)
        return replace(decay_shown(effect), is_certain=is_certain) if shown else None
    is_seen = signs.epochs < SEEN_AGAIN or bool(np.isfinite(signs.test).any())
    if not (twice > WORTH_MORE_STEPS and is_seen):
        return None
    return Claimed(
        Claim.STOPPED_EARLY,
        {"fell": fell, "epochs": signs.epochs},
        (InWords(f"train for {4 * signs.length:,} steps"),),
        is_certain=is_certain,
        evidence=Evidence.FORK,
    )


def decay_shown(effect: Effect) -> Claimed:
    """That a constant rate must fall, by a fork that cut it."""
    return Claimed(
        Claim.NO_DECAY,
        {"fork": effect.estimate},
        (effect.alternative,),
        evidence=Evidence.FORK,
        sign=Sign.FORK,
    )


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
        "share": signs.reach / signs.usual_reach(),
        "steps": float(signs.steps),
        "fork": best.estimate,
    }
    cure, doubts = (best.alternative,), ("fine_tuning",)
    return Claimed(Claim.RATE_LOW, numbers, cure, doubts, evidence=Evidence.FORK)


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
    return fork_better(best)


def fork_better(effect: Effect) -> Claimed:
    """That a change ended better in a fork, of which nothing was claimed before."""
    return Claimed(
        Claim.FORK_BETTER,
        {"fork": effect.estimate},
        (effect.alternative,),
        evidence=Evidence.FORK,
        sign=Sign.FORK,
    )


def changes_that_settle(claimed: Claimed, signs: Signs) -> tuple[str, ...]:
    """The changes that settle the doubts of a claim. A constant rate may be healthy and still cost
    something: a training that ended at 1 % of a guess ended 16 % lower with a decay."""
    if claimed.claim is Claim.HEALTHY and is_constant(signs):
        return ("cool now",)
    return changes_in_doubt(claimed)


def after_trials(passed: Claimed, run: Run) -> Claimed:
    """A training without a claim, after forks have tried what its doubt names, or a higher rate:
    what ends better, no doubt any more, or still the doubt, with the share of the loss that they
    can show."""
    signs = Signs.of(run)
    tried = effects_by_change(run, since=run.steps // 2)
    wanted = changes_that_settle(passed, signs)
    effects = [tried[change] for change in wanted if change in tried]
    missing = what_ends_a_constant_rate(signs, run)
    if missing is not None and missing.is_certain:
        return missing
    for effect in effects:
        # that of a cut at a constant rate was compared with more steps
        is_judged = is_constant(signs) and isinstance(change_of(effect.alternative), CoolNow)
        if effect.verdict == "better" and not is_judged:
            return fork_better(effect)
    found = rate_from_beginning(signs, run) or rate_too_low(run) or missing
    if found is not None:
        return found
    ended_worse = [effect for effect in effects if effect.verdict in ("worse", "diverged")]
    if wanted and len(ended_worse) == len(wanted):
        return replace(passed, claim=Claim.HEALTHY, doubts=())
    shows = smallest_shown(run)
    return replace(passed, numbers={**passed.numbers, "shows": shows}) if shows else passed


def rate_too_low(run: Run) -> Claimed | None:
    """That the rate is too low, if the newest fork that tried a higher one, and not of the
    beginning, gained more than a little."""
    for record in reversed(forks_of(run)):
        if record.plan.step < run.steps // EARLIEST:
            continue
        for effect in effects_of_record(record):
            change = change_of(effect.alternative)
            if not (isinstance(change, Rate) and change.factor > 1):
                continue
            end = abs(end_of(record.fork, effect.readout))
            if effect.verdict == "better" and abs(effect.estimate.value) > LITTLE * end:
                return Claimed(
                    Claim.RATE_LOW,
                    {"fork": effect.estimate},
                    (effect.alternative,),
                    ("fine_tuning",),
                    evidence=Evidence.FORK,
                    sign=Sign.FORK,
                )
            return None
    return None


def rate_from_beginning(signs: Signs, run: Run) -> Claimed | None:
    """The claim about the rate from branches of the beginning, which prefer large rates.

    It is too high if a smaller one gained more than a little: one that is better for so short a
    training is still high for all of it. That is a suspect if the interval has zero in it, with
    three orders of the data at least. One order, which is compared with the training itself,
    makes suspects alone; the rate may then be too low, too, if four times of it gained much.
    """
    for record in reversed(forks_of(run)):
        if record.plan.step > BEGINNING:
            continue
        with suppress(BadArgument):  # a fork that has just begun has no branch of the baseline
            fork, is_one = by_late_loss(record.fork), record.fork.replicates == 1
            for effect in fork.effects():
                end = abs(end_of(fork, effect.readout))
                gained = -effect.estimate.value / end if effect.lower_is_better and end else 0.0
                is_shown = effect.verdict == "better"
                numbers: dict[str, Estimate | float] = {"fork": effect.estimate}
                sign = Sign.FORK
                if is_one:
                    numbers["gained"], sign = gained, Sign.FIRST_WEIGHTS
                enough = is_shown or effect.estimate.samples >= FEWEST_ORDERS
                if is_lower_rate(effect) and gained > LITTLE and enough:
                    is_certain = is_shown and not is_one
                    return Claimed(
                        Claim.RATE_HIGH,
                        numbers,
                        ("rate 0.25x",),
                        is_certain=is_certain,
                        evidence=Evidence.FORK,
                        sign=sign,
                    )
                is_raised = is_one and effect.alternative == "rate 4x"
                if is_raised and is_much(gained, signs, is_shown=is_shown):
                    return Claimed(
                        Claim.RATE_LOW,
                        numbers,
                        (effect.alternative,),
                        ("fine_tuning",),
                        is_certain=False,
                        evidence=Evidence.FORK,
                        sign=sign,
                    )
    return None


def is_much(gained: float, signs: Signs, *, is_shown: bool) -> bool:
    """True if the share of the loss that four times the rate gained from the first weights, shown or
    in the mean, makes the rate a suspect."""
    if learns_by_heart(signs):
        return False
    if is_plain(signs) and signs.edge < 1:
        return gained > MUCH_BELOW_THE_EDGE
    return is_shown and gained > MUCH.get(signs.family, 1.0)


def is_lower_rate(effect: Effect) -> bool:
    """True for the effect of a smaller rate."""
    change = change_of(effect.alternative)
    return isinstance(change, Rate) and change.factor < 1


def smallest_shown(run: Run) -> float:
    """The largest of the smallest effects that forks of a run can show above the noise of the order
    of the data, as a share of the loss at their end; 0 if none says."""
    found = [0.0]
    for record in forks_of(run):
        with suppress(BadArgument):  # a fork that has just begun has no branch of the baseline
            for effect in record.fork.effects():
                end = abs(end_of(record.fork, effect.readout))
                if effect.verdict == "open" and effect.estimate.tells and end > 0:
                    found.append((effect.estimate.high - effect.estimate.low) / 2 / end)
    return max(found)


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
    not explain, or from the beginning one to large rates; none without `also_short`, since what is
    gained in a short fork may be nothing at the end of the training.
    """
    fork = by_late_loss(record.fork)
    try:
        effects = fork.effects()
        if not fork.leans:
            return effects
        if record.plan.step <= BEGINNING:
            against = {True: ("better",), False: ("worse", "diverged")}
            shown = [each for each in effects if each.verdict in against[is_lower_rate(each)]]
        else:
            shown = [each for each in effects if is_shown(each, fork)]
        return shown if also_short else ()
    except BadArgument:  # a fork that has just begun has no branch of the baseline
        return ()


def is_shown(effect: Effect, fork: Fork) -> bool:
    """True if the lean of a short fork to small rates does not explain an effect.

    That a constant rate gains by a cut at the end of the training is what the claim says, and that
    it loses is against the lean.
    """
    is_cut = isinstance(change_of(effect.alternative), CoolNow) and fork.tail == "none"
    return is_beyond_lean(effect, fork) or (is_cut and effect.verdict in ("better", "worse"))


def says_the_same(suspect: Claimed, claimed: Claimed) -> bool:
    """True if a claim that trials have shown settles a suspect: it is the same, or the other of two
    that readings take for each other, or the opposite."""
    if suspect.claim in CONFUSED:
        return claimed.claim in CONFUSED
    if suspect.claim is Claim.RATE_LOW:
        return claimed.claim in (Claim.RATE_LOW, Claim.RATE_HIGH)
    return suspect.claim is claimed.claim
