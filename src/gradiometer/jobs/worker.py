"""A process of a pool, seen from the program that starts it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO, cast

from gradiometer.errors import Interrupted
from gradiometer.jobs.caller import IN_POOL
from gradiometer.jobs.channel import JOB, PREPARE, Channel
from gradiometer.jobs.job import Outcome
from gradiometer.jobs.parcels import unpacked
from gradiometer.jobs.performing import failed
from gradiometer.storage.disk import reason_of

START = (
    "import json, sys; sys.path[:], modules = json.loads(sys.argv.pop()); "
    "from gradiometer.jobs.serving import serve; serve(modules)"
)
"""The worker's program. It is not the caller's script, so that script needs no `if __name__ == "__main__"`."""

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR")}


SECONDS = 5.0
"""Time to end for a process whose pipes are closed. Then it is stopped."""


class Worker:
    """A process that performs jobs, one at a time.

    It ends as soon as this program ends, however that happens: it watches the pipe between them.

    Args:
        modules: Names of modules that it imports before it is ready.

    Raises:
        Interrupted: The system starts no process.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        own_group: dict[str, Any] = {"process_group": 0}  # Ctrl-C reaches only this program, which then stops it
        if sys.platform == "win32":
            own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, json.dumps([sys.path, list(modules)])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | ONE_THREAD | {IN_POOL: "1"},
                **own_group,
            )
        except OSError as error:
            raise Interrupted(f"a process of the pool could not start: {reason_of(error)}.") from error
        self._pipes = cast("tuple[BinaryIO, BinaryIO]", (self._process.stdout, self._process.stdin))
        self._channel = Channel(*self._pipes)
        self._is_ready = False

    def prepare(self, preparation: bytes) -> None:
        """Send the settings and the folder of the shared object for the jobs that follow.

        They are sent before the process is ready: it removes the folder also if this program is killed meanwhile.

        Raises:
            Interrupted: The process could not start.
        """
        try:
            self._channel.send(PREPARE + preparation)
            if not self._is_ready:
                self._channel.wait_until_ready()
                self._is_ready = True
        except (EOFError, OSError) as error:
            raise Interrupted(f"a process of the pool could not start: it {self._ending()}.") from error

    def perform(self, name: str, job: bytes) -> Outcome:
        """Send a job, and wait for its outcome. If the process is killed meanwhile, that is the outcome."""
        try:
            self._channel.send(JOB + job)
            parcel = self._channel.receive()
        except (EOFError, OSError):
            lost = Interrupted(f"the process of the job {name!r} {self._ending()}; the job is not finished.")
            return Outcome(name, error=str(lost), exception=lost)
        try:
            outcome: Outcome = unpacked(parcel)
        except Exception as error:  # such as a class that only the process could import
            return failed(name, error, 0.0)
        return replace(outcome, name=name)

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Kill the process and the processes of its group, and wait for its end."""
        if self.alive:
            if sys.platform == "win32":
                self._process.kill()
            else:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in self._pipes:
            with suppress(OSError):  # bytes that could not be sent
                pipe.close()

    def _ending(self) -> str:
        """How the process ended. One that lives without its pipes, as after `os.closerange`, is stopped."""
        try:
            code = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
            return "has closed the pipes of the pool, or wrote into them"
        if code >= 0:
            return f"ended with exit code {code}"
        memory = ", perhaps because memory ran out" if -code == getattr(signal, "SIGKILL", None) else ""
        return f"was killed by signal {-code} ({signal.Signals(-code).name}){memory}"
