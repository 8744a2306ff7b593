"""What the verdict says about each case of a half, and what following it is worth."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clinic.bench import Bench, Wanted, gain
from clinic.cases import Case, seeds_of, sick_cases, well_cases
from clinic.catalogue import data_of
from clinic.illnesses import PAIR, follow
from clinic.recipe import Recipe
from gradiometer import Run, diagnose
from gradiometer.measurement.uncertainty.proportions import proportion

QUIET = {"healthy", "undecided", "may_stop"}
"""Claims that name no cause."""
CONFUSED = {
    "no decay or stopped early": PAIR,
    "rate or batch": ("rate_low", "rate_high", "batch_small", "batch_large"),
}
"""Claims that readings take for each other."""
NOTHING = 0.02
"""An alarm whose cure gains less than this share of the loss is a false one."""

AT_LEAST = {
    "headline right": 0.85,
    "some claim right": 0.95,
    "both of two illnesses named": 0.8,
    "gap closed": 0.7,
}
AT_MOST = {"another cause first": 0.05, "with a false alarm": 0.02, "end worse": 0.02}
"""What the verdict must reach on the judged half."""


@dataclass(frozen=True)
class Said:
    """What the verdict said about a training.

    Args:
        headline: The first claim.
        cures: The cure of each claim as the verdict writes it, by claim.
        suspects: Those of them whose signs are weak. They count as claims, right and false.
        unseen: Claims that could not have been made, for want of labels, batches or evaluations.
    """

    headline: str
    cures: Mapping[str, tuple[str, ...]]
    suspects: frozenset[str] = frozenset()
    unseen: frozenset[str] = frozenset()

    @property
    def silent(self) -> bool:
        """True if the headline names no cause."""
        return self.headline in QUIET

    @property
    def causes(self) -> list[str]:
        """The claims that name a cause."""
        return [claim for claim in self.cures if claim not in QUIET]

    def followed(self, claim: str, recipe: Recipe) -> Recipe | None:
        """The recipe after the cure of this claim, as written."""
        return follow(claim, self.cures.get(claim, ()), recipe)


def watched(case: Case, trials: float = 0.0) -> Wanted:
    """The training of a case under `watch`."""
    return Wanted(case.recipe, case.seed, watched=True, alone=case.alone, trials=trials)


def said_of(bench: Bench, case: Case, trials: float = 0.0) -> Said:
    """The verdict of the run of a case, from its folder."""
    diagnosis = diagnose(Run.open(bench.run(watched(case, trials))))
    triage = diagnosis.triage
    claims = () if triage is None else triage.claims
    headline = "undecided" if diagnosis.headline is None else str(diagnosis.headline.claim)
    return Said(
        headline,
        {str(each.claim): tuple(each.cure) for each in claims},
        frozenset(str(each.claim) for each in claims if not each.is_certain),
        frozenset(str(each) for missing in triage.unseen.values() for each in missing)
        if triage is not None
        else frozenset(),
    )


def judge(
    bench: Bench, half: str, *, follow: bool, verbose: bool, trials: float = 0.0
) -> list[str]:
    """Print the table of a half: sick cases by illness, alarms on healthy ones, and what following
    is worth. With trials first the table without them, and then what they change and cost.

    Returns:
        The names of the numbers that are not as they must be.
    """
    sick, well = sick_cases(half), well_cases(half)
    cases = (*sick, *well)
    # in turns, so that a machine that becomes busy is so for both
    shares = dict.fromkeys((0.0, trials))
    bench.train(watched(case, share) for case in cases for share in shares)
    numbers = {}
    for share in shares:
        if trials:
            print(f"\nwith trials={share:g}" if share else "without trials")
        said = {case: said_of(bench, case, share) for case in cases}
        if verbose:
            show_cases(said)
        numbers = show_sick([(case, said[case]) for case in sick])
        numbers |= show_alarms(bench, [(case, said[case]) for case in well])
        if follow:
            numbers |= show_followed(bench, [(case, said[case]) for case in cases])
    if trials:
        show_trials(bench, cases, trials)
    return [
        name
        for name, value in numbers.items()
        if value < AT_LEAST.get(name, -math.inf) or value > AT_MOST.get(name, math.inf)
    ]


def show_trials(bench: Bench, cases: Sequence[Case], trials: float) -> None:
    """What trials changed in the verdicts, and what they cost."""
    made, ratios, spent, equal = 0, [], [], 0
    in_all = [0.0, 0.0]
    for case in cases:
        without, tried = (bench.outcome(watched(case)), bench.outcome(watched(case, trials)))
        before, after = said_of(bench, case), said_of(bench, case, trials)
        forks = [*(bench.run(watched(case, trials)) / "forks").glob("*/fork.json")]
        made += bool(forks)
        if (before.headline, [*before.cures]) != (after.headline, [*after.cures]):
            print(
                f"{case.name} (seed {case.seed}): said {', '.join(before.cures)}; after "
                f"{len(forks)} trials {', '.join(after.cures)}"
            )
        # in two lines the watch without trials has no loss and no batches
        if without.seconds > 0 and not case.alone:
            ratios.append(tried.seconds / without.seconds)
            in_all = [in_all[0] + without.seconds, in_all[1] + tried.seconds]
        spent.append(tried.spent)
        equal += without.bits == tried.bits and without.losses == tried.losses
    print(
        f"a trial was made in {made} of {len(cases)}; they took at most {max(spent):.3f} of the "
        f"training time by their own account; bits equal in {equal} of {len(cases)}"
    )
    if ratios:
        print(
            f"processor time {statistics.median(ratios):.3f} of that without in the median, from "
            f"{min(ratios):.3f} to {max(ratios):.3f}, {in_all[1] / in_all[0]:.3f} in all"
        )


def show_share(name: str, count: int, cases: int) -> dict[str, float]:
    """Print a count with Wilson's interval of the share, and return the share by its name."""
    if not cases:
        return {}
    estimate = proportion(count, cases)
    print(
        f"{name}: {count} of {cases} = {count / cases:.0%} [{estimate.low:.0%}, "
        f"{estimate.high:.0%}]"
    )
    return {name: count / cases}


def show_cases(said: dict[Case, Said]) -> None:
    """Every case whose headline is not right."""
    for case, verdict in said.items():
        right = verdict.headline in case.claims if case.claims else not verdict.causes
        if not right:
            print(
                f"{case.name} (seed {case.seed}): said "
                f"{', '.join(verdict.cures) or verdict.headline}"
            )


def show_sick(pairs: list[tuple[Case, Said]]) -> dict[str, float]:
    """The table by illness. A case of two illnesses stands in a row of its own."""
    rows: dict[str, list[tuple[Case, Said]]] = defaultdict(list)
    for case, said in pairs:
        rows["two illnesses" if len(case.claims) > 1 else case.claims[0]].append((case, said))
    print(f"{'illness':<16} {'cases':>6} {'headline':>9} {'some':>6} {'other':>6} {'silent':>7}")
    for name, row in [*sorted(rows.items()), ("all", pairs)]:
        counts = counts_of(row)
        print(
            f"{name:<16} {len(row):>6} {counts[0]:>9} {counts[1]:>6} {counts[2]:>6} {counts[3]:>7}"
        )
    numbers = {}
    names = ("headline right", "some claim right", "another cause first", "silent")
    for name, count in zip(names, counts_of(pairs), strict=True):
        numbers |= show_share(name, count, len(pairs))
    certain = [(case, without_suspects(said)) for case, said in pairs]
    for name, count in zip(names, counts_of(certain), strict=True):
        show_share(f"{name}, without suspects", count, len(pairs))
    beside = [said for case, said in pairs if set(said.causes) - set(case.claims)]
    show_share("with a claim that is no cause", len(beside), len(pairs))
    for name, claims in CONFUSED.items():
        row = [(case, said) for case, said in pairs if set(case.claims) & set(claims)]
        show_share(f"headline right, {name}", counts_of(row)[0], len(row))
    double = [(case, said) for case, said in pairs if len(case.claims) > 1]
    both = sum(set(case.claims) <= set(said.cures) for case, said in double)
    seen = [(case, said) for case, said in double if not set(case.claims) & said.unseen]
    show_share(
        "both of two illnesses named that can both be seen",
        sum(set(case.claims) <= set(said.cures) for case, said in seen),
        len(seen),
    )
    return numbers | show_share("both of two illnesses named", both, len(double))


def without_suspects(said: Said) -> Said:
    """What was said from signs that are not weak."""
    cures = {claim: cure for claim, cure in said.cures.items() if claim not in said.suspects}
    return Said("undecided" if said.headline in said.suspects else said.headline, cures)


def counts_of(pairs: list[tuple[Case, Said]]) -> list[int]:
    """How many cases have each of the four marks."""
    marks = [marks_of(case, said) for case, said in pairs]
    return [sum(mark[place] for mark in marks) for place in range(4)]


def marks_of(case: Case, said: Said) -> tuple[bool, bool, bool, bool]:
    """Headline right, some claim right, another cause first, silent."""
    right = said.headline in case.claims
    return right, bool(set(case.claims) & set(said.cures)), not (right or said.silent), said.silent


def show_alarms(bench: Bench, pairs: list[tuple[Case, Said]]) -> dict[str, float]:
    """Claims on healthy and cured trainings, and which of them are false: their own cure gains
    nothing."""
    cured = {}
    for case, said in pairs:
        for claim in said.causes:
            cured[case, claim] = said.followed(claim, case.recipe)
    train_both(bench, [(case, recipe) for (case, _), recipe in cured.items() if recipe is not None])
    false = set()
    for (case, claim), recipe in cured.items():
        worth = 0.0 if recipe is None else statistics.fmean(gains(bench, case, recipe))
        if worth < NOTHING:
            false.add(case)
        kind = "suspect" if claim in dict(pairs)[case].suspects else "alarm"
        print(f"{kind} on {case.name}: {claim}, its cure gains {worth:.1%}")
    alarmed = {case for case, _ in cured}
    numbers = show_share("healthy and cured trainings with an alarm", len(alarmed), len(pairs))
    return numbers | show_share("with a false alarm", len(false), len(pairs))


def train_both(bench: Bench, pairs: list[tuple[Case, Recipe]]) -> None:
    """Train cases before and after a change, on their two seeds."""
    wanted = []
    for case, recipe in pairs:
        for seed in seeds_of(case.half):
            wanted += [Wanted(case.recipe, seed), Wanted(recipe, seed), Wanted(case.healthy, seed)]
    bench.train(wanted)


def gains(bench: Bench, case: Case, recipe: Recipe) -> list[float]:
    """What a change of a case gains on each of its seeds."""
    return [
        gain(bench.fresh_loss(case.recipe, seed), bench.fresh_loss(recipe, seed))
        for seed in seeds_of(case.half)
    ]


def show_followed(bench: Bench, pairs: list[tuple[Case, Said]]) -> dict[str, float]:
    """Follow the headline's cure: how much of the gap is closed, and how often does the run end
    worse?"""
    changes = {}
    for case, said in pairs:
        recipe = said.followed(said.headline, case.recipe)
        if recipe is not None:
            changes[case] = recipe
    curable = [case for case, _ in pairs if case.claims and not case.only_by_a_person]
    train_both(bench, [*changes.items(), *((case, case.recipe) for case in curable)])
    closed = [gap_closed(bench, case, changes.get(case)) for case in curable]
    worse = [case for case, recipe in changes.items() if ends_worse(bench, case, recipe)]
    for case in worse:
        print(f"ends worse when followed: {case.name}")
    median = statistics.median(closed)
    print(f"gap closed by following the headline: median {median:.0%} of {len(closed)} cases")
    return {"gap closed": median} | show_share("end worse", len(worse), len(pairs))


def gap_closed(bench: Bench, case: Case, followed: Recipe | None) -> float:
    """Share of the gap between sick and cured that the followed run closes, with the losses of two
    seeds together."""
    if followed is None:
        return 0.0
    # What a training that ended in NaN is counted as.
    guess = data_of(case.recipe.data).guess()

    def loss(recipe: Recipe) -> float:
        return statistics.fmean(
            min(bench.fresh_loss(recipe, seed), max(guess, 1e-9)) for seed in seeds_of(case.half)
        )

    sick, cured = loss(case.recipe), loss(case.healthy)
    return (sick - loss(followed)) / (sick - cured) if sick > cured else 0.0


def ends_worse(bench: Bench, case: Case, recipe: Recipe) -> bool:
    """True if the followed run is worse on both seeds, by more than the untouched run differs
    between its seeds."""
    seeds = seeds_of(case.half)
    before = [bench.fresh_loss(case.recipe, seed) for seed in seeds]
    after = [bench.fresh_loss(recipe, seed) for seed in seeds]
    if not all(map(math.isfinite, before)):
        return False
    noise = max(before) - min(before) if len(seeds) > 1 else NOTHING * before[0]
    both = all(second > first for first, second in zip(before, after, strict=True))
    return both and statistics.fmean(after) - statistics.fmean(before) > noise
