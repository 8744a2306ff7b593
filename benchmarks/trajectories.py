"""Does a run get the name of what is wrong with it, and do ordinary runs get none?

    python benchmarks/trajectories.py [--set judged|other] [--only NAME] [--json]

Eight trainings on the digits with a known fault: parameters that run to infinity, a start at zero
(a saddle), hidden units that are all equal at the start, or a few of them, dead units, a two-cycle,
chaos past the edge of stability, and
equal filters of a CNN. Thirteen ordinary trainings: other data, networks, optimizers and schedules.
Everything is read from the run by `diagnose`, as on the page. The other set has other networks,
rates and seeds; a detector is changed on that one only. About five minutes of one core for each
set.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from gradiometer import State, diagnose
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train
from gradiometer.verdict import say

Make = Callable[[], nn.Module]
SPOKEN = ("trajectory", "endpoint")
"""Gauges whose findings are about where the run goes."""


@dataclass(frozen=True)
class Case:
    """A training.

    Args:
        name: What is wrong with it, or what it is.
        words: Words of the finding that is expected; empty for an ordinary run.
        settings: Of the configuration.
        model: Makes the network; None: the problem's own.
    """

    name: str
    words: str
    settings: dict[str, Any]
    model: Make | None = None


def mlp(
    width: int = 64, activation: type[nn.Module] = nn.ReLU, start: str = "", few: int = 0
) -> nn.Module:
    """64-width-10, from a start that is random, zero, the same for all units or for a few, or far
    below zero."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, width), activation(), nn.Linear(width, 10))
    first, last = model[1], model[3]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    with torch.no_grad():
        if start == "zero":
            for parameter in model.parameters():
                parameter.zero_()
        if start == "equal":
            for places, each in (
                (range(1, few or width), first.weight),
                (range(1, few or width), first.bias),
            ):
                for place in places:
                    each[place] = each[0]
            last.weight[:, 1 : few or width] = last.weight[:, :1]
        if start == "low":
            first.bias[few:] = -20
    return model


def cnn(channels: int = 8, equal: int = 0) -> nn.Module:
    """Two convolutions on 8 × 8 images, of which the first filters may be equal."""
    first, second = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, 16, 3, padding=1)
    with torch.no_grad():
        for place in range(1, equal):
            first.weight[place], first.bias[place] = first.weight[0], first.bias[0]
            second.weight[:, place] = second.weight[:, 0]
    pool = nn.MaxPool2d(2)
    return nn.Sequential(
        first, nn.ReLU(), pool, second, nn.ReLU(), pool, nn.Flatten(), nn.Linear(64, 10)
    )


def linear() -> nn.Module:
    """Softmax regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def deep(width: int = 48) -> nn.Module:
    """Four layers of tanh with layer norms."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width)]
    for _ in range(3):
        layers += [nn.LayerNorm(width), nn.Tanh(), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.LayerNorm(width), nn.Linear(width, 10))


WHOLE = 1437
"""The training images of the digits: full batches."""

FAULTS = (
    Case(
        "infinity",
        "infinity",
        {"learning_rate": 0.5, "epochs": 60, "batch_size": 16},
        partial(mlp, 100),
    ),
    Case(
        "saddle",
        "at a saddle",
        {"learning_rate": 0.2, "epochs": 30},
        partial(mlp, 40, nn.Tanh, "zero"),
    ),
    Case(
        "twins, all",
        "equal another",
        {"learning_rate": 0.1, "epochs": 20},
        partial(mlp, 48, start="equal"),
    ),
    Case(
        "twins, some",
        "equal another",
        {"learning_rate": 0.1, "epochs": 20},
        partial(mlp, 80, start="equal", few=6),
    ),
    Case(
        "dead units",
        "are dead",
        {"learning_rate": 0.1, "epochs": 20},
        partial(mlp, 64, start="low", few=20),
    ),
    Case(
        "two-cycle",
        "shaking apart",
        {"learning_rate": 2.2, "epochs": 400, "batch_size": WHOLE, "weight_decay": 0.04},
        linear,
    ),
    Case(
        "chaos",
        "in chaos",
        {"learning_rate": 4.0, "epochs": 400, "batch_size": WHOLE},
        partial(mlp, 50, nn.Tanh),
    ),
    Case("filters", "equal another", {"learning_rate": 0.1, "epochs": 20}, partial(cnn, 10, 3)),
)
ORDINARY = (
    Case("MLP, SGD", "", {"learning_rate": 0.2, "epochs": 25, "batch_size": 64}, partial(mlp, 96)),
    Case(
        "MLP, momentum",
        "",
        {"learning_rate": 0.02, "epochs": 25, "momentum": 0.95},
        partial(mlp, 32),
    ),
    Case(
        "MLP, AdamW",
        "",
        {"optimizer": "adamw", "learning_rate": 2e-3, "epochs": 25},
        partial(mlp, 64),
    ),
    Case(
        "tanh, cosine",
        "",
        {"learning_rate": 0.3, "epochs": 30, "schedule": "cosine"},
        partial(mlp, 64, nn.Tanh),
    ),
    Case("deep, layer norm", "", {"learning_rate": 0.05, "epochs": 20, "momentum": 0.9}, deep),
    Case(
        "deep, AdamW",
        "",
        {"optimizer": "adamw", "learning_rate": 1e-3, "epochs": 20, "schedule": "linear"},
        deep,
    ),
    Case("CNN", "", {"learning_rate": 0.2, "epochs": 25, "batch_size": 64}, partial(cnn, 12)),
    Case(
        "CNN, AdamW",
        "",
        {"optimizer": "adamw", "learning_rate": 3e-3, "epochs": 15},
        partial(cnn, 8),
    ),
    Case(
        "softmax regression", "", {"learning_rate": 0.1, "epochs": 40, "weight_decay": 0.01}, linear
    ),
    Case(
        "full batches",
        "",
        {"learning_rate": 0.3, "epochs": 500, "batch_size": WHOLE},
        partial(mlp, 64),
    ),
    Case(
        "linear regression",
        "",
        {"problem": "linear-regression", "learning_rate": 0.05, "epochs": 60},
    ),
    Case(
        "logistic regression",
        "",
        {"problem": "logistic-regression", "learning_rate": 0.3, "epochs": 60},
    ),
    Case(
        "Fashion-MNIST",
        "",
        {"problem": "fashion-mnist", "learning_rate": 0.05, "batch_size": 50, "steps": 900},
    ),
)
OTHER_FAULTS = (
    Case(
        "infinity",
        "infinity",
        {"learning_rate": 0.3, "epochs": 70, "batch_size": 16, "seed": 5},
        partial(mlp, 64),
    ),
    Case(
        "infinity, wide",
        "infinity",
        {"learning_rate": 0.4, "epochs": 60, "batch_size": 16},
        partial(mlp, 128),
    ),
    Case(
        "saddle",
        "at a saddle",
        {"learning_rate": 0.1, "epochs": 40, "seed": 5},
        partial(mlp, 64, nn.Tanh, "zero"),
    ),
    Case(
        "dead units",
        "are dead",
        {"learning_rate": 0.05, "epochs": 20},
        partial(mlp, 32, start="low"),
    ),
    Case(
        "two-cycle",
        "shaking apart",
        {"learning_rate": 2.4, "epochs": 300, "batch_size": WHOLE, "weight_decay": 0.03},
        linear,
    ),
    Case(
        "chaos",
        "in chaos",
        {"learning_rate": 3.0, "epochs": 300, "batch_size": WHOLE},
        partial(mlp, 64, nn.Tanh),
    ),
    Case(
        "chaos, softmax",
        "in chaos",
        {"learning_rate": 4.0, "epochs": 300, "batch_size": WHOLE, "weight_decay": 0.03},
        linear,
    ),
    Case(
        "filters",
        "equal another",
        {"learning_rate": 0.05, "epochs": 15, "momentum": 0.9},
        partial(cnn, 8, 2),
    ),
)
OTHER_ORDINARY = (
    Case("MLP, SGD", "", {"learning_rate": 0.1, "epochs": 40, "seed": 5}),
    Case(
        "CNN, momentum", "", {"model": "cnn", "learning_rate": 0.02, "epochs": 30, "momentum": 0.9}
    ),
    Case(
        "tanh, SGD",
        "",
        {"learning_rate": 0.5, "epochs": 50, "batch_size": 128},
        partial(mlp, 48, nn.Tanh),
    ),
    Case(
        "MLP, cosine",
        "",
        {"learning_rate": 0.3, "epochs": 60, "schedule": "cosine"},
        partial(mlp, 100),
    ),
    Case(
        "MLP, small batches",
        "",
        {"learning_rate": 0.1, "epochs": 15, "batch_size": 8},
        partial(mlp, 100),
    ),
    Case(
        "MLP, AdamW",
        "",
        {"optimizer": "adamw", "learning_rate": 5e-3, "epochs": 30},
        partial(mlp, 40),
    ),
    Case(
        "full batches",
        "",
        {"learning_rate": 0.2, "epochs": 700, "batch_size": WHOLE},
        partial(mlp, 100),
    ),
)
SETS = {"judged": FAULTS + ORDINARY, "other": OTHER_FAULTS + OTHER_ORDINARY}


def alarms(case: Case) -> list[str]:
    """What the findings about the path and its end say that is not in order."""
    configuration = Configuration(**{"problem": "digits", "every": 500} | case.settings)
    problem = load(configuration.problem, model=configuration.model)
    if case.model is not None:
        problem = replace(problem, model=case.model)
    with tempfile.TemporaryDirectory() as folder:
        found = diagnose(train(problem, configuration, Path(folder))).findings
    return [
        say(each).seen
        for each in found
        if each.gauge in SPOKEN and each.state in (State.ACT, State.LOOK)
    ]


@click.command()
@click.option("--set", "chosen", type=click.Choice(list(SETS)), default="judged", show_default=True)
@click.option("--only", help="Cases whose name contains this.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def main(chosen: str, only: str | None, as_json: bool) -> None:
    torch.set_num_threads(1)
    rows = []
    for case in SETS[chosen]:
        if only is None or only in case.name:
            seen = alarms(case)
            right = any(case.words in words for words in seen) if case.words else not seen
            rows.append({"case": case.name, "expected": case.words, "right": right, "seen": seen})
            click.echo(f"{case.name}: {'right' if right else 'wrong'} {seen}", err=True)
    if as_json:
        click.echo(json.dumps({"rows": rows}))
        return
    table = Table(box=None)
    for column in ("run", "expected", "", "alarms"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["case"],
            row["expected"] or "no alarm",
            "✓" if row["right"] else "✗",
            "; ".join(row["seen"]),
        )
    Console(width=200).print(table)
    for kind, named in (("with a fault", True), ("ordinary", False)):
        part = [row["right"] for row in rows if bool(row["expected"]) is named]
        click.echo(f"{sum(part)} of {len(part)} runs {kind} are right")


if __name__ == "__main__":
    main()
