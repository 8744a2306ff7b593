"""Does `watch(..., trials=0.1)` find the cause that readings alone cannot tell, at its price?

    python benchmarks/trials_on_the_way.py                  # about an hour of one core
    python benchmarks/trials_on_the_way.py --keep FOLDER    # goes on where it was stopped

Each row is a training of 4,000 to 12,000 updates with one mild illness, whose signs are those of
another one, too: a rate that does not fall or a training that stops early, a rate that is two to four
times too low or too high, a small batch. It is trained in health, ill, and ill again with trials. A
row whose illness costs less than 2 % of the loss on fresh rows is left out, before its verdict is
read. Reported are the headline with and without trials, the processor time of both, and if the
parameters at their ends are equal, bit for bit.
"""

import argparse
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
from gradiometer.measurement.uncertainty.proportions import proportion

TRIALS = 0.1

EARNS = 0.02
"""Share of the loss that an illness must cost on fresh rows, as in the mild parts of the clinic."""

HEALTHY = """
network     data     steps batch adamw/cosine sgd/cosine momentum/cosine adam/constant
patches     steps    6000  64    0.006        0.30       0.03            0.001
two_gru     tides    3000  64    0.006        -          -               0.001
stem        clothes  4000  64    0.006        0.20       -               -
causal      canons   4000  32    0.005        -          0.05            -
causal      sums     4000  32    0.005        0.20       -               0.001
nano        clauses  4000  16    0.004        -          -               0.001
elman       clauses  6000  32    0.004        -          -               -
wedge       orbits   12000 64    0.006        0.20       -               0.001
coder       spectra  12000 64    0.006        0.30       0.03            -
softplus    reactor  12000 64    0.006        -          0.03            -
inception   arrows   4000  32    0.005        -          0.03            -
"""

SICK = """
patches steps adamw cosine : no_decay 1
causal canons adamw cosine : no_decay 1
wedge orbits adamw cosine : no_decay 1
softplus reactor momentum cosine : no_decay 1
patches steps adam constant : stopped_early 2
causal sums adam constant : stopped_early 2
nano clauses adam constant : stopped_early 2
wedge orbits adam constant : stopped_early 2
two_gru tides adamw cosine : rate_low 4
causal sums sgd cosine : rate_low 3
coder spectra sgd cosine : rate_low 4
causal canons momentum cosine : rate_low 4
elman clauses adamw cosine : rate_low 4
stem clothes adamw cosine : rate_high 4
nano clauses adamw cosine : rate_high 4
coder spectra adamw cosine : rate_high 3
inception arrows adamw cosine : rate_high 4
inception arrows momentum cosine : batch_small 4
patches steps sgd cosine : batch_small 4
wedge orbits sgd cosine : batch_small 4
"""


def cases() -> list[Case]:
    """The ill trainings."""
    healthy = healthy_recipes(HEALTHY)
    return [sick_case(row, "trials", healthy) for row in SICK.strip().splitlines()]


def trained(recipe: Recipe, seed: int, out: Path | None, trials: float) -> dict[str, Any]:
    """What came of a training: its loss on fresh rows, its bits and processor time; and, under
    `watch`, its claims."""
    torch.manual_seed(seed)
    data = data_of(recipe.data)
    model = build(recipe, data)
    optimizer = optimizer_of(recipe, model)
    scheduler = scheduler_of(recipe, optimizer)
    shuffles = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(*data.train), recipe.batch, shuffle=True, drop_last=True, generator=shuffles
    )
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
        found["trials"] = len([*(w.run.path / "forks").glob("*/fork.json")])
        found["spent"] = w.budget.spent_on["trials"] / w.budget.training if trials else 0.0
    return found


def judged(case: Case, keep: Path) -> dict[str, Any]:
    """The three trainings of a row, which are kept in a folder, and not made again."""
    file = keep / f"{case.recipe.digest(case.seed)}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    seed = case.seed % 1_000
    for name, recipe, is_watched, trials in (
        ("healthy", case.healthy, False, 0.0),
        ("without", case.recipe, True, 0.0),
        ("with", case.recipe, True, TRIALS),
    ):
        if name == "with" and gain(found["without"]["fresh"], found["healthy"]["fresh"]) < EARNS:
            break
        if name not in found:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) if is_watched else None
                found[name] = trained(recipe, seed, out, trials)
            file.write_text(json.dumps(found))
    return found


def marks(case: Case, found: dict[str, Any]) -> str:
    """The headline of a verdict: right, silent, or another cause."""
    headline = found["headline"]
    if headline in case.claims:
        return "right"
    return "silent" if headline in QUIET else "other"


def judge(keep: Path, only: str) -> None:
    """Print a line for each row, and what all of them come to."""
    keep.mkdir(parents=True, exist_ok=True)
    kept: list[tuple[Case, dict[str, Any]]] = []
    for case in cases():
        if only not in case.name:
            continue
        found = judged(case, keep)
        costs = gain(found["without"]["fresh"], found["healthy"]["fresh"])
        if "with" not in found:
            print(f"{case.name}: costs {costs:.1%}, left out", flush=True)
            continue
        kept.append((case, found))
        said = [
            f"{name}: {', '.join(found[name]['claims']) or found[name]['headline']}"
            for name in ("without", "with")
        ]
        print(
            f"{case.name}: costs {costs:.0%}, {found['without']['seconds']:.0f} s; "
            f"{'; '.join(said)} ({found['with']['trials']} trials, {found['with']['spent']:.3f} of "
            f"the time, processor time {found['with']['seconds'] / found['without']['seconds']:.3f}, "
            f"bits {'equal' if found['with']['bits'] == found['without']['bits'] else 'DIFFER'})",
            flush=True,
        )
    if not kept:
        return
    for name in ("without", "with"):
        all_marks = [marks(case, found[name]) for case, found in kept]
        shown = ", ".join(
            f"{mark} {all_marks.count(mark)}" for mark in ("right", "silent", "other")
        )
        share = proportion(all_marks.count("right"), len(kept))
        print(f"{name} trials, of {len(kept)}: {shown}; cause in the headline {share}")
    ratios = [found["with"]["seconds"] / found["without"]["seconds"] for _, found in kept]
    spent = [found["with"]["spent"] for _, found in kept]
    equal = sum(found["with"]["bits"] == found["without"]["bits"] for _, found in kept)
    print(
        f"cost: at most {max(spent):.3f} of the training time by its own account; processor time "
        f"{statistics.median(ratios):.3f} of that without, from {min(ratios):.3f} to "
        f"{max(ratios):.3f}; bits equal in {equal} of {len(kept)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a part of the name of a row")
    parser.add_argument("--keep", type=Path, help="a folder of what was trained already")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        judge(arguments.keep or Path(folder), arguments.only)


if __name__ == "__main__":
    sys.exit(main())
