"""Do the forecasts of a cut of the rate come true?

    .venv/bin/python benchmarks/cut_forecasts.py             # about five minutes on one core
    .venv/bin/python benchmarks/cut_forecasts.py --out found.jsonl --pool processes

Runs that are watched, whose rate is cut by hand; the forecast made at the last look before the cut is compared with
what the cut gained, from the newest iterates before it to as many steps after it as the forecast looked back on. Its
interval is at 90 %; the share of drift in it was chosen on the digits MLP, so the others judge.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradiometer import Configuration, Run
from gradiometer.jobs import Job, Ledger, pool_of
from gradiometer.measurement.uncertainty import proportion
from gradiometer.problems import load
from gradiometer.train import train

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
    configuration = Configuration(problem=problem, model=model, checkpoint_seconds=float("inf"), **settings)
    with tempfile.TemporaryDirectory() as folder:
        run = train(replace(loaded, test=loaded.train), configuration, Path(folder))
        _ = run.events  # read before the folder goes
    return run


def steps_of(problem: str, model: str, epochs: int, batch_size: int) -> int:
    """Steps of a training."""
    return epochs * -(-len(load(problem, model=model, data_dir=None, seed=0).train) // batch_size)


def forecast(problem: str, model: str, rate: float, batch: int, share: float) -> dict[str, Any]:
    """What one cut was predicted to gain, and gained."""
    epochs = {"digits": 30 if batch > 8 else 10, "fashion-mnist": 2}[problem]
    steps = steps_of(problem, model, epochs, batch)
    schedule = f"Constant({rate}).then({int(share * steps)}, Constant({rate / 10}))"
    run = finished(problem, model, epochs=epochs, batch_size=batch, schedule=schedule, cool="watch", every=steps)
    (scored,) = [event for event in run.events if event["event"] == "cut scored"]
    return {name: scored[name] for name in ("seen", "fell", "within", "predicted", "cut_at", "step")}


def printed(found: dict[str, Any]) -> str:
    """What was found, in lines."""
    lines = []
    for name, cut in found.items():
        low, high = cut["predicted"]["low"], cut["predicted"]["high"]
        sign = "within" if cut["within"] else "OUTSIDE"
        lines.append(
            f"{name}: seen {cut['seen']:.4f}, forecast {cut['predicted']['value']:.4f} [{low:.4f}, {high:.4f}] {sign}"
        )
    judges = [cut for name, cut in found.items() if "digits mlp" not in name]
    for what, cuts in (("chosen on", [cut for cut in found.values() if cut not in judges]), ("judged on", judges)):
        if not cuts:
            continue
        hits = proportion(sum(cut["within"] for cut in cuts), len(cuts))
        widths = [(cut["predicted"]["high"] - cut["predicted"]["low"]) / abs(cut["seen"]) for cut in cuts]
        width = statistics.median(widths)
        lines.append(f"{what}: within the interval {hits} of {len(cuts)}; median width / gain seen {width:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="only what has this in its name")
    parser.add_argument("--out", type=Path, help="add what was found to this ledger; what it has is not run again")
    parser.add_argument("--pool", default="here", help="here, processes[:COUNT] or ray[:ADDRESS]")
    given = parser.parse_args()
    ledger = Ledger(given.out) if given.out else None
    found = {} if ledger is None else {name: outcome.result for name, outcome in ledger.finished().items()}
    every = [Job("forecast " + " ".join(map(str, cut)), forecast, cut) for cut in CUTS]
    with pool_of(given.pool) as pool:
        for outcome in pool.run([job for job in every if (given.only or "") in job.name], ledger=ledger):
            found[outcome.name] = outcome.value()
    print(printed(found))


if __name__ == "__main__":
    main()
