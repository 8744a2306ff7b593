"""What do snapshots give, and what would the same time have given otherwise?

    python benchmarks/snapshots.py --out snapshots [--no-train] [--pool processes] [--json]

Fashion-MNIST, a CNN of 42,706 parameters, Nesterov momentum 0.9, weight decay 1e-4, batches of 64.
20 epochs over 60,000 images, and 40 epochs over 12,000, where it overfits; three seeds. Against
five snapshots: a single cosine run and a step run of the same length, the step run's models at the
same five points, the average of its later weights, five short independent runs, and the full
independent runs of the three seeds. About 25 minutes of one core in all; what is trained already is
not trained again. A quarter of the test images chooses m and the temperatures, the rest is scored.

Tables with intervals on standard output; pictures after figures 2, 3, 5 and 6 of Huang et al.
(2017) in the folder.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from snapshot_figures import figures
from snapshot_runs import HOT, REGIMES, Job, Labelled, images_of, jobs, trained
from snapshot_scores import HOT_SNAPSHOT, NO_CYCLE, SNAPSHOT, Line, Study

from gradiometer import Estimate
from gradiometer.jobs import Job as PoolJob
from gradiometer.jobs import pool_of
from gradiometer.problems import load
from gradiometer.storage.journal import plain

WIDTH = 185
COLUMNS = {
    "error": 100.0,
    "nll": 1.0,
    "calibrated_nll": 1.0,
    "brier": 1.0,
    "calibration_error": 1.0,
}
"""The scores and what they are multiplied by: errors in percent."""

GUESSING = 0.8
"""An error that a network of ten classes has when it tells none of them apart."""


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("snapshots"), show_default=True
)
@click.option(
    "--train/--no-train", "training", default=True, help="Train the runs that are missing first."
)
@click.option(
    "--pool", default="here", show_default=True, help="here, processes[:COUNT] or ray[:ADDRESS]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def main(out: Path, training: bool, pool: str, as_json: bool) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    problem = load("fashion-mnist")
    data = {name: images_of(problem, regime) for name, regime in REGIMES.items()}
    missing = [job for job in jobs() if training and not (out / f"{job.name}.json").exists()]
    with pool_of(pool, "--pool") as where:
        runs = [PoolJob(job.name, trained_on, (job, out)) for job in missing]
        where.results(
            runs, shared=data, progress=lambda outcome, *_: click.echo(outcome.name, err=True)
        )
    studies = [Study(regime, out, data[name][1]) for name, regime in REGIMES.items()]
    found = {study.regime.name: study for study in studies if study.seeds}
    results = {name: result(study) for name, study in found.items()}
    if as_json:
        click.echo(json.dumps(plain(results)))
    else:
        for name, study in found.items():
            tell(study, results[name])
    for study in found.values():
        for path in figures(study, out):
            click.echo(f"picture  {path}", err=True)


def trained_on(data: dict[str, tuple[Labelled, Labelled]], job: Job, out: Path) -> None:
    """Train one run, on the images of its regime."""
    trained(job, *data[job.regime.name], out)


def result(study: Study) -> dict[str, Any]:
    """All numbers of a regime."""
    first = study.seeds[0]
    rates = {SNAPSHOT: ("snapshot", 0.1), NO_CYCLE: ("step", 0.1)}
    if study.hot_seeds == study.seeds:
        rates[HOT_SNAPSHOT] = ("snapshot", HOT)
    full = [study.said("cosine", seed)[-1] for seed in study.seeds]
    barriers = {
        name: [found.barrier for found in study.paths(method, first, rate)]
        for name, (method, rate) in rates.items()
    }
    if len(study.seeds) >= 2:
        barriers["two full independent"] = [found.barrier for found in study.paths("cosine", first)]
    return {
        "regime": asdict(study.regime),
        "seeds": study.seeds,
        "lines": study.lines(),
        "disagreement": {
            **{
                name: study.disagreement(study.said(method, first, rate))
                for name, (method, rate) in rates.items()
            },
            **({"full independent": study.disagreement(full)} if len(full) >= 2 else {}),
        },
        "barriers": barriers,
        "added": {
            name: {
                size.members: {
                    key: value
                    for key, value in size.added.items()
                    if key in ("error", "calibrated_nll")
                }
                for size in study.sizes(method, first, rate)[1:]
            }
            for name, (method, rate) in rates.items()
        },
        "chosen": {
            name: [study.chosen(method, seed, rate) for seed in study.seeds]
            for name, (method, rate) in rates.items()
        },
        "equivalent": [study.equivalent(seed) for seed in study.seeds],
    }


def tell(study: Study, found: dict[str, Any]) -> None:
    """The tables of a regime."""
    console = Console(width=None if Console().is_terminal else WIDTH)
    regime, seeds = study.regime, len(study.seeds)
    table = Table(
        title=(
            f"{regime.images:,} images, {regime.epochs} epochs: mean over {seeds} seeds (smallest, "
            "largest)"
        )
    )
    for column in (
        "method",
        "runs",
        "error %",
        "log-loss",
        "calibrated",
        "Brier",
        "calibration error",
    ):
        table.add_column(column, no_wrap=True)
    for line in found["lines"]:
        table.add_row(line.method, f"{line.cost:g}", *(_score(line, name) for name in COLUMNS))
    console.print(table)
    table = Table(
        title=(
            "less the single cosine run, paired: [interval over 7,500 test images of these runs] "
            "[over seeds]"
        )
    )
    for column in ("method", "error, points", "log-loss, calibrated"):
        table.add_column(column, no_wrap=True)
    for line in found["lines"][1:]:
        table.add_row(
            line.method, *(_difference(line, name) for name in ("error", "calibrated_nll"))
        )
    console.print(table)
    for line in found["lines"]:
        if line.spread["error"][1] > GUESSING:
            console.print(
                f"{line.method.strip()}: at least one seed ended hardly better than guessing"
            )
    for name, estimate in found["disagreement"].items():
        console.print(f"disagreement / error   {name}: {estimate}")
    for name, estimates in found["barriers"].items():
        console.print(
            f"barrier to the last    {name}: "
            f"{'; '.join(_percent(estimate) for estimate in estimates)} points"
        )
    for name, sizes in found["added"].items():
        for count, added in sizes.items():
            gain = added["calibrated_nll"]
            console.print(
                f"member {count} changes by    {name}: {gain} calibrated log-loss, "
                f"{_percent(added['error'])} points"
            )
    for name, counts in found["chosen"].items():
        console.print(f"m chosen, by seed      {name}: {', '.join(map(str, counts))}")
    worth = ", ".join(
        "none to compare with" if estimate is None else str(estimate)
        for estimate in found["equivalent"]
    )
    console.print(f"snapshots are worth    {worth}\n")


def _score(line: Line, name: str) -> str:
    scale, digits = COLUMNS[name], 2 if COLUMNS[name] > 1 else 4
    low, high = line.spread[name]
    return (
        f"{scale * line.scores[name]:.{digits}f} ({scale * low:.{digits}f}, "
        f"{scale * high:.{digits}f})"
    )


def _difference(line: Line, name: str) -> str:
    scale, digits = COLUMNS[name], 2 if COLUMNS[name] > 1 else 4
    here, other = line.difference[name], line.over_seeds[name]
    seeds = (
        f"[{scale * other.low:+.{digits}f}, {scale * other.high:+.{digits}f}]"
        if other.tells
        else "[one seed]"
    )
    return (
        f"{scale * here.value:+.{digits}f} [{scale * here.low:+.{digits}f}, "
        f"{scale * here.high:+.{digits}f}] {seeds}"
    )


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.2f} [{100 * estimate.low:.2f}, {100 * estimate.high:.2f}]"


if __name__ == "__main__":
    main()
