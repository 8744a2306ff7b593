"""Does `--cool auto` end as low as the best of linear, cosine and plateau from the same rate?

    .venv/bin/python benchmarks/cool.py                # the five problems that judge, about ten minutes
    .venv/bin/python benchmarks/cool.py --fresh        # two more with wrong labels
    .venv/bin/python benchmarks/cool.py --others       # those that the method was chosen on
    .venv/bin/python benchmarks/cool.py --rates        # the rates: the best for linear to zero

Four ways to come down from one rate over the same steps, with three seeds each: linear and cosine to zero, torch's
`ReduceLROnPlateau` with its defaults on the mean loss of every fiftieth of the steps, and `--cool auto` with its
defaults. The number is the loss on the whole training set at the end. The best of the three others is chosen for each
problem with hindsight, by its mean over the seeds. The 90 % interval of the ratio is over
the seeds.
"""

import argparse
import math
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from cool_problems import FRESH, JUDGES, OTHERS, RATES
from scipy.special import stdtrit

from gradiometer import Configuration, Diverged
from gradiometer.jobs import Job, Ledger, pool_of
from gradiometer.problems import Problem, evaluate
from gradiometer.run.budget import Budget
from gradiometer.train import train
from gradiometer.train.training import Training

SEEDS = (0, 1, 2)
WAYS = ("linear", "cosine", "plateau", "cool auto")
GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
PLATEAU_LOOKS = 50
ALLOWED = 1.01


def given(name: str) -> tuple[Problem, Configuration]:
    """A problem that is tested on its training set, and how it is trained."""
    make, configuration = (JUDGES | OTHERS | FRESH)[name]
    problem = make()
    settings = {"budget": 0.0, "check_edge": False, "checkpoint_seconds": float("inf"), "keep_checkpoints": 1}
    return replace(problem, test=problem.train), msgspec.structs.replace(configuration, **settings)


def ended(name: str, way: str, rate: float, seed: int) -> dict[str, Any]:
    """The loss at the end; with `cool auto` also what was decided, and its cost in runs."""
    problem, configuration = given(name)
    settings: dict[str, Any] = {"cool": "auto"} if way == "cool auto" else {}
    if way in ("linear", "cosine"):
        settings = {"schedule": way}
    configuration = msgspec.structs.replace(configuration, learning_rate=rate, seed=seed, **settings)
    if way == "plateau":
        return {"loss": plateau(problem, configuration)}
    with tempfile.TemporaryDirectory() as folder:
        run = train(problem, configuration, Path(folder))
        decisions = [event for event in run.events if event["event"] == "cooling"]
        loss = run.evaluations[-1]["estimates"]["test_loss"]["value"]
    kept = ("step", "begins", "outcome", "spent")
    return {"loss": loss, "decisions": [{key: event[key] for key in kept} for event in decisions]}


def plateau(problem: Problem, configuration: Configuration) -> float:
    """The loss at the end with `ReduceLROnPlateau`, on the same batches as the other ways."""
    training = Training(problem, configuration, Budget(0.0), gauges=())
    factor = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(factor)
    losses: list[float] = []
    while training.step < training.steps:
        losses.append(training.backward(training.batch(), measured=False)[0])
        training.update()
        if len(losses) == training.steps // PLATEAU_LOOKS:
            scheduler.step(statistics.mean(losses))
            losses.clear()
        for group in training.optimizer.param_groups:
            group["lr"] = configuration.learning_rate * factor.param_groups[0]["lr"]
    return evaluate(problem, training.model, training.device)["test_loss"].value


def best_rate(name: str) -> float:
    """The rate of the grid from which linear to zero ends lowest; one that diverges is skipped."""
    ends = {}
    for rate in GRID:
        try:
            ends[rate] = ended(name, "linear", rate, seed=9)["loss"]
        except Diverged:
            continue
    return min(ends, key=ends.__getitem__)


def row(name: str, found: dict[str, dict[str, Any]]) -> str:
    """A row of the table."""
    ends = {way: [found[f"{name}: {way}, {seed}"]["loss"] for seed in SEEDS] for way in WAYS}
    means = {way: statistics.mean(losses) for way, losses in ends.items()}
    best = min(WAYS[:-1], key=means.__getitem__)
    ratio = means["cool auto"] / means[best]
    changes = np.array(ends["cool auto"]) - np.array(ends[best])
    margin = float(stdtrit(len(changes) - 1, 0.95) * changes.std(ddof=1) / math.sqrt(len(changes))) / means[best]
    each = ", ".join(f"{ours / theirs:.3f}" for ours, theirs in zip(ends["cool auto"], ends[best], strict=True))
    cost = statistics.mean(
        max((event["spent"] for event in found[f"{name}: cool auto, {seed}"]["decisions"]), default=0.0)
        for seed in SEEDS
    )
    losses = [f"{means[way]:.4f}" for way in WAYS]
    interval = f"{ratio:.3f} [{ratio - margin:.3f}, {ratio + margin:.3f}]"
    cells = [name, f"{RATES[name]:g}", *losses, best, interval, each, f"{cost:.2f}"]
    return f"| {' | '.join(cells)} | {'' if ratio <= ALLOWED else 'miss'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", action="store_true", help="the problems that the method was chosen on")
    parser.add_argument("--fresh", action="store_true", help="two more problems with wrong labels")
    parser.add_argument("--rates", action="store_true", help="find the rates, and stop")
    parser.add_argument("--out", type=Path, help="add what was found to this ledger; what it has is not run again")
    parser.add_argument("--pool", default="here", help="here, processes[:COUNT] or ray[:ADDRESS]")
    asked = parser.parse_args()
    names = list(OTHERS if asked.others else FRESH if asked.fresh else JUDGES)
    jobs = [
        Job(f"{name}: {way}, {seed}", ended, (name, way, RATES[name], seed))
        for name in names
        for way in WAYS
        for seed in SEEDS
    ]
    if asked.rates:
        jobs = [Job(f"{name}: rate", best_rate, (name,)) for name in names]
    found = {}
    with pool_of(asked.pool) as pool:
        for outcome in pool.run(jobs, ledger=Ledger(asked.out) if asked.out else None):
            found[outcome.name] = outcome.value()
    if asked.rates:
        print("\n".join(f"{name} {rate:g}" for name, rate in found.items()))
        return
    print(f"| problem | η | {' | '.join(WAYS)} | best of three | ratio | by seed | forks, in runs | |")
    print(f"|{' --- |' * (len(WAYS) + 7)}")
    print("\n".join(row(name, found) for name in names))


if __name__ == "__main__":
    main()
