"""What does `watch` cost a loop of one's own? `python benchmarks/watch.py [--network cnn] [--rounds 9] [--seconds 30]`

The same loop with and without the instrument, over the same batches, taking turns in a new order every round; a cost is
the median over rounds of the ratio of processor seconds, with its interval. Runs whose last losses differ by a bit are
an error: they did not do the same work.
"""

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from itertools import cycle
from typing import Any

import click
import torch
from rounds import ratio
from workloads import BATCH_SIZE, WORKLOADS, batches

from gradiometer import watch
from gradiometer.errors import GradiometerError
from gradiometer.measurement.batch import chunks
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.problems.problem import Problem

ACCUMULATION = 4
LEARNING_RATE = 0.01
TARGET = 1.03
"""2 % of the training time, give or take one."""


def run(
    problem: Problem, steps: int, accumulation: int, asked: dict[str, Any] | None
) -> tuple[float, float, dict[str, Any]]:
    """Processor seconds of the loop, its last loss, and what the instrument says it used; None asks for none."""
    torch.manual_seed(0)
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    ahead = cycle([chunks(batch, accumulation) for batch in batches(problem)])
    with tempfile.TemporaryDirectory() as out:
        sampling = Sampling(Draw.RESHUFFLED, len(problem.train))
        settings = {"loss": problem.loss, "out": out, "accumulation": accumulation, "sampling": sampling}
        with nullcontext() if asked is None else watch(model, optimizer, **(settings | asked)) as w:
            began = time.process_time()
            for _ in range(steps):
                optimizer.zero_grad()
                for batch in next(ahead):
                    loss = problem.loss(model, batch).mean()
                    (loss / accumulation).backward()
                    if w is not None:
                        w.step(loss, batch)
                    value = loss.item()
                optimizer.step()
            seconds = time.process_time() - began
        return seconds, value, {} if w is None else w.overhead


def compared(
    problem: Problem, rounds: int, seconds_a_run: float, accumulation: int, asked: dict[str, Any]
) -> dict[str, Any]:
    """The cost of watching one kind of loop."""
    step_seconds = run(problem, 10, accumulation, None)[0] / 10
    steps = max(round(seconds_a_run / step_seconds), 40)
    kinds: dict[str, Callable[[], Ended]] = {
        "plain": partial(run, problem, steps, accumulation, None),
        "watched": partial(run, problem, steps, accumulation, asked),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    overheads, order, shuffled = [], list(kinds), random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)
        ended = {kind: kinds[kind]() for kind in order}
        if len({loss for _, loss, _ in ended.values()}) > 1:
            raise GradiometerError(f"the runs did not do the same work: {ended}")
        for kind, (spent, _, _) in ended.items():
            seconds[kind].append(spent)
        overheads.append(ended["watched"][2])
    return {
        "steps": steps,
        "milliseconds a step": 1000 * statistics.median(seconds["plain"]) / steps,
        "cost": ratio(seconds["watched"], seconds["plain"]),
        "said": statistics.median(overhead["used"] for overhead in overheads),
        "measured": statistics.median(overhead["measured_steps"] for overhead in overheads),
    }


KINDS = {
    "default budget": (1, {}),
    f"accumulation {ACCUMULATION}, default budget": (ACCUMULATION, {}),
    f"accumulation {ACCUMULATION}, the noise at every step": (ACCUMULATION, {"every": 1, "gauges": "noise"}),
}


@click.command()
@click.option("--network", type=click.Choice(list(WORKLOADS)), multiple=True, default=("cnn", "transformer"))
@click.option("--rounds", default=9, show_default=True, help="Rounds, at least 5.")
@click.option(
    "--seconds", default=30.0, show_default=True, help="Of a run; a short one has not yet earned its first measurement."
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
            print(f"  {cost.value:.3f} [{cost.low:.3f}, {cost.high:.3f}] of the plain loop, {verdict} {TARGET}")
            print(
                f"  {found['measured']:.0f} of {found['steps']} steps measured, at "
                f"{found['milliseconds a step']:.1f} ms a step; it says {found['said']:.2%}",
                flush=True,
            )
    if as_json:
        print(json.dumps({name: found | {"cost": asdict(found["cost"])} for name, found in results.items()}))


if __name__ == "__main__":
    main()
