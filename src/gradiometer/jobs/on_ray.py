"""Jobs on a cluster of Ray."""

import logging
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, Interrupted, Unsupported
from gradiometer.jobs.caller import Caller, in_pool
from gradiometer.jobs.here import Here
from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.parcels import packed, packed_job, packed_shared, unpacked
from gradiometer.jobs.performing import failed
from gradiometer.jobs.pool import Pool
from gradiometer.jobs.ray_task import perform_task

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Settings of a cluster that is started here: it sends no statistics and does not announce its next version."""


HOST_AND_PORT = re.compile(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)")
SECONDS = 10
"""Time to reach the machine of an address. Ray itself tries for two minutes."""

SETTLED = 1.0
"""Seconds after which the cluster counts the processors of ended jobs as free."""

PATIENCE = 2
"""Seconds between two looks at the cluster while nothing finishes."""


class Ray(Pool):
    """Runs jobs on a cluster of Ray: the one this program is connected to, an existing one, or a local one.

    Each job gets the `cpus` and `gpus` that it asks for. `shared` is put into the object store once, and each process
    of the cluster reads it once. All machines need this package in the same version, and the same torch. A job whose
    process or machine is lost has failed, and is not repeated; if the cluster ends, all jobs that are left have failed.
    Inside a process of a pool the jobs run in that process.

    Args:
        address: "auto", HOST:PORT or ray://HOST:PORT. Default: the cluster of $RAY_ADDRESS or of this machine, if there
            is one, else a local one for this program. A local one sends no usage statistics, has no dashboard, and ends
            with the pool.
        count: Number of processors of a local cluster; then one is started in any case.

    Raises:
        BadArgument: `address` is none, or `count` is not a whole number from 1 or is given with an address.
        Unsupported: Ray is not installed.
    """

    def __init__(self, address: str | None = None, *, count: int | None = None) -> None:
        if count is not None:
            check_whole("count", count, 1)
            if address is not None:
                raise BadArgument("`count` is for a cluster that is started here: leave out `address`, or `count`.")
        if address not in (None, "auto") and not HOST_AND_PORT.fullmatch(str(address)):
            raise BadArgument(f"`address` must be auto, HOST:PORT or ray://HOST:PORT, got {address!r}.")
        if find_spec("ray") is None:
            raise Unsupported("the pool Ray needs the package ray: install it with pip install 'gradiometer[ray]'.")
        self.address, self.count = address, count
        self._started = False

    def __repr__(self) -> str:
        given = [] if self.address is None else [repr(self.address)]
        return f"Ray({', '.join(given if self.count is None else [f'count={self.count}'])})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.address, self.count)

    @property
    def size(self) -> int:
        """The number of processors of the cluster now, to which it connects; 1 in a process of a pool."""
        if in_pool():
            return 1
        import ray  # noqa: PLC0415

        self._connect()
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def close(self) -> None:
        """Leave the cluster. It ends if it was started here."""
        if self._started:
            import ray  # noqa: PLC0415  (an extra, which takes a second)

            ray.shutdown()
            self._started = False

    def _outcomes(self, jobs: Sequence[Job], shared: Any) -> Iterator[Outcome]:
        if in_pool():
            return Here()._outcomes(jobs, shared)
        parcels = [(job, packed_job(job)) for job in jobs]
        content = None if shared is None else packed_shared(shared)
        self._connect()
        return _running(parcels, content)

    def _connect(self) -> None:
        import ray  # noqa: PLC0415

        if ray.is_initialized():
            self._check_connected(ray.get_runtime_context().gcs_address)
            return
        self._check_reached()
        local: dict[str, Any] = {} if self.address is not None else {"include_dashboard": False, "num_cpus": self.count}
        try:
            with _left_alone():
                ray.init(
                    "local" if self.count else self.address, log_to_driver=False, logging_level=logging.ERROR, **local
                )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = f"{type(error).__name__}: {error}".rstrip(".")
            if self.address is None:
                raise Unsupported(f"no cluster of Ray could be started: {reason}.") from error
            raise BadArgument(f"`address` must be that of a cluster of Ray, got {self.address!r}: {reason}.") from error
        self._started = True

    def _check_reached(self) -> None:
        """Refuse an address where nothing listens."""
        if (found := HOST_AND_PORT.fullmatch(self.address or "")) is None:
            return
        try:
            socket.create_connection((found[1], int(found[2])), timeout=SECONDS).close()
        except (OSError, OverflowError) as error:
            raise BadArgument(f"`address` {self.address!r} cannot be reached: {error}.") from error

    def _check_connected(self, address: str) -> None:
        """Refuse another cluster than the one this program is connected to."""
        other = self.address not in (None, "auto", address) and not str(self.address).startswith("ray://")
        if other or (self.count is not None and not self._started):
            raise BadArgument(
                f"`pool` {self!r} is another cluster than the one this program is connected to, {address}: use Ray()."
            )


def _again(address: str | None, count: int | None) -> Ray:
    return Ray(address, count=count)


@contextmanager
def _left_alone() -> Iterator[None]:
    """Set the environment that a cluster starts in, and restore it and the handler of SIGTERM, which Ray replaces."""
    before, handler = {name: os.environ.get(name) for name in QUIET}, signal.getsignal(signal.SIGTERM)
    os.environ.update(QUIET)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _running(parcels: Sequence[tuple[Job, bytes]], shared: bytes | None) -> Iterator[Outcome]:
    import ray  # noqa: PLC0415

    submission, task = uuid.uuid4().hex, ray.remote(max_retries=0)(perform_task)
    preparation = ray.put(packed(Caller.here()))
    references = [] if shared is None else [ray.put(shared)]
    _warn_of_waiting([job for job, _ in parcels], ray.nodes())
    names: dict[Any, str] = {}
    try:
        for job, parcel in parcels:
            options = task.options(name=job.name, num_cpus=job.cpus, num_gpus=job.gpus)
            names[options.remote(submission, preparation, references, parcel)] = job.name
        while names:
            finished, _ = ray.wait(list(names), num_returns=1, timeout=PATIENCE)
            outcomes = [_outcome(names.pop(reference), reference) for reference in finished]
            yield from outcomes
            if all(isinstance(each.exception, Interrupted) for each in outcomes) and not _is_there():
                left, names = names, {}
                yield from (_lost(name, "the cluster of Ray has ended") for name in left.values())
    finally:
        for reference in names:
            ray.cancel(reference, force=True)


def _outcome(name: str, reference: Any) -> Outcome:
    import ray  # noqa: PLC0415

    try:
        outcome: Outcome = unpacked(ray.get(reference))
    except ray.exceptions.RayTaskError as error:  # the task itself, such as a package that is missing there
        return failed(name, error, 0.0)
    except ray.exceptions.RayError as error:
        return _lost(name, str(error).strip().partition("\n")[0].rstrip("."))
    except Exception as error:  # such as a class that only the other process could import
        return failed(name, error, 0.0)
    return replace(outcome, name=name)


def _lost(name: str, reason: str) -> Outcome:
    lost = Interrupted(f"the process of the job {name!r} was lost ({reason}); the job is not finished.")
    return Outcome(name, error=str(lost), exception=lost)


def _is_there() -> bool:
    """True if the head of the cluster and one of its machines answer. Ray itself asks for a minute.

    From a client (ray://) only its server is within reach, and the cluster is taken to be there.
    """
    import ray  # noqa: PLC0415
    from ray.util.client import ray as client  # noqa: PLC0415

    if client.is_connected():
        return True
    if not _answers(*ray.get_runtime_context().gcs_address.rsplit(":", 1)):
        return False
    return any(_answers(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes() if node["Alive"])


def _answers(host: str, port: int | str) -> bool:
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


def _warn_of_waiting(jobs: Sequence[Job], nodes: Sequence[Mapping[str, Any]]) -> None:
    """Log a warning if jobs must wait: for a larger machine, or for other programs that use the cluster."""
    have = [node["Resources"] for node in nodes if node["Alive"]]
    for job in jobs:
        if not any(job.cpus <= each.get("CPU", 0) and job.gpus <= each.get("GPU", 0) for each in have):
            logging.getLogger(__name__).warning(
                "The job %r asks for %g cpus and %g gpus, which no machine of the cluster has now. It waits for one.",
                job.name, job.cpus, job.gpus,
            )  # fmt: skip
            return
    if jobs and not _is_free(min(float(job.cpus) for job in jobs)):
        logging.getLogger(__name__).warning(
            "The cluster of Ray has no free processor. The jobs wait until other programs that use it end theirs."
        )


def _is_free(cpus: float) -> bool:
    """True if so many processors are free now or in a second: the cluster counts those of ended jobs a little later."""
    import ray  # noqa: PLC0415

    last = time.monotonic() + SETTLED
    while ray.available_resources().get("CPU", 0) < cpus:
        if time.monotonic() > last:
            return False
        time.sleep(SETTLED / 10)
    return True
