"""What crosses to another process: a job with the settings of its program, and its outcome."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import cloudpickle
import torch
from torch.backends import cudnn

from gradiometer.errors import BadArgument, UserCodeFailed, summary
from gradiometer.jobs.job import failure, perform

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
    # The first setting is `in_pool`: a pool in a job starts no processes.
    _apply((True, *settings[1:]))
    try:
        outcome = perform(unpack(parcel), None if shared is None else _read(*shared))
    except Exception as error:  # such as a module that is not in the search path
        outcome = failure("", error)
    finally:
        _apply(before)
    sys.stdout.flush()
    if not _arrives(outcome.exception):
        outcome = replace(outcome, exception=None)
    try:
        return pack(outcome)
    except Exception as error:
        refused = UserCodeFailed(
            f"the result of the job {outcome.name!r} ({type(outcome.result).__name__}) cannot be "
            f"sent back: {summary(error)}; return numbers, arrays, tensors, or containers of them."
        )
        return pack(replace(outcome, result=None, error=str(refused), exception=refused))


def _read(name: str, read: Callable[[], Any]) -> Any:
    if name not in _last_shared:
        _last_shared.clear()
        _last_shared[name] = read()
    return _last_shared[name]


def _arrives(exception: Exception | None) -> bool:
    """True if an exception is the same after sending it: many with arguments of their
    own are not."""
    try:
        return str(unpack(pack(exception))) == str(exception)
    except Exception:
        return False


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


def in_pool() -> bool:
    """True in a process of a pool. There `Processes` and `Ray` start no further processes."""
    return os.environ.get("GRADIOMETER_IN_POOL") == "1"


def _mark(inside: bool) -> None:
    os.environ["GRADIOMETER_IN_POOL"] = "1" if inside else "0"


def _search(path: list[str]) -> None:
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]


# What functions and their numbers may depend on: how to get it, and how to set it.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (in_pool, _mark),
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
