"""Does the default budget of `watch` keep its promises? `python benchmarks/budget.py [--busy 4] [--quick]`

Loops of 300 to 12,000 steps, whose steps cost from 0.3 ms to some 100 ms, are run twice over the same batches: plain,
and with `watch` at its defaults, without the page at the end. The table gives the readings of the noise, those by
step 300, and the cost: processor seconds of the whole process in the watched run, the making of its folder included,
over those in the plain run. With `--busy`, so many processes compete for the processor meanwhile. The last column is
the time of an unmeasured `w.step`, without the hook of torch.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import click
import torch
from torch import nn

from gradiometer import Watch, supervised, watch

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))


@dataclass(frozen=True)
class Case:
    """A loop: its steps, the width and depth of its network, its batch, and what its halves have to repeat."""

    steps: int
    width: int
    depth: int
    batch: int
    kind: str = "plain"

    def network(self) -> nn.Module:
        """A multilayer perceptron."""
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for place in range(self.depth):
            layers += [nn.Linear(64 if place == 0 else self.width, self.width), nn.ReLU()]
            layers += {"plain": [], "batch norm": [nn.BatchNorm1d(self.width)], "dropout": [nn.Dropout(0.1)]}[self.kind]
        return nn.Sequential(*layers, nn.Linear(self.width, 10))


CASES = [
    Case(300, 64, 1, 64),
    Case(3000, 64, 1, 64),
    Case(12_000, 64, 1, 64),
    Case(300, 256, 3, 256),
    Case(1000, 256, 3, 256),
    Case(6000, 256, 3, 256),
    Case(300, 1024, 3, 512),
    Case(1000, 1024, 3, 512),
    Case(300, 256, 3, 256, "batch norm"),
    Case(2000, 256, 3, 256, "batch norm"),
    Case(300, 256, 3, 256, "dropout"),
    Case(300, 1024, 6, 1024),
]


@dataclass(frozen=True)
class Ended:
    """What a run took, and its steps that were measured."""

    seconds: float
    step_microseconds: float
    measured: list[int]


def run(case: Case, watched: bool) -> Ended:
    """Train one loop."""
    model = case.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(8, case.batch, 64, generator=generator), torch.randint(10, (8, case.batch))
    took: list[float] = []

    def steps(w: Watch | None) -> None:
        for step in range(case.steps):
            batch = inputs[step % 8], targets[step % 8]
            optimizer.zero_grad()
            loss = LOSS(model, batch).mean()
            loss.backward()
            if w is not None:
                began = time.perf_counter()
                w.step(loss, batch)
                took.append(time.perf_counter() - began)
            optimizer.step()

    with tempfile.TemporaryDirectory() as out:
        began = time.process_time()
        if not watched:
            steps(None)
            return Ended(time.process_time() - began, 0.0, [])
        with watch(model, optimizer, loss=LOSS, out=out, examples=10**6, page=False, quiet=True) as w:
            steps(w)
        seconds = time.process_time() - began
        noise = None if w.run is None else w.run.series("noise")
        return Ended(seconds, 1e6 * statistics.median(took), [] if noise is None else noise.steps.tolist())


@click.command()
@click.option("--busy", default=0, show_default=True, help="Processes that compete for the processor.")
@click.option("--quick", is_flag=True, help="Only runs of at most 1,000 steps.")
def main(busy: int, quick: bool) -> None:
    """Print the table."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    torch.set_num_threads(1)
    try:
        for watched in (False, True):
            run(Case(50, 64, 1, 64), watched)  # imports and first calls
        print(f"{'loop':<34}{'ms a step':>10}{'readings':>10}{'by 300':>8}{'cost':>9}{'w.step':>10}")
        for case in CASES:
            if quick and case.steps > 1000:
                continue
            plain, seen = run(case, watched=False), run(case, watched=True)
            name = f"{case.steps:,} steps, {case.width} x {case.depth}, {case.kind}"
            print(
                f"{name:<34}{1e3 * plain.seconds / case.steps:>10.2f}{len(seen.measured):>10}"
                f"{sum(step < 300 for step in seen.measured):>8}{seen.seconds / plain.seconds - 1:>9.1%}"
                f"{seen.step_microseconds:>7.1f} µs",
                flush=True,
            )
    finally:
        for other in others:
            other.terminate()
            other.wait()


if __name__ == "__main__":
    main()
