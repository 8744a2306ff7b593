"""The processor's time that a real `gradiometer show` takes while its run is written and its page is looked at."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gradiometer import Estimate
from gradiometer.measurement.uncertainty import ratio_of_means
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS

SLICE = 1.0
"""Seconds of a slice."""


@dataclass
class Shown:
    """What a process of `gradiometer show` used.

    Attributes:
        first: Seconds of a core until its first page was there.
        used: Seconds of a core in every slice after that, in order, and
        passed: the seconds it lasted.
        looks: Slices before which another view was asked for and sent.
        at_most: Peak memory, bytes.
    """

    first: float
    used: list[float] = field(default_factory=list)
    passed: list[float] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    at_most: int = 0

    @property
    def share(self) -> Estimate:
        """Of a core: from look to look where there are four such times, else by slices.

        What passes from look to look is alike, so that the ratio of means has a narrow interval there; slices hold a
        look or none, and their interval is wide.
        """
        used, passed, level = np.array(self.used), np.array(self.passed), 0.9
        looks = [place for place in self.looks if place < len(used)]
        if len(looks) > FEWEST_READINGS:
            used, passed = (np.add.reduceat(each, looks)[:-1] for each in (used, passed))
            return ratio_of_means(used, passed, level=level, batches=len(used))
        return ratio_of_means(used, passed, level=level)


def showing(run: Path, seconds: float, write: Callable[[], None]) -> Shown:
    """Show a run for so many seconds beyond its first page, asking for what comes as a browser does.

    Args:
        run: The run's folder.
        seconds: To look on.
        write: Adds to the run what a second of training does; called once in a slice.
    """
    with _process(run) as (process, address):
        with urllib.request.urlopen(address, timeout=300) as page:
            page.read()
        shown = Shown(_used(process.pid))
        threading.Thread(target=_listen, args=(f"{address}run/0/", shown), daemon=True).start()
        before, at = _used(process.pid), time.perf_counter()
        end = at + seconds
        while at < end:
            write()
            time.sleep(max(at + SLICE - time.perf_counter(), 0))
            used, now = _used(process.pid), time.perf_counter()
            shown.used.append(used - before)
            shown.passed.append(now - at)
            before, at = used, now
        status = Path(f"/proc/{process.pid}/status").read_text()
        shown.at_most = 1024 * int(_found(r"VmHWM:\s+(\d+)", status))
    return shown


@contextmanager
def _process(run: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-u", "-m", "gradiometer", "show", str(run), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, _found(r"(http://\S+)", process.stdout.readline())
        finally:
            process.terminate()


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"{pattern} is not in what was said: {text!r}")
    return match[1]


def _listen(place: str, shown: Shown) -> None:
    """As `live.js` does: told of another view, ask for it."""
    version = 0
    try:
        with urllib.request.urlopen(f"{place}events", timeout=300) as events:
            for line in events:
                if line.startswith(b"data: ") and int(line.removeprefix(b"data: ")) > version:
                    if version:
                        with urllib.request.urlopen(f"{place}update", timeout=300) as update:
                            json.load(update)
                        shown.looks.append(len(shown.used) + 1)
                    version = int(line.removeprefix(b"data: "))
    except OSError:  # it has ended
        return


def _used(pid: int) -> float:
    """Seconds of a core a process has used, its own and the system's for it (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
