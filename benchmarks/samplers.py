"""What do samplers cost, and at what temperature do they sample? `python benchmarks/samplers.py [--rounds 9] [--json]`

Speed: a whole step of SGLD (batch, gradient, update) of multinomial logistic regression 784-10 and of the MLP
784-128-10, batches of 32, on one thread, in turns with posteriors' SGLD in both its forms, where it is installed
(pip install posteriors --no-deps, with optree, tensordict and torchopt).

Temperature: asked against measured, on a quadratic whose stationary law is known, full gradients and mini-batches, at
two steps, for ours (held, and as published) and for posteriors' four, from 500 chains.

Fashion-MNIST: SGLD on the MLP at B = 32, asked for T = 1 at two rates, and for less than the mini-batch's own heat.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import cycle, product
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from rounds import Step, ratio, take_turns
from torch import Tensor, nn
from torch.func import functional_call

from gradiometer.errors import BadInput
from gradiometer.exploration.chain_engines import Stacked
from gradiometer.exploration.chain_state import ChainState
from gradiometer.exploration.sampler import Sampler
from gradiometer.exploration.sghmc import SGHMC
from gradiometer.exploration.sgld import SGLD
from gradiometer.exploration.sgnht import SGNHT
from gradiometer.measurement.reading import Estimate
from gradiometer.measurement.uncertainty import mean
from gradiometer.problems.classification import cross_entropy
from gradiometer.problems.fashion_mnist import load
from gradiometer.problems.models import fashion_mnist_mlp

EXAMPLES, BATCH_SIZE = 60_000, 32
RATE = 0.01

TOGETHER = 8
ONE_OF_MANY = f"SGLD, one of {TOGETHER} chains as one"

CHAINS, STEPS, MODES = 500, 2000, 10
CURVATURES = torch.linspace(0.2, 1.0, MODES, dtype=torch.float64)
N, PACES, KEPT, NOISE = 1000, (0.05, 0.5), 0.9, 2e-4
"""Of the quadratic: examples, the η that are tried, the share of momentum kept in a step, the variance of ĝ in every
direction; with momentum a fifth of it, whose heat is the larger."""


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
        [(torch.rand((BATCH_SIZE, 1, 28, 28), generator=generator), torch.randint(10, (BATCH_SIZE,))) for _ in range(8)]
    )


def ours(make: Callable[[], nn.Module], **settings: Any) -> Step:
    """A step of our SGLD."""
    model, turn = make(), batches()
    sampler = SGLD(model.parameters(), lr=RATE, examples=EXAMPLES, temperature=5000.0, **settings)

    def step() -> None:
        inputs, targets = next(turn)
        sampler.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        sampler.step()

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


def theirs(make: Callable[[], nn.Module], *, inplace: bool) -> Step:
    """A step of posteriors' SGLD, with the log posterior of its documentation."""
    library = import_module("posteriors")
    model, turn = make(), batches()

    def log_posterior(params: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
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
    state = ChainState([make() for _ in seeds], [RATE] * TOGETHER, [5000.0] * TOGETHER, 0.0, 0.0, EXAMPLES, seeds)
    engine = Stacked(state, cross_entropy, data)
    index = torch.randint(len(data[1]), (TOGETHER, BATCH_SIZE))
    return lambda: engine.step(index)


def speed(rounds: int, reasons: dict[str, str]) -> list[Line]:
    """How many of our steps are made in the time of one of theirs."""
    lines = []
    for name, make in networks().items():
        steps: dict[str, Step] = {
            "SGD": sgd(make),
            "SGLD": ours(make),
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
                lines.append(Line(f"{name}: time of a step, in ours", who, ratio(seconds[who], seconds["SGLD"])))
    return lines


def measured(advance: Callable[[Tensor], Tensor]) -> Estimate:
    """The temperature of a sampler's positions, N h Φ², over modes and the later half of the steps.

    Args:
        advance: From the gradient noise of a step to the positions after it, [chains, modes].
    """
    generator, total = torch.Generator().manual_seed(1), torch.zeros(CHAINS, dtype=torch.float64)
    for step in range(STEPS):
        noise = torch.randn(CHAINS, MODES, generator=generator, dtype=torch.float64)
        position = advance(noise)
        if step >= STEPS // 2:
            total += (N * CURVATURES * position**2).mean(1)
    if not total.max() < 1e6 * STEPS:
        raise ArithmeticError(f"its positions diverge: {total.max().item():.3g}")
    return mean((total / (STEPS - STEPS // 2)).numpy(), batches=CHAINS)


def of_ours(kind: type[Sampler], rate: float, noise: float, **settings: Any) -> Estimate:
    """One of our samplers at T = 1: a group is what is held, here all modes of all chains."""
    position = nn.Parameter(torch.zeros(CHAINS, MODES, dtype=torch.float64))
    sampler = kind([position], lr=rate, examples=N, **settings)

    def advance(drawn: Tensor) -> Tensor:
        position.grad = CURVATURES * position.detach() + math.sqrt(noise) * drawn
        sampler.step()
        return position.detach()

    return measured(advance)


def of_theirs(name: str, rate: float, noise: float) -> Estimate:
    """One of posteriors' samplers at T = 1, with the same step and friction."""
    kinds = import_module("posteriors.sgmcmc")
    pace = math.sqrt(rate / N)
    settings: dict[str, Any] = {
        "sgld": {"lr": rate / N},
        "sghmc": {"lr": pace, "alpha": (1 - KEPT) / pace},
        "baoa": {"lr": pace, "alpha": -math.log(KEPT) / pace},
        "sgnht": {"lr": pace, "alpha": (1 - KEPT) / pace},
    }[name]

    def log_posterior(params: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        losses = CURVATURES * params**2 / 2 + math.sqrt(noise) * drawn * params
        return -N * losses.sum(), torch.tensor([])

    if name in ("sghmc", "baoa", "sgnht"):
        settings["momenta"] = 0.0
    transform = import_module(f"{kinds.__name__}.{name}").build(log_posterior, temperature=1.0, **settings)
    states = [transform.init(torch.zeros(CHAINS, MODES, dtype=torch.float64))]

    def advance(drawn: Tensor) -> Tensor:
        states[0], _ = transform.update(states[0], drawn)
        return states[0].params

    return measured(advance)


def audit(reasons: dict[str, str]) -> list[Line]:
    """Temperature measured where 1 was asked for."""
    lines = []
    for rate, (label, noise) in product(PACES, (("full gradients", 0.0), ("mini-batches", NOISE))):
        what = f"temperature at T = 1, η h up to {rate:g}, {label}"
        for kind in (SGLD, SGHMC, SGNHT):
            variance = noise if kind is SGLD else noise / 5
            lines.append(Line(what, kind.what, of_ours(kind, rate, variance)))
            lines.append(Line(what, f"{kind.what}, as published", of_ours(kind, rate, variance, hold=False)))
        for name in ("sgld", "sghmc", "baoa", "sgnht"):
            try:
                found = of_theirs(name, rate, noise if name == "sgld" else noise / 5)
            except Exception as error:  # another's code, of any age: whatever it does is its answer
                reasons[f"posteriors {name}, {what}"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            else:
                lines.append(Line(what, f"posteriors {name}", found))
    return lines


def fashion(rate: float, temperature: float, steps: int) -> str:
    """What becomes of a temperature on the MLP at this rate, in as many steps after as many of plain SGD."""
    problem = load("mlp")
    torch.manual_seed(0)
    model = problem.model()
    sampler = SGLD(
        model.parameters(), lr=rate, examples=len(problem.train), temperature=0.0, batch_size=BATCH_SIZE, burn_in=1000
    )
    draw = torch.Generator().manual_seed(0)
    group = sampler.param_groups[0]
    try:
        for step in range(2 * steps):
            group["temperature"] = 0.0 if step < steps else temperature
            batch = problem.train.batch(torch.randint(len(problem.train), (BATCH_SIZE,), generator=draw))
            sampler.zero_grad()
            problem.loss(model, batch).mean().backward()
            sampler.step()
    except BadInput as error:
        return f"refused: {error}"
    balance = sampler.balance[0]
    return f"held: own heat {balance.own}, {balance.injected:.3f} injected"


@click.command()
@click.option("--rounds", type=click.IntRange(min=5), default=9, show_default=True, help="Rounds of timing.")
@click.option("--part", type=click.Choice(["speed", "audit", "fashion", "all"]), default="all", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(rounds: int, part: str, as_json: bool) -> None:
    """Speed and temperature of the samplers, ours and posteriors'."""
    torch.set_num_threads(1)
    reasons = dict[str, str]()
    lines = speed(rounds, reasons) if part in ("speed", "all") else []
    lines += audit(reasons) if part in ("audit", "all") else []
    asked = ((0.1, 1.0), (0.4, 1.0), (0.4, 0.05)) if part in ("fashion", "all") else ()
    told = {f"T = {t:g}, η = {rate:g}": fashion(rate, t, 4000) for rate, t in asked}
    if as_json:
        print(json.dumps({"lines": [asdict(line) for line in lines], "fashion": told, "missing": reasons}))
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
