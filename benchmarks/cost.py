"""What does the instrument cost? `python benchmarks/cost.py [--quick] [--json]`

Everything runs in one process on one thread and takes its turn in every round; a cost is the median
over rounds of its ratio to the plain step, or run, of the same round, in processor seconds, with
its interval.
"""

import json
import platform
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial

import click
import torch
from costs.memory import peaks
from costs.peers import peers
from costs.rounds import LEVEL, Step, median, ratio, take_turns
from costs.runs import whole_runs
from costs.steps import (
    ByHand,
    accumulated,
    adam_by_hand,
    apart,
    half_a_batch,
    looked_at,
    two_halves,
    with_products,
)
from costs.workloads import BATCH_SIZE, WORKLOADS
from rich.console import Console
from rich.table import Table

from gradiometer import Estimate, Problem

WIDTH = 130
"""Of the table where there is no terminal to fit."""

SHARED_TARGET = {"mlp": 1.35}
APART_TARGET = {"cnn": 1.5, "transformer": 1.5, "thousand": 2.0, "cnn+norm+dropout": 2.1}
TWO_HALVES = "two halves by hand"
PLAIN, ACCUMULATED, SHARED, APART = (
    "plain step",
    "accumulated, unmeasured",
    "measured, shared",
    "measured, apart",
)
PRODUCTS, ADAM, ADAM_PRODUCTS = "with products", "plain step, AdamW", "with products under P, AdamW"
PRODUCTS_TARGET = {"cnn": 1.01, "transformer": 1.02, "mlp": 1.08}
LOOKED_AT, HALF = "gradient looked at", "half a batch, no update"


@dataclass(frozen=True)
class Line:
    """One cost.

    Args:
        network: What was trained.
        what: What costs it.
        of: What it is a ratio to; empty for a number with a unit of its own.
        cost: The ratio, or the number.
        target: What it should not exceed; None where it is given for comparison.
    """

    network: str
    what: str
    of: str
    cost: Estimate
    target: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the interval lies on one side of the target."""
        if self.target is None:
            return ""
        if self.cost.high <= self.target:
            return "✓ met"
        return "▲ missed" if self.cost.low > self.target else "? cannot tell"


def step_lines(name: str, problem: Problem, rounds: int) -> tuple[list[Line], dict[str, str]]:
    """The costs of single steps, and why some peers have none."""
    others, reasons = peers(name, problem)
    steps: dict[str, Step] = {
        PLAIN: ByHand(problem),
        LOOKED_AT: looked_at(problem),
        ACCUMULATED: accumulated(problem, measured=False),
        SHARED: accumulated(problem, measured=True),
        HALF: half_a_batch(problem),
        APART: apart(problem),
        PRODUCTS: with_products(problem),
        ADAM: adam_by_hand(problem),
        ADAM_PRODUCTS: with_products(problem, adam=True),
        TWO_HALVES: two_halves(problem),
        **others,
    }
    seconds = take_turns(steps, rounds)
    line = partial(Line, name)
    milliseconds = [1e3 * value for value in seconds[PLAIN]]
    to_plain = {what: ratio(seconds[what], seconds[PLAIN]) for what in steps if what != PLAIN}
    return [
        line(PLAIN, "", median(milliseconds, "ms")),
        line(LOOKED_AT, PLAIN, to_plain[LOOKED_AT], 1.01),
        line(ACCUMULATED, PLAIN, to_plain[ACCUMULATED]),
        line(SHARED, PLAIN, to_plain[SHARED], SHARED_TARGET.get(name, 1.1)),
        line(SHARED, ACCUMULATED, ratio(seconds[SHARED], seconds[ACCUMULATED]), 1.05),
        line(HALF, PLAIN, to_plain[HALF]),
        line(APART, PLAIN, to_plain[APART], APART_TARGET.get(name, 1.6)),
        line(TWO_HALVES, PLAIN, to_plain[TWO_HALVES]),
        line(PRODUCTS, PLAIN, to_plain[PRODUCTS], PRODUCTS_TARGET.get(name)),
        line(ADAM_PRODUCTS, ADAM, ratio(seconds[ADAM_PRODUCTS], seconds[ADAM])),
        *(line(peer, PLAIN, to_plain[peer], None) for peer in others),
    ], reasons


def run_lines(
    name: str, problem: Problem, step_seconds: float, run_seconds: float, rounds: int
) -> Iterator[Line]:
    """The costs of whole runs at the default budget."""
    account = whole_runs(problem, step_seconds, run_seconds, rounds)
    whole, inside, clock = account.whole, account.inside, account.clock
    line, run = partial(Line, name), f"run of {account.steps} steps"
    measured = statistics.mean(account.measured)
    used = [1 + share for share in account.used]
    yield line(
        f"{run}, on ({measured:.0f} measured)", "off", ratio(whole["on"], whole["off"]), 1.02
    )
    yield line(f"{run}, on, as it says itself", "off", median(used), 1.02)
    yield line(f"{run}, on, by the clock", "off", ratio(clock["on"], clock["off"]))
    yield line(f"{run}, on, steps only", "by hand", ratio(inside["on"], inside["by hand"]), 1.02)
    yield line(f"{run}, off, steps only", "by hand", ratio(inside["off"], inside["by hand"]))
    yield line(
        f"{run}, off, around its steps",
        "",
        median([1e3 * seconds for seconds in account.around], "ms"),
    )


def memory_lines() -> list[Line]:
    """The peak memory of readings in a watched GPT, above that of training."""
    unit = "copies of the parameters"
    return [
        Line("gpt-25m", what, unit, Estimate.exact(copies), target)
        for what, copies, target in peaks()
    ]


def table(lines: list[Line]) -> Table:
    """The costs as a table, networks one below the other."""
    drawn = Table(
        title=f"Costs, batches of {BATCH_SIZE}, one thread; intervals at {LEVEL:.0%}",
        title_justify="left",
    )
    for heading in ("network", "what", "in units of"):
        drawn.add_column(heading)
    for heading in ("cost", "target", "verdict"):
        drawn.add_column(heading, no_wrap=True)
    before = ""
    for line in lines:
        if before not in ("", line.network):
            drawn.add_section()
        target = "" if line.target is None else f"≤ {line.target:g}"
        network = "" if line.network == before else line.network
        drawn.add_row(network, line.what, line.of, str(line.cost), target, line.verdict)
        before = line.network
    return drawn


def machine() -> dict[str, str]:
    """What the numbers belong to."""
    return {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


@click.command()
@click.option(
    "--quick", is_flag=True, help="Fewer and shorter rounds: wider intervals, in a few minutes."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=click.Choice(list(WORKLOADS)),
    help="Only this one.",
)
@click.option("--runs/--no-runs", default=True, help="Whole runs, which take most of the time.")
def main(quick: bool, as_json: bool, networks: tuple[str, ...], runs: bool) -> None:
    """What does the instrument cost, in units of the plain step?"""
    torch.set_num_threads(1)
    rounds, run_rounds, run_seconds = (9, 5, 2.5) if quick else (31, 11, 6.0)
    lines, reasons, console = list[Line](), dict[str, str](), Console(stderr=True)
    for name in networks or WORKLOADS:
        problem = WORKLOADS[name]()
        with console.status(f"{name}: steps"):
            found, missing = step_lines(name, problem, rounds)
        lines += found
        reasons |= {f"{peer}, {name}": reason for peer, reason in missing.items()}
        if runs:
            with console.status(f"{name}: whole runs"):
                lines += run_lines(
                    name, problem, found[0].cost.value / 1e3, run_seconds, run_rounds
                )
    if not networks:
        lines += memory_lines()
    if as_json:
        costs = [asdict(line) | {"verdict": line.verdict} for line in lines]
        click.echo(
            json.dumps(
                {"machine": machine(), "costs": costs, "not_run": reasons}, ensure_ascii=False
            )
        )
        return
    output = Console()
    if not output.is_terminal:
        output.width = WIDTH
    output.print(table(lines))
    for peer, reason in reasons.items():
        output.print(f"{peer}: not run; {reason}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
