"""Does cooling by measurement keep up with step schedules tuned by hand, and do its forecasts of a cut come true?

    .venv/bin/python benchmarks/cool.py                      # everything, about ten minutes on one core
    .venv/bin/python benchmarks/cool.py --part forecasts --out found.jsonl --pool processes

*schedules*: `--cool auto` against the best of a grid of step schedules (constant, a cut to a tenth after half of the
steps, after three quarters, after both), from the same rate, over the same steps, three seeds: loss on the whole
training set at the end. The grid is chosen with hindsight, by its mean over the seeds, on the loss that is compared.

*forecasts*: runs that are watched, whose rate is cut by hand; the forecast made at the last look before the cut is set
against what the cut gained, from the newest iterates before it to as many steps after it as the forecast looked back
on. Its interval is at 90 %; the share of drift in it was chosen on the digits MLP, so the others are the judges.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradiometer import Configuration, Run
from gradiometer.jobs import Job, Ledger, pool_of
from gradiometer.measurement.uncertainty import proportion
from gradiometer.problems import load
from gradiometer.train import train

SEEDS = (0, 1, 2)
NETWORKS = {
    ("digits", "mlp"): {"epochs": 40, "batch_size": 32, "learning_rate": 0.1},
    ("digits", "cnn"): {"epochs": 30, "batch_size": 32, "learning_rate": 0.1},
    ("fashion-mnist", "mlp"): {"epochs": 2, "batch_size": 64, "learning_rate": 0.1},
    ("fashion-mnist", "cnn"): {"epochs": 1, "batch_size": 64, "learning_rate": 0.05},
}
"""Problem and model, and how they are trained."""

CUTS = [
    (problem, model, rate, batch, share)
    for problem, model, batches in (
        ("digits", "mlp", (8, 32)),
        ("digits", "cnn", (8, 32)),
        ("fashion-mnist", "mlp", (64,)),
    )
    for rate in (0.05, 0.1, 0.2)
    for batch in batches
    for share in (0.4, 0.6)
]
"""Watched runs: problem, model, rate, batch, and the share of the steps after which the rate is cut to a tenth."""


def finished(problem: str, model: str, **settings: Any) -> Run:
    """A run whose evaluations are of the whole training set."""
    loaded = load(problem, model=model, data_dir=None, seed=0)
    configuration = Configuration(problem=problem, model=model, budget=0.0, checkpoint_seconds=float("inf"), **settings)
    with tempfile.TemporaryDirectory() as folder:
        run = train(replace(loaded, test=loaded.train), configuration, Path(folder))
        _ = run.events  # read before the folder goes
    return run


def steps_of(problem: str, model: str, epochs: int, batch_size: int) -> int:
    """Steps of a training."""
    return epochs * -(-len(load(problem, model=model, data_dir=None, seed=0).train) // batch_size)


def schedules(problem: str, model: str) -> dict[str, dict[str, Any]]:
    """Ways to come down from the rate, by name."""
    settings = NETWORKS[problem, model]
    rate, steps = float(settings["learning_rate"]), steps_of(problem, model, settings["epochs"], settings["batch_size"])
    half, cut = f"Constant({rate}).then({steps // 2}, ", f"Constant({rate / 10})"
    return {
        "cool auto": {"cool": "auto"},
        "constant": {},
        "cut at 1/2": {"schedule": f"{half}{cut})"},
        "cut at 3/4": {"schedule": f"Constant({rate}).then({3 * steps // 4}, {cut})"},
        "cut at both": {"schedule": f"{half}{cut}.then({steps // 4}, Constant({rate / 100})))"},
    }


def ends(problem: str, model: str, way: str) -> list[float]:
    """Training loss at the end, one for each seed."""
    settings = NETWORKS[problem, model] | schedules(problem, model)[way]
    runs = [finished(problem, model, seed=seed, **settings) for seed in SEEDS]
    return [run.evaluations[-1]["estimates"]["test_loss"]["value"] for run in runs]


def forecast(problem: str, model: str, rate: float, batch: int, share: float) -> dict[str, Any]:
    """What one cut was predicted to gain, and gained."""
    epochs = {"digits": 30 if batch > 8 else 10, "fashion-mnist": 2}[problem]
    steps = steps_of(problem, model, epochs, batch)
    schedule = f"Constant({rate}).then({int(share * steps)}, Constant({rate / 10}))"
    run = finished(problem, model, epochs=epochs, batch_size=batch, schedule=schedule, cool="watch")
    (scored,) = [event for event in run.events if event["event"] == "cut scored"]
    return {name: scored[name] for name in ("seen", "fell", "within", "predicted", "cut_at", "step")}


def compared(reached: dict[str, list[float]]) -> str:
    """Cooling over the best of the grid, one ratio a seed."""
    grid = {way: statistics.mean(losses) for way, losses in reached.items() if way != "cool auto"}
    best = min(grid, key=grid.__getitem__)
    ratios = [ours / theirs for ours, theirs in zip(reached["cool auto"], reached[best], strict=True)]
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    means = "  ".join(f"{way} {statistics.mean(losses):.4f}" for way, losses in reached.items())
    return f"cool auto / {best}: {statistics.mean(ratios):.3f} ({each})   [{means}]"


def tasks(parts: list[str]) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Name, function and arguments of everything there is to find."""
    if "schedules" in parts:
        for problem, model in NETWORKS:
            for way in schedules(problem, model):
                yield f"schedules {problem} {model}: {way}", ends, (problem, model, way)
    if "forecasts" in parts:
        for cut in CUTS:
            yield "forecast " + " ".join(map(str, cut)), forecast, cut


def printed(found: dict[str, Any]) -> str:
    """What was found, in lines."""
    lines = []
    for problem, model in NETWORKS:
        start = f"schedules {problem} {model}: "
        reached = {name.removeprefix(start): losses for name, losses in found.items() if name.startswith(start)}
        if len(reached) == len(schedules(problem, model)):
            lines.append(f"{problem} {model}: {compared(reached)}")
    scored = {name: cut for name, cut in found.items() if name.startswith("forecast")}
    for name, cut in scored.items():
        low, high = cut["predicted"]["low"], cut["predicted"]["high"]
        sign = "within" if cut["within"] else "OUTSIDE"
        lines.append(
            f"{name}: seen {cut['seen']:.4f}, forecast {cut['predicted']['value']:.4f} [{low:.4f}, {high:.4f}] {sign}"
        )
    judges = [cut for name, cut in scored.items() if "digits mlp" not in name]
    for what, cuts in (("chosen on", [cut for cut in scored.values() if cut not in judges]), ("judged on", judges)):
        if not cuts:
            continue
        hits = proportion(sum(cut["within"] for cut in cuts), len(cuts))
        widths = [(cut["predicted"]["high"] - cut["predicted"]["low"]) / abs(cut["seen"]) for cut in cuts]
        width = statistics.median(widths)
        lines.append(f"{what}: within the interval {hits} of {len(cuts)}; median width / gain seen {width:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=["schedules", "forecasts"])
    parser.add_argument("--only", help="only what has this in its name")
    parser.add_argument("--out", type=Path, help="add what was found to this ledger; what it has is not run again")
    parser.add_argument("--pool", default="here", help="here, processes[:COUNT] or ray[:ADDRESS]")
    given = parser.parse_args()
    ledger = Ledger(given.out) if given.out else None
    found = {} if ledger is None else {name: outcome.result for name, outcome in ledger.finished().items()}
    every = [Job(*task) for task in tasks(given.part or ["schedules", "forecasts"])]
    with pool_of(given.pool) as pool:
        for outcome in pool.run([job for job in every if (given.only or "") in job.name], ledger=ledger):
            found[outcome.name] = outcome.value()
    print(printed(found))


if __name__ == "__main__":
    main()
