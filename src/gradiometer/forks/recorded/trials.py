"""What forks have shown about the advice of findings: tried or not, and if it held."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from gradiometer.errors import BadArgument
from gradiometer.forks.alternatives.alternative import Alternative
from gradiometer.forks.alternatives.rates import BatchSize, CoolNow, Rate
from gradiometer.forks.alternatives.text import alternative_of
from gradiometer.forks.alternatives.updates import Shorter
from gradiometer.forks.branches import Fork
from gradiometer.forks.comparison.effects import Effect, effects_of
from gradiometer.forks.recorded.record import ForkRecord, forks_of
from gradiometer.forks.recorded.scores import Verdict, kind_of_advice, track_record
from gradiometer.forks.recorded.words import label_of, outcome
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.finding import Finding
from gradiometer.run.reader import Run

TOLERANCE = 0.01
"""How much worse a larger batch or a cut may end, as a share of the readout.

Their findings do not promise a better end for the same examples: a larger batch makes fewer updates and needs somewhat
more examples to the same loss, and before a cut more steps gain little. No measurement gives the 1 %; it is the
convention of this package for "little", and the sentence about the advice names it. A larger batch that ends worse than
that is compared with a shorter training: see `verdict_on`.
"""

UNDECIDED = "This fork does not decide if the advice held."

UNCOMPARED = "Whether it needs more examples than forecast is seen with `--advice`, which adds a shorter training."

LEANING = "Its branches lean to small rates, so it does not decide if the advice held."

ALIKE = 1.15
"""Factors this close to each other are the same advice, since a forecast moves a little with every reading."""


def advised(findings: Iterable[Finding]) -> tuple[Alternative, ...]:
    """The alternatives that findings advise, each once."""
    found = {text: alternative_of(text) for finding in findings for text in finding.alternatives}
    return tuple({one.name: one for one in found.values()}.values())


def with_trials(run: Run, findings: Sequence[Finding]) -> list[Finding]:
    """The findings with what forks of this run have shown about their advice.

    If nothing was tried, they get the command that tries it, and how often such advice has held.
    """
    if not any(finding.alternatives for finding in findings):
        return list(findings)
    records = [record for record in forks_of(run) if record.fork.results]
    return [_with_trial(run, finding, records) if finding.alternatives else finding for finding in findings]


def _with_trial(run: Run, finding: Finding, records: Sequence[ForkRecord]) -> Finding:
    wanted = list(map(alternative_of, finding.alternatives))
    yardstick = next((one for one in wanted if isinstance(one, Shorter)), None)
    tried = [sentence for one in wanted if one != yardstick for sentence in _trial(one, yardstick, records)]
    if tried:
        first, *others = tried
        return replace(finding, tried=" ".join((f"Tried: {first}", *(each[0].upper() + each[1:] for each in others))))
    family = run.hyperparameters.family if run.hyperparameters else "other"
    record = track_record(kind_of_advice(finding.alternatives, family))
    return replace(finding, tried=f"{_not_tried(run, finding)} {record}".rstrip())


def _not_tried(run: Run, finding: Finding) -> str:
    """The command that tries an advice."""
    if not run.has_program_with_model:
        return "Not tried."
    if run.watched:
        call = f"w.fork(batches=loader, alternatives={list(finding.alternatives)}, horizon='500 updates')"
        return f"Not tried: `{call}` in your program."
    return f"Not tried: {run.call('fork', '').removesuffix('`')} --advice`."


def _trial(wanted: Alternative, yardstick: Shorter | None, records: Sequence[ForkRecord]) -> Iterator[str]:
    """What the newest fork with this alternative has shown."""
    for record in reversed(records):
        names = [one.name for one in record.fork.alternatives if alike(one, wanted)]
        try:
            effects = {effect.alternative: effect for effect in record.fork.effects()}
        except BadArgument:  # a fork that has just begun has no branch of the baseline
            continue
        if names and names[0] in effects:
            effect = effects[names[0]]
            verdict = LEANING if record.fork.leans else judged(record.fork, wanted, effect, yardstick)
            yield (
                f"from step {record.plan.step:,}, {effect.alternative} {outcome(effect)} in {label_of(effect.readout)} "
                f"(fork {record.name}). {verdict}"
            )
            return


def verdict_on(fork: Fork, wanted: Alternative, effect: Effect, yardstick: Shorter | None = None) -> Verdict:
    """Whether an advice held.

    Another rate or a smaller batch should end better for the same examples. A larger batch and a cut should end at most
    1 % worse: see `TOLERANCE`. A larger batch that ends worse than that may still need no more examples than was
    forecast. So it is compared with a training on fewer examples, as many times fewer as the forecast allows it to
    need more: it held if it ends better. Without such branches that is open.

    Args:
        fork: The fork.
        wanted: What was advised.
        effect: What it changed.
        yardstick: The shorter training of the advice.
    """
    if effect.verdict == "diverged":
        return "did not hold"
    if not effect.estimate.tells:
        return "open"
    allowed = TOLERANCE * abs(end_of(fork, effect.readout)) if _may_be_worse(wanted) else 0.0
    best, worst = _ends(effect)
    if worst < allowed:
        return "held"
    if isinstance(wanted, BatchSize) and wanted.factor > 1:
        return _against_shorter(fork, effect, yardstick)
    return "did not hold" if best > allowed else "open"


def _against_shorter(fork: Fork, effect: Effect, yardstick: Shorter | None) -> Verdict:
    """Whether a larger batch ends better than a training on fewer examples."""
    shorter = _shorter(fork, yardstick)
    if shorter is None:
        return "open"
    effects = effects_of(fork.results, shorter.name, effect.readout, level=effect.estimate.level)
    found = next(each for each in effects if each.alternative == effect.alternative)
    return {"better": "held", "worse": "did not hold"}.get(found.verdict, "open")  # type: ignore[return-value]


def _shorter(fork: Fork, yardstick: Shorter | None) -> Alternative | None:
    """The shorter training of an advice, if it was tried."""
    return next((one for one in fork.alternatives if yardstick is not None and alike(one, yardstick)), None)


def judged(fork: Fork, wanted: Alternative, effect: Effect, yardstick: Shorter | None = None) -> str:
    """Whether an advice held, as a sentence: see `verdict_on`."""
    verdict = verdict_on(fork, wanted, effect, yardstick)
    allowed = TOLERANCE * abs(end_of(fork, effect.readout))
    by_examples = isinstance(wanted, BatchSize) and wanted.factor > 1 and effect.verdict != "diverged"
    if verdict == "open":
        compared = _shorter(fork, yardstick) is not None
        return UNCOMPARED if by_examples and not compared and _ends(effect)[0] > allowed else UNDECIDED
    if by_examples and not _ends(effect)[1] < allowed:
        than = f"a training on {significant(yardstick.share, 2)} of the examples" if yardstick else ""
        if verdict == "held":
            return f"The advice held: with fewer updates it ends better than {than}, so it needs no more than forecast."
        return f"The advice did not hold: it ends worse than {than}, so it needs more than forecast."
    if verdict == "held":
        gain = "so more steps at this rate gain little" if isinstance(wanted, CoolNow) else "with fewer updates"
        return f"The advice held{f': it ends at most {TOLERANCE:.0%} worse, {gain}' if _ends(effect)[1] > 0 else ''}."
    compared = _may_be_worse(wanted) and effect.verdict != "diverged"
    return f"The advice did not hold{f': it ends more than {TOLERANCE:.0%} worse' if compared else ''}."


def _may_be_worse(wanted: Alternative) -> bool:
    return isinstance(wanted, CoolNow) or (isinstance(wanted, BatchSize) and wanted.factor > 1)


def _ends(effect: Effect) -> tuple[float, float]:
    """The best and the worst end of an effect, so that lower is better."""
    low, high = effect.estimate.low, effect.estimate.high
    return (low, high) if effect.lower_is_better else (-high, -low)


def end_of(fork: Fork, readout: str) -> float:
    """The mean readout of going on as it is."""
    ends = [result.readouts[readout].mean for result in fork.of(fork.baseline) if readout in result.readouts]
    return sum(ends) / len(ends) if ends else 0.0


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
    return one == other


def _near(one: float, other: float) -> bool:
    return abs(math.log(one / other)) < math.log(ALIKE)
