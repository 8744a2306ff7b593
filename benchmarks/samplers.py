"""What do samplers cost, and at what temperature do they sample? `python benchmarks/samplers.py
[--rounds 9] [--json]`

Speed: a whole step of SGLD (batch, gradient, update) of multinomial logistic regression 784-10 and
of the MLP 784-128-10, batches of 32, on one thread, in turns with posteriors' SGLD in both its
forms, where it is installed (pip install posteriors --no-deps, with optree, tensordict and
torchopt).

Temperature: asked against measured, on a quadratic whose stationary law is known, full gradients
and mini-batches, at two steps and two temperatures, for ours (held, and as published) and for those
of posteriors, blackjax and torch-uncertainty, where installed, from 500 chains
(`cases/sampler_audit.py`).

Fashion-MNIST: SGLD on the MLP at B = 32, asked for T = 1 at two rates, and for less than the
mini-batch's own heat.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from itertools import cycle
from typing import Any

import click
import torch
from cases.sampler_audit import temperatures
from costs.rounds import Step, ratio, take_turns
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call

from gradiometer import SGLD, BadArgument, Estimate
from gradiometer.measurement.batch import take
from gradiometer.measurement.objective import Traits
from gradiometer.problems.images.classification import cross_entropy, fashion_mnist_mlp
from gradiometer.problems.images.fashion_mnist import load
from gradiometer_lab.chains.engines import ChainState, Stacked

EXAMPLES, BATCH_SIZE = 60_000, 32
RATE = 0.001
"""At T = 5000 and a rate above 0.003, random images heat one direction of the logistic regression
by more than 5 %."""

TOGETHER = 8
ONE_OF_MANY = f"SGLD, one of {TOGETHER} chains as one"


@dataclass(frozen=True)
class Line:
    """One number of the benchmark."""

    what: str
    who: str
    value: Estimate


def networks() -> dict[str, Callable[[], nn.Module]]:
    """What is sampled for speed."""
    return {
        "logistic regression 784-10": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
        "MLP 784-128-10": fashion_mnist_mlp,
    }


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """The same few made-up batches over and over: taking them is no part of a step."""
    generator = torch.Generator().manual_seed(0)
    return cycle(
        [
            (
                torch.rand((BATCH_SIZE, 1, 28, 28), generator=generator),
                torch.randint(10, (BATCH_SIZE,)),
            )
            for _ in range(8)
        ]
    )


def ours(make: Callable[[], nn.Module], *, advance: bool = False, **settings: Any) -> Step:
    """A step of our SGLD; with `advance` as `sample` makes it, without the hooks of torch's
    optimizers."""
    model, turn = make(), batches()
    sampler = SGLD(model.parameters(), lr=RATE, examples=EXAMPLES, temperature=5000.0, **settings)

    def step() -> None:
        inputs, targets = next(turn)
        sampler.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        sampler.advance() if advance else sampler.step()

    return step


def sgd(make: Callable[[], nn.Module]) -> Step:
    """A step of torch's SGD: what no sampler can undercut by much."""
    model, turn = make(), batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> None:
        inputs, targets = next(turn)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return step


def least(make: Callable[[], nn.Module]) -> Step:
    """A step of torch's SGD and as many normal numbers as SGLD needs: what none with such noise can
    undercut."""
    step, draw = sgd(make), torch.Generator().manual_seed(0)
    numbers = torch.empty(sum(parameter.numel() for parameter in make().parameters()))

    def with_noise() -> None:
        numbers.normal_(generator=draw)
        step()

    return with_noise


def theirs(make: Callable[[], nn.Module], *, inplace: bool) -> Step:
    """A step of posteriors' SGLD, with the log posterior of its documentation."""
    library = import_module("posteriors")
    model, turn = make(), batches()

    def log_posterior(
        params: dict[str, Tensor], batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        inputs, targets = batch
        logits = functional_call(model, params, inputs)
        return -EXAMPLES * nn.functional.cross_entropy(logits, targets), torch.tensor([])

    transform = library.sgmcmc.sgld.build(log_posterior, lr=RATE / EXAMPLES, temperature=5000.0)
    states = [transform.init({name: p.detach().clone() for name, p in model.named_parameters()})]

    def step() -> None:
        states[0], _ = transform.update(states[0], next(turn), inplace=inplace)

    return step


def together(make: Callable[[], nn.Module]) -> Step:
    """A step of SGLD of `TOGETHER` chains as one batched network."""
    inputs, targets = zip(*(next(turn) for turn in [batches()] * 8), strict=True)
    data = torch.cat(inputs), torch.cat(targets)
    seeds = range(TOGETHER)
    models = [make() for _ in seeds]
    samplers = [
        SGLD(model.parameters(), lr=RATE, examples=EXAMPLES, temperature=5000.0) for model in models
    ]
    engine = Stacked(
        ChainState(models, seeds, samplers), cross_entropy, partial(take, data), Traits()
    )
    index = torch.randint(len(data[1]), (TOGETHER, BATCH_SIZE))
    return lambda: engine.step(index)


def speed(rounds: int, reasons: dict[str, str]) -> list[Line]:
    """How many of our steps are made in the time of one of theirs."""
    lines = []
    for name, make in networks().items():
        steps: dict[str, Step] = {
            "SGD": sgd(make),
            "SGD, and the noise drawn": least(make),
            "SGLD": ours(make),
            "SGLD, advance": ours(make, advance=True),
            "SGLD, as published": ours(make, hold=False),
            ONE_OF_MANY: together(make),
        }
        for form, inplace in (("posteriors", False), ("posteriors, inplace", True)):
            try:
                steps[form] = theirs(make, inplace=inplace)
                steps[form]()
            except Exception as error:  # another's code, of any age: whatever it does is its answer
                steps.pop(form, None)
                reasons[form] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        seconds = take_turns(steps, rounds)
        seconds[ONE_OF_MANY] = [each / TOGETHER for each in seconds[ONE_OF_MANY]]
        for who in steps:
            if who != "SGLD":
                lines.append(
                    Line(
                        f"{name}: time of a step, in ours",
                        who,
                        ratio(seconds[who], seconds["SGLD"]),
                    )
                )
    return lines


def fashion(rate: float, temperature: float, steps: int) -> str:
    """What becomes of a temperature on the MLP at this rate, in as many steps after as many of
    plain SGD."""
    problem = load("mlp")
    torch.manual_seed(0)
    model = problem.model()
    sampler = SGLD(
        model.parameters(),
        lr=rate,
        examples=len(problem.train),
        temperature=0.0,
        batch_size=BATCH_SIZE,
        burn_in=1000,
    )
    draw = torch.Generator().manual_seed(0)
    group = sampler.param_groups[0]
    try:
        for step in range(2 * steps):
            group["temperature"] = 0.0 if step < steps else temperature
            batch = problem.train.batch(
                torch.randint(len(problem.train), (BATCH_SIZE,), generator=draw)
            )
            sampler.zero_grad()
            problem.loss(model, batch).mean().backward()
            sampler.step()
    except BadArgument as error:
        return f"refused: {error}"
    balance = sampler.balance[0]
    return f"held: own heat {balance.own}, {balance.injected:.3f} injected"


@click.command()
@click.option(
    "--rounds", type=click.IntRange(min=5), default=9, show_default=True, help="Rounds of timing."
)
@click.option(
    "--part",
    type=click.Choice(["speed", "audit", "fashion", "all"]),
    default="all",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(rounds: int, part: str, as_json: bool) -> None:
    """Speed and temperature of the samplers, ours and others'."""
    torch.set_num_threads(1)
    reasons = dict[str, str]()
    lines = speed(rounds, reasons) if part in ("speed", "all") else []
    if part in ("audit", "all"):
        lines += [Line(what, who, found) for what, who, found in temperatures(reasons)]
    asked = ((0.1, 1.0), (0.4, 1.0), (0.4, 0.05)) if part in ("fashion", "all") else ()
    told = {f"T = {t:g}, η = {rate:g}": fashion(rate, t, 4000) for rate, t in asked}
    if as_json:
        print(
            json.dumps(
                {"lines": [asdict(line) for line in lines], "fashion": told, "missing": reasons}
            )
        )
        return
    table = Table(box=None)
    for title in ("what", "who", "value"):
        table.add_column(title)
    for line in lines:
        table.add_row(line.what, line.who, str(line.value))
    console = Console(width=140)
    console.print(table)
    for setting, sentence in told.items():
        console.print(f"Fashion-MNIST MLP, {setting}, B = {BATCH_SIZE}: {sentence}")
    for who, why in reasons.items():
        console.print(f"{who}: {why}")


if __name__ == "__main__":
    main()
