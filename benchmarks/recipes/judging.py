"""What the verdict says about the recipes of a set and their faults, and what following it gains."""

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import Finding, Run, diagnose
from gradiometer.errors import BadArgument, Unsupported
from gradiometer.verdict.claims import GAUGE as TRIAGE
from recipes.bank import RECIPES
from recipes.changes import ALL
from recipes.faults import read
from recipes.recipe import Recipe, constant, cosine
from recipes.results import HEALTHY
from recipes.training import train
from recipes.watched import in_two_lines, with_loss

WAYS = ("two lines", "loss")
QUIET = ("healthy", "undecided", "may_stop")
"""Headlines that name no change."""


@dataclass(frozen=True)
class Case:
    """A recipe with one of its faults, or healthy."""

    recipe: str
    fault: str = HEALTHY

    def settings(self) -> Recipe:
        """Its recipe."""
        healthy = RECIPES[self.recipe]
        changed = healthy if self.fault == HEALTHY else ALL[self.fault](healthy)
        if changed is None:
            raise ValueError(f"`{self.fault}` changes nothing in {self.recipe}.")
        return changed


def cases(name: str) -> Iterator[Case]:
    """The cases of a set: each recipe healthy, then with its faults."""
    for recipe, faults in read(name).faults.items():
        yield Case(recipe)
        for fault in faults:
            yield Case(recipe, fault)


@dataclass(frozen=True)
class Verdict:
    """What was said of a training.

    Args:
        headline: The claim that leads, by its public name.
        change: What it says to change first, as text; "" if nothing.
        findings: All findings of triage, the headline first.
    """

    headline: str
    change: str
    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, run: Run) -> "Verdict":
        """The verdict of a run that has ended."""
        diagnosis = diagnose(run)
        if diagnosis.headline is None:
            return cls("undecided", "")
        findings = tuple(each for each in diagnosis.findings if each.gauge == TRIAGE)
        claim = str(diagnosis.headline.claim)
        cures = {each.claim: change_of(each) for each in findings}
        return cls(claim, cures.get(claim, ""), findings)


def change_of(finding: Finding) -> str:
    """What a finding says to change first, as text; "" if nothing."""
    return next(iter((*finding.cure, *finding.facts.get("lines", ()))), "")


def verdict(settings: Recipe, seed: int, way: str) -> Verdict:
    """Train a recipe under a watch, and read the verdict of its run after the end."""
    return verdicts(settings, seed, way)[0]


def verdicts(
    settings: Recipe, seed: int, way: str, *, share: float = 0.0
) -> tuple[Verdict, Verdict | None]:
    """Train a recipe under a watch. The verdict of its run, and the one after the test of what
    leads.

    Args:
        settings: What is trained.
        seed: Its seed.
        way: One of `WAYS`.
        share: The share of the training time that the test may take. There is none at zero, and
            none of a network that carries its state, whose batches stand in no loader.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        two_lines = way == WAYS[0]
        watching = in_two_lines(folder) if two_lines else with_loss(folder, settings.updates)
        train(settings, seed, watching)
        run = next(path for path in folder.iterdir() if path.is_dir())
        read = Verdict.of(Run.open(run))
        if not share or settings.carries_state:
            return read, None
        assert watching.begun is not None
        try:
            watching.begun.test(share=share, batches=loader_of(settings, seed))
        except (Unsupported, BadArgument) as refused:
            print(f"{settings.name} is not tested: {refused}", flush=True)
            return read, None
        return read, Verdict.of(Run.open(run))


def loader_of(settings: Recipe, seed: int) -> DataLoader[Any]:
    """The batches of a recipe as a loader draws them."""
    data = settings.rows()
    rows = data.train
    if not settings.shuffled:
        rows = tuple(part[data.order.argsort(stable=True)] for part in rows)
    return DataLoader(
        TensorDataset(*rows),
        min(settings.batch, len(rows[0])),
        shuffle=settings.shuffled,
        drop_last=True,
        generator=torch.Generator().manual_seed(1_000 + seed),
    )


def planned_decay(settings: Recipe) -> Recipe:
    """A decay that takes the whole run, as a person plans it."""
    schedule = cosine if settings.schedule in (None, constant) else settings.schedule
    return replace(settings, schedule=schedule, schedule_end=1.0, lowest=0.0, every=1)


WITHOUT_NUMBERS: dict[str, Callable[[Recipe], Recipe]] = {
    "no_decay": planned_decay,
    "decay_early": planned_decay,
    "schedule_unit": planned_decay,
    "stopped_early": lambda settings: replace(settings, updates=2 * settings.updates),
    "clip_small": lambda settings: replace(settings, clip=None),
    "weight_decay": lambda settings: replace(settings, weight_decay=settings.weight_decay / 10),
    "unshuffled": lambda settings: replace(settings, shuffled=True),
    "dropout": lambda settings: replace(settings, dropout=min(settings.dropout or 0.0, 0.1)),
}
"""What a person does who believes a claim that names no number."""

NUMBER = re.compile(r"(rate|clip|weight decay) ([0-9.e-]+)(x?)")
BATCH = re.compile(r"batch ([0-9.]+)x(, rate sqrt)?")
ROWS = re.compile(r"batch_size = ([0-9]+); lr = ([0-9.]+) \* lr")
LENGTH = re.compile(r"train for ([0-9,]+) steps")


def followed(settings: Recipe, said: Verdict) -> Recipe | None:
    """The recipe after the change that the verdict names; None if it names none that the loop
    has."""
    if found := LENGTH.fullmatch(said.change):
        return replace(settings, updates=int(found[1].replace(",", "")))
    if found := ROWS.fullmatch(said.change):
        return replace(settings, batch=int(found[1]), rate=float(found[2]) * settings.rate)
    if found := BATCH.fullmatch(said.change):
        factor = float(found[1])
        # A smaller batch makes more updates of the same examples.
        updates = round(settings.updates / min(factor, 1.0))
        rate = settings.rate * (factor**0.5 if found[2] else 1.0)
        rows = max(round(factor * settings.batch), 1)
        return replace(settings, batch=rows, updates=updates, rate=rate)
    if found := NUMBER.fullmatch(said.change):
        field, value = found[1].replace(" ", "_"), float(found[2])
        if found[3]:
            value *= getattr(settings, field) or 0.0
        return replace(settings, **{field: value})
    done = WITHOUT_NUMBERS.get("no_decay" if said.change == "cool now" else said.headline)
    if done is not None:
        changed = done(settings)
        return None if changed == settings else changed
    return None


def judge(name: str, way: str, seed: int = 0) -> None:
    """Print, for each case of a set, the headline, and what following it gains on this seed.

    A gain is a part of the loss above the floor; the gap closed is a part of what the cure of the
    fault gains.
    """
    for case in cases(name):
        settings = case.settings()
        said = verdict(settings, seed, way)
        before = train(settings, seed).held_out
        changed = None if said.headline in QUIET else followed(settings, said)
        told = f"{case.recipe:18} {case.fault:28} {said.headline:16} {said.change:24}"
        if changed is None:
            print(told, flush=True)
            continue
        after = train(changed, seed).held_out
        gain = (before - after) / (before - settings.floor)
        told += f" gains {gain:6.1%}"
        if case.fault != HEALTHY:
            cured = train(RECIPES[case.recipe], seed).held_out
            told += f", closes {(before - after) / (before - cured):5.0%} of the gap"
        print(told, flush=True)
