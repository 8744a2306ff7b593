"""Does `watch(..., trials=0.1)` find the cause that readings alone cannot tell, at its price?

    python benchmarks/trials_on_the_way.py                  # about 25 minutes of a busy core
    python benchmarks/trials_on_the_way.py --keep FOLDER    # goes on where it was stopped
    python benchmarks/trials_on_the_way.py --shares         # what shares of 0.1, 0.3 and 1 tell

Each row is a training of 1,500 to 6,000 updates that is healthy, or has one mild illness whose signs are
those of another one, too: a rate that does not fall or a training that stops early, a rate that is
three to four times too low or too high, a small batch. It is trained in health, ill, and ill again with
trials; and with the cure of each headline, as written. A row whose illness costs less than 2 % of the loss
on fresh rows is left out, before its verdict is read. Reported are the headline with and without trials,
what its cure gains, the processor time of both, and if the parameters at their ends are equal, bit for
bit. Of a constant rate that does not fall, or a training that stops early, both cures are trained: the
headline is right about the pair if it names what gains more.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from clinic.bench import gain
from clinic.cases import Case, healthy_recipes, sick_case
from clinic.catalogue import data_of
from clinic.illnesses import follow
from clinic.judging import QUIET
from clinic.recipe import (
    EVALUATIONS,
    SHOWN,
    Evaluations,
    Recipe,
    build,
    loss_on,
    optimizer_of,
    scheduler_of,
)
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import diagnose
from gradiometer.integrations.watch import watch
from gradiometer.loop import Loop, fork
from gradiometer.measurement.uncertainty.proportions import proportion

TRIALS = 0.1

EARNS = 0.02
"""Share of the loss that an illness must cost on fresh rows, as in the mild parts of the clinic."""

HEALTHY = """
network    data         steps batch adamw/cosine sgd/cosine momentum/cosine adam/constant
elu        film         6000  32    0.010        -          -               -
layer_norm rings        6000  32    0.010        -          -               0.004
narrow     teacher      6000  32    -            0.50       -               -
selu       engines      6000  32    0.008        -          -               -
highway    dice         6000  32    -            -          0.05            -
smooth     waves        6000  32    0.008        0.40       -               -
pyramid    demand       6000  32    0.008        -          -               -
norm_skips film         6000  32    0.004        -          -               -
smooth     interactions 6000  32    -            0.40       -               -
leaky      pendulum     6000  32    -            -          -               0.002
products   engines      6000  32    -            -          -               0.003
of_sets    points       6000  32    0.010        -          -               -
"""

SICK = """
elu film adamw cosine : rate_low 4
layer_norm rings adamw cosine : rate_low 4
narrow teacher sgd cosine : rate_low 4
selu engines adamw cosine : rate_low 3
highway dice momentum cosine : rate_low 4
pyramid demand adamw cosine : rate_low 4
smooth waves adamw cosine : rate_high 4
highway dice momentum cosine : rate_high 3
norm_skips film adamw cosine : no_decay 1
smooth interactions sgd cosine : no_decay 1
leaky pendulum adam constant : stopped_early 2
products engines adam constant : stopped_early 2
layer_norm rings adam constant : stopped_early 4
smooth waves sgd cosine : batch_small 8
"""

WELL = """
elu film adamw cosine
selu engines adamw cosine
smooth interactions sgd cosine
of_sets points adamw cosine
"""

PAIR = ("no_decay", "stopped_early")
"""Claims that readings take for each other at a constant rate."""


def cases() -> list[Case]:
    """The ill trainings, and the healthy ones."""
    healthy = healthy_recipes(HEALTHY)
    sick = [sick_case(row, "trials", healthy) for row in SICK.strip().splitlines()]
    well = [
        Case(row, "trials", healthy[row], healthy[row], (), seed)
        for seed, row in enumerate(WELL.strip().splitlines(), 1)
    ]
    return [*sick, *well]


def parts_of(recipe: Recipe, data: Any, seed: int) -> tuple[Any, Any, Any, DataLoader]:
    """Model, optimizer, scheduler and loader of a training."""
    model = build(recipe, data)
    optimizer = optimizer_of(recipe, model)
    shuffles = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(*data.train), recipe.batch, shuffle=True, drop_last=True, generator=shuffles
    )
    return model, optimizer, scheduler_of(recipe, optimizer), loader


def trained(recipe: Recipe, seed: int, out: Path | None, trials: float) -> dict[str, Any]:
    """What came of a training: its loss on fresh rows, its bits and processor time; and, under
    `watch`, its claims."""
    torch.manual_seed(seed)
    data = data_of(recipe.data)
    model, optimizer, scheduler, loader = parts_of(recipe, data, seed)
    shown = tuple(part[:SHOWN] for part in data.evaluation)
    few = tuple(part[:SHOWN] for part in data.train)
    evaluations = Evaluations(recipe, model, data, shown, few)
    began = time.process_time()
    follows: Any = nullcontext()
    if out is not None:
        follows = watch(
            model,
            optimizer,
            loss=lambda model, batch: data.loss(model(batch[0]), batch[1]),
            sampling=loader,
            steps=recipe.steps,
            out=out,
            trials=trials,
            page=False,
            quiet=True,
        )
    step = 0
    with follows as w:
        while step < recipe.steps:
            for batch in loader:
                optimizer.zero_grad()
                loss = data.loss(model(batch[0]), batch[1])
                loss.backward()
                if w is not None:
                    w.step(loss, batch)
                optimizer.step()
                scheduler.step()
                step += 1
                if step % (recipe.steps // EVALUATIONS) == 0:
                    evaluations.evaluate(step, w)
                if step >= recipe.steps:
                    break
    seconds = time.process_time() - began
    found: dict[str, Any] = {
        "fresh": loss_on(model, data, data.fresh),
        "bits": [parameter.double().sum().item().hex() for parameter in model.parameters()],
        "seconds": seconds,
    }
    if w is not None:
        diagnosis = diagnose(w.run)
        claims = () if diagnosis.triage is None else diagnosis.triage.claims
        headline = diagnosis.headline
        found["headline"] = "undecided" if headline is None else str(headline.claim)
        found["claims"] = [str(each.claim) for each in claims]
        found["cure"] = [*claims[0].cure] if claims else []
        found["trials"] = len([*(w.run.path / "forks").glob("*/fork.json")])
        found["spent"] = w.budget.spent_on["trials"] / w.budget.training if trials else 0.0
    return found


def judged(case: Case, keep: Path) -> dict[str, Any]:
    """The trainings of a row, which are kept in a folder, and not made again."""
    file = keep / f"{case.recipe.digest(case.seed)}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def train(name: str, recipe: Recipe, *, is_watched: bool = False, trials: float = 0.0) -> None:
        if name not in found:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) if is_watched else None
                found[name] = trained(recipe, case.seed % 1_000, out, trials)
            file.write_text(json.dumps(found))

    train("without", case.recipe, is_watched=True)
    if case.claims:
        train("healthy", case.healthy)
        if gain(found["without"]["fresh"], found["healthy"]["fresh"]) < EARNS:
            return found
    train("with", case.recipe, is_watched=True, trials=TRIALS)
    if set(case.claims) & set(PAIR):
        for claim in PAIR:
            cured = follow(claim, (), case.recipe)
            if cured is not None:
                train(f"cured {claim}", cured)
    for name in ("without", "with"):
        headline, cure = found[name]["headline"], found[name]["cure"]
        followed = follow(headline, cure, case.recipe)
        if followed is not None and f"cured {headline}" not in found:
            train(f"followed {headline} {cure[:1]}", followed)
    return found


def mark_of(case: Case, found: dict[str, Any]) -> str:
    """The headline of a verdict: right, silent, or another cause."""
    headline = found["headline"]
    if headline in QUIET:
        return "silent" if case.claims else "right"
    return "right" if headline in case.claims else "other"


def gained(found: dict[str, Any], name: str) -> float:
    """The share of the loss on fresh rows that following the headline gains; 0 if it has no cure."""
    headline, cure = found[name]["headline"], found[name]["cure"]
    followed = found.get(f"cured {headline}") or found.get(f"followed {headline} {cure[:1]}")
    return 0.0 if followed is None else gain(found["without"]["fresh"], followed["fresh"])


def better_of_pair(found: dict[str, Any]) -> str:
    """Which of the two cures of a constant rate gains more."""
    known = [claim for claim in PAIR if f"cured {claim}" in found]
    return min(known, key=lambda claim: float(found[f"cured {claim}"]["fresh"]))


def judge(keep: Path, only: str) -> None:
    """Print a line for each row, and what all of them come to."""
    keep.mkdir(parents=True, exist_ok=True)
    kept: list[tuple[Case, dict[str, Any]]] = []
    for case in cases():
        if only not in case.name:
            continue
        found = judged(case, keep)
        costs = 0.0
        if case.claims:
            costs = gain(found["without"]["fresh"], found["healthy"]["fresh"])
        if "with" not in found:
            print(f"{case.name}: costs {costs:.1%}, left out", flush=True)
            continue
        kept.append((case, found))
        said = [
            f"{name}: {', '.join(found[name]['claims']) or found[name]['headline']}, whose cure gains "
            f"{gained(found, name):.0%}"
            for name in ("without", "with")
        ]
        pair = ""
        if set(case.claims) & set(PAIR):
            pair = f"of the pair {better_of_pair(found)} gains more; "
        print(
            f"{case.name}: costs {costs:.0%}, {found['without']['seconds']:.1f} s; {pair}"
            f"{'; '.join(said)} ({found['with']['trials']} trials, {found['with']['spent']:.3f} of "
            f"the time, processor time {found['with']['seconds'] / found['without']['seconds']:.3f}, "
            f"bits {'equal' if found['with']['bits'] == found['without']['bits'] else 'DIFFER'})",
            flush=True,
        )
    if kept:
        show_all(kept)


def show_all(kept: list[tuple[Case, dict[str, Any]]]) -> None:
    """What all rows come to."""
    sick = [(case, found) for case, found in kept if case.claims]
    well = [(case, found) for case, found in kept if not case.claims]
    for name in ("without", "with"):
        all_marks = [mark_of(case, found[name]) for case, found in sick]
        shown = ", ".join(
            f"{mark} {all_marks.count(mark)}" for mark in ("right", "silent", "other")
        )
        share = proportion(all_marks.count("right"), len(sick))
        gains = [gained(found, name) for _, found in sick]
        alarms = sum(mark_of(case, found[name]) != "right" for case, found in well)
        pairs = [
            found[name]["headline"] == better_of_pair(found)
            for case, found in sick
            if set(case.claims) & set(PAIR)
        ]
        print(
            f"{name} trials, of {len(sick)}: {shown}; cause in the headline {share}; its cure gains "
            f"{EARNS:.0%} or more in {sum(each >= EARNS for each in gains)}, and loses as much in "
            f"{sum(each <= -EARNS for each in gains)}; alarms in {alarms} of {len(well)} healthy ones; "
            f"of a constant rate what gains more in {sum(pairs)} of {len(pairs)}"
        )
    ratios = [found["with"]["seconds"] / found["without"]["seconds"] for _, found in kept]
    spent = [found["with"]["spent"] for _, found in kept]
    equal = sum(found["with"]["bits"] == found["without"]["bits"] for _, found in kept)
    print(
        f"cost: at most {max(spent):.3f} of the training time by its own account; processor time "
        f"{statistics.median(ratios):.3f} of that without, from {min(ratios):.3f} to "
        f"{max(ratios):.3f}; bits equal in {equal} of {len(kept)}"
    )


SHARES = (0.1, 0.3, 1.0)
"""Shares of the training time that pay for six branches of a trial."""


def show_shares(only: str) -> None:
    """For each rate that is too low or too high, what the cure changes in the branches that a share pays
    for, as a share of the loss at their end, with its interval; and what it gains at the end of the
    training."""
    told = dict.fromkeys(SHARES, 0)
    halves: dict[float, list[float]] = {share: [] for share in SHARES}
    cured = [case for case in cases() if set(case.claims) & {"rate_low", "rate_high"}]
    for case in (case for case in cured if only in case.name):
        factor = case.healthy.rate / case.recipe.rate
        change = f"rate {2 if factor > 1 else 0.5:g}x"
        loop = early_loop(case.recipe, case.seed % 1_000)
        ends = [
            trained(recipe, case.seed % 1_000, None, 0.0)["fresh"]
            for recipe in (case.recipe, case.healthy)
        ]
        shown = []
        for share in SHARES:
            updates = int(share * case.recipe.steps / 6)
            found = fork(loop, [change], horizon=f"{updates} updates", replicates=3)
            (effect,) = found.effects()
            if not effect.estimate.tells:
                shown.append(f"{share:g}: {effect.verdict}")
                continue
            end = statistics.fmean(each.readouts["train_loss"].mean for each in found.of("go on"))
            low, high = effect.estimate.low / end, effect.estimate.high / end
            told[share] += high < 0
            halves[share].append((high - low) / 2)
            shown.append(f"{share:g}: {effect.estimate.value / end:+.1%} [{low:+.1%}, {high:+.1%}]")
        print(f"{case.name}: {change}, {'; '.join(shown)}; cured {gain(*ends):.0%}", flush=True)
    for share in SHARES:
        if halves[share]:
            print(
                f"a share of {share:g} tells {told[share]} of {len(halves[share])}; half of the "
                f"interval {statistics.median(halves[share]):.1%} in the median"
            )


def early_loop(recipe: Recipe, seed: int) -> Loop:
    """A training of this recipe after an eighth of its updates."""
    torch.manual_seed(seed)
    data = data_of(recipe.data)
    model, optimizer, scheduler, loader = parts_of(recipe, data, seed)
    step, last = 0, recipe.steps // 8
    while step < last:
        for batch in itertools.islice(loader, last - step):
            optimizer.zero_grad()
            data.loss(model(batch[0]), batch[1]).backward()
            optimizer.step()
            scheduler.step()
            step += 1
    return Loop(
        model,
        optimizer,
        loss=lambda model, batch: data.loss(model(batch[0]), batch[1]),
        batches=loader,
        scheduler=scheduler,
        left=f"{recipe.steps - last} updates",
        index=last,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a part of the name of a row")
    parser.add_argument("--keep", type=Path, help="a folder of what was trained already")
    parser.add_argument("--shares", action="store_true", help="what shares of the time tell")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.shares:
        show_shares(arguments.only)
        return
    with tempfile.TemporaryDirectory() as folder:
        judge(arguments.keep or Path(folder), arguments.only)


if __name__ == "__main__":
    sys.exit(main())
