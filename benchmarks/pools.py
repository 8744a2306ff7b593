"""What does a pool cost, and what does it gain?

    .venv/bin/python benchmarks/pools.py [--pool processes:2 --pool ray] [--rounds 5] [--lengths
    0.5,2,5]

For each pool: the time until the first outcome of a new pool, and the time of a job that does
nothing, with and without a tensor of 1 MB as its result. Then how much faster eight trainings of a
small network are than in this process, if
each takes so many seconds here: with the start of the pool and without it. Each is the median over
rounds in which the pools take turns, with the smallest and the largest. The gain needs free
processors: it is at most their number, and at most that of the processes.

A busy machine has none, and there the last column counts: the time that the trainings would take on
free processors, as a share of the time here, from processor times. It is that of one process at its
start, and that of the trainings divided by the number of processes. Ray's processes are not
children of this one, so Ray has no such column.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from gradiometer.jobs import Job, Pool, pool_of
from gradiometer.jobs.pool import Here

EMPTY = 200
"""Jobs that do nothing."""

TRAININGS = 8
TIMED = 100
"""Updates of the training that is timed first."""


def nothing() -> None:
    """A job that does nothing."""


def megabyte() -> torch.Tensor:
    """A job that returns 1 MB."""
    return torch.zeros(250_000)


def training(data: tuple[torch.Tensor, torch.Tensor], steps: int) -> float:
    """Train a small network on what is shared. Returns the processor time."""
    began = time.process_time()
    inputs, labels = data
    model = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (256,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
    return time.process_time() - began


def seconds(work: Callable[[], object]) -> float:
    """Duration of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    """What the trainings share."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20_000, 64, generator=generator), torch.randint(
        10, (20_000,), generator=generator
    )


def round_of(text: str, lengths: dict[float, int]) -> dict[str, float]:
    """One round in new pools, in seconds; the gains are ratios."""
    empty = [Job(f"{k}", nothing) for k in range(EMPTY)]
    large = [Job(f"{k}", megabyte) for k in range(EMPTY // 4)]
    with pool_of(text) as pool:
        started = seconds(lambda: pool.results([Job(f"{k}", nothing) for k in range(pool.size)]))
        found = {
            "start": started,
            "empty": seconds(lambda: pool.results(empty)) / len(empty),
            "1 MB": seconds(lambda: pool.results(large)) / len(large),
        }
        for length, steps in lengths.items():
            found |= gains(pool, text, length, steps)
    return found


def gains(pool: Pool, text: str, length: float, steps: int) -> dict[str, float]:
    """How much faster trainings are in a pool that has started, and in a new one; and their share
    by processor time."""
    data = examples()
    jobs = [Job(f"{k}", training, (steps,), seed=k) for k in range(TRAININGS)]
    used: list[float] = []
    here = seconds(lambda: used.extend(Here().results(jobs, shared=data)))
    without = seconds(lambda: pool.results(jobs, shared=data))
    before, there = processor_time(), list[float]()

    def anew() -> None:
        with pool_of(text) as new:
            there.extend(new.results(jobs, shared=data))

    with_start = seconds(anew)
    start = (processor_time() - before - sum(there)) / pool.size
    share = (start + sum(there) / pool.size) / sum(used)
    return {
        f"without {length}": here / without,
        f"with {length}": here / with_start,
        f"share {length}": share,
    }


def processor_time() -> float:
    """Processor time of this process and of its children that have ended."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def steps_of(length: float) -> int:
    """Updates that take so many seconds of processor time in this process."""
    [used] = Here().results([Job("timed", training, (TIMED,))], shared=examples())
    return max(round(TIMED * length / used), 1)


def shown(values: list[float], scale: float, unit: str) -> str:
    """Median, smallest and largest."""
    low, middle, high = (
        scale * value for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle:.3g} ({low:.3g} to {high:.3g}){unit}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", action="append", help="default: here, processes:2 and ray")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", default="0.5,2,5", help="seconds of a training")
    given = parser.parse_args()
    steps_of(0.1)  # the first training also imports
    lengths = {float(text): steps_of(float(text)) for text in given.lengths.split(",")}
    pools = given.pool or ["here", "processes:2", "ray"]
    rounds = [{text: round_of(text, lengths) for text in pools} for _ in range(given.rounds)]
    found = {
        text: {name: [each[text][name] for each in rounds] for name in rounds[0][text]}
        for text in pools
    }
    print("| pool | start | a job | a job that returns 1 MB |\n| --- | --- | --- | --- |")
    for text in pools:
        cells = (shown(found[text][name], *how) for name, how in COSTS.items())
        print(f"| {text} | {' | '.join(cells)} |")
    print(
        "\n| pool | a training | time here / there, with start | without | share by processor time "
        "|"
    )
    print("| --- | --- | --- | --- | --- |")
    for text in pools:
        for length in lengths:
            names = (f"with {length}", f"without {length}", *[f"share {length}"] * (text != "ray"))
            print(
                f"| {text} | {length:g} s | "
                f"{' | '.join(shown(found[text][name], 1, '') for name in names)} |"
            )


COSTS = {"start": (1, " s"), "empty": (1000, " ms"), "1 MB": (1000, " ms")}
"""Columns of the first table, with factor and unit."""


if __name__ == "__main__":
    main()
