"""Jobs on a cluster of Ray."""

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, Unsupported
from gradiometer.jobs.job import Job, Shared, in_pool, perform_task, unpack
from gradiometer.jobs.pool import WorkerLost, WorkerPool

try:
    import ray
except ImportError as error:
    raise Unsupported(
        "the pool Ray needs the package ray: install it with pip install 'gradiometer[ray]'."
    ) from error

ADDRESS = re.compile(r"auto|(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)")

# Without `max_retries=0` Ray starts a lost task again: `WorkerPool` does that, and counts losses.
TASK = ray.remote(max_retries=0)(perform_task)

# Time between two looks at the cluster while nothing finishes, and to reach a part of it.
SECONDS = 2


class Ray(WorkerPool):
    """Runs jobs on a cluster of Ray: the one this program is connected to, an existing one, or a
    local one.

    Each job gets the `cpus` and `gpus` that it asks for. `shared` is put into the object store
    once, and each process of the cluster reads it once. All machines need this package in the same
    version, and the same torch. A job whose process or machine is lost starts again on another one;
    if the cluster ends, all jobs that are left have failed. Inside a process of a pool the jobs run
    in that process.

    Args:
        address: "auto", HOST:PORT or ray://HOST:PORT. Default: the cluster of $RAY_ADDRESS or of
            this machine, if there is one, else a local one for this program. A local one sends no
            usage statistics, has no dashboard, and ends with the pool.
        count: Number of processors of a local cluster; then one is started in any case.

    Raises:
        BadArgument: `address` is none, or `count` is not a whole number from 1 or is given with an
            address.
        Unsupported: Ray is not installed.
    """

    def __init__(self, address: str | None = None, *, count: int | None = None) -> None:
        if count is not None:
            check_whole("count", count, 1)
            if address is not None:
                raise BadArgument(
                    "`count` is for a cluster that is started here: leave out `address`, or "
                    "`count`."
                )
        if not (address is None or ADDRESS.fullmatch(address)):
            raise BadArgument(
                f"`address` must be auto, HOST:PORT or ray://HOST:PORT, got {address!r}."
            )
        self.address = address
        self.count = count
        self._connected = False

    def __repr__(self) -> str:
        if self.count is not None:
            return f"Ray(count={self.count})"
        return f"Ray({'' if self.address is None else repr(self.address)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Ray, count=self.count), (self.address,)

    @property
    def size(self) -> int:
        """The number of processors of the cluster now, to which it connects; 1 in a process of a
        pool."""
        if in_pool():
            return 1
        self._connect()
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def check(self) -> None:
        """Refuse an address where nothing listens.

        Raises:
            BadArgument: Nothing listens there.
        """
        found = ADDRESS.fullmatch(self.address or "auto")
        try:
            if found is not None and found[2] is not None:
                # 10: time to reach the machine of an address. Ray itself tries for two minutes.
                socket.create_connection((found[1], int(found[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise BadArgument(f"`address` {self.address!r} cannot be reached: {error}.") from error

    def close(self) -> None:
        """Leave the cluster. It ends if it was started here."""
        if self._connected:
            ray.shutdown()
            ray._private.worker._worker_logs_enabled = True
            self._connected = False

    def _connect(self) -> None:
        if ray.is_initialized():
            connected = "" if self._connected else ray.get_runtime_context().gcs_address
            if connected and (self.count or not _is_same(self.address, connected)):
                raise BadArgument(
                    f"`pool` {self!r} is another cluster than the one this program is connected "
                    f"to, {connected}: use Ray()."
                )
            return
        self.check()
        # A cluster that is started here sends no statistics and does not announce its next version.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = "local" if self.count else self.address
        local: dict[str, Any] = (
            {} if self.address else {"include_dashboard": False, "num_cpus": self.count}
        )
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except SystemExit as ended:
            # what Ray makes of a SIGTERM until its handler is replaced
            raise KeyboardInterrupt from ended
        except Exception as error:  # Ray's own kind if its processes begin too slowly
            reason = f"{type(error).__name__}: {error}".rstrip(".")
            if self.address is None:
                raise Unsupported(f"no cluster of Ray could be started: {reason}.") from error
            raise BadArgument(
                f"`address` must belong to a cluster of Ray, got {self.address!r}: {reason}."
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray replaces it
        # Ray prints what happens to its machines on standard output, which is for the results of
        # this program.
        ray._private.worker._worker_logs_enabled = False
        self._connected = True

    @contextmanager
    def _submission(
        self, jobs: Sequence[Job], content: bytes | None, running: Mapping[Any, object]
    ) -> Iterator[Shared | None]:
        self._connect()
        self._warn_of_waiting(jobs)
        shared = None
        if content is not None:
            reference = ray.put(content)
            # In a list Ray leaves the reference as it is, and does not fetch the object for every
            # task.
            shared = reference.hex(), partial(_fetch, [reference])
        try:
            yield shared
        finally:
            for task in running:
                ray.cancel(task, force=True)

    def _warn_of_waiting(self, jobs: Sequence[Job]) -> None:
        """Warn if a job has to wait for a machine, or for other programs."""
        warn = logging.getLogger(__name__).warning
        have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for job in jobs:
            if not any(
                job.cpus <= each.get("CPU", 0) and job.gpus <= each.get("GPU", 0) for each in have
            ):
                warn(
                    "The job %r asks for %g cpus and %g gpus, which no machine of the cluster has "
                    "now. It waits for one.",
                    job.name,
                    job.cpus,
                    job.gpus,
                )
                return
        # the cluster counts the processors of ended jobs a little later
        last = time.monotonic() + 1
        while ray.available_resources().get("CPU", 0) < min(job.cpus for job in jobs):
            if time.monotonic() > last:
                warn(
                    "The cluster of Ray has no free processor. The jobs wait until other programs "
                    "that use it end."
                )
                return
            time.sleep(0.1)

    def _begin(self, job: Job, others: Sequence[Job], *arguments: Any) -> Any:
        return TASK.options(name=job.name, num_cpus=job.cpus, num_gpus=job.gpus).remote(*arguments)

    def _answers(self, tasks: Sequence[Any]) -> Iterator[tuple[Any, bytes | BaseException]]:
        finished, _ = ray.wait(list(tasks), num_returns=1, timeout=SECONDS)
        ended = WorkerLost("was lost (the cluster of Ray has ended)", is_last=True)
        if not finished and not is_there():
            yield from ((task, ended) for task in tasks)
        for task in finished:
            try:
                yield task, ray.get(task)
            except ray.exceptions.RayTaskError as error:
                # the task itself, such as a package that is missing there
                yield task, error
            except ray.exceptions.RayError as error:
                reason = str(error).strip().partition("\n")[0].rstrip(".")
                yield task, WorkerLost(f"was lost ({reason})") if is_there() else ended


def _is_same(address: str | None, connected: str) -> bool:
    """True if both lead to the same port of the same machine, by its name or its number, or if any
    cluster will do. Unknown for a client."""
    if address in (None, "auto") or address.startswith("ray://"):
        return True
    parts = [text.rpartition(":") for text in (address, connected)]
    with suppress(OSError):
        return len({(socket.gethostbyname(host), port) for host, _, port in parts}) == 1
    return False


def _fetch(references: Sequence[Any]) -> Any:
    return unpack(ray.get(references[0]))


def is_there() -> bool:
    """True if the head of the cluster and one of its machines answer. Ray itself asks for a minute.

    From a client (ray://) only its server is within reach, and the cluster is taken to be there.
    """
    if ray.util.client.ray.is_connected():
        return True
    if not _answers(*ray.get_runtime_context().gcs_address.rsplit(":", 1)):
        return False
    return any(
        _answers(node["NodeManagerAddress"], node["NodeManagerPort"])
        for node in ray.nodes()
        if node["Alive"]
    )


def _answers(host: str, port: int | str) -> bool:
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS).close()
    except OSError:
        return False
    return True
