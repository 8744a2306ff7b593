"""Outcomes on the small trainings of a part of the clinic."""

import math
from collections.abc import Iterator
from pathlib import Path

from clinic.bench import Bench, Wanted, gain
from clinic.cases import Case, seeds_of, sick_cases, well_cases
from clinic.illnesses import follow
from clinic.judging import watched
from clinic.recipe import Recipe
from recipes.judging import Verdict, change_of

from gradiometer import Finding, Run
from records.outcomes import SMALL, Outcome, Outcomes, harmed, helped, rule_of

STATES = ("healthy", "may_stop")
"""What they miss is not known here: nobody has trained every listed change."""


def collect(part: str, runs: Path, outcomes: Outcomes, processes: int) -> None:
    """Judge each training of a part, and follow each of its claims on the seeds of the part.

    Args:
        part: Its name, such as "twelfth_fresh".
        runs: The folder that keeps the trainings.
        outcomes: Where they are kept.
        processes: Trainings at a time.
    """
    bench = Bench(runs, processes)
    cases = [
        case
        for case in (*sick_cases(part), *well_cases(part))
        if not outcomes.has(_key(part, case))
    ]
    bench.train(watched(case) for case in cases)
    said = {case: Verdict.of(Run.open(bench.run(watched(case)))) for case in cases}
    bench.train(
        Wanted(recipe, seed)
        for case in cases
        for finding in said[case].findings
        if (changed := _followed(case, finding)) is not None
        for recipe in (case.recipe, changed)
        for seed in seeds_of(part)
    )
    for case in cases:
        outcomes.add(_key(part, case), list(_outcomes(bench, part, case, said[case])))


def _key(part: str, case: Case) -> tuple[str, ...]:
    fault = " + ".join(name for name, _ in case.illnesses) or "healthy"
    return part, case.name, fault, "two lines" if case.alone else "loss"


def _followed(case: Case, finding: Finding) -> Recipe | None:
    """The training after the change that a finding names first."""
    if finding.claim in STATES:
        return None
    change = change_of(finding)
    claim = finding.claim
    if claim == "undecided":
        claim = "no_decay" if change == "cool now" else "rate_low"
        if not change:
            return None
    return follow(claim, (change,) if change else (), case.recipe)


def _outcomes(bench: Bench, part: str, case: Case, said: Verdict) -> Iterator[Outcome]:
    _, training, fault, way = _key(part, case)
    for finding in said.findings:
        changed = _followed(case, finding)
        if changed is None:
            continue
        gains = tuple(
            max(gain(bench.fresh_loss(case.recipe, seed), bench.fresh_loss(changed, seed)), -1.0)
            for seed in seeds_of(part)
        )
        assert all(map(math.isfinite, gains))
        yield Outcome(
            SMALL,
            part,
            training,
            fault,
            way,
            "read",
            finding.claim,
            finding.evidence.value,
            not finding.facts["is_possible"],
            finding.claim == said.headline,
            change_of(finding),
            gains,
            helped(gains),
            harmed(gains),
            rule_of(finding.claim, finding.evidence.value),
        )
