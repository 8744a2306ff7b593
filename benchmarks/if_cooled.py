"""Does the forecast of the loss hold that a schedule-free training would have if its rate went to zero now?

    python benchmarks/if_cooled.py --problems digits     # on which the width of the interval was chosen
    python benchmarks/if_cooled.py --problems others     # looked at once

At steps 128, 256, 512 and 1,024 of each run the forecast is compared with two branches whose rate falls linearly to
zero over the next fifth of the steps so far. Printed are the share of the branches' mean losses within the interval,
the ratio to the forecast, and the ratio of cooled branches to branches that went on, both at their averages.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train

STEPS = 1400
RUNS: dict[str, list[dict[str, Any]]] = {
    "digits": [
        {"problem": "digits", "model": "mlp", "learning_rate": 1.0},
        {"problem": "digits", "model": "mlp", "learning_rate": 4.0},
        {"problem": "digits", "model": "cnn", "learning_rate": 1.0},
        {"problem": "digits", "model": "mlp", "learning_rate": 2.0, "batch_size": 8},
    ],
    "others": [
        {"problem": "fashion-mnist", "model": "mlp", "learning_rate": 0.5},
        {"problem": "fashion-mnist", "model": "mlp", "learning_rate": 2.0, "batch_size": 16},
        {"problem": "fashion-mnist", "model": "cnn", "learning_rate": 0.5},
        {"problem": "logistic-regression", "learning_rate": 2.0},
        {"problem": "linear-regression", "learning_rate": 0.1},
    ],
}


def scored(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The scored forecasts of one run."""
    configuration = Configuration(
        **settings, optimizer="schedulefree", steps=STEPS, budget=0.0, fork_budget=3.0, clip=5.0, check_endpoint=False
    )
    problem = load(configuration.problem, model=configuration.model)
    with tempfile.TemporaryDirectory() as folder:
        run = train(problem, configuration, Path(folder))
        return [event for event in run.events if event["event"] == "cooled forecast" and event["seen"] is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", choices=list(RUNS), default="digits")
    settings = parser.parse_args()
    held, off, cooled = [], [], []
    print("| run | step | forecast | cooled | went on |\n| --- | --- | --- | --- | --- |")
    for asked in RUNS[settings.problems]:
        for event in scored(asked):
            forecast, seen = event["forecast"], event["seen"]
            held.append(forecast["low"] <= seen <= forecast["high"])
            off.append(seen / forecast["value"])
            cooled.append(seen / event["going_on"])
            ends = f"{forecast['value']:.4g} [{forecast['low']:.4g}, {forecast['high']:.4g}]"
            name = " ".join(map(str, asked.values()))
            print(f"| {name} | {event['step']:,} | {ends} | {seen:.4g} | {event['going_on']:.4g} |", flush=True)
    print(f"\n{sum(held)} of {len(held)} within the interval; seen / forecast: median {statistics.median(off):.3f}, "
          f"{min(off):.3f} to {max(off):.3f}; cooled / went on: median {statistics.median(cooled):.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
