"""Outcomes on the recipes that people publish: the ones that weigh most."""

import math
from collections.abc import Iterator

from recipes.changes import LISTED, MORE_EXAMPLES
from recipes.faults import SEEDS
from recipes.gains import NEEDED, losses_and_gains
from recipes.judging import Case, Verdict, cases, change_of, followed, verdicts
from recipes.recipe import Recipe
from recipes.results import HEALTHY, Results, digest
from recipes.training import train

from gradiometer import Finding
from records.outcomes import RECIPES, Outcome, Outcomes, harmed, helped, rule_of

SHARE = 0.5
"""The share of the training time that the test of a claim may take."""
CLEAR = 0.15
"""A gain above this, on either side, is not trained on a second seed: seeds differ by 2 to 5 %."""


class Losses:
    """The losses at the end of recipes and of what is changed in them, trained once."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.trained: dict[tuple[str, str, int], float] = {}
        for line in results.lines.values():
            ended = math.inf if line["held_out"] is None else float(line["held_out"])
            self.trained[line["recipe"], line["settings"], line["seed"]] = ended

    def of(self, settings: Recipe, seed: int) -> float:
        """The loss at the end, infinite if it diverged."""
        key = settings.name, digest(settings), seed
        if key not in self.trained:
            ended = train(settings, seed).held_out
            self.trained[key] = ended if math.isfinite(ended) else math.inf
        return self.trained[key]

    def gains(self, before: Recipe, after: Recipe) -> tuple[float, ...]:
        """What a change gains, by seed: a part of the loss above the floor. What diverges loses
        all."""
        found: list[float] = []
        for seed in SEEDS:
            old, new = self.of(before, seed), self.of(after, seed)
            if math.isinf(old):
                found.append(0.0 if math.isinf(new) else 1.0)
            else:
                found.append(-1.0 if math.isinf(new) else (old - new) / (old - before.floor))
            if abs(found[0]) > CLEAR:
                break
        return tuple(max(each, -1.0) for each in found)


def collect(name: str, way: str, results: Results, outcomes: Outcomes) -> None:
    """Judge each training of a set, and follow each of its claims."""
    losses = Losses(results)
    for case in cases(name):
        key = name, case.recipe, case.fault, way
        if outcomes.has(key):
            continue
        share = SHARE if way == "loss" else 0.0
        read, tested = verdicts(case.settings(), SEEDS[0], way, share=share)
        found = [*_outcomes(case, name, way, "read", read, losses)]
        if tested is not None:
            found += _outcomes(case, name, way, "tested", tested, losses)
        outcomes.add(key, found)
        told = ", ".join(
            f"{each.stage} {each.claim} ({each.evidence}) {each.is_right}" for each in found
        )
        print(f"{case.recipe} {case.fault}: {told}", flush=True)


def _outcomes(
    case: Case, name: str, way: str, stage: str, said: Verdict, losses: Losses
) -> Iterator[Outcome]:
    for finding in said.findings:
        gains, is_right = _judged(case, finding, losses)
        if is_right is None:
            continue
        yield Outcome(
            RECIPES,
            name,
            case.recipe,
            case.fault,
            way,
            stage,
            finding.claim,
            finding.evidence.value,
            not finding.facts["is_possible"],
            finding.claim == said.headline,
            change_of(finding),
            gains,
            is_right,
            bool(gains) and harmed(gains),
            rule_of(finding.claim, finding.evidence.value),
        )


def _judged(case: Case, finding: Finding, losses: Losses) -> tuple[tuple[float, ...], bool | None]:
    """What following a finding gains, and if it is right; None if that is not known."""
    if finding.claim in ("healthy", "may_stop"):
        return (), not could_end_lower(case, losses.results)
    settings = case.settings()
    changed = followed(settings, Verdict(finding.claim, change_of(finding)))
    if changed is None:
        return (), None
    gains = losses.gains(settings, changed)
    return gains, helped(gains)


def could_end_lower(case: Case, results: Results) -> bool:
    """True if the training has a fault, or a listed change gains 5 % on it that needs no more
    examples."""
    if case.fault != HEALTHY:
        return True
    for change in LISTED.keys() - MORE_EXAMPLES:
        gains = losses_and_gains(results, case.recipe, change)[1]
        if len(gains) == len(SEEDS) and sum(gains) / len(gains) >= NEEDED and min(gains) > 0:
            return True
    return False
