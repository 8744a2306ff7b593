"""The journal: what was written is read, whatever happens to the rest."""

import errno
import math
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradiometer import BadArgument, Interrupted, StorageFailed
from gradiometer.storage.disk import replace_file
from gradiometer.storage.journal import JournalWriter, being_written, read_journal

RECORDS: list[dict[str, Any]] = [
    {"step": 0, "values": [0.1, -2.5e-300, math.inf], "name": "η · “x”\n\t\\"},
    {"step": 1, "value": -math.inf, "deep": {"a": [1, [2, {"b": None}]], "yes": True}},
    {"step": 2**53, "value": 1 / 3, "empty": {}},
]


def write(path: Path, records: list[dict[str, Any]]) -> None:
    writer = JournalWriter(path, path.parent)
    for record in records:
        writer.append(record)
    writer.close()


def records(path: Path) -> list[dict[str, Any]]:
    return [line.record for line in read_journal(path)[0]]


def test_records_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", RECORDS)
    write(tmp_path / "a.jsonl", RECORDS)
    lines, warnings = read_journal(tmp_path / "a.jsonl")
    assert [line.record for line in lines] == RECORDS * 2 and warnings == []
    assert [line.number for line in lines] == [1, 2, 3, 4, 5, 6]


def test_arrays_are_lists_and_nan_is_read_back_as_a_number(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl",
        [{"x": np.array([1.0, np.nan]), "n": np.int64(3), "f": np.float32(0.5)}],
    )
    (record,) = records(tmp_path / "a.jsonl")
    assert b'"nan"' in (tmp_path / "a.jsonl").read_bytes()
    assert (
        record["n"] == 3
        and record["f"] == 0.5
        and record["x"][0] == 1.0
        and math.isnan(record["x"][1])
    )


def test_a_record_is_the_same_whether_or_not_it_can_be_written_as_it_is(tmp_path: Path) -> None:
    plain = {"n": 1, "x": 0.5, "list": [1.0, 2], "flag": True}
    odd = {"n": np.int64(1), "x": np.float64(0.5), "list": (1.0, np.int32(2)), "flag": np.True_}
    nothing: dict[Any, Any] = {**plain, "none": None}
    write(
        tmp_path / "a.jsonl",
        [plain, odd, nothing, {**nothing, "nan": math.nan}, {"deep": {(1, 2): "x"}}],
    )
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert lines[0] == lines[1] == '{"n":1,"x":0.5,"list":[1.0,2],"flag":true}'
    assert lines[2] == lines[0][:-1] + ',"none":null}'
    assert lines[3] == lines[2][:-1] + ',"nan":"nan"}'
    assert records(tmp_path / "a.jsonl")[4] == {"deep": {"(1, 2)": "x"}}


def test_a_missing_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none.jsonl") == ([], [])


def test_cut_at_any_byte_every_whole_line_is_read_and_writing_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, RECORDS)
    content = path.read_bytes()
    ends = [offset for offset, byte in enumerate(content) if byte == 0x0A]
    for offset in range(len(content) + 1):
        path.write_bytes(content[:offset])
        # with its last brace a line is whole, also without its newline
        whole = sum(end <= offset for end in ends)
        torn = offset not in {0, *ends, *(end + 1 for end in ends)}
        lines, warnings = read_journal(path)
        assert [line.record for line in lines] == RECORDS[:whole]
        sentence = f"a.jsonl:{whole + 1}: the last line is incomplete: skipped."
        assert warnings == [sentence] * torn
        write(path, [{"step": 9}])
        assert records(path) == [*RECORDS[:whole], {"step": 9}]
        assert len(read_journal(path)[1]) == torn


def test_a_flipped_byte_costs_at_most_the_lines_it_touches(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, RECORDS)
    content = path.read_bytes()
    for offset in range(len(content)):
        for mask in (0x01, 0x80):
            path.write_bytes(
                content[:offset] + bytes([content[offset] ^ mask]) + content[offset + 1 :]
            )
            line = content[:offset].count(b"\n")
            touched = {line, line + 1} if content[offset] == 0x0A else {line}
            untouched = [record for n, record in enumerate(RECORDS) if n not in touched]
            lines, warnings = read_journal(path)
            assert [record for record in untouched if record not in [x.record for x in lines]] == []
            assert len(lines) + len(warnings) >= len(RECORDS) - (content[offset] == 0x0A)


@pytest.mark.parametrize("seed", range(20))
def test_noise_between_the_lines_is_named_and_skipped(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.jsonl"
    write(path, RECORDS)
    noise = random.Random(seed).randbytes(300)
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + noise + b"\n" + rest)
    lines, warnings = read_journal(path)
    assert [line.record for line in lines] == RECORDS
    assert warnings and warnings[0].startswith("a.jsonl:2")


def test_neighbouring_garbled_lines_are_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"{}\n" + b"\0" * 50 + b"\n" + b"[1]\nnull\n" * 20 + b'{"a":1}\n' + b"[" * 100_000 + b"\n{}"
    )
    lines, warnings = read_journal(path)
    assert [line.number for line in lines] == [1, 43, 45]
    assert warnings == [
        "a.jsonl:2-42: 41 lines cannot be read: skipped.",
        "a.jsonl:44: a line cannot be read: skipped.",
    ]


def test_a_full_disk_is_one_sentence_and_nothing_is_lost_or_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    writer = JournalWriter(path, tmp_path / "my run")
    room, really = 70, os.write

    def write_while_there_is_room(descriptor: int, content: Any) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = really(descriptor, bytes(content)[: min(room, 7)])
        room -= written
        return written

    monkeypatch.setattr(os, "write", write_while_there_is_room)
    for record in RECORDS:
        writer.append(record)
    for _ in range(3):
        with pytest.raises(Interrupted) as stop:
            writer.flush()
    sentence = str(stop.value)
    assert (
        str(path) in sentence and "no space left on device" in sentence and "are safe" in sentence
    )
    assert sentence.endswith(f"`gradiometer resume '{tmp_path}/my run'`.")
    room = 10_000
    writer.append({"step": 3})
    writer.close()
    assert records(path) == [*RECORDS, {"step": 3}]


def test_a_full_disk_interrupts_and_the_file_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no space")

    writer = JournalWriter(tmp_path / "a.jsonl", Path("runs/a-1"))
    writer.append({"step": 0})
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="free some space"):
        patched.setattr("gradiometer.storage.journal.os.write", full)
        writer.close()
    assert writer.closed
    writer.close()


def test_a_write_that_the_system_refuses_is_a_storage_error_and_not_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path / "a.jsonl", tmp_path)
    writer.append({})

    def fail(*_: Any) -> int:
        raise PermissionError(errno.EPERM, "no")

    with (
        monkeypatch.context() as patch,
        pytest.raises(StorageFailed, match=r"could not be written .*exists and can be written to"),
    ):
        patch.setattr(os, "write", fail)
        writer.flush()
    writer.close()


def test_a_journal_has_one_writer_and_readers_see_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert not being_written(path)
    writer = JournalWriter(path, tmp_path)
    assert being_written(path)
    with pytest.raises(BadArgument, match="is being written by another process"):
        JournalWriter(path, tmp_path)
    writer.append({"a": 1})
    writer.close()
    assert not being_written(path)
    write(path, [{"a": 2}])
    assert records(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_process_that_inherited_the_open_file_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    writer = JournalWriter(path, tmp_path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[writer._descriptor]) as other:
        assert being_written(path)
        writer.close()
        assert other.poll() is None and not being_written(path)
        write(path, [{"a": 1}])
    assert records(path) == [{"a": 1}]


def test_a_full_buffer_is_written_without_being_asked(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "a.jsonl", tmp_path)
    for _ in range(100):
        writer.append({"text": "x" * 1000})
    assert (tmp_path / "a.jsonl").stat().st_size > 60_000
    writer.close()
    assert len(records(tmp_path / "a.jsonl")) == 100


def test_a_writer_that_waited_writes_into_the_file_that_replaced_the_one_it_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "readings.jsonl"
    first = JournalWriter(path, tmp_path)
    waits = threading.Event()
    monkeypatch.setattr("gradiometer.storage.journal.time.sleep", lambda _: waits.set())

    def second() -> None:
        writer = JournalWriter(path, tmp_path)
        writer.append({"step": 2})
        writer.close()

    thread = threading.Thread(target=second)
    thread.start()
    assert waits.wait(20)  # the file is open, and its lock is not free
    replace_file(path, b'{"step":1}\n')
    first.close()
    thread.join()
    assert [record["step"] for _, record in read_journal(path)[0]] == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_on_a_file_system_without_locks_nothing_waits_for_another_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    path = tmp_path / "a.jsonl"
    writer = JournalWriter(path, tmp_path)
    assert not being_written(path)
    writer.append({"a": 1})
    writer.close()
    assert records(path) == [{"a": 1}]


@pytest.mark.parametrize("call", ["fstat", "lseek", "read", "close"])
def test_a_fault_at_the_beginning_or_end_of_writing_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.jsonl"
    write(path, [{"a": 1}])

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(
        Interrupted, match=r"`.*a.jsonl` could not be written \(input/output error\)"
    ) as raised:
        writer = JournalWriter(path, tmp_path) if call == "close" else None
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            (writer or JournalWriter(path, tmp_path)).close()
    write(path, [{"a": 2}])  # while the error is still there, with all that its traceback refers to
    assert records(path) == [{"a": 1}, {"a": 2}] and raised.value.__traceback__ is not None


FORKS = """
import os, sys, time
from contextlib import suppress
from pathlib import Path
from gradiometer.storage.journal import JournalWriter, being_written
path, parent = Path(sys.argv[1]), os.getpid()
writer = JournalWriter(path, path.parent)
writer.append({"by": "the first"})
child = os.fork()
if child == 0:
    writer.append({"by": "its copy"})
"""
A_COPY = """
    sys.exit()  # which runs what is registered for the end of the process
os.waitpid(child, 0)
print(being_written(path))
writer.close()
"""
A_DAEMON = """
    with suppress(ProcessLookupError):
        while True:  # until it has ended and its own parent knows
            os.kill(parent, 0)
            time.sleep(0.01)
    writer.close()
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_forked_copy_of_the_process_neither_writes_nor_unlocks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    command = [sys.executable, "-c", FORKS + A_COPY, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
    assert records(path) == [{"by": "the first"}]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_daemon_writes_after_the_process_that_opened_the_file_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    subprocess.run([sys.executable, "-c", FORKS + A_DAEMON, str(path)], check=True)
    until = time.monotonic() + 20
    while len(records(path)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert records(path) == [{"by": "the first"}, {"by": "its copy"}]


def test_a_closed_journal_writes_into_no_other_file(tmp_path: Path) -> None:
    """The next file that is opened gets its descriptor."""
    writer = JournalWriter(tmp_path / "a.jsonl", tmp_path)
    writer.append({"step": 0})
    writer.close()
    with (tmp_path / "other").open("w") as other:
        assert other.fileno() == writer._descriptor
        writer.append({"step": 1})
        for write_all in (writer.flush, writer.sync):
            with pytest.raises(StorageFailed, match="is closed: nothing more can be written"):
                write_all()
        writer.close()
    assert (tmp_path / "other").read_bytes() == b""
    assert records(tmp_path / "a.jsonl") == [{"step": 0}]
