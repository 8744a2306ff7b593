"""Chains shared by the processes of a pool."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from gradiometer.jobs.job import Job
from gradiometer.jobs.pool import Pool

Answer = TypeVar("Answer")
Run = Callable[[Sequence[int]], Answer]


def in_parts(pool: Pool, run: Run[Answer], chains: int) -> list[Answer]:
    """Call `run` on the places of some of the chains, one part for each process of the pool.

    Raises:
        Exception: What `run` raised in a process.
    """
    parts = [part.tolist() for part in np.array_split(np.arange(chains), min(pool.size, chains))]
    jobs = [Job(f"chains {part[0]} to {part[-1]}", _called, (part,)) for part in parts]
    return pool.results(jobs, shared=run)


def _called(run: Run[Answer], places: Sequence[int]) -> Answer:
    return run(places)
