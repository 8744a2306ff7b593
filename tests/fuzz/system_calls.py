"""Answer one system call of an action with an error, in the kernel's place: a forked process acts,
and strace answers."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle

CALLS = (
    *(
        "openat",
        "read",
        "pread64",
        "write",
        "pwrite64",
        "lseek",
        "ftruncate",
        "fsync",
        "fdatasync",
        "close",
        "ioctl",
    ),
    *(
        "newfstatat",
        "fstat",
        "stat",
        "lstat",
        "access",
        "readlink",
        "getdents64",
        "flock",
        "fcntl",
        "dup",
    ),
    *(
        "rename",
        "renameat",
        "renameat2",
        "mkdir",
        "mkdirat",
        "unlink",
        "unlinkat",
        "rmdir",
        "chmod",
        "utimensat",
    ),
)
"""Those on files. The report is sent by another one, so that only the action is disturbed."""


class Traced(NamedTuple):
    """What an action did.

    Attributes:
        calls: Names of its system calls on files, in order.
        kinds: The kind of each: its name, and the file with all numbers taken out.
        changed: The lines of strace about those that were answered with an error.
        error: What the action raised.
        told: What `tell` returned after it.
    """

    calls: list[str]
    kinds: list[str]
    changed: list[str]
    error: BaseException | None
    told: Any


def can_trace() -> bool:
    """True if strace is here and may trace a process."""
    if sys.platform != "linux" or shutil.which("strace") is None:
        return False
    return (
        subprocess.run(
            ["strace", "-o", os.devnull, "true"], capture_output=True, check=False
        ).returncode
        == 0
    )


def traced(act: Callable[[], object], tell: Callable[[], Any] = int, rule: str = "") -> Traced:
    """Run an action in a forked process under strace.

    Args:
        tell: Called in the forked process after the action; what it returns is sent back.
        rule: The call that fails, and how: `write:error=EIO:when=2` is the second one.
    """
    ours, theirs = socket.socketpair()
    number = os.fork()
    if number == 0:
        _act(act, tell, theirs)
    theirs.close()
    os.waitpid(number, os.WUNTRACED)
    with ours, tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        command = [
            "strace",
            "-y",
            "-p",
            str(number),
            "-o",
            str(log),
            "-e",
            f"trace={','.join(f'?{name}' for name in CALLS)}",
        ]
        command += ["-e", f"inject={rule}"] if rule else []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None and "attached" in tracer.stderr.readline()
            os.kill(number, signal.SIGCONT)
            with ours.makefile("rb") as pipe:
                content = pipe.read()
            os.waitpid(number, 0)
        lines = log.read_text(errors="replace").splitlines()
    error, told = cloudpickle.loads(content)
    made = [line for line in lines if "(" in line]
    calls = [line.partition("(")[0] for line in made]
    changed = [line for line in lines if line.endswith("(INJECTED)")]
    return Traced(calls, [*map(kind_of, made)], changed, error, told)


def kind_of(line: str) -> str:
    """The kind of a call in a line of strace."""
    name, _, arguments = line.partition("(")
    path = re.search(r'"([^"]*)"|<([^>]*)>', arguments)
    file = Path(path[1] or path[2] or "").name if path else ""
    # names of partial files and of runs have numbers and random letters
    return f"{name} {re.sub('[0-9a-f]{6,}|[0-9]+', 'N', file)}"


def places(calls: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each call as its name and its number among those of this name, from 1."""
    seen: Counter[str] = Counter()
    for name in calls:
        seen[name] += 1
        yield name, seen[name]


def _act(act: Callable[[], object], tell: Callable[[], object], pipe: socket.socket) -> None:
    """Wait for the tracer, act, and send what came of it."""
    found: Sequence[object]
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        act()
        found = None, tell()
    except Exception as error:
        error.add_note(traceback.format_exc())
        found = error, tell()
    try:
        pipe.sendall(cloudpickle.dumps(found))
    finally:
        os._exit(0)
