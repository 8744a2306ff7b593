"""What does a pool cost, and what does it gain?

    .venv/bin/python benchmarks/pools.py [--pool processes:2 --pool ray] [--rounds 5]

For each pool: the time until the first outcome of a new pool, the time of a job that does nothing, with and without a
tensor of 1 MB as its result, and how much faster eight trainings of a small network are than in this process. Each is
the median over rounds in which the pools take turns, with the smallest and the largest. The gain needs free processors:
it is at most their number, and at most that of the processes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from gradiometer.jobs import Here, Job, Pool, pool_of

EMPTY = 200
"""Jobs that do nothing."""

TRAININGS = 8
STEPS = 300
"""Updates of a training, about half a second."""


def nothing() -> None:
    """A job that does nothing."""


def megabyte() -> torch.Tensor:
    """A job that returns 1 MB."""
    return torch.zeros(250_000)


def training(data: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Train a small network on what is shared. Returns the last loss."""
    inputs, labels = data
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        chosen = torch.randint(len(inputs), (256,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
    return loss.item()


def seconds(work: Callable[[], object]) -> float:
    """Duration of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def round_of(text: str) -> dict[str, float]:
    """One round in a new pool, in seconds."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(20_000, 64, generator=generator), torch.randint(10, (20_000,), generator=generator)
    empty = [Job(f"{k}", nothing) for k in range(EMPTY)]
    large = [Job(f"{k}", megabyte) for k in range(EMPTY // 4)]
    trainings = [Job(f"{k}", training, seed=k) for k in range(TRAININGS)]
    with pool_of(text) as pool:
        started = seconds(lambda: pool.results([Job(f"{k}", nothing) for k in range(pool.size)]))
        return {
            "start": started,
            "empty": seconds(lambda: pool.results(empty)) / len(empty),
            "1 MB": seconds(lambda: pool.results(large)) / len(large),
            "here / pool": here(trainings, data) / seconds(lambda: pool.results(trainings, shared=data)),
        }


def here(jobs: list[Job], data: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Duration of the same jobs in this process."""
    pool: Pool = Here()
    return seconds(lambda: pool.results(jobs, shared=data))


def shown(values: list[float], scale: float, unit: str) -> str:
    """Median, smallest and largest."""
    low, middle, high = (scale * value for value in (min(values), statistics.median(values), max(values)))
    return f"{middle:.3g} ({low:.3g} to {high:.3g}){unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", action="append", help="default: here, processes:2 and ray")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    pools = given.pool or ["here", "processes:2", "ray"]
    rounds = [{text: round_of(text) for text in pools} for _ in range(given.rounds)]
    print(
        "| pool | start | a job | a job that returns 1 MB | time here / time there |\n| --- | --- | --- | --- | --- |"
    )
    for text in pools:
        found = {name: [each[text][name] for each in rounds] for name in rounds[0][text]}
        cells = (
            shown(found["start"], 1, " s"),
            shown(found["empty"], 1000, " ms"),
            shown(found["1 MB"], 1000, " ms"),
            shown(found["here / pool"], 1, ""),
        )
        print(f"| {text} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
