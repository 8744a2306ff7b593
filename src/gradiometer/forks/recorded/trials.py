"""What forks have shown about the advice of findings: tried or not, and if it held."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from gradiometer.errors import BadArgument
from gradiometer.forks.alternatives.alternative import Alternative
from gradiometer.forks.alternatives.rates import BatchSize, CoolNow, Rate
from gradiometer.forks.alternatives.text import alternative_of
from gradiometer.forks.comparison.effects import Effect
from gradiometer.forks.recorded.record import ForkRecord, forks_of
from gradiometer.forks.recorded.words import label_of, outcome
from gradiometer.measurement.finding import Finding
from gradiometer.run.reader import Run

TOLERANCE = 0.01
"""How much worse a larger batch or a cut may end, as a share of the readout.

Their findings do not promise a better end for the same examples: a larger batch makes fewer updates and needs somewhat
more examples to the same loss, and before a cut more steps gain little. No measurement gives the 1 %; it is the
convention of this package for "little", and the sentence about the advice names it.
"""

UNDECIDED = "This fork does not decide if the advice held."

LEANING = "Its branches lean to small rates, so it does not decide if the advice held."

ALIKE = 1.15
"""Factors this close to each other are the same advice, since a forecast moves a little with every reading."""


def advised(findings: Iterable[Finding]) -> tuple[Alternative, ...]:
    """The alternatives that findings advise, each once."""
    found = {text: alternative_of(text) for finding in findings for text in finding.alternatives}
    return tuple({one.name: one for one in found.values()}.values())


def with_trials(run: Run, findings: Sequence[Finding]) -> list[Finding]:
    """The findings with what forks of this run have shown about their advice, or with the command that tries it."""
    if not any(finding.alternatives for finding in findings):
        return list(findings)
    records = [record for record in forks_of(run) if record.fork.results]
    return [_with_trial(run, finding, records) if finding.alternatives else finding for finding in findings]


def _with_trial(run: Run, finding: Finding, records: Sequence[ForkRecord]) -> Finding:
    tried = [sentence for text in finding.alternatives for sentence in _trial(alternative_of(text), records)]
    if tried:
        return replace(finding, tried=f"Tried: {' '.join(tried)}")
    if not run.has_program_with_model:
        return replace(finding, tried="Not tried.")
    if run.watched:
        call = f"w.fork(batches=loader, alternatives={list(finding.alternatives)}, horizon='500 updates')"
        return replace(finding, tried=f"Not tried: `{call}` in your program.")
    return replace(finding, tried=f"Not tried: {run.call('fork', '').removesuffix('`')} --advice`.")


def _trial(wanted: Alternative, records: Sequence[ForkRecord]) -> Iterator[str]:
    """What the newest fork with this alternative has shown."""
    for record in reversed(records):
        names = [one.name for one in record.fork.alternatives if alike(one, wanted)]
        try:
            effects = {effect.alternative: effect for effect in record.fork.effects()}
        except BadArgument:  # a fork that has just begun has no branch of the baseline
            continue
        if names and names[0] in effects:
            effect = effects[names[0]]
            verdict = LEANING if record.fork.leans else judged(wanted, effect, _end(record, effect.readout))
            yield (
                f"from step {record.plan.step:,}, {effect.alternative} {outcome(effect)} in {label_of(effect.readout)} "
                f"(fork {record.name}). {verdict}"
            )
            return


def judged(wanted: Alternative, effect: Effect, end: float) -> str:
    """If the advice held.

    Another rate or a smaller batch should end better for the same examples. A larger batch and a cut should end at most
    1 % worse: see `TOLERANCE`.

    Args:
        wanted: What was advised.
        effect: What it changed.
        end: The readout of going on as it is.
    """
    if effect.verdict == "diverged":
        return "The advice did not hold."
    if not effect.estimate.tells:
        return UNDECIDED
    is_cut = isinstance(wanted, CoolNow)
    may_be_worse = is_cut or (isinstance(wanted, BatchSize) and wanted.factor > 1)
    allowed = TOLERANCE * abs(end) if may_be_worse else 0.0
    best, worst = effect.estimate.low, effect.estimate.high
    if not effect.lower_is_better:
        best, worst = -worst, -best
    if worst < allowed:
        gain = "so more steps at this rate gain little" if is_cut else "with fewer updates"
        return f"The advice held{f': it ends at most {TOLERANCE:.0%} worse, {gain}' if worst > 0 else ''}."
    if best > allowed:
        return f"The advice did not hold{f': it ends more than {TOLERANCE:.0%} worse' if may_be_worse else ''}."
    return UNDECIDED


def _end(record: ForkRecord, readout: str) -> float:
    """The mean readout of going on as it is."""
    results = record.fork.of(record.fork.baseline)
    ends = [result.readouts[readout].mean for result in results if readout in result.readouts]
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
    return one == other


def _near(one: float, other: float) -> bool:
    return abs(math.log(one / other)) < math.log(ALIKE)
