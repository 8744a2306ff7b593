"""What forks have shown: whether the advice of findings held here and elsewhere, and what they
decided on the way of a training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradiometer.errors import BadArgument
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import (
    Alternative,
    BatchSize,
    CoolNow,
    Rate,
    Shorter,
    Skip,
)
from gradiometer.loop.changes.text import alternative_of
from gradiometer.loop.comparison.effects import Effect, effects_of
from gradiometer.loop.horizon import END
from gradiometer.loop.readout import Readout
from gradiometer.loop.recorded.advice_scores import TOLERANCE
from gradiometer.loop.recorded.record import ForkRecord, forks_of
from gradiometer.measurement.finding import Finding, Trial
from gradiometer.run.reader import Run

FAMILIES = {"sgd": "SGD", "adaptive": "Adam"}


def kind_of_advice(alternatives: Sequence[str], family: str) -> str:
    """The kind of an advice, as its scores are counted; empty if it has none.

    Args:
        alternatives: What a finding advises, as texts.
        family: The family of the optimizer: "sgd", "adaptive" or "other".

    >>> kind_of_advice(["batch 2x, rate 1.29x"], "sgd")
    'a larger batch under SGD'
    """
    match [alternative_of(text) for text in alternatives[:1]]:
        case [BatchSize() as batch] if family in FAMILIES:
            return f"a {'larger' if batch.factor > 1 else 'smaller'} batch under {FAMILIES[family]}"
        case [CoolNow()]:
            return "a cut of the rate"
        case [Rate() as rate]:
            return f"a {'larger' if rate.factor > 1 else 'smaller'} rate"
    return ""


# Factors this close to each other are the same advice, since a forecast moves a little with every
# reading.
ALIKE = 1.15


def alternatives_of(findings: Iterable[Finding]) -> tuple[Alternative, ...]:
    """The alternatives that findings advise, each once."""
    found = {text: alternative_of(text) for finding in findings for text in finding.cure}
    return tuple({one.name: one for one in found.values()}.values())


def with_trials(run: Run, findings: Sequence[Finding]) -> list[Finding]:
    """The findings with what forks of this run have shown about their cures.

    If nothing was tried, they get how to try it, and the kind of advice, by which its record is
    kept.
    """
    if not any(finding.cure for finding in findings):
        return list(findings)
    records = [record for record in forks_of(run) if record.fork.results]
    return [
        replace(finding, trial=_trial(run, finding.cure, records)) if finding.cure else finding
        for finding in findings
    ]


def _trial(run: Run, cure: Sequence[str], records: Sequence[ForkRecord]) -> Trial:
    """What came of a cure, or how to try it."""
    wanted = list(map(alternative_of, cure))
    yardstick = next((one for one in wanted if isinstance(one, Shorter)), None)
    results = [_result(one, yardstick, records) for one in wanted if one != yardstick]
    known = tuple(result for result in results if result is not None)
    if known:
        return Trial(known)
    family = run.hyperparameters.family if run.hyperparameters else "other"
    facts: dict[str, Any] = {"advice": kind_of_advice(cure, family)}
    if run.has_program_with_model and run.watched:
        facts["alternatives"] = list(cure)
        # what short branches can judge: see `beats_its_lean`
        facts["by_test"] = beats_its_lean(wanted[0])
        facts["missing"] = run.missing_for_tests
        facts["horizon"] = END
        if run.status == "finished":
            facts["at"] = run.steps // 2
        elif run.planned is None:
            facts["horizon"] = f"{max(run.steps // 4, 1)} updates"
    elif run.has_program_with_model:
        facts["call"] = f"{run.call('fork', '').removesuffix('`')} --advice`"
    return Trial(facts=facts)


def beats_its_lean(change: Alternative) -> bool:
    """True for a change that a short fork finds better only if it is."""
    return isinstance(change, CoolNow) or (isinstance(change, Rate) and change.factor > 1)


def _result(
    wanted: Alternative, yardstick: Shorter | None, records: Sequence[ForkRecord]
) -> Mapping[str, Any] | None:
    """What the newest fork with this alternative has shown; None without one."""
    for record in reversed(records):
        names = [one.name for one in record.fork.alternatives if alike(one, wanted)]
        try:
            # one branch from the first weights is compared with the training by its parts
            fork = by_late_loss(record.fork) if record.fork.replicates == 1 else record.fork
            effects = {effect.alternative: effect for effect in fork.effects()}
        except BadArgument:  # a fork that has just begun has no branch of the baseline
            continue
        if names and names[0] in effects:
            effect = effects[names[0]]
            told: Mapping[str, Any]
            if fork.leans and not is_beyond_lean(effect, fork):
                told = {"verdict": "leaning", "to": "large" if fork.leans_to_large else "small"}
            else:
                told = judged(fork, wanted, effect, yardstick)
            level = end_of(fork, effect.readout)
            return {
                "step": record.plan.step,
                "fork": record.name,
                "ends_after": fork.ends_after,
                "effect": effect,
                "level": level,
                **told,
            }
    return None


def is_beyond_lean(effect: Effect, fork: Fork) -> bool:
    """True for a higher rate that is better although the branches prefer small rates; or a lower
    one where they prefer large rates."""
    change = next((one for one in fork.alternatives if one.name == effect.alternative), None)
    if effect.verdict != "better" or not isinstance(change, Rate):
        return False
    return change.factor < 1 if fork.leans_to_large else change.factor > 1


def judged(
    fork: Fork, wanted: Alternative, effect: Effect, yardstick: Shorter | None = None
) -> Mapping[str, Any]:
    """Whether an advice held, and what its sentence needs besides.

    Another rate or a smaller batch should end better for the same examples. A larger batch and a
    cut should end at most 1 % worse: see `TOLERANCE`. A larger batch that ends worse than that may
    still need no more examples than was forecast. So it is compared with a training on fewer
    examples, as many times fewer as the forecast allows it to
    need more: it held if it ends better. Without such branches that is open.

    Args:
        fork: The fork.
        wanted: What was advised.
        effect: What it changed.
        yardstick: The shorter training of the advice.

    Returns:
        `verdict`: "held", "did not hold" or "open"; `share`: the share of the examples of the
        shorter training that decided; `uncompared`: True if such a training would decide; `is_cut`;
        `may_be_worse`; `not_better`: True if it may end worse than going on.
    """
    is_cut = isinstance(wanted, CoolNow)
    is_larger_batch = isinstance(wanted, BatchSize) and wanted.factor > 1
    has_diverged = effect.verdict == "diverged"
    tolerated = TOLERANCE * abs(end_of(fork, effect.readout))
    allowed = tolerated if is_cut or is_larger_batch else 0.0
    # The best and the worst end, so that lower is better.
    best, worst = effect.estimate.low, effect.estimate.high
    if not effect.lower_is_better:
        best, worst = -worst, -best
    # The shorter training, if it was tried.
    tried = (one for one in fork.alternatives if yardstick is not None and alike(one, yardstick))
    shorter = next(tried, None)
    verdict = "open"
    if has_diverged:
        verdict = "did not hold"
    elif effect.estimate.tells and worst < allowed:
        verdict = "held"
    elif effect.estimate.tells and is_larger_batch and shorter is not None:
        level = effect.estimate.level
        against = {
            each.alternative: each.verdict
            for each in effects_of(fork.results, shorter.name, effect.readout, level=level)
        }
        known = {"better": "held", "worse": "did not hold"}
        verdict = known.get(against[effect.alternative], "open")
    elif effect.estimate.tells and not is_larger_batch and best > allowed:
        verdict = "did not hold"
    by_examples = is_larger_batch and not has_diverged
    decides = yardstick is not None and by_examples and not worst < tolerated
    return {
        "verdict": verdict,
        "uncompared": by_examples and shorter is None and best > tolerated,
        "share": yardstick.share if yardstick is not None and decides else None,
        "is_cut": is_cut,
        "may_be_worse": (is_cut or is_larger_batch) and not has_diverged,
        "not_better": worst > 0,
    }


def end_of(fork: Fork, readout: str) -> float:
    """The mean readout of going on as it is."""
    ends = [
        result.readouts[readout].mean
        for result in fork.of(fork.names[0])
        if readout in result.readouts
    ]
    return sum(ends) / len(ends) if ends else 0.0


# The parts of the second half of a branch in one order of the data, whose means are compared.
PARTS = 6


def by_late_loss(fork: Fork) -> Fork:
    """A fork whose rates stay constant with the mean loss over the second half of each branch as
    its readout: at a constant rate the end of a branch varies with the order of the data, and the
    branches of a pair see the same batches.

    Half of the interval of five cuts was 9.3 % of the loss in the median at the ends in three
    orders of the data, which showed four of them to be better, and 3.5 % by these means in six, as
    long in all, which showed five.

    In one order of the data the means of six parts of the second half are taken for six orders:
    their interval has the noise of batches, and not that of the order.

    Returns:
        The fork itself if it has another readout than the training loss, or a branch without a
        curve.
    """
    if fork.tail != "none" or fork.readouts != ("train_loss",):
        return fork
    if not all(result.curve and result.diverged is None for result in fork.results):
        return fork
    if fork.replicates == 1:
        halves = [
            (one, [loss for _, loss in one.curve[len(one.curve) // 2 :]]) for one in fork.results
        ]
        if min(len(half) for _, half in halves) < PARTS:
            return fork
        parts = tuple(
            replace(one, replicate=place, readouts={"train_loss": Readout(float(part.mean()))})
            for one, half in halves
            for place, part in enumerate(np.array_split(half, PARTS))
        )
        return replace(fork, results=parts, replicates=PARTS)
    results = tuple(
        replace(result, readouts={"train_loss": Readout(_late_loss(result))})
        for result in fork.results
    )
    return replace(fork, results=results)


def _late_loss(result: BranchResult) -> float:
    """The mean loss over the second half of a branch, of the points of its curve that end
    there."""
    ends = np.array([0, *(examples for examples, _ in result.curve)])
    losses = np.array([loss for _, loss in result.curve])
    weights = np.diff(ends) * (ends[1:] > ends[-1] / 2)
    return float(np.average(losses, weights=weights))


def alike(one: Alternative, other: Alternative) -> bool:
    """True if two alternatives are the same up to small differences of their factors."""
    match one, other:
        case (Rate(), Rate()):
            return _near(one.factor, other.factor)
        case (BatchSize(), BatchSize()):
            return _near(one.factor, other.factor) and _near(one.rate_factor, other.rate_factor)
        case (CoolNow(), CoolNow()):
            return _near(one.factor, other.factor)
        case (Shorter(), Shorter()):
            return _near(one.share, other.share)
        case (Skip(), Skip()):
            # the batches of a spike, and those until it was over
            ends = (one.start <= other.start, other.stop <= one.stop)
            return all(ends) or (other.start <= one.start and one.stop <= other.stop)
    return one == other


def _near(one: float, other: float) -> bool:
    return abs(math.log(one / other)) < math.log(ALIKE)
