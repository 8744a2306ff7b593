"""Jobs in processes of this machine."""

import os
import queue
import shutil
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gradiometer.arguments import check_whole
from gradiometer.jobs.caller import Caller, in_pool
from gradiometer.jobs.here import Here
from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.parcels import packed, packed_job, write_shared
from gradiometer.jobs.pool import Pool
from gradiometer.jobs.worker import Worker


class Processes(Pool):
    """Runs jobs in processes of this machine, one job at a time in each.

    The processes are new ones, not forks. They start when jobs need them, which takes as long as importing torch, and
    stay until the pool is closed. The caller's script is not run again in them, so it needs no
    `if __name__ == "__main__"`. They take over the search path, the working folder and torch's settings. What jobs
    print goes to standard error.

    Tensors in `shared` are in memory once for all processes; a process that changes one changes its own copy only. A
    killed process costs its job only. A job of several `cpus` runs beside fewer others. Inside a process of a pool the
    jobs run in that process: pools of pools do not multiply processes.

    Args:
        count: Number of processes. Default: the number of processors that this program may use.

    Raises:
        BadArgument: `count` is not a whole number from 1.

    Example: no process starts before there are jobs.
        >>> from gradiometer.jobs import Processes
        >>> Processes(2).count
        2
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None:
            check_whole("count", count, 1)
        self.count = processors() if count is None else int(count)
        self._given = count
        self._idle: list[Worker] = []
        self._stop = weakref.finalize(self, _stop_all, self._idle)

    def __repr__(self) -> str:
        return f"Processes({'' if self._given is None else self._given})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Processes, (self._given,)

    @property
    def size(self) -> int:
        """The number of processes; 1 in a process of a pool."""
        return 1 if in_pool() else self.count

    def start(self, modules: Sequence[str] = (), most: int = 8) -> None:
        """Start the processes in the background: jobs then do not wait for imports that are finished."""
        if not in_pool():
            self._idle += [Worker(modules) for _ in range(min(self.count, most) - len(self._idle))]

    def close(self) -> None:
        """End the processes. New ones start if the pool is used again."""
        _stop_all(self._idle)

    def _outcomes(self, jobs: Sequence[Job], shared: Any) -> Iterator[Outcome]:
        if in_pool():
            return Here()._outcomes(jobs, shared)
        parcels = deque((job.name, min(job.threads, self.count), packed_job(job)) for job in jobs)
        folder = None if shared is None else write_shared(shared)
        return _running(Submission(parcels, self.count, folder, self._idle))


class Submission:
    """Jobs on their way through processes: a thread for each process hands it one job after another.

    Args:
        parcels: Name, processors and bytes of each job.
        count: Processors for all of them.
        folder: The folder of what they share; None if they share nothing.
        idle: Processes of the pool without a job. They are used first, and those that remain at the end are put back.
    """

    def __init__(
        self, parcels: deque[tuple[str, int, bytes]], count: int, folder: Path | None, idle: list[Worker]
    ) -> None:
        self.total = len(parcels)
        self._remove = None if folder is None else weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        self._waiting, self._free, self._idle = parcels, count, idle
        self._changed, self._closed = threading.Condition(), False
        self._preparation = (b"" if folder is None else os.fsencode(folder)) + b"\0" + packed(Caller.here())
        self._workers: set[Worker | None] = set()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(min(count, self.total))]

    def start(self) -> None:
        """Start the threads, which start the processes."""
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Wait until all jobs are finished and all processes are put back."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Stop the jobs that are not finished, with their processes, and put the others back."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            stopped = [worker for worker in self._workers if worker is not None]
            self._changed.notify_all()
        for worker in stopped:
            worker.stop()
        self.wait()
        if self._remove is not None:
            self._remove()

    def _serve(self) -> None:
        worker: Worker | None = None
        try:
            while (parcel := self._next()) is not None:
                name, cost, content = parcel
                if worker is None or not worker.alive:
                    worker = self._another(worker)
                outcome = worker.perform(name, content)
                self._finish(cost)
                self.outcomes.put(outcome)
        except BaseException as error:
            self.outcomes.put(error)
        finally:
            self._put_back(worker)

    def _next(self) -> tuple[str, int, bytes] | None:
        """The next job, as soon as its processors are free; None at the end."""
        with self._changed:
            while self._waiting and self._waiting[0][1] > self._free:
                self._changed.wait()
            if not self._waiting:
                return None
            self._free -= self._waiting[0][1]
            return self._waiting.popleft()

    def _finish(self, cost: int) -> None:
        with self._changed:
            self._free += cost
            self._changed.notify_all()

    def _another(self, ended: Worker | None) -> Worker:
        if ended is not None:
            ended.stop()
        with self._changed:
            if self._closed:
                raise InterruptedError
            self._workers -= {ended}
            while self._idle and not self._idle[-1].alive:
                self._idle.pop().stop()
            worker = self._idle.pop() if self._idle else Worker()
            self._workers.add(worker)
        worker.prepare(self._preparation)
        return worker

    def _put_back(self, worker: Worker | None) -> None:
        with self._changed:
            if worker is not None and not self._closed:
                self._workers.discard(worker)
                self._idle.append(worker)
            self._changed.notify_all()


def processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _running(submission: Submission) -> Iterator[Outcome]:
    try:
        submission.start()
        for _ in range(submission.total):
            outcome = submission.outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
        submission.wait()
    finally:
        submission.close()


def _stop_all(workers: list[Worker]) -> None:
    while workers:
        workers.pop().stop()
