"""What do snapshots give, and what would the same time have given otherwise? `python benchmarks/snapshots.py`"""

import sys
from pathlib import Path

import torch
from snapshot_runs import REGIMES, images_of, jobs, trained

from gradiometer.problems.registry import load


def main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    out.mkdir(parents=True, exist_ok=True)
    problem = load("fashion-mnist")
    data = {name: images_of(problem, regime) for name, regime in REGIMES.items()}
    for job in jobs():
        if not (out / f"{job.name}.json").exists():
            trained(job, *data[job.regime.name], out)
            print(job.name, flush=True)


if __name__ == "__main__":
    main()
