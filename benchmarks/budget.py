"""Does the default budget of `watch` keep its promises? `python benchmarks/budget.py [--busy 4]
[--quick]`

Twelve loops of 300 to 12,000 steps, whose steps cost from 0.3 to 300 ms, run plain and with `watch`
at its defaults, without the page at the end. The two runs of a pair are new processes on one core.
They take turns of about 20 ms over the same batches, so that both meet the same core, clock and
neighbours. Short loops are repeated in further pairs.

The table gives the noise readings of a run (the fewest over the pairs), those by step 300, and the
number promised: 40, or 20 if a reading cost more than 1.25 steps in the mean. Cost is the processor
time of the whole process from `watch(...)` to the end of its block, over that of the plain loop:
for the first 1,000 steps, for the whole run, and for the steps after the first 1,000, with half the
width of its 90 % interval. The last column is the time of `w.step` in the median, without the hook
of torch.

`!` marks a broken promise: the interval lies above the allowed cost, or readings are missing. `?`
marks an interval around the allowed cost, and `~` a run that is too short to pay for its readings,
has them, and says so. With `--busy`, so many other processes compete for the processor.
"""

import math
import multiprocessing
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from gradiometer import Watch, supervised, watch

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
EARLY = 1000
"""Steps of the start-up allowance."""

SECONDS, PAIRS = 6.0, 10
"""A loop is repeated until its plain runs have taken so long together, in at most so many pairs."""

TURN = 0.02
"""Seconds of a turn, about. A longer step is a turn by itself."""

FEW = 5
"""With fewer pairs, the interval is that of the turns."""

QUANTILE = 1.645
"""Standard errors to each end of a 90 % interval."""

ALLOWED_EARLY, ALLOWED = 0.10, 0.02
"""Allowed cost in the first 1,000 steps, and after them."""

EXPENSIVE = 1.25
"""Steps that a reading costs at least, if a run is promised 20 readings and not 40."""

LAYERS: dict[str, Callable[[int], list[nn.Module]]] = {
    "plain": lambda width: [],
    "batch norm": lambda width: [nn.BatchNorm1d(width)],
    "dropout": lambda width: [nn.Dropout(0.1)],
}


@dataclass(frozen=True)
class Loop:
    """A loop: its steps, the width and depth of its network, its batch, and what its halves have to
    repeat."""

    steps: int
    width: int
    depth: int
    batch: int
    kind: str = "plain"
    optimizer: str = "SGD"

    @property
    def name(self) -> str:
        """The loop in words."""
        extras = [one for one in (self.kind, self.optimizer) if one not in ("plain", "SGD")]
        return (
            f"{self.steps:,} steps, {self.width} x {self.depth}, "
            f"{', '.join(['B = ' + str(self.batch), *extras])}"
        )

    @property
    def work(self) -> float:
        """About the milliseconds of a step."""
        return 0.3 + self.batch * (self.width * 74 + self.depth * self.width**2) * 3e-8

    @property
    def turn(self) -> int:
        """Steps of a turn: a divisor of 1,000."""
        return next(
            steps
            for steps in (50, 20, 10, 5, 2, 1)
            if steps * self.work <= 1e3 * TURN or steps == 1
        )

    def network(self) -> nn.Module:
        """A multilayer perceptron."""
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for place in range(self.depth):
            layers += [
                nn.Linear(64 if place == 0 else self.width, self.width),
                nn.ReLU(),
                *LAYERS[self.kind](self.width),
            ]
        return nn.Sequential(*layers, nn.Linear(self.width, 10))


LOOPS = [
    Loop(300, 64, 1, 64),
    Loop(1000, 64, 1, 64),
    Loop(3000, 64, 1, 64),
    Loop(12_000, 64, 1, 64),
    Loop(300, 256, 2, 256),
    Loop(3000, 256, 2, 256),
    Loop(1000, 256, 2, 256, optimizer="AdamW"),
    Loop(300, 256, 2, 256, "batch norm"),
    Loop(1000, 256, 2, 256, "dropout"),
    Loop(2000, 512, 3, 256),
    Loop(300, 1024, 3, 256),
    Loop(300, 1024, 5, 1024),
]


class Turns:
    """The turns of one of two processes: plain, watched, watched, plain, plain, and so on.

    Args:
        mine: Released when it is this process's turn.
        others: Released when it is the turn of the other.
        begins: True for the process that begins.
    """

    def __init__(self, mine: Any, others: Any, *, begins: bool) -> None:
        self._mine, self._others, self._begins = mine, others, begins
        self.seconds: list[float] = []
        """Processor seconds of each turn."""

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for the next turn, and time what is done in it."""
        is_odd = bool(len(self.seconds) % 2)
        if is_odd == self._begins:
            self._mine.acquire()
        began = time.process_time()
        yield
        self.seconds.append(time.process_time() - began)
        if is_odd != self._begins:
            self._others.release()


def run(loop: Loop, turns: Turns, length: int, *, watched: bool) -> dict[str, Any]:
    """Train one loop in turns of so many steps: the processor seconds of each turn, the steps that
    were measured, and what a reading after the first cost, in steps."""
    model = loop.network()
    optimizer = getattr(torch.optim, loop.optimizer)(model.parameters(), lr=0.001)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, loop.batch, 64, generator=generator)
    targets = torch.randint(10, (8, loop.batch), generator=generator)
    took: list[float] = []
    w: Watch | None = None

    def train(steps: range) -> None:
        for step in steps:
            batch = inputs[step % 8], targets[step % 8]
            optimizer.zero_grad()
            loss = LOSS(model, batch).mean()
            loss.backward()
            called = time.perf_counter()
            if w is not None:
                w.step(loss, batch)
            took.append(time.perf_counter() - called)
            optimizer.step()

    with tempfile.TemporaryDirectory() as out, ExitStack() as training:
        for first in range(0, loop.steps, length):
            with turns.take():
                if watched and not first:
                    w = watch(
                        model, optimizer, loss=LOSS, out=out, examples=10**6, page=False, quiet=True
                    )
                    training.enter_context(w)
                train(range(first, min(first + length, loop.steps)))
                if first + length >= loop.steps:
                    training.close()
        return {"seconds": turns.seconds, "step": statistics.median(took), **read(w, loop)}


def read(w: Watch | None, loop: Loop) -> dict[str, Any]:
    """The steps that were measured, what a reading after the first cost in steps, and if the run
    says it is short."""
    if w is None or w.run is None or (noise := w.run.series("noise")) is None:
        return {"measured": [], "reading": 0.0, "said": False}
    overhead = w.overhead
    reading = overhead["spent"]["readings"] * loop.steps / (overhead["measured_steps"] - 1)
    return {
        "measured": noise.steps.tolist(),
        "reading": reading,
        "said": bool(overhead["beyond_allowance"]),
    }


def train_in_turns(loop: Loop, turns: Turns, core: int, *, watched: bool, to: Connection) -> None:
    """In a process of its own: warm torch up on the core, train, and send the result."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    alone = Turns(nullcontext(), nullcontext(), begins=True)
    alone.take = nullcontext  # type: ignore[method-assign]
    run(Loop(50, 64, 1, 64), alone, 50, watched=False)
    to.send(run(loop, turns, loop.turn, watched=watched))


def pair(loop: Loop, core: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain and the watched run of a loop, in turns."""
    context = multiprocessing.get_context("fork")
    plain, watched = context.Semaphore(0), context.Semaphore(0)
    sides = (Turns(plain, watched, begins=True), False), (Turns(watched, plain, begins=False), True)
    found = []
    for turns, is_watched in sides:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(
            target=train_in_turns,
            args=(loop, turns, core),
            kwargs={"watched": is_watched, "to": send},
        )
        process.start()
        send.close()
        found.append((receive, process))
    plain_run, watched_run = (receive.recv() for receive, _ in found)
    for _, process in found:
        process.join()
    return plain_run, watched_run


def cost(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Relative cost of the watched runs, from the seconds of all turns, and half the width of its
    90 % interval.

    The standard error is that between pairs if there are at least five, or else that between turns.
    """
    plain, seen = (np.concatenate(each) for each in zip(*pairs, strict=True))
    relative = seen.sum() / plain.sum() - 1
    if len(pairs) >= FEW:
        excess = np.array([b.sum() - (1 + relative) * a.sum() for a, b in pairs])
    else:
        excess = seen - (1 + relative) * plain
    error = math.sqrt(len(excess) / max(len(excess) - 1, 1) * (excess**2).sum()) / plain.sum()
    return float(relative), QUANTILE * error


def line(loop: Loop, core: int, most: int) -> str:
    """One row of the table, from at most so many pairs."""
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    while not pairs or (
        len(pairs) < most and sum(sum(plain["seconds"]) for plain, _ in pairs) < SECONDS
    ):
        pairs.append(pair(loop, core))
    turns = [(np.array(plain["seconds"]), np.array(seen["seconds"])) for plain, seen in pairs]
    early = EARLY // loop.turn
    found = {
        "first 1k": cost([(a[:early], b[:early]) for a, b in turns]),
        "whole": cost(turns),
        "after": cost([(a[early:], b[early:]) for a, b in turns]) if loop.steps > EARLY else None,
    }
    readings = min(len(seen["measured"]) for _, seen in pairs)
    by_300 = min(sum(step < 300 for step in seen["measured"]) for _, seen in pairs)
    promised = 20 if max(seen["reading"] for _, seen in pairs) > EXPENSIVE else 40
    limits = [(found["first 1k"], ALLOWED_EARLY), (found["after"], ALLOWED)]
    over = [
        (one[0] - one[1] > limit, one[0] + one[1] > limit)
        for one, limit in limits
        if one is not None
    ]
    is_said = readings >= promised and all(seen["said"] for _, seen in pairs)
    mark = "!" if readings < promised else " "
    if any(is_above for _, is_above in over) and mark == " ":
        mark = "~" if is_said else "!" if any(is_over for is_over, _ in over) else "?"
    step = statistics.median(seen["step"] for _, seen in pairs)
    pace = sum(a.sum() for a, _ in turns) / len(turns) / loop.steps
    costs = "".join(
        f"{'' if one is None else f'{one[0]:.1%} ± {100 * one[1]:.1f}':>14}"
        for one in found.values()
    )
    return (
        f"{loop.name:<42}{1e3 * pace:>8.2f}{len(pairs):>4}{readings:>10}{by_300:>8}"
        f"{promised:>7}{costs}{1e6 * step:>8.1f} "
        f"µs {mark}"
    )


@click.command()
@click.option(
    "--busy", default=0, show_default=True, help="Processes that compete for the processor."
)
@click.option("--quick", is_flag=True, help="Leave out the loops of a minute and more.")
@click.option(
    "--loops", default="", help="Only these loops, by number from 1, with commas between them."
)
@click.option("--pairs", default=PAIRS, show_default=True, help="Most pairs of runs of a loop.")
@click.option(
    "--cores",
    default=0,
    help="Rows that are made at once, each on a core. Default: one for every core.",
)
def main(busy: int, quick: bool, loops: str, pairs: int, cores: int) -> None:
    """Print the table."""
    chosen = [LOOPS[int(one) - 1] for one in loops.split(",")] if loops else LOOPS
    chosen = [loop for loop in chosen if not (quick and loop.width > 512)]
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in usable[: cores or None]:
        free.put(core)

    def row(loop: Loop) -> str:
        core = free.get()
        try:
            return line(loop, core, pairs)
        finally:
            free.put(core)

    try:
        head = f"{'loop':<42}{'ms':>8}{'n':>4}{'readings':>10}{'by 300':>8}{'asked':>7}"
        print(f"{head}{'first 1k':>14}{'whole':>14}{'after':>14}{'w.step':>11}", flush=True)
        with ThreadPoolExecutor(cores or len(usable)) as pool:
            longest_first = sorted(chosen, key=lambda loop: -loop.steps * loop.work)
            rows = {loop: pool.submit(row, loop) for loop in longest_first}
            for loop in chosen:
                print(rows[loop].result(), flush=True)
    finally:
        for other in others:
            other.terminate()
            other.wait()


if __name__ == "__main__":
    main()
