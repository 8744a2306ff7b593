"""What does an unmeasured step of `watch` cost? `python benchmarks/unmeasured.py [--width 384]
[--turns 2000]`

A plain loop and the same loop under `watch` that never measures take turns of one step in one
process on one thread, each on a model of its own. The cost is the difference of the lower quartiles
of their processor time, which other processes disturb least, with an interval from blocks of turns.
The target is 0.5 % of a step of 3 ms, and 5 µs for the median call of `w.step` by itself.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from costs.rounds import median
from torch import nn

from gradiometer import supervised, watch

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
BLOCKS, NEVER = 10, 10**9


class Loop:
    """A training of an MLP on one batch of 128.

    Args:
        width: Width of its two hidden layers.
        out: Folder of the watched run; None for the plain loop.
    """

    def __init__(self, width: int, out: Path | None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(256, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.batch = torch.randn(128, 256), torch.randint(10, (128,))
        settings = {"loss": LOSS, "every": NEVER, "page": False, "quiet": True, "gauges": "noise"}
        self.watch = (
            None
            if out is None
            else watch(self.model, self.optimizer, out=out, **settings).__enter__()
        )
        # nanoseconds of each call of `w.step`
        self.calls: list[int] = []

    def turn(self) -> float:
        """Processor seconds of a step."""
        began = time.process_time()
        self.optimizer.zero_grad()
        loss = LOSS(self.model, self.batch).mean()
        loss.backward()
        if self.watch is not None:
            called = time.perf_counter_ns()
            self.watch.step(loss, self.batch)
            self.calls.append(time.perf_counter_ns() - called)
        self.optimizer.step()
        return time.process_time() - began


def differences(
    plain: Callable[[], float], watched: Callable[[], float], turns: int
) -> tuple[list[float], float]:
    """In each block of turns: what a watched step takes more, in seconds. And a plain step, in all
    of them."""
    found, steps = [], list[float]()
    for _ in range(BLOCKS):
        pairs = [(plain(), watched()) for _ in range(turns // BLOCKS)]
        found.append(_quartile([one for _, one in pairs]) - _quartile([one for one, _ in pairs]))
        steps += [one for one, _ in pairs]
    return found, _quartile(steps)


def _quartile(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=4)[0]


@click.command()
@click.option(
    "--width",
    type=click.IntRange(min=1),
    default=384,
    show_default=True,
    help="384 takes about 3 ms.",
)
@click.option("--turns", type=click.IntRange(min=50), default=2000, show_default=True)
def main(width: int, turns: int) -> None:
    """What does an unmeasured step cost?"""
    torch.set_num_threads(1)
    with TemporaryDirectory() as out:
        plain, watched = Loop(width, None), Loop(width, Path(out))
        for _ in range(50):  # the first step of the watched loop is measured
            plain.turn(), watched.turn()
        found, step = differences(plain.turn, watched.turn, turns)
        assert watched.watch is not None
        watched.watch.__exit__(None, None, None)
    more = median([1e6 * each for each in found], "µs")
    print(f"a plain step: {1e3 * step:.3g} ms; an unmeasured one takes {more} more")
    print(
        f"that is {more.value / (1e6 * step):.2%} [{more.low / (1e6 * step):.2%}, "
        f"{more.high / (1e6 * step):.2%}]"
    )
    print(f"w.step by itself: {statistics.median(watched.calls) / 1e3:.1f} µs in the median")


if __name__ == "__main__":
    main()
