"""Jobs in this process."""

from collections.abc import Iterator, Sequence
from typing import Any

from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.performing import performed
from gradiometer.jobs.pool import Pool


class Here(Pool):
    """Runs jobs in this process, one after another. The random generators are afterwards as they were.

    Example:
        >>> from gradiometer.jobs import Here, Job
        >>> import torch
        >>> Here().results([Job("a", lambda: torch.rand(1).item(), seed=5)]) == [
        ...     torch.rand(1, generator=torch.Generator().manual_seed(5)).item()
        ... ]
        True
    """

    def __repr__(self) -> str:
        return "Here()"

    @property
    def size(self) -> int:
        """1."""
        return 1

    def close(self) -> None:
        """There is nothing to end."""

    def _outcomes(self, jobs: Sequence[Job], shared: Any) -> Iterator[Outcome]:
        return (performed(job, shared) for job in jobs)
