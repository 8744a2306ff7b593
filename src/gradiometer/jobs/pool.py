"""Pools: run many jobs somewhere, and hand back their outcomes as they come."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, final

from gradiometer.errors import BadArgument
from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.ledger import Ledger

Progress = Callable[[Outcome, int, int], None]
"""Called after each job with its outcome, the number of finished jobs, and the number of all jobs."""


class Pool(ABC):
    """A place where jobs run: `Here`, `Processes` or `Ray`. The numbers are the same in each of them.

    Use it as a context, so that it ends its processes. They also end if the program is interrupted or killed.
    """

    @final
    def run(
        self,
        jobs: Iterable[Job],
        *,
        shared: Any = None,
        ledger: Ledger | None = None,
        progress: Progress | None = None,
    ) -> Generator[Outcome, None, None]:
        """Run jobs, and yield their outcomes in the order in which they finish.

        A failed job is an outcome with `error`, and the others continue. If the iterator is closed early, the jobs that
        are not finished are stopped.

        Args:
            jobs: The jobs, with different names.
            shared: First argument of every job, sent once to each process. Jobs must not change it. None: no such
                argument.
            ledger: Where finished jobs are kept. Those that are in it already are not run again: their outcomes come
                first. Each result is then as the ledger reads it back.
            progress: Called after each job with its outcome, the number of finished jobs, and the number of all jobs.

        Raises:
            BadArgument: Two jobs have the same name, or a job or `shared` cannot be sent to another process.

        Example:
            >>> from gradiometer.jobs import Here, Job
            >>> jobs = [Job(f"+{k}", lambda shared, k: shared + k, (k,)) for k in (1, 2)]
            >>> [(outcome.name, outcome.result) for outcome in Here().run(jobs, shared=10)]
            [('+1', 11), ('+2', 12)]
        """
        jobs = list(jobs)
        names = [job.name for job in jobs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadArgument(f"`jobs` must have different names, got {twice!r} twice.")
        kept = {} if ledger is None else ledger.finished()
        known = [kept[name] for name in names if name in kept]
        open_jobs = [job for job in jobs if job.name not in kept]
        outcomes = self._outcomes(open_jobs, shared) if open_jobs else iter(())
        return _delivered(known, outcomes, ledger, progress, len(jobs))

    @final
    def in_order(self, jobs: Sequence[Job], *, shared: Any = None, progress: Progress | None = None) -> Iterator[Any]:
        """The results of jobs in the order of the jobs, each as soon as possible. A failure stops all jobs.

        Raises:
            Exception: What a job raised, with its name and traceback as a note.
        """
        outcomes = self.run(jobs, shared=shared, progress=progress)
        return _sorted([job.name for job in jobs], outcomes)

    @final
    def results(self, jobs: Sequence[Job], *, shared: Any = None, progress: Progress | None = None) -> list[Any]:
        """The results of jobs, in the order of the jobs. A failure stops all jobs and is raised.

        Raises:
            Exception: What a job raised, with its name and traceback as a note.

        Example:
            >>> from gradiometer.jobs import Here, Job
            >>> Here().results([Job(text, text.upper) for text in ("a", "b")])
            ['A', 'B']
        """
        return list(self.in_order(jobs, shared=shared, progress=progress))

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, modules: Sequence[str] = (), most: int = 8) -> None:  # noqa: B027 (most pools have nothing to start)
        """Start the processes of this pool in the background, so that they are ready when jobs come.

        Args:
            modules: Names of modules that each process imports meanwhile, because its jobs need them.
            most: Most processes that are started, since the number of jobs is not known yet.
        """

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of jobs of one processor that run at the same time."""

    @abstractmethod
    def close(self) -> None:
        """End the processes of this pool, if it has any. It starts new ones if it is used again."""

    @abstractmethod
    def _outcomes(self, jobs: Sequence[Job], shared: Any) -> Iterator[Outcome]:
        """The outcomes of these jobs, at least one, as they finish. What cannot be sent is refused at once."""


def _delivered(
    known: Sequence[Outcome], outcomes: Iterator[Outcome], ledger: Ledger | None, progress: Progress | None, total: int
) -> Generator[Outcome, None, None]:
    done = 0

    def counted(outcome: Outcome) -> Outcome:
        nonlocal done
        done += 1
        if progress is not None:
            progress(outcome, done, total)
        return outcome

    try:
        for outcome in known:
            yield counted(outcome)
        if ledger is None:
            for outcome in outcomes:
                yield counted(outcome)
        elif done < total:
            with ledger.opened() as keep:
                for outcome in outcomes:
                    yield counted(keep(outcome) if outcome.error is None else outcome)
    finally:
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()


def _sorted(names: Sequence[str], outcomes: Generator[Outcome, None, None]) -> Iterator[Any]:
    arrived: dict[str, Any] = {}
    try:
        for name in names:
            while name not in arrived:
                outcome = next(outcomes)
                arrived[outcome.name] = outcome.value()
            yield arrived.pop(name)
        next(outcomes, None)  # so that it ends as it would in a loop
    finally:
        outcomes.close()
