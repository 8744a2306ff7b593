"""A task of Ray: performs one job in a process of the cluster."""

from collections.abc import Callable, Sequence
from typing import Any

from gradiometer.jobs.parcels import packed_outcome, unpacked
from gradiometer.jobs.performing import Desk

_desk = Desk()
"""Of this process. Ray gives it many tasks, and it reads what they share once."""


def perform_task(submission: str, preparation: bytes, shared: Sequence[Any], parcel: bytes) -> bytes:
    """Perform a job, and leave the settings of the process as they were.

    Args:
        submission: Name of the submission.
        preparation: The settings of its program, packed.
        shared: The reference to what the jobs share, in a list so that Ray does not fetch it for every task.
        parcel: The job.
    """
    with unpacked(preparation).imitated():
        if _desk.submission != submission:
            _desk.prepare(submission, _reader(shared[0]) if shared else None)
        return packed_outcome(_desk.perform(parcel))


def _reader(reference: Any) -> Callable[[], Any]:
    import ray  # noqa: PLC0415  (an extra)

    return lambda: unpacked(ray.get(reference))
