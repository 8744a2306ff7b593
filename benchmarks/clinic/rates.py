"""The readings of the rate, judged on trainings at a good rate, far below it and above it, of which
no rule was made: `python -m clinic rates`.

Every network and data set of a table, such as `parts/rates.toml`, is trained with plain SGD,
momentum and AdamW, at a constant rate and with a cosine. What the verdict says after 300 steps is
read from the same run as what it says at the end.
"""

import math
import statistics
import tomllib
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from clinic.bench import Bench, Wanted, gain
from clinic.illnesses import follow
from clinic.judging import NOTHING, show_share
from clinic.recipe import Recipe
from gradiometer import Run
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import triage_of

TABLES = ("rates", "rates_fresh", "rates_pairs")
"""The tables of good rates, the newest last. The first has networks and data that no part has; the
second has those of the tenth fresh part, and the third pairs that are new of what parts have."""
AFTER = 300
"""Steps after which the verdict is read for the first time."""
TOO_HIGH = {"rate_high", "momentum_rate", "unstable"}
"""Claims that a smaller rate cures."""
KINDS = ("good", "a 10th", "a 30th", "4 or 10 times")


@dataclass(frozen=True)
class Trained:
    """A training of this benchmark.

    Args:
        kind: One of `KINDS`.
        good: The recipe at a good rate.
    """

    kind: str
    recipe: Recipe
    good: Recipe
    seed: int

    @property
    def wanted(self) -> Wanted:
        """The training under `watch`."""
        return Wanted(self.recipe, self.seed, watched=True)


@cache
def trainings(table: str) -> tuple[Trained, ...]:
    """All trainings of a table: at each good rate two seeds, at a 30th one, and at a 10th and above
    one of the two schedules each."""
    return tuple(_trainings(table))


def _trainings(table: str) -> Iterator[Trained]:
    tables = tomllib.loads(Path(__file__).with_name("parts").joinpath(f"{table}.toml").read_text())
    head, *lines = tables["rates"].strip().splitlines()
    for line in lines:
        network, data, steps, *rates = line.split()
        for optimizer, rate in zip(head.split()[3:], rates, strict=True):
            if rate == "-":
                continue
            for schedule in ("cosine", "constant"):
                # the rates are good for a cosine, which has half of the way of a constant rate
                peak = float(rate) if schedule == "cosine" else float(rate) / 2
                good = Recipe(network, data, optimizer, peak, schedule, steps=int(steps))
                key = zlib.crc32(f"{network} {data} {optimizer}".encode())
                is_first = (schedule == "cosine") == (key % 2 == 0)
                yield Trained("good", good, good, 0)
                yield Trained("good", good, good, 1)
                yield Trained("a 30th", replace(good, rate=peak / 30), good, 0)
                if is_first:
                    yield Trained("a 10th", replace(good, rate=peak / 10), good, 0)
                else:
                    above = peak * (4 if key % 4 < 2 else 10)
                    yield Trained("4 or 10 times", replace(good, rate=above), good, 0)


def until(signs: Signs, step: int) -> Signs:
    """What was recorded of the steps before this one, of a training that goes on."""
    if signs.steps <= step:
        return signs
    looked = signs.looks < step
    evaluated = signs.evaluated < step
    return replace(
        signs,
        losses=signs.losses[:step],
        rates=signs.rates[:step],
        looks=signs.looks[looked],
        single={name: values[: looked.sum()] for name, values in signs.single.items()},
        tensors={
            name: values[: looked.sum()] if len(values) == len(looked) else values
            for name, values in signs.tensors.items()
        },
        distances=signs.distances[signs.distances[:, 0] < step],
        edges=signs.edges[signs.edges[:, 0] < step],
        evaluated=signs.evaluated[evaluated],
        test=signs.test[evaluated],
        train=signs.train[evaluated],
        has_ended=False,
    )


@dataclass(frozen=True)
class Said:
    """The claims about a training, and the cure of each."""

    early: dict[str, tuple[str, ...]]
    early_without_plan: dict[str, tuple[str, ...]]
    at_end: dict[str, tuple[str, ...]]


def said_of(bench: Bench, trained: Trained) -> Said:
    """What the verdict says after 300 steps, with the planned length and without, and at the end."""
    signs = Signs.of(Run.open(bench.run(trained.wanted)))
    early = until(signs, AFTER)
    facts = {name: value for name, value in early.facts.items() if name != "steps"}
    return Said(*(_claims(each) for each in (early, replace(early, facts=facts), signs)))


def _claims(signs: Signs) -> dict[str, tuple[str, ...]]:
    return {str(each.claim): tuple(each.cure) for each in triage_of(signs).claims}


def judge_rates(bench: Bench, table: str, *, verbose: bool) -> list[str]:
    """Print what is said of every kind of training, and check each claim on a good one by its cure.

    Returns:
        The names of the numbers that are not as they must be.
    """
    bench.train(each.wanted for each in trainings(table))
    said = {each: said_of(bench, each) for each in trainings(table)}
    for title in ("early", "early_without_plan", "at_end"):
        print(f"-- {title.replace('_', ' ')}")
        for kind in KINDS:
            found = {each: getattr(what, title) for each, what in said.items() if each.kind == kind}
            low = sum("rate_low" in claims for claims in found.values())
            high = sum(bool(TOO_HIGH & claims.keys()) for claims in found.values())
            show_share(f"{kind}: too low", low, len(found))
            show_share(f"{kind}: too high", high, len(found))
            heads = Counter(next(iter(claims)) for claims in found.values())
            print("  " + ", ".join(f"{claim} {count}" for claim, count in heads.most_common()))
    _show_edges(bench, list(said))
    numbers = {}
    for title in ("early", "at_end"):
        numbers |= _show_truth(bench, said, title, verbose=verbose)
    limits = {"told early": 0.9, "told at_end": 0.9}
    missed = [name for name, least in limits.items() if numbers[name] < least]
    return missed + [name for name in numbers if name.startswith("false") and numbers[name] > 0.02]


def _show_edges(bench: Bench, trained: Sequence[Trained]) -> None:
    """How near the steps came to the edge of stability, at good rates and at others: the least, the
    median and the largest over trainings of the largest share of the edge."""
    shares = defaultdict(list)
    for each in trained:
        edge = Signs.of(Run.open(bench.run(each.wanted))).edge
        if math.isfinite(edge):
            shares[each.recipe.optimizer, each.kind].append(edge)
    print("-- largest share of the edge of small batches")
    for (optimizer, kind), found in sorted(shares.items()):
        print(
            f"{optimizer}, {kind}: {min(found):.2g}, {statistics.median(found):.2g}, "
            f"{max(found):.2g} of {len(found)}"
        )


def _show_truth(
    bench: Bench, said: dict[Trained, Said], title: str, *, verbose: bool
) -> dict[str, float]:
    """How many rates that are 30 times too low are told, and false claims on good ones."""
    low = [each for each in said if each.kind == "a 30th"]
    told = [each for each in low if "rate_low" in getattr(said[each], title)]
    numbers = show_share(f"told {title}", len(told), len(low))
    if verbose:
        for each in low:
            if each not in told:
                print(f"not told: {each.recipe}")
    good = [each for each in said if each.kind == "good"]
    false = []
    for each in good:
        claims = {
            claim: cure
            for claim, cure in getattr(said[each], title).items()
            if claim == "rate_low" or claim in TOO_HIGH
        }
        for claim, cure in claims.items():
            worth = _worth(bench, each, claim, cure)
            print(f"claim on a good rate: {claim}, its cure gains {worth:.1%}: {each.recipe}")
            if worth < NOTHING:
                false.append(each)
    show_share(f"claims of a rate on good ones, {title}", len(set(false)), len(good))
    return numbers | {f"false {title}": len(set(false)) / len(good)}


def _worth(bench: Bench, trained: Trained, claim: str, cure: tuple[str, ...]) -> float:
    """What the cure of a claim gains on two seeds."""
    cured = follow(claim, cure, trained.recipe)
    if cured is None:
        return 0.0
    seeds = (11, 12)
    bench.train(Wanted(recipe, seed) for recipe in (trained.recipe, cured) for seed in seeds)
    return statistics.fmean(
        gain(bench.fresh_loss(trained.recipe, seed), bench.fresh_loss(cured, seed))
        for seed in seeds
    )
