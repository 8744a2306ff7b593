"""How do the costs grow? `python benchmarks/scale.py [--steps 1000000] [--parameters 125] [--json]`

With the parameters: GPTs of up to 353 million, with batches of 4 sequences of 32 symbols under SGD. A noise reading of
a watched step in units of the step, the time that `watch` takes before its first step, and the peak of what torch
allocates above training's own, in copies of the parameters.

With the steps: a watched loop of a very small step, and the same loop without `watch`, in turns of 500 steps. Its cost
in each decade of steps, its folder on disk, the memory of the process, and the time that its findings take.

All on one thread, in processor seconds. The growth is the exponent p of cost ~ size^p between the two largest sizes;
its interval is that of the two costs. An exponent above 1 would be worse than linear.
"""

import gc
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from memory import GPT, LENGTH, next_symbol, peak_in_copies
from rounds import median, timed
from torch import nn

from gradiometer import Estimate, Watch, supervised, watch

SIZES = {(256, 2): 2, (256, 8): 6, (512, 8): 25, (768, 8): 57, (768, 17): 121, (1024, 28): 353}
"""Width and blocks, and millions of parameters."""

ROUNDS, TURN = 7, 500
"""Steps that are timed at each size, and steps of a turn."""

LOSS = supervised(lambda output, target: (output - target).square().squeeze(1))


@dataclass(frozen=True)
class Point:
    """What something costs at one size.

    Args:
        what: What costs it.
        size: Parameters, or steps.
        cost: The cost, with its interval.
    """

    what: str
    size: int
    cost: Estimate


def with_parameters(width: int, blocks: int) -> Iterator[Point]:
    """The costs at one size of the model."""
    torch.manual_seed(0)
    model, batch = GPT(width, blocks), torch.randint(256, (4, LENGTH + 1))
    size = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(watched: Watch | None = None) -> None:
        optimizer.zero_grad()
        loss = next_symbol(model, batch).mean()
        loss.backward()
        if watched is not None:
            watched.step(loss, batch)
        optimizer.step()

    step()
    plain, peak = [timed(step) for _ in range(ROUNDS)], peak_in_copies(model, step)
    with TemporaryDirectory() as out:
        began = time.process_time()
        opened = watch(model, optimizer, loss=next_symbol, out=out, gauges=["noise"], every=1, page=False, quiet=True)
        with opened as w:
            yield Point("watch before its first step, s", size, Estimate.exact(time.process_time() - began))
            for _ in range(2):  # the first readings compare the loss with that of training
                step(w)
            seconds = [timed(lambda: step(w)) for _ in range(ROUNDS)]
            above = peak_in_copies(model, lambda: step(w)) - peak
    yield Point("plain step, s", size, median(plain))
    yield Point("noise reading and step, s", size, median(seconds))
    yield Point("peak above training's own, copies", size, Estimate.exact(above))


class Small:
    """A loop of a very small step, on other examples at each."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-2)
        self.examples, self.at = torch.randn(4096, 8, 5), 0

    def steps(self, count: int, watched: Watch | None = None) -> None:
        """So many steps."""
        for _ in range(count):
            both = self.examples[self.at % 4096]
            batch, self.at = (both[:, :4], both[:, 4:]), self.at + 1
            self.optimizer.zero_grad()
            loss = LOSS(self.model, batch).mean()
            loss.backward()
            if watched is not None:
                watched.step(loss, batch)
            self.optimizer.step()


def with_steps(steps: int) -> Iterator[Point]:
    """The costs at 1,000 steps, 10,000 steps, and so on."""
    plain, watched, made, ratios = Small(), Small(), 0, list[float]()
    plain.steps(TURN)
    with TemporaryDirectory() as out:
        settings = {"examples": 4096, "replacement": False, "page": False, "quiet": True}
        with watch(watched.model, watched.optimizer, loss=LOSS, out=out, **settings) as w:
            for power in range(3, round(math.log10(steps)) + 1):
                while made < 10**power:
                    alone = timed(lambda: plain.steps(TURN))
                    ratios.append(timed(lambda: watched.steps(TURN, w)) / alone)
                    made += TURN
                cost = median(ratios) if len(ratios) >= 5 else Estimate.exact(sum(ratios) / len(ratios))
                yield Point("watched step, of the plain one, since the row above", made, cost)
                yield Point("readings", made, Estimate.exact(w.overhead["measured_steps"]))
                yield Point("findings, s", made, Estimate.exact(timed(w.findings)))
                yield Point("folder, MB", made, Estimate.exact(_bytes_in(Path(out)) / 1e6))
                yield Point("memory of the process, MB", made, Estimate.exact(_resident() / 1e6))
                ratios.clear()


def growth(points: list[Point]) -> dict[str, Estimate]:
    """The exponent of each cost between its two largest sizes."""
    found = {}
    for what in dict.fromkeys(point.what for point in points):
        sizes = [point for point in points if point.what == what]
        if len(sizes) < 2:
            continue
        before, after = sizes[-2:]
        if not before.cost.low > 0 < after.cost.low:
            continue
        times = math.log(after.size / before.size)
        low, high = (after.cost.low / before.cost.high, after.cost.high / before.cost.low)
        value = math.log(after.cost.value / before.cost.value) / times
        ends = {"low": math.log(low) / times, "high": math.log(high) / times}
        found[what] = Estimate.bound(value, **ends, method="interval of both costs", samples=2)
    return found


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _resident() -> int:
    """Bytes of memory that this process uses now, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@click.command()
@click.option("--steps", type=click.IntRange(min=10_000), default=1_000_000, show_default=True)
@click.option("--parameters", type=float, default=125.0, show_default=True, help="At most so many millions.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def main(steps: int, parameters: float, as_json: bool) -> None:
    """How do the costs grow with the parameters, and with the steps?"""
    torch.set_num_threads(1)
    tables = {"steps": list[Point](), "parameters": list[Point]()}
    for point in with_steps(steps):
        _show(tables["steps"], point, quiet=as_json)
    for (width, blocks), millions in SIZES.items():
        if millions <= parameters:
            for point in with_parameters(width, blocks):
                _show(tables["parameters"], point, quiet=as_json)
            gc.collect()
    exponents = {name: growth(points) for name, points in tables.items()}
    if as_json:
        made = {name: [asdict(point) for point in points] for name, points in tables.items()}
        print(
            json.dumps(made | {"growth": {name: {k: asdict(v) for k, v in e.items()} for name, e in exponents.items()}})
        )
        return
    for name, found in exponents.items():
        for what, exponent in found.items():
            print(f"growth with the {name}: {what}: {exponent}")


def _show(points: list[Point], point: Point, *, quiet: bool) -> None:
    points.append(point)
    if not quiet:
        print(f"{point.size:>12,}  {point.what}: {point.cost}", flush=True)


if __name__ == "__main__":
    main()
