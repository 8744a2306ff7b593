"""Perform a job so that its numbers do not depend on where it runs."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gradiometer.errors import UserCodeFailed, of_user, summary, user_line
from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.parcels import unpacked
from gradiometer.jobs.threads import threads
from gradiometer.randomness import untouched_randomness


class Desk:
    """Performs the jobs of one submission after another.

    Attributes:
        submission: Name of the submission whose jobs are performed now.
    """

    def __init__(self) -> None:
        self.submission = ""
        self._read: Callable[[], Any] | None = None
        self._shared: Any = None

    def prepare(self, submission: str, read: Callable[[], Any] | None) -> None:
        """Take over the way to read what the jobs that follow share, if they share something."""
        self.submission, self._read, self._shared = submission, read, None

    def perform(self, parcel: bytes) -> Outcome:
        """The outcome of a job."""
        try:
            if self._read is not None:
                self._shared, self._read = self._read(), None
            job = unpacked(parcel)
        except Exception as error:  # such as a module that is not in the search path
            return failed("", error, 0.0)
        outcome = performed(job, self._shared)
        sys.stdout.flush()
        return outcome


def performed(job: Job, shared: Any) -> Outcome:
    """Run a job in this process. Its exceptions become an outcome, except KeyboardInterrupt."""
    began = time.perf_counter()
    try:
        with _same_everywhere(job):
            result = job.work(*job.arguments) if shared is None else job.work(shared, *job.arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # such as SystemExit
        return failed(job.name, error, time.perf_counter() - began)
    return Outcome(job.name, result, seconds=time.perf_counter() - began)


def failed(name: str, error: BaseException, seconds: float) -> Outcome:
    """The outcome of a job that raised this error."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without this room's own frame
    text = "".join(traceback.format_exception(type(error), error, below)).rstrip()
    if not isinstance(error, Exception):
        error = UserCodeFailed(f"the job {name!r} raised {summary(error)}{user_line(error)}, which ends a program.")
    error = of_user(error) or error  # another process gets no traceback, from which to see whose it is
    return Outcome(name, error=text, seconds=seconds, exception=error)


@contextmanager
def _same_everywhere(job: Job) -> Iterator[None]:
    """Seeded generators, a fixed number of threads, and gradients on; all restored at the end."""
    used = torch.cuda.is_initialized()  # asking how many there are would start one
    devices = [torch.device("cuda", place) for place in range(torch.cuda.device_count())] if used else []
    with (
        threads(job.threads),
        untouched_randomness(job.seed, devices),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield
