"""What crosses to another process: a job with the settings of its program, and its outcome."""

import io
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cloudpickle
import torch
from torch.backends import cudnn

from gradiometer.arguments import MOST_THREADS, check_number, check_whole
from gradiometer.errors import BadArgument, UserCodeFailed, of_user, summary, user_line
from gradiometer.interruption import StopAsked
from gradiometer.randomness import untouched_randomness


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads, since the bits of a sum depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Job:
    """An independent piece of work.

    It must not depend on what other jobs do. The random generators of Python, NumPy and torch are
    seeded with `seed` before it starts, and torch uses one thread, or `cpus` of them, so that its
    numbers are the same in every pool.

    Args:
        name: Its name, different from the others of a submission.
        work: The function to call. It may be a lambda or a closure, and may be defined in a script
            or a notebook.
        arguments: Its arguments. If the submission has something shared, that comes before them.
        seed: Seed of the random generators.
        cpus: Processors it uses; torch gets as many threads. A fraction shares a processor, on Ray.
        gpus: Accelerators it uses, on Ray. In other pools a job uses those of this machine.

    Raises:
        BadArgument: An argument is invalid.

    Example:
        >>> from gradiometer.jobs import Job
        >>> from gradiometer.jobs.pool import Here
        >>> [outcome] = Here().run([Job("seven", lambda a, b: a + b, (3, 4))])
        >>> outcome.result
        7
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    seed: int = 0
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name):
            raise BadArgument(
                f"`name` of a job must be a text that is not empty, got {self.name!r}."
            )
        if not callable(self.work):
            raise BadArgument(
                f"`work` of the job {self.name!r} must be a function, got "
                f"{type(self.work).__name__}."
            )
        given: Any = self.arguments
        if not isinstance(given, tuple):
            kind = type(given).__name__
            raise BadArgument(
                f"`arguments` of the job {self.name!r} must be a tuple, got {kind}: write (value,)."
            )
        check_whole("seed", self.seed, 0)
        check_number("cpus", self.cpus, positive=True)
        check_number("gpus", self.gpus)

    @property
    def threads(self) -> int:
        """Number of torch's threads."""
        return max(1, int(min(self.cpus, MOST_THREADS)))


@dataclass(frozen=True)
class Outcome:
    """What a job returned, or why it failed.

    Args:
        name: Name of the job.
        result: What `work` returned; None if it failed.
        error: Traceback of the failed job; None if it did not fail.
        seconds: Its duration.
        exception: The exception of the failed job, or one of ours that names it if it cannot be
            sent.
    """

    name: str
    result: Any = None
    error: str | None = None
    seconds: float = 0.0
    exception: Exception | None = None

    def value(self) -> Any:
        """The result, or raise what the job raised, with the job's name and its traceback as a
        note.

        >>> from gradiometer.jobs.job import Outcome
        >>> Outcome("seven", 7).value()
        7
        """
        if self.error is None:
            return self.result
        raised = self.exception or UserCodeFailed(f"the job {self.name!r} failed.")
        raised.add_note(f"In the job {self.name!r}:\n{self.error}")
        raise raised


def perform(job: Job, shared: Any = None) -> Outcome:
    """Run a job in this process. Its exceptions become an outcome, except KeyboardInterrupt and
    StopAsked."""
    began = time.perf_counter()
    arguments = job.arguments if shared is None else (shared, *job.arguments)
    # Asking how many accelerators there are would start one, in a process that uses none.
    count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    devices = [torch.device("cuda", place) for place in range(count)]
    try:
        with (
            threads(job.threads),
            untouched_randomness(job.seed, devices),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            result = job.work(*arguments)
    except (KeyboardInterrupt, StopAsked):
        raise
    except BaseException as error:  # such as SystemExit
        return failure(job.name, error, time.perf_counter() - began)
    return Outcome(job.name, result, seconds=time.perf_counter() - began)


def failure(name: str, error: BaseException, seconds: float = 0.0) -> Outcome:
    """The outcome of a job that raised this error."""
    # without this room's own frame
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    text = "".join(traceback.format_exception(type(error), error, below)).rstrip()
    if not isinstance(error, Exception):
        error = UserCodeFailed(
            f"the job {name!r} raised {summary(error)}{user_line(error)}, which ends a program."
        )
    # another process gets no traceback, from which to see whose it is
    error = of_user(error) or error
    return Outcome(name, error=text, seconds=seconds, exception=error)


# What the jobs of a submission share: a name of its own, and how to read it.
Shared = tuple[str, Callable[[], Any]]

# What this process has read for the jobs of the last submission.
_last_shared: dict[str, Any] = {}


def perform_task(settings: tuple[Any, ...], shared: Shared | None, parcel: bytes) -> bytes:
    """Perform a job in a process of a pool, which has the settings of the submitting program
    meanwhile.

    Returns:
        The outcome as bytes. A result that cannot be sent back is a failure.
    """
    before = settings_here()
    # The first setting is `IN_POOL`: a pool in a job starts no processes.
    _apply(("1", *settings[1:]))
    try:
        common = None
        if shared is not None:
            name, read = shared
            if name not in _last_shared:
                _last_shared.clear()
                _last_shared[name] = read()
            common = _last_shared[name]
        outcome = perform(unpack(parcel), common)
    except Exception as error:  # such as a module that is not in the search path
        outcome = failure("", error)
    finally:
        _apply(before)
    sys.stdout.flush()
    try:
        # Many exceptions with arguments of their own are another one after sending.
        arrives = str(unpack(pack(outcome.exception))) == str(outcome.exception)
    except Exception:
        arrives = False
    if not arrives:
        outcome = replace(outcome, exception=None)
    try:
        return pack(outcome)
    except Exception as error:
        refused = UserCodeFailed(
            f"the result of the job {outcome.name!r} ({type(outcome.result).__name__}) cannot be "
            f"sent back: {summary(error)}; return numbers, arrays, tensors, or containers of them."
        )
        return pack(replace(outcome, result=None, error=str(refused), exception=refused))


def pack(value: Any) -> bytes:
    """An object as bytes, also functions of a script. Tensors that share memory still do so
    afterwards."""
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_module=cloudpickle)
    return buffer.getvalue()


def unpack(parcel: bytes) -> Any:
    """The object. Only for bytes from this program's own processes: unpickling runs code."""
    return torch.load(io.BytesIO(parcel), weights_only=False)


def pack_given(what: str, value: Any) -> bytes:
    """An object that the caller has given, as bytes.

    Raises:
        BadArgument: It cannot be sent.
    """
    try:
        return pack(value)
    except Exception as error:
        raise BadArgument(
            f"{what} cannot be sent to another process: {summary(error)}; "
            'create such an object inside of the job, or use the pool "here".'
        ) from error


# The variable of the environment that is "1" in a process of a pool.
IN_POOL = "GRADIOMETER_IN_POOL"


def in_pool() -> bool:
    """True in a process of a pool. There `Processes` and `Ray` start no further processes."""
    return os.environ.get(IN_POOL) == "1"


def _search(path: list[str]) -> None:
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]


# What functions and their numbers may depend on: how to get it, and how to set it.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (partial(os.environ.get, IN_POOL, "0"), partial(os.environ.__setitem__, IN_POOL)),
    (lambda: list(sys.path), _search),
    (os.getcwd, os.chdir),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    *(
        (partial(getattr, cudnn, name), partial(setattr, cudnn, name))
        for name in ("deterministic", "benchmark", "allow_tf32")
    ),
)


def settings_here() -> tuple[Any, ...]:
    """The settings of this process."""
    return tuple(get() for get, _ in _SETTINGS)


def _apply(settings: tuple[Any, ...]) -> None:
    for (get, put), value in zip(_SETTINGS, settings, strict=True):
        # A folder may be missing on another machine. A default device that is set costs time in
        # every call of torch.
        with suppress(OSError):
            if get() != value:
                put(value)
