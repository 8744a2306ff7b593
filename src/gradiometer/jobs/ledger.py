"""Finished jobs on disk, so that they are not run again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradiometer.errors import BadArgument, RunDamaged, summary
from gradiometer.jobs.job import Outcome
from gradiometer.storage.disk import writing
from gradiometer.storage.journal import JournalWriter, plain, read_journal, restored

Code = Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


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
        >>> from gradiometer.jobs.ledger import Ledger
        >>> from gradiometer.jobs.pool import Here
        >>> ledger = Ledger(Path(tempfile.mkdtemp()) / "finished.jsonl")
        >>> [first] = Here().run([Job("seven", lambda: 7)], ledger=ledger)
        >>> [again] = Here().run([Job("seven", lambda: print("is not run again"))], ledger=ledger)
        >>> again.result
        7
    """

    def __init__(
        self, path: Path | str, encode: Code = _as_it_is, decode: Code = _as_it_is
    ) -> None:
        self.path = Path(path)
        self._encode = encode
        self._decode = decode
        self.warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r})"

    def finished(self) -> dict[str, Outcome]:
        """The finished jobs by name.

        Raises:
            RunDamaged: The file cannot be read.
        """
        lines, warnings = read_journal(self.path)
        found = {}
        for number, record in lines:
            try:
                name, result, seconds = (
                    str(record["name"]),
                    record["result"],
                    float(record["seconds"]),
                )
                found[name] = Outcome(name, self._decode(result), seconds=seconds)
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
            BadArgument: Another process is writing the file, or a result cannot be written as JSON.
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
            kind = _not_json(result)
            if kind:
                raise BadArgument(
                    f"`ledger` cannot keep the result of the job {outcome.name!r}, which has a "
                    f"{kind}: give `encode` and `decode`, which turn it into numbers, texts, lists "
                    "and dictionaries, and back."
                )
            writer.append({"name": outcome.name, "result": result, "seconds": outcome.seconds})
            writer.sync()
            return Outcome(
                outcome.name, self._decode(restored(plain(result))), seconds=outcome.seconds
            )

        try:
            yield keep
        finally:
            writer.close()


def _not_json(value: Any) -> str:
    """The type of a part that JSON cannot store; empty if there is none."""
    if isinstance(value, dict):
        wrong = next(
            (type(name).__name__ + " as a key" for name in value if type(name) is not str), ""
        )
        return wrong or next(filter(None, map(_not_json, value.values())), "")
    if isinstance(value, list | tuple):
        return next(filter(None, map(_not_json, value)), "")
    return (
        "" if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
    )
