"""Does the default budget of `watch` keep its promises? `python benchmarks/budget.py [--busy 4] [--quick]`

Twelve loops of 300 to 12,000 steps, whose steps cost from 0.3 to 300 ms, run plain and with `watch` at its defaults,
without the page at the end. The two runs of a pair are new processes that train at the same time over the same
batches, so that both meet the same machine; short loops are repeated in further pairs.

The table gives the noise readings of a run (the fewest over the pairs), those by step 300, and the number promised: 40,
or 20 if a reading cost more than 1.25 steps in the mean. Cost is the processor time of the whole process from
`watch(...)` to the end of its block, over that of the plain loop: for the first 1,000 steps, for the whole run, and for
the steps after the first 1,000. The last column is the time of `w.step` in the median, without the hook of torch. `!`
marks a broken promise, and `~` a run that is too short to pay for its readings, has them, and says so. With `--busy`,
so many other processes compete for the processor.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch
from torch import nn

from gradiometer import Watch, supervised, watch

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
EARLY = 1000
"""Steps of the start-up allowance."""

SECONDS, PAIRS = 8.0, 3
"""A loop is repeated until its plain runs have taken so long together, in at most so many pairs."""

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
    """A loop: its steps, the width and depth of its network, its batch, and what its halves have to repeat."""

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
        return f"{self.steps:,} steps, {self.width} x {self.depth}, {', '.join(['B = ' + str(self.batch), *extras])}"

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


def run(loop: Loop, *, watched: bool) -> dict[str, Any]:
    """Train one loop: processor seconds of its first 1,000 steps and of all, the steps that were measured, and what a
    reading after the first cost, in steps."""
    model = loop.network()
    optimizer = getattr(torch.optim, loop.optimizer)(model.parameters(), lr=0.001)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, loop.batch, 64, generator=generator)
    targets = torch.randint(10, (8, loop.batch), generator=generator)
    took: list[float] = []
    early = 0.0

    def steps(w: Watch | None) -> None:
        nonlocal early
        for step in range(loop.steps):
            if step == EARLY:
                early = time.process_time() - began
            batch = inputs[step % 8], targets[step % 8]
            optimizer.zero_grad()
            loss = LOSS(model, batch).mean()
            loss.backward()
            if w is not None:
                called = time.perf_counter()
                w.step(loss, batch)
                took.append(time.perf_counter() - called)
            optimizer.step()

    measured: list[int] = []
    said, reading = False, 0.0
    began = time.process_time()
    if watched:
        with tempfile.TemporaryDirectory() as out:
            with watch(model, optimizer, loss=LOSS, out=out, examples=10**6, page=False, quiet=True) as w:
                steps(w)
            seconds = time.process_time() - began
            said = bool(w.overhead["beyond_allowance"])
            reading = w.overhead["spent"]["readings"] * loop.steps / (w.overhead["measured_steps"] - 1)
            noise = None if w.run is None else w.run.series("noise")
            measured = [] if noise is None else noise.steps.tolist()
    else:
        steps(None)
        seconds = time.process_time() - began
    step = statistics.median(took) if took else 0.0
    found = {"early": early or seconds, "seconds": seconds, "measured": measured, "step": step, "said": said}
    return {**found, "reading": reading}


def train_when_told(number: int, *, watched: bool) -> None:
    """In a process of its own: import and warm torch up, wait for a line on standard input, train, print the result."""
    torch.set_num_threads(1)
    run(Loop(50, 64, 1, 64), watched=False)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(run(LOOPS[number], watched=watched)), flush=True)


def pair(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain and the watched run of a loop, at the same time."""
    command = [sys.executable, __file__, "--train", str(number)]
    started = [
        subprocess.Popen([*command, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for more in ([], ["--watched"])
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    plain, seen = (json.loads(process.communicate()[0]) for process in started)
    return plain, seen


def line(number: int) -> str:
    """One row of the table."""
    loop, pairs = LOOPS[number], list[tuple[dict[str, Any], dict[str, Any]]]()
    while not pairs or (len(pairs) < PAIRS and sum(plain["seconds"] for plain, _ in pairs) < SECONDS):
        pairs.append(pair(number))

    def cost(seconds: Callable[[dict[str, Any]], float]) -> float:
        return sum(seconds(seen) for _, seen in pairs) / sum(seconds(plain) for plain, _ in pairs) - 1

    readings = min(len(seen["measured"]) for _, seen in pairs)
    by_300 = min(sum(step < 300 for step in seen["measured"]) for _, seen in pairs)
    early, whole = cost(lambda one: one["early"]), cost(lambda one: one["seconds"])
    later = cost(lambda one: one["seconds"] - one["early"]) if loop.steps > EARLY else None
    promised = 20 if max(seen["reading"] for _, seen in pairs) > EXPENSIVE else 40
    is_costly = early > ALLOWED_EARLY or (later or 0.0) > ALLOWED
    is_said = readings >= promised and all(seen["said"] for _, seen in pairs)
    mark = " ~" if is_costly and is_said else " !" if is_costly or readings < promised else ""
    step = statistics.median(seen["step"] for _, seen in pairs)
    pace = statistics.median(plain["seconds"] / loop.steps for plain, _ in pairs)
    after = "" if later is None else f"{later:.1%}"
    return (
        f"{loop.name:<42}{1e3 * pace:>8.2f}{readings:>10}{by_300:>8}{promised:>7}{early:>10.1%}{whole:>8.1%}"
        f"{after:>8}{1e6 * step:>8.1f} µs{mark}"
    )


@click.command()
@click.option("--busy", default=0, show_default=True, help="Processes that compete for the processor.")
@click.option("--quick", is_flag=True, help="Leave out the loops of a minute and more.")
@click.option("--loops", default="", help="Only these loops, by number from 1, with commas between them.")
@click.option("--train", type=int, hidden=True, help="Train this loop, for the process that prints the table.")
@click.option("--watched", is_flag=True, hidden=True, help="Train it with `watch`.")
def main(busy: int, quick: bool, loops: str, train: int | None, watched: bool) -> None:
    """Print the table."""
    if train is not None:
        train_when_told(train, watched=watched)
        return
    chosen = [int(one) - 1 for one in loops.split(",")] if loops else range(len(LOOPS))
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        head = f"{'loop':<42}{'ms':>8}{'readings':>10}{'by 300':>8}{'asked':>7}"
        print(f"{head}{'first 1k':>10}{'whole':>8}{'after':>8}{'w.step':>11}", flush=True)
        for number in chosen:
            if not (quick and LOOPS[number].width > 512):
                print(line(number), flush=True)
    finally:
        for other in others:
            other.terminate()
            other.wait()


if __name__ == "__main__":
    main()
