"""Objects as bytes, to send them to another process, and sentences about those that cannot be sent."""

import io
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from gradiometer.errors import BadArgument, StorageFailed, UserCodeFailed, summary
from gradiometer.jobs.job import Job, Outcome
from gradiometer.storage.disk import reason_of

SHARED = "shared"
INSTEAD = 'create such an object inside of the job, or use the pool "here"'


def packed(value: Any) -> bytes:
    """An object as bytes, also functions of a script. Tensors that share memory still do so afterwards."""
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_module=cloudpickle)
    return buffer.getvalue()


def unpacked(parcel: bytes) -> Any:
    """The object. Only for bytes from this program's own processes: unpickling runs code."""
    return torch.load(io.BytesIO(parcel), weights_only=False)


def packed_job(job: Job) -> bytes:
    """A job as bytes.

    Raises:
        BadArgument: It cannot be sent. The message names the job and the argument.
    """
    try:
        return packed(job)
    except Exception as error:
        parts = {"its function": job.work} | {f"its argument {k}": a for k, a in enumerate(job.arguments, start=1)}
        guilty, why = next(((what, e) for what, part in parts.items() if (e := _refusal(part))), ("", error))
        where = f", because of {guilty} ({type(parts[guilty]).__name__})" if guilty else ""
        raise BadArgument(
            f"`jobs` has the job {job.name!r}, which cannot be sent to another process{where}: {summary(why)}; "
            f"{INSTEAD}."
        ) from error


def write_shared(shared: Any) -> Path:
    """Write what all jobs share into a new folder. The processes map its file into memory. Returns the folder.

    Raises:
        BadArgument: It cannot be sent.
        StorageFailed: The file cannot be written.
    """
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="gradiometer-"))
        with (folder / SHARED).open("wb") as file:
            torch.save(shared, file, pickle_module=cloudpickle)
    except BaseException as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        refused = error if isinstance(error, OSError) else error.__context__  # torch raises another one for a full disk
        if isinstance(refused, OSError):
            raise StorageFailed(
                f"`{folder or tempfile.gettempdir()}` could not be written ({reason_of(refused)}): free some space "
                "there, or set TMPDIR to another folder."
            ) from error
        if isinstance(error, Exception):
            raise _shared_refused(shared, error) from error
        raise
    return folder


def packed_shared(shared: Any) -> bytes:
    """What all jobs share, as bytes.

    Raises:
        BadArgument: It cannot be sent.
    """
    try:
        return packed(shared)
    except Exception as error:
        raise _shared_refused(shared, error) from error


def read_shared(folder: Path) -> Any:
    """What all jobs share. Its tensors are pages of the file, so that all processes use the same memory."""
    return torch.load(folder / SHARED, mmap=True, weights_only=False)


def packed_outcome(outcome: Outcome) -> bytes:
    """An outcome as bytes. A result that cannot be sent back is a failure."""
    if outcome.exception is not None and not _returns(outcome.exception):
        outcome = Outcome(outcome.name, error=outcome.error, seconds=outcome.seconds)
    try:
        return packed(outcome)
    except Exception as error:
        what = f"the result of the job {outcome.name!r} ({type(outcome.result).__name__})"
        refused = UserCodeFailed(
            f"{what} cannot be sent back: {summary(error)}; return numbers, arrays, tensors, or containers of them."
        )
        return packed(Outcome(outcome.name, error=str(refused), seconds=outcome.seconds, exception=refused))


def _returns(exception: Exception) -> bool:
    """True if an exception is the same after sending it: many with arguments of their own are not."""
    try:
        return str(unpacked(packed(exception))) == str(exception)
    except Exception:
        logging.getLogger(__name__).debug("an exception cannot be sent", exc_info=True)
        return False


def _refusal(value: Any) -> Exception | None:
    try:
        packed(value)
    except Exception as error:
        return error
    return None


def _shared_refused(shared: Any, error: Exception) -> BadArgument:
    return BadArgument(
        f"`shared` ({type(shared).__name__}) cannot be sent to another process: {summary(error)}; {INSTEAD}."
    )
