"""One spoiled input at a time: it ends within 5 seconds, as done or as an error with a name, and
executes nothing.

`PYTHONPATH=tests/support python tests/fuzz/harness.py 20000` tries many, and prints how they ended, by kind, and
every fault with its seed. Without pytest, since its checks of types would refuse arguments before
the code does.
"""

import inspect
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

import click
import spoiled
import torch
from fork_kinds import ASKED
from kinds import KINDS, SHARES
from loops import open_pools
from readers import TUNE

from gradiometer.cli import main
from gradiometer.errors import GradiometerError

SECONDS, WAITING = 5, 120
"""Limits of the processor's time, and of all time, in which a busy machine computes little."""


ENDS: Counter[tuple[str, str]] = Counter()
"""How many inputs of a kind ended with an error of each type. Those of commands have an exit code
instead."""


class Hangs(BaseException):
    """An input took longer than the limit."""


@contextmanager
def limited() -> Iterator[list[str]]:
    """Raise Hangs inside after a time. The list then has the traceback, since a command makes a
    sentence of Hangs."""
    hung: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        hung.extend(traceback.format_stack(frame, limit=4))
        raise Hangs

    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, SECONDS),
        (signal.ITIMER_REAL, signal.SIGALRM, WAITING),
    )
    before = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield hung
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def fault(kind: str, seed: int, base: Path) -> str | None:
    """What went wrong with an input; None if nothing did."""
    made = KINDS[kind]
    given = {"base": base} if "base" in inspect.signature(made).parameters else {}
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # said on the page, and still a fault
        warnings.filterwarnings("error", ".*: the section could not be drawn")
        os.chdir(folder)
        hung: list[str] = []
        try:
            with limited() as hung:
                made(random.Random(f"{kind} {seed}"), Path(folder), **given)
        except (GradiometerError, click.ClickException) as error:
            ENDS[kind, type(error).__name__] += 1
        except Hangs:
            pass
        except (Exception, SystemExit) as error:
            if type(error).__module__.startswith("beartype"):
                return None  # the tests check the types of arguments earlier than the code does
            return traceback.format_exc(limit=-4)
        finally:
            os.chdir(here)
        if hung:
            return f"hangs: {''.join(hung)}"
        if (Path(folder) / spoiled.CANARY).exists():
            return "executed"
    return None


def recorded_run(parent: Path) -> Path:
    """A run with readings, events, two checkpoints, a fork and artifacts of every kind."""
    here = Path.cwd()
    parent.mkdir(exist_ok=True)
    os.chdir(parent)
    flags = (
        "--snapshots",
        "3",
        "--every",
        "5",
        "--set",
        "checkpoint_seconds=0.05",
        "-e",
        "3",
        "--no-open",
    )
    try:
        for command in (
            ("train", "digits", "--model", "mlp", *flags),
            ("measure", "certificate", "runs/digits-mlp-1", "--examples", "64", "--batches", "8"),
            (
                "measure",
                "sharpness",
                "runs/digits-mlp-1",
                "--examples",
                "64",
                "--top",
                "1",
                "--probes",
                "4",
            ),
            ("ensemble", "runs/digits-mlp-1", "--points", "0"),
            TUNE,
            ("fork", "runs/digits-mlp-1", *ASKED),
        ):
            try:
                main([*command])
            except SystemExit as ended:
                assert ended.code == 0, command
    finally:
        os.chdir(here)
    return parent / "runs" / "digits-mlp-1"


def many(
    total: int, base: Path, first: int = 0, kinds: Sequence[str] = ()
) -> dict[str, Counter[str]]:
    """Try so many inputs, every kind in turn. Returns the number of inputs and of faults by kind
    and cause."""
    shares = {kind: 100 // len(kinds) for kind in kinds} or SHARES
    found: dict[str, Counter[str]] = {kind: Counter() for kind in shares}
    if shares.get("pooled_calls"):
        # before any limit of time, since a cluster takes minutes on a busy machine
        open_pools()
    for chunk in range(first // 100, (first + total) // 100):
        for kind, share in shares.items():
            for seed in range(chunk * share, (chunk + 1) * share):
                found[kind]["tried"] += 1
                if (words := fault(kind, seed, base)) is not None:
                    cause = words.strip().splitlines()[-1][:160]
                    found[kind][cause] += 1
                    if found[kind][cause] == 1:
                        click.echo(f"--- {kind} {seed}\n{words}")
        if chunk % 10 == 9:
            tried = sum(counts["tried"] for counts in found.values())
            click.echo(f"{tried} tried, {faults(found)} faults, {time.process_time():.0f} s")
    return found


def part(given: tuple[int, Path, int, Sequence[str]]) -> tuple[Any, Any]:
    """What `many` finds in a process of its own, and how the inputs ended there."""
    try:
        return many(*given), ENDS
    finally:
        # a forked process waits at its end for processes of its own, and closes no pool by itself
        if open_pools.cache_info().currsize:
            for pool in open_pools():
                pool.close()


def in_processes(
    processes: int, total: int, base: Path, first: int, kinds: Sequence[str]
) -> dict[str, Counter[str]]:
    """Try so many inputs in several processes, each with its own share, and add up what they found."""
    # in whole hundreds, which hold the kinds in their shares
    bounds = [first + 100 * (place * (total // 100) // processes) for place in range(processes + 1)]
    shares = [(end - begin, base, begin, kinds) for begin, end in pairwise(bounds)]
    found: dict[str, Counter[str]] = {}
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        for counts, ends in pool.map(part, shares):
            ENDS.update(ends)
            for kind, counted in counts.items():
                found.setdefault(kind, Counter()).update(counted)
    return found


def faults(found: dict[str, Counter[str]]) -> int:
    """The number of faults of all kinds."""
    return sum(counts.total() - counts["tried"] for counts in found.values())


@click.command()
@click.argument("total", type=int)
@click.option("--first", default=0, help="Number of the first input.")
@click.option("--kinds", default="", help="Comma-separated kinds, in equal shares.")
@click.option("--base", type=click.Path(path_type=Path), help="Folder of the runs to spoil, kept.")
@click.option("--processes", default=1, help="Number of processes that share the inputs.")
def table(total: int, first: int, kinds: str, base: Path | None, processes: int) -> None:
    """Try TOTAL inputs and print how they ended."""
    from whole_runs import whole_runs

    torch.set_num_threads(
        1
    )  # two threads for one small model wait for each other on a busy machine
    with tempfile.TemporaryDirectory() as folder:
        parent = (base or Path(folder) / "base").absolute()
        run = parent / "runs" / "digits-mlp-1"
        if not run.exists():
            whole_runs(parent)
        chosen = [kind for kind in kinds.split(",") if kind]
        found = in_processes(processes, total, run, first, chosen)
    click.echo("how they ended, beside those that are done:")
    for (kind, end), count in sorted(ENDS.items()):
        click.echo(f"{count:6}  {kind}: {end}")
    click.echo("tried, and faults by cause:")
    for kind, counts in found.items():
        for cause, count in sorted(counts.items()):
            click.echo(f"{count:6}  {kind}: {cause}")
    sys.exit(faults(found) > 0)


if __name__ == "__main__":
    table()
