"""What does `watch` cost a loop of one's own? `python benchmarks/watch.py [--network cnn] [--rounds
7] [--seconds 20]`

The same loop with and without the instrument, over the same batches, both alive at once: they take
turns of a quarter of a second in a random order, so that what slows the machine slows both, and the
instrument's budget goes by a clock that counts its own loop's turns. A round is a run of each from
its first step; a cost is the median over rounds of the ratio of the processor's seconds, with its
interval. Runs whose last losses differ by a bit are an error: they did not do the same work.
"""

import json
import random
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import cycle
from typing import Any

import click
import torch
from costs.rounds import ratio
from costs.workloads import BATCH_SIZE, WORKLOADS, batches

from gradiometer import Draw, GradiometerError, Problem, Sampling, Watch, watch
from gradiometer.measurement.batch import chunks

ACCUMULATION = 4
LEARNING_RATE = 0.01
TARGET = 1.03
"""2 % of the training time, give or take one."""
TURN_SECONDS = 0.25


Ended = tuple[float, Watch | None]


class OwnTime:
    """The seconds of one loop, which stand while the other has its turn: called, by the clock on
    the wall."""

    def __init__(self) -> None:
        self.of_processor = 0.0
        self._before = 0.0
        self._since: float | None = None

    def __call__(self) -> float:
        """Seconds by the clock: what the instrument asks for several times a step must cost
        nothing."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def going(self) -> Iterator[None]:
        """The loop's own turn."""
        began, self._since = time.process_time(), time.perf_counter()
        yield
        self._before, self._since = self(), None
        self.of_processor += time.process_time() - began


def loop(
    problem: Problem, accumulation: int, asked: dict[str, Any] | None, clock: OwnTime
) -> Generator[Ended]:
    """A loop of one's own, an update at a time: the last loss, and what watches it; `asked` is None
    for nothing."""
    torch.manual_seed(0)
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    with ExitStack() as stack:
        w = None
        if asked is not None:
            out = stack.enter_context(tempfile.TemporaryDirectory())
            sampling = Sampling(Draw.RESHUFFLED, len(problem.train))
            settings: dict[str, Any] = {
                "loss": problem.loss,
                "out": out,
                "accumulation": accumulation,
                "sampling": sampling,
            }
            w = stack.enter_context(watch(model, optimizer, **(settings | asked)))
            w.budget.clock = clock
        for parts in cycle([chunks(batch, accumulation) for batch in batches(problem)]):
            optimizer.zero_grad()
            for batch in parts:
                loss = problem.loss(model, batch).mean()
                (loss / accumulation).backward()
                if w is not None:
                    w.step(loss, batch)
                value = loss.item()
            optimizer.step()
            yield value, w


def one_round(
    problem: Problem,
    updates: int,
    turn: int,
    accumulation: int,
    asked: dict[str, Any],
    shuffled: random.Random,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of a run without and with the instrument, and what the instrument says it used."""
    clocks = {kind: OwnTime() for kind in ("plain", "watched")}
    loops = {
        kind: loop(problem, accumulation, asked if kind == "watched" else None, clocks[kind])
        for kind in clocks
    }
    order, ended = list(clocks), dict[str, Ended]()
    randomness = dict.fromkeys(order, torch.get_rng_state())
    for _ in range(updates // turn):
        shuffled.shuffle(order)
        for kind in order:
            torch.set_rng_state(randomness[kind])
            with clocks[kind].going():
                for _ in range(turn):
                    ended[kind] = next(loops[kind])
            randomness[kind] = torch.get_rng_state()
    if ended["plain"][0] != ended["watched"][0]:
        raise GradiometerError(f"the runs did not do the same work: {ended}")
    watched = ended["watched"][1]
    overhead = {} if watched is None else watched.overhead
    for one in loops.values():
        one.close()
    return {kind: clock.of_processor for kind, clock in clocks.items()}, overhead


def compared(
    problem: Problem, rounds: int, seconds_a_run: float, accumulation: int, asked: dict[str, Any]
) -> dict[str, Any]:
    """The cost of watching one kind of loop."""
    clock = OwnTime()
    first = loop(problem, accumulation, None, clock)
    next(first)
    with clock.going():
        for _ in range(10):
            next(first)
    turn = max(round(TURN_SECONDS / (clock.of_processor / 10)), 1)
    updates = max(round(seconds_a_run / TURN_SECONDS), 10) * turn
    seconds: dict[str, list[float]] = {"plain": [], "watched": []}
    overheads, shuffled = [], random.Random(0)
    for _ in range(rounds):
        spent, overhead = one_round(problem, updates, turn, accumulation, asked, shuffled)
        for kind, value in spent.items():
            seconds[kind].append(value)
        overheads.append(overhead)
    return {
        "steps": updates,
        "milliseconds a step": 1000 * statistics.median(seconds["plain"]) / updates,
        "cost": ratio(seconds["watched"], seconds["plain"]),
        "said": statistics.median(overhead["used"] for overhead in overheads),
        "measured": statistics.median(overhead["measured_steps"] for overhead in overheads),
    }


KINDS = {
    "default budget": (1, {}),
    f"accumulation {ACCUMULATION}, default budget": (ACCUMULATION, {}),
    f"accumulation {ACCUMULATION}, the noise at every step": (
        ACCUMULATION,
        {"every": 1, "gauges": "noise"},
    ),
}


@click.command()
@click.option(
    "--network", type=click.Choice(list(WORKLOADS)), multiple=True, default=("cnn", "transformer")
)
@click.option("--rounds", default=7, show_default=True, help="Rounds, at least 5.")
@click.option(
    "--seconds",
    default=20.0,
    show_default=True,
    help="Of a run; a short one has not yet earned its first measurement.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def main(network: tuple[str, ...], rounds: int, seconds: float, as_json: bool) -> None:
    """What `watch` costs, as a ratio to the same loop without it."""
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    for name in network:
        problem = WORKLOADS[name]()
        for kind, (accumulation, asked) in KINDS.items():
            found = compared(problem, rounds, seconds, accumulation, asked)
            results[f"{name}, {kind}"] = found
            if as_json:
                continue
            cost, verdict = found["cost"], "above" if found["cost"].low > TARGET else "within"
            print(f"{name}, B = {BATCH_SIZE}, {kind}:")
            print(
                f"  {cost.value:.3f} [{cost.low:.3f}, {cost.high:.3f}] of the plain loop, "
                f"{verdict} {TARGET}"
            )
            print(
                f"  {found['measured']:.0f} of {found['steps']} steps measured, at "
                f"{found['milliseconds a step']:.1f} ms a step; it says {found['said']:.2%}",
                flush=True,
            )
    if as_json:
        print(
            json.dumps(
                {name: found | {"cost": asdict(found["cost"])} for name, found in results.items()}
            )
        )


if __name__ == "__main__":
    main()
