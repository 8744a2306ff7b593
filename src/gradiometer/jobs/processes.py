"""Jobs in processes of this machine, which loky starts."""

import os
import re
import shutil
import signal
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from loky import cpu_count
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from gradiometer.errors import Interrupted, summary
from gradiometer.jobs.job import Job, Shared, in_pool, perform_task
from gradiometer.jobs.pool import WorkerLost, WorkerPool
from gradiometer.storage.disk import reason_of, writing

REMEDY = "free some space there, or set TMPDIR to another folder"
ONE_THREAD = {
    f"{library}_NUM_THREADS": "1"
    for library in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR")
}


class Processes(WorkerPool):
    """Runs jobs in processes of this machine, one job at a time in each.

    The processes are new ones, not forks. They start when jobs need them, which takes as long as
    importing torch, and stay until the pool is closed. The caller's script is not run again in
    them, so it needs no `if __name__ == "__main__"`. They take over the search path, the working
    folder and torch's settings. What jobs print goes to standard error.

    Tensors in `shared` are in memory once for all processes; a process that changes one changes its
    own copy only. The job of a killed process runs again in another one. A job of several `cpus`
    runs beside fewer others. Inside a
    process of a pool the jobs run in that process: pools of pools do not multiply processes.

    Args:
        count: Number of processes. Default: the number of processors that this program may use.

    Raises:
        BadArgument: `count` is not a whole number from 1.

    Example: no process starts before there are jobs.
        >>> from gradiometer.jobs.processes import Processes
        >>> Processes(2).count
        2
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = int(count or cpu_count())
        self._given = () if count is None else (count,)
        # Those without a job are used first, and each is put back after a job.
        self._idle: list[Worker] = []
        self._busy: dict[Future[bytes], Worker] = {}
        self._folder: Path | None = None
        self._remove: Callable[[], object] = list

    def __repr__(self) -> str:
        return f"Processes({', '.join(map(str, self._given))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Processes, self._given

    @property
    def size(self) -> int:
        """The number of processes; 1 in a process of a pool."""
        return 1 if in_pool() else self.count

    def start(self, modules: Sequence[str] = (), most: int = 8) -> None:
        """Start the processes in the background: jobs then do not wait for imports that are
        finished."""
        if not in_pool():
            for _ in range(min(self.count, most) - len(self._idle)):
                self._idle.append(Worker(self._scratch(), modules))

    def close(self) -> None:
        """End the processes. New ones start if the pool is used again."""
        stop_workers(self._idle)
        self._idle.clear()
        self._remove()
        self._folder = None

    def _scratch(self) -> Path:
        """The folder for what jobs share. It goes with the pool, and with its processes if the
        program is killed."""
        if self._folder is None:
            with writing(Path(tempfile.gettempdir()), REMEDY):
                self._folder = Path(tempfile.mkdtemp(prefix="gradiometer-"))
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    @contextmanager
    def _submission(
        self, jobs: Sequence[Job], content: bytes | None, running: "Mapping[Future[bytes], object]"
    ) -> Iterator[Shared | None]:
        self.start(most=len(jobs))
        file = self._scratch() / uuid4().hex
        shared = None
        try:
            if content is not None:
                with writing(file.parent, REMEDY):
                    file.write_bytes(content)
                # Its tensors are pages of the file, so that all processes use the same memory.
                shared = file.name, partial(torch.load, file, mmap=True, weights_only=False)
            yield shared
        finally:
            stop_workers([self._busy.pop(task) for task in running])
            file.unlink(missing_ok=True)

    def _begin(self, job: Job, others: Sequence[Job], *arguments: Any) -> "Future[bytes] | None":
        costs = [min(one.threads, self.count) for one in (job, *others)]
        if sum(costs) > self.count:
            return None
        worker = self._idle.pop() if self._idle else Worker(self._scratch())
        try:
            task: Future[bytes] = worker.submit(perform_task, *arguments)
        except BrokenProcessPool:  # killed since its last job
            worker.shutdown(kill_workers=True)
            return self._begin(job, others, *arguments)
        self._busy[task] = worker
        return task

    def _answers(
        self, tasks: "Sequence[Future[bytes]]"
    ) -> "Iterator[tuple[Future[bytes], bytes | BaseException]]":
        for task in wait(tasks, return_when=FIRST_COMPLETED).done:
            unready = self._busy[task].ready.exception()
            if unready is not None:
                raise Interrupted(
                    f"a process of the pool could not start: it {_ending(unready)}."
                ) from unready
            worker, error = self._busy.pop(task), task.exception()
            if isinstance(error, BrokenProcessPool):
                worker.shutdown(kill_workers=True)
                yield task, WorkerLost(_ending(error))
            else:
                self._idle.append(worker)
                yield task, task.result() if error is None else error


class Worker(ProcessPoolExecutor):  # type: ignore[misc]
    """A process that performs jobs, one at a time: loky's executor of one process, so that it can
    be lost alone.

    Args:
        folder: The folder that it removes if this program is killed.
        modules: Names of modules that it imports before its first job.

    Raises:
        Interrupted: The system starts no process.
    """

    def __init__(self, folder: Path, modules: Sequence[str] = ()) -> None:
        super().__init__(1, env=ONE_THREAD, initializer=_settle, initargs=(os.getpid(), folder))
        # Without it, a program that ends while a job runs would wait for the job.
        self._flags.kill_workers = True
        # Ctrl-C is for this program, which then stops the process. A new process inherits what is
        # blocked.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.ready = self.submit(
                exec, "import " + ", ".join(("gradiometer.jobs.job", *modules))
            )
        except OSError as error:
            raise Interrupted(
                f"a process of the pool could not start: {reason_of(error)}."
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def stop_workers(workers: Sequence[Worker]) -> None:
    """Kill processes, with those that their jobs have started, and wait for their end."""
    for number in [number for worker in workers for number in worker._processes]:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(number, signal.SIGKILL)
    for worker in workers:
        worker.shutdown(kill_workers=True)


def _ending(error: BaseException) -> str:
    """How a process ended, as the end of a sentence. loky's message has its exit code."""
    code = re.search(r"\w+\(-?\d+\)", str(error))
    if code is None:
        return f"has failed: {summary(error)}"
    return (
        f"ended with {code[0]}{', perhaps because memory ran out' if 'SIGKILL' in code[0] else ''}"
    )


def _settle(parent: int, folder: Path) -> None:
    """Make a new process one of a pool: it ends with its parent, and prints to standard error."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()


def _end_with(parent: int, folder: Path) -> None:
    while os.getppid() == parent:
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # also the processes that a job has started
