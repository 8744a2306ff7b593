"""Pools: run many jobs somewhere, hand back their outcomes as they come, and keep them in a
ledger."""

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, final

from gradiometer.errors import BadArgument, Interrupted, RunDamaged, summary
from gradiometer.jobs.job import (
    Job,
    Outcome,
    Shared,
    failure,
    in_pool,
    pack_given,
    perform,
    settings_here,
    unpack,
)
from gradiometer.storage.disk import writing
from gradiometer.storage.journal import JournalWriter, plain, read_journal, restored

Code = Callable[[Any], Any]


class Ledger:
    """A file of finished jobs, by name: one line of JSON for each, on the disk before its outcome
    is yielded.

    Failed jobs are not kept. Nothing is unpickled from the file. An incomplete last line, left by a
    killed process, is
    dropped. Use one file for one plan: a job whose name is in it is not run again, even if its work
    has changed.

    Args:
        path: The file. It and its folder are created if missing.
        encode: Turns a result into numbers, texts, lists and dictionaries. Default: the result is
            of that kind.
        decode: The inverse.

    Attributes:
        warnings: What could not be read when the file was last read, one sentence for each line.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from gradiometer.jobs import Job
        >>> from gradiometer.jobs.pool import Ledger
        >>> from gradiometer.jobs.pool import Here
        >>> ledger = Ledger(Path(tempfile.mkdtemp()) / "finished.jsonl")
        >>> [first] = Here().run([Job("seven", lambda: 7)], ledger=ledger)
        >>> [again] = Here().run([Job("seven", lambda: print("is not run again"))], ledger=ledger)
        >>> again.result
        7
    """

    def __init__(
        self, path: Path | str, encode: Code | None = None, decode: Code | None = None
    ) -> None:
        self.path = Path(path)
        self._encode = encode or (lambda result: result)
        self._decode = decode or (lambda result: result)
        self.warnings: tuple[str, ...] = ()

    def finished(self) -> dict[str, Outcome]:
        """The finished jobs by name.

        Raises:
            RunDamaged: The file cannot be read.
        """
        lines, warnings = read_journal(self.path)
        found = {}
        for number, record in lines:
            try:
                name = str(record["name"])
                result = self._decode(record["result"])
                found[name] = Outcome(name, result, seconds=float(record["seconds"]))
            except Exception as error:
                raise RunDamaged(
                    f"`{self.path}`, line {number}, is not a finished job of this kind "
                    f"({summary(error)}): use another file."
                ) from error
        self.warnings = tuple(warnings)
        return found

    @contextmanager
    def opened(self) -> Iterator[Callable[[Outcome], Outcome]]:
        """Open the file for writing. The function that it gives keeps an outcome and returns it as
        it is read back.

        Raises:
            BadArgument: Another process is writing the file.
            Interrupted: The disk is full.
            StorageFailed: The file cannot be written.
        """
        with writing(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        writer = JournalWriter(
            self.path, self.path.parent, "start the same jobs again: finished ones are not repeated"
        )

        def keep(outcome: Outcome) -> Outcome:
            result = self._encode(outcome.result)
            writer.append({"name": outcome.name, "result": result, "seconds": outcome.seconds})
            writer.sync()
            return replace(outcome, result=self._decode(restored(plain(result))))

        try:
            yield keep
        finally:
            writer.close()


# Called after each job with its outcome, the number of finished jobs, and the number of all jobs.
Progress = Callable[[Outcome, int, int], None]

Outcomes = Generator[Outcome, None, None]


class Pool:
    """A place where jobs run: `Here`, `Processes` or `Ray`. The numbers are the same in each of
    them.

    Use it as a context, so that it ends its processes. They also end if the program is interrupted
    or killed.
    """

    @final
    def run(
        self,
        jobs: Iterable[Job],
        *,
        shared: Any = None,
        ledger: Ledger | None = None,
        progress: Progress | None = None,
    ) -> Outcomes:
        """Run jobs, and yield their outcomes in the order in which they finish.

        A failed job is an outcome with `error`, and the others continue. A job whose process or
        machine is lost starts again in another one, with the same numbers; after three losses it
        has failed. If the iterator is closed early, the jobs that are not finished are stopped.

        Args:
            jobs: The jobs, with different names.
            shared: First argument of every job, sent once to each process. Jobs must not change it.
                None: no such argument.
            ledger: Where finished jobs are kept. Those that are in it already are not run again:
                their outcomes come first. Each result is then as the ledger reads it back.
            progress: Called after each job with its outcome, the number of finished jobs, and the
                number of all jobs.

        Raises:
            BadArgument: Two jobs have the same name, or a job or `shared` cannot be sent to another
                process.

        Example:
            >>> from gradiometer.jobs import Job
            >>> from gradiometer.jobs.pool import Here
            >>> jobs = [Job(f"+{k}", lambda shared, k: shared + k, (k,)) for k in (1, 2)]
            >>> [(outcome.name, outcome.result) for outcome in Here().run(jobs, shared=10)]
            [('+1', 11), ('+2', 12)]
        """
        jobs = list(jobs)
        [(name, count)] = Counter(job.name for job in jobs).most_common(1) or [("", 0)]
        if not count <= 1:
            raise BadArgument(f"`jobs` must have different names, got {name!r} twice.")
        finished = {} if ledger is None else ledger.finished()
        known = [finished[job.name] for job in jobs if job.name in finished]
        missing = [job for job in jobs if job.name not in finished]
        outcomes = self._outcomes(missing, shared)
        return _delivery(known, outcomes, ledger if missing else None, progress, len(jobs))

    @final
    def in_order(
        self, jobs: Sequence[Job], *, shared: Any = None, progress: Progress | None = None
    ) -> Generator[Any, None, None]:
        """The results of jobs in the order of the jobs, each as soon as possible. A failure stops
        all jobs.

        Raises:
            UserCodeFailed: A job of your own raised. Its name and traceback are a note.
            GradiometerError: What another job raised.
        """
        arrived: dict[str, Any] = {}
        with closing(self.run(jobs, shared=shared, progress=progress)) as outcomes:
            for job in jobs:
                while job.name not in arrived:
                    outcome = next(outcomes)
                    arrived[outcome.name] = outcome.value()
                yield arrived.pop(job.name)

    @final
    def results(
        self, jobs: Sequence[Job], *, shared: Any = None, progress: Progress | None = None
    ) -> list[Any]:
        """The results of jobs, in the order of the jobs. A failure stops all jobs and is raised.

        Raises:
            UserCodeFailed: A job of your own raised. Its name and traceback are a note.
            GradiometerError: What another job raised.

        Example:
            >>> from gradiometer.jobs import Job
            >>> from gradiometer.jobs.pool import Here
            >>> Here().results([Job(text, text.upper) for text in ("a", "b")])
            ['A', 'B']
        """
        return list(self.in_order(jobs, shared=shared, progress=progress))

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Refuse a pool that is not within reach.

        Raises:
            BadArgument: Nothing answers at its address.
        """

    def start(self, modules: Sequence[str] = (), most: int = 8) -> None:
        """Start the processes of this pool in the background, so that they are ready when jobs
        come.

        Args:
            modules: Names of modules that each process imports meanwhile, because its jobs need
                them.
            most: Most processes that are started, since the number of jobs is not known yet.
        """

    @property
    def size(self) -> int:
        """Number of jobs of one processor that run at the same time."""
        return 1

    def close(self) -> None:
        """End the processes of this pool, if it has any. It starts new ones if it is used again."""

    def _outcomes(self, jobs: Sequence[Job], shared: Any) -> Outcomes:
        """The outcomes of these jobs, as they finish; here in this process, one after another."""
        return (perform(job, shared) for job in jobs)


class Here(Pool):
    """Runs jobs in this process, one after another. The random generators are afterwards as they
    were.

    Example:
        >>> from gradiometer.jobs import Job
        >>> from gradiometer.jobs.pool import Here
        >>> import torch
        >>> Here().results([Job("a", lambda: torch.rand(1).item(), seed=5)]) == [
        ...     torch.rand(1, generator=torch.Generator().manual_seed(5)).item()
        ... ]
        True
    """

    def __repr__(self) -> str:
        return "Here()"


class WorkerLost(Exception):
    """The process or machine of a job is lost.

    Args:
        reason: How, as the end of a sentence.
        is_last: True if there is no other one, and none will come.
    """

    def __init__(self, reason: str, *, is_last: bool = False) -> None:
        super().__init__(reason)
        self.is_last = is_last


class WorkerPool(Pool, ABC):
    """Runs jobs in other processes. A job whose process is lost is given to another one."""

    def _outcomes(self, jobs: Sequence[Job], shared: Any) -> Outcomes:
        """The outcomes of these jobs, as they finish. What cannot be sent is refused at once."""
        if in_pool() or not jobs:
            return super()._outcomes(jobs, shared)
        parcels = [pack_given(f"`jobs` has the job {job.name!r}, which", job) for job in jobs]
        content = None
        if shared is not None:
            content = pack_given(f"`shared` ({type(shared).__name__})", shared)
        return self._dispatch(zip(jobs, parcels, strict=True), content)

    def _dispatch(self, jobs: Iterable[tuple[Job, bytes]], content: bytes | None) -> Outcomes:
        """The outcomes of jobs, as they finish. At the end, jobs that still run are stopped.

        Args:
            jobs: The jobs, and the same as bytes.
            content: What they share.
        """
        waiting, running = deque(jobs), dict[Any, tuple[Job, bytes]]()
        losses, settings = Counter[str](), settings_here()
        with self._submission([job for job, _ in waiting], content, running) as shared:
            while waiting or running:
                while waiting:
                    job, parcel = waiting[0]
                    others = [other for other, _ in running.values()]
                    task = self._begin(job, others, settings, shared, parcel)
                    if task is None:
                        break
                    running[task] = waiting.popleft()
                for task, answer in self._answers(list(running)):
                    job, parcel = running.pop(task)
                    try:
                        if isinstance(answer, BaseException):
                            raise answer
                        outcome = unpack(answer)
                    except WorkerLost as loss:
                        losses[job.name] += 1
                        text = f"the process of the job {job.name!r} {loss}"
                        # A job that is lost three times is likely to be the reason.
                        if losses[job.name] < 3 and not loss.is_last:
                            logging.getLogger(__name__).warning(
                                "%s: the job starts again in another one.", text
                            )
                            waiting.append((job, parcel))
                            continue
                        outcome = failure(
                            job.name, Interrupted(f"{text}; the job is not finished.")
                        )
                    except Exception as error:
                        # such as a class that only the other process could import
                        outcome = failure(job.name, error)
                    yield replace(outcome, name=job.name)

    @abstractmethod
    def _submission(
        self, jobs: Sequence[Job], content: bytes | None, running: Mapping[Any, object]
    ) -> AbstractContextManager[Shared | None]:
        """Prepare for these jobs, and put what they share where every process can read it. At the
        end the tasks that still run are stopped."""

    @abstractmethod
    def _begin(self, job: Job, others: Sequence[Job], *arguments: Any) -> Any:
        """A task that calls `perform_task` with these arguments, while the other jobs run; None if
        no worker is free."""

    @abstractmethod
    def _answers(self, tasks: Sequence[Any]) -> Iterable[tuple[Any, bytes | BaseException]]:
        """Wait for some of these tasks. Returns what the finished ones returned, or why they
        failed."""


def _delivery(
    known: Sequence[Outcome],
    outcomes: Outcomes,
    ledger: Ledger | None,
    progress: Progress | None,
    total: int,
) -> Outcomes:
    with closing(outcomes), nullcontext() if ledger is None else ledger.opened() as keep:
        for done, arrived in enumerate(chain(known, outcomes), start=1):
            outcome = arrived
            if keep is not None and done > len(known) and arrived.error is None:
                outcome = keep(arrived)
            if progress is not None:
                progress(outcome, done, total)
            yield outcome
