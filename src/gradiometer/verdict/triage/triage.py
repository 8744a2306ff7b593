"""All rules of triage, in the order of their certainty, and what they leave, as findings."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Doubt, Evidence, Finding, Issue, State
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.run.reader import Run
from gradiometer.verdict.claims import (
    GAUGE,
    ISSUES,
    Claim,
    Claimed,
    Code,
    InWords,
    changes_in_doubt,
)
from gradiometer.verdict.triage import course, data, faults, length, rate, schedule
from gradiometer.verdict.triage.level import Known, Level, level_of
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import (
    AT_A_GUESS,
    CALM,
    FEWEST_LOOKS,
    FLAT,
    HALF_A_GUESS,
    LITTLE_LEFT,
    LONG_ENOUGH,
    SEEN_AGAIN,
)

Rule = Callable[[Signs, Level], Claimed | None]

FAULTS: tuple[Rule, ...] = (
    faults.nan_example,
    faults.no_gradient,
    faults.softmax_twice,
    faults.eval_mode,
    faults.zero_grad,
    faults.accumulation,
    faults.dropout,
    faults.unscaled,
    faults.unshuffled,
    faults.clip_small,
)
SCHEDULE: tuple[Rule, ...] = (schedule.rate_burst, schedule.schedule_unit, schedule.decay_early)
COURSE: tuple[Rule, ...] = (
    course.exploding,
    course.dead_relu,
    course.weight_decay,
    course.vanishing,
)
RATE: tuple[Rule, ...] = (course.rate_high, course.unstable, length.batch_large, rate.rate_low)
# a decay costs nothing, and a larger batch more examples
LENGTH: tuple[Rule, ...] = (length.stopped_early, course.no_decay, length.batch_small)
DATA: tuple[Rule, ...] = (
    data.leak,
    data.labels_random,
    data.overfit,
    data.labels_noisy,
    data.bad_batch,
)
ORDER: tuple[Rule, ...] = (*FAULTS, *SCHEDULE, *COURSE, *RATE, *LENGTH, *DATA)

# Claims that another one accounts for: a symptom is not a second illness.
EXPLAINED: dict[Claim, frozenset[Claim]] = {
    Claim.NAN_EXAMPLE: frozenset({Claim.RATE_HIGH, Claim.MOMENTUM_RATE, Claim.BAD_BATCH}),
    Claim.UNSCALED: frozenset(
        {
            Claim.EXPLODING,
            Claim.RATE_HIGH,
            Claim.RATE_LOW,
            Claim.DEAD_RELU,
            Claim.MOMENTUM_RATE,
            Claim.NO_DECAY,
            # eight times the batch ended at 34 times the loss of forecasts of large numbers
            Claim.BATCH_SMALL,
        }
    ),
    Claim.ZERO_GRAD: frozenset(
        # a sum of all gradients hardly turns
        {Claim.UNSTABLE, Claim.RATE_HIGH, Claim.RATE_LOW, Claim.MOMENTUM_RATE, Claim.NO_DECAY}
    ),
    Claim.NO_GRADIENT: frozenset({Claim.DEAD_RELU, Claim.VANISHING, Claim.RATE_LOW}),
    Claim.CLIP_SMALL: frozenset({Claim.RATE_LOW, Claim.NO_DECAY, Claim.STOPPED_EARLY}),
    Claim.SOFTMAX_TWICE: frozenset({Claim.NO_DECAY, Claim.STOPPED_EARLY, Claim.VANISHING}),
    Claim.DROPOUT: frozenset({Claim.RATE_HIGH, Claim.UNSTABLE}),
    Claim.SCHEDULE_UNIT: frozenset(
        {Claim.RATE_BURST, Claim.DECAY_EARLY, Claim.RATE_LOW, Claim.NO_DECAY}
    ),
    Claim.DECAY_EARLY: frozenset({Claim.RATE_LOW}),
    Claim.RATE_BURST: frozenset({Claim.BAD_BATCH, Claim.RATE_HIGH}),
    Claim.EXPLODING: frozenset({Claim.RATE_HIGH, Claim.RATE_LOW, Claim.NO_DECAY}),
    Claim.DEAD_RELU: frozenset({Claim.VANISHING, Claim.RATE_HIGH, Claim.RATE_LOW}),
    Claim.WEIGHT_DECAY: frozenset(
        {Claim.RATE_HIGH, Claim.VANISHING, Claim.NO_DECAY, Claim.RATE_LOW}
    ),
    Claim.VANISHING: frozenset({Claim.RATE_LOW, Claim.RATE_HIGH, Claim.NO_DECAY}),
    Claim.RATE_HIGH: frozenset({Claim.RATE_LOW, Claim.NO_DECAY, Claim.STOPPED_EARLY}),
    Claim.MOMENTUM_RATE: frozenset({Claim.RATE_LOW, Claim.NO_DECAY, Claim.STOPPED_EARLY}),
    Claim.BAD_BATCH: frozenset(
        {Claim.RATE_HIGH, Claim.MOMENTUM_RATE, Claim.NO_DECAY, Claim.STOPPED_EARLY}
    ),
    Claim.OVERFIT: frozenset({Claim.RATE_HIGH}),
    Claim.LEAK: frozenset({Claim.RATE_HIGH}),
    Claim.ACCUMULATION: frozenset({Claim.RATE_HIGH, Claim.MOMENTUM_RATE, Claim.NO_DECAY}),
    Claim.EVAL_MODE: frozenset({Claim.RATE_HIGH}),
    Claim.UNSHUFFLED: frozenset(
        {
            Claim.BAD_BATCH,
            Claim.UNSTABLE,
            Claim.RATE_HIGH,
            Claim.RATE_LOW,
            Claim.MOMENTUM_RATE,
            Claim.NO_DECAY,
            Claim.LABELS_NOISY,
        }
    ),
    Claim.BATCH_LARGE: frozenset({Claim.RATE_LOW, Claim.STOPPED_EARLY}),
    Claim.RATE_LOW: frozenset({Claim.STOPPED_EARLY, Claim.NO_DECAY}),
    Claim.LABELS_RANDOM: frozenset({Claim.OVERFIT, Claim.LABELS_NOISY}),
}


@dataclass(frozen=True)
class Triage:
    """What triage says about a run.

    Args:
        claims: The claims, the most certain first. The first one is the headline; never empty.
        level: The level of a guess.
        unseen: Claims that could not have been seen, by what is missing: "labels", "batch",
            "evaluations", "examples", "rate", "looks" or "end".
    """

    claims: tuple[Claimed, ...]
    level: Level
    unseen: dict[str, tuple[Claim, ...]]

    @property
    def suspects(self) -> tuple[Claimed, ...]:
        """Those of the claims whose signs are weak. They are made if nothing is certain."""
        return tuple(each for each in self.claims if not each.is_certain)

    @property
    def passes(self) -> bool:
        """True if nothing is certain to be wrong, so that a gauge's advice about batch and rate may
        be given."""
        first = self.claims[0]
        return first.claim in (Claim.HEALTHY, Claim.UNDECIDED) or not first.is_certain


def triage_of(run: Run | Signs) -> Triage:
    """Judge a run by the quantities that every training has. Claims that forks of the run
    contradict are left out.

    Args:
        run: A run, or its signs.

    >>> import numpy as np
    >>> from gradiometer.verdict.triage.signs import Signs
    >>> from gradiometer.verdict.triage.triage import triage_of
    >>> triage_of(Signs(losses=np.ones(10))).claims[0].claim
    <Claim.UNDECIDED: 'undecided'>
    """
    signs = run if isinstance(run, Signs) else Signs.of(run)
    # a training that diverged has numbers that are not finite, which fail every test
    with np.errstate(all="ignore"):
        level = level_of(signs)
        has_small_steps = course.usual_stride(signs) <= CALM  # never known of a log
        if has_small_steps and level.known_by is Known.START and course.unstable(signs, level):
            # As the loss of a policy jumps with every new set of episodes, although it learns. How
            # far such a loss came down says nothing.
            level = Level(float("nan"), Known.NOTHING)
        made = [rule(signs, level) for rule in ORDER]
        passed = _pass(signs, level)
    seen = [each for each in made if each is not None and (each.is_certain or signs.has_ended)]
    small = next((each for each in seen if each.claim is Claim.BATCH_SMALL), None)
    if small is not None:
        # its cure has the higher rate, unless that is far too low, or certain beside a suspect
        seen = [
            each
            for each in seen
            if each.claim is not Claim.RATE_LOW
            or not rate.is_mild(each)
            or each.is_certain > small.is_certain
        ]
    found = [each for each in seen if each.is_certain]
    explained = frozenset[Claim]().union(
        *(EXPLAINED.get(each.claim, frozenset()) for each in found)
    )
    if any(
        each.claim not in (Claim.LABELS_RANDOM, Claim.LABELS_NOISY, Claim.OVERFIT) for each in found
    ):
        # left over if nothing else says why nothing is learnt
        explained |= {Claim.LABELS_RANDOM}
    told = tuple(each for each in seen if each.claim not in explained)
    forked = run if isinstance(run, Run) and _has_forks(run) else None
    if forked is not None:
        from gradiometer.verdict.triage.tried import as_tried  # noqa: PLC0415 (few runs have forks)

        told = as_tried(told, forked)
    claims = tuple(each for each in told if each.is_certain)
    # weak signs count if nothing is certain
    if not claims:
        claims = told if forked is None else shown_by(forked, told, passed)
    if not claims:
        claims = (passed,)
    # what a test has confirmed leads
    claims = tuple(sorted(claims, key=lambda each: not is_confirmed(each)))
    return Triage(_with_doubts(claims), level, unseen_by(signs, level))


def _has_forks(run: Run) -> bool:
    """True if the run has forks that can be read."""
    if not any(run.path.glob("forks/*/fork.json")):
        return False
    from gradiometer.loop.recorded.record import forks_of  # noqa: PLC0415 (few runs have forks)

    return bool(forks_of(run))


def is_confirmed(claimed: Claimed) -> bool:
    """True for a certain claim whose evidence is a fork."""
    return claimed.is_certain and claimed.evidence is Evidence.FORK


def shown_by(forked: Run, suspects: tuple[Claimed, ...], passed: Claimed) -> tuple[Claimed, ...]:
    """The suspects after what forks have shown: those with the cure that ended best are certain. If
    none has it, it is a claim itself. Without suspects, what is left of a training without a
    claim."""
    from gradiometer.verdict.triage.tried import (  # noqa: PLC0415 (few runs have forks)
        after_trials,
        better_change,
        says_the_same,
    )

    better = better_change(forked)
    if better is None:
        better = after_trials(passed, forked)
        if better.claim in (passed.claim, Claim.HEALTHY):
            return suspects or (better,)
        shown = []
    else:
        shown = [each for each in suspects if better.cure[0] in each.cure]
    others = [each for each in suspects if each not in shown and not says_the_same(each, better)]
    return (*([replace(each, is_certain=True) for each in shown] or [better]), *others)


def _with_doubts(claims: tuple[Claimed, ...]) -> tuple[Claimed, ...]:
    """Each claim that is easily taken for another says which, unless both are made."""
    made = {each.claim.value for each in claims}
    return tuple(
        replace(each, doubts=tuple(doubt for doubt in each.doubts if doubt not in made))
        for each in claims
    )


def _pass(signs: Signs, level: Level) -> Claimed:
    """Healthy, if the end was seen; otherwise that the training may stop, or undecided."""
    enough = (
        not signs.is_short
        and len(signs.looks) >= FEWEST_LOOKS
        and level.known_by is not Known.NOTHING
    )
    left = course.ended_at(signs, level)
    at_a_guess = left > AT_A_GUESS
    # The loss of a player of a game, or of a policy that makes its own data, says nothing about
    # what it learns: those of a generator and of an actor-critic ended at 5.6 and 6.2 times their
    # start. Labels that have nothing to do with the inputs leave a loss at 0.9 to 1.1 of it.
    says_nothing = level.known_by is Known.START and left > 2
    fell, error = course.late_fall(signs)
    # as that of a language model on its way down to the entropy of the words
    still_falls = fell > max(FLAT, 2 * error)
    # an optimizer that calls its closure several times shows no movement, so no rate was judged
    has_moved = bool(np.isfinite(signs.movements).any())
    # a spike that undid what was learnt is a finding of its own
    had_learnt = lowest_of(signs, level) < HALF_A_GUESS
    is_excused = says_nothing or still_falls or had_learnt
    if enough and signs.has_ended and at_a_guess and not is_excused:
        return Claimed(
            Claim.NOTHING_LEARNT,
            {"loss": left, "steps": float(signs.length)},
            (InWords("give the losses on held-out examples, w.evaluated(test=...)"),),
        )
    if enough and signs.has_ended and has_moved and not at_a_guess:
        numbers = {"travel": signs.travel, "loss": left, "steps": float(signs.length)}
        doubt = _doubt_of(signs, level, left)
        if doubt:
            return Claimed(Claim.UNDECIDED, numbers, doubts=(doubt,))
        return Claimed(Claim.HEALTHY, numbers)
    no_level = says_nothing or (level.known_by is Known.NOTHING and not signs.is_short)
    if signs.has_ended and (signs.has_no_floor or no_level):
        if signs.is_judge:
            doubt = "judge"
        elif signs.is_judged:
            doubt = "judged"
        elif signs.has_no_floor:
            doubt = "no_floor"
        else:
            doubt = "no_level"
        return Claimed(Claim.UNDECIDED, {"steps": float(signs.length)}, doubts=(doubt,))
    if (
        signs.steps >= LONG_ENOUGH
        and fell + error < FLAT
        and left < AT_A_GUESS
        and not length.test_falls(signs)
    ):
        return Claimed(Claim.MAY_STOP, {"fell": fell, "steps": float(signs.length)})
    return Claimed(Claim.UNDECIDED, {"steps": float(signs.length)})


def lowest_of(signs: Signs, level: Level) -> float:
    """The lowest mean loss of ten steps in a row, in guesses."""
    if len(signs.finite) < 10:
        return float("inf")
    means = np.convolve(signs.finite, np.full(10, 0.1), mode="valid")
    return float(means.min() / level.value)


def _doubt_of(signs: Signs, level: Level, left: float) -> str:
    """Why a training that has ended without a claim may still end lower; empty if nothing says
    so."""
    tests = signs.test[np.isfinite(signs.test)]
    if len(tests) and level.known_by in (Known.LABELS, Known.TARGETS) and tests[-1] > level.value:
        return "test_above_guess"
    if length.still_falls(signs):
        return "still_falls"
    of_rate = rate.doubt_of(signs, left)
    if of_rate:
        return of_rate
    # Of 16 public scripts that had no claim, most of them at a constant rate, 11 ended lower with
    # another rate or with a decay.
    if schedule.is_constant(signs) and left > LITTLE_LEFT:
        return "decay_not_tried"
    # rows that were seen several times may be learnt by heart
    is_unseen = signs.epochs >= SEEN_AGAIN and not np.isfinite(signs.test).any()
    return "not_evaluated" if is_unseen else ""


def unseen_by(signs: Signs, level: Level) -> dict[str, tuple[Claim, ...]]:
    """The claims that could not have been made, by what is missing."""
    missing: dict[str, tuple[Claim, ...]] = {}
    if level.known_by in (Known.START, Known.NOTHING):
        missing["labels"] = (Claim.EXPLODING, Claim.SOFTMAX_TWICE, Claim.UNSHUFFLED)
        if faults.backwards_an_update(signs) >= 2:
            missing["labels"] += (Claim.ACCUMULATION,)
    if not len(signs.series("input_std")):
        missing["batch"] = (Claim.UNSCALED, Claim.NAN_EXAMPLE)
    if not np.isfinite(signs.test).any():
        missing["evaluations"] = (
            Claim.OVERFIT,
            Claim.LABELS_RANDOM,
            Claim.LABELS_NOISY,
            Claim.LEAK,
        )
    if not np.isfinite(signs.epochs):
        missing["examples"] = (Claim.BATCH_LARGE, Claim.STOPPED_EARLY)
    if not len(signs.rates):
        missing["rate"] = (Claim.NO_DECAY, Claim.DECAY_EARLY, Claim.SCHEDULE_UNIT, Claim.RATE_BURST)
    if not np.isfinite(signs.movements).any():
        missing["looks"] = (
            Claim.RATE_LOW,
            Claim.RATE_HIGH,
            Claim.DEAD_RELU,
            Claim.VANISHING,
            Claim.CLIP_SMALL,
        )
    if not signs.has_ended:
        missing["end"] = (Claim.RATE_LOW, Claim.NO_DECAY, Claim.STOPPED_EARLY)
    return missing


def findings_of(
    triage: Triage, settings: Hyperparameters | None = None, *, at_keyboard: bool = False
) -> tuple[Finding, ...]:
    """The claims as findings, in their order.

    Args:
        triage: The claims.
        settings: The settings of the optimizers, from which a change of the rate is written as a
            rate; None if unknown.
        at_keyboard: True for a training of the command line, whose rate is a flag.
    """
    return tuple(_finding(claimed, triage, settings, at_keyboard) for claimed in triage.claims)


def changes_of(claimed: Claimed) -> tuple[str, ...]:
    """The cures that a fork can try."""
    return tuple(each for each in claimed.cure if not isinstance(each, Code | InWords))


def _finding(
    claimed: Claimed, triage: Triage, settings: Hyperparameters | None, at_keyboard: bool
) -> Finding:
    passes = claimed.claim in (Claim.HEALTHY, Claim.UNDECIDED, Claim.MAY_STOP)
    # what may end lower is nothing that is fine, and the change that would show it is advised
    is_in_doubt = claimed.claim is Claim.UNDECIDED and bool(claimed.doubts)
    changes = changes_in_doubt(claimed) if is_in_doubt else changes_of(claimed)
    state = State.ACT if claimed.is_certain else State.LOOK
    if passes:
        state = State.LOOK if is_in_doubt else State.OK
    numbers = {
        name: value for name, value in claimed.numbers.items() if not isinstance(value, Estimate)
    }
    return Finding(
        GAUGE,
        ISSUES.get(claimed.claim, Issue.ESTIMATION),
        claimed.claim.value,
        state,
        numbers={
            name: value for name, value in claimed.numbers.items() if isinstance(value, Estimate)
        },
        facts={
            "numbers": numbers,
            "is_possible": not claimed.is_certain,
            "sign": claimed.sign,
            "lines": tuple(line for line in claimed.cure if line not in changes),
            "rates": () if settings is None else tuple(settings.peaks),
            "at_keyboard": at_keyboard,
            "is_constant": settings is None or settings.is_constant,
            "unseen": {
                name: [claim.value for claim in claims] for name, claims in triage.unseen.items()
            }
            if passes or not claimed.is_certain
            else {},
        },
        cure=changes,
        doubts=tuple(Doubt(doubt) for doubt in claimed.doubts),
        evidence=claimed.evidence,
    )
