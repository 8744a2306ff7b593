"""How hot must a restart be to leave its basin, and what is left of the network then?

    python benchmarks/hot_restarts.py [--seeds 3] [--json]

Two networks of `equal_budget.py` on 400 digits. A trained network gets a cycle of a fifth of its training: Langevin
noise of one temperature for the first half, then it cools. Temperatures are in nats over the number of parameters d:
heat 1 is T = 1/d. In the last row T is the barrier ΔL of the training loss on the line between two independent runs.
Kramers' steps: the mean time over that barrier, by its height and by the curvatures on the line.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import numpy as np
import torch
from equal_budget import BATCH_SIZE, MOMENTUM, SINGLE, Data, add_noise, data_of, log_probabilities, trained
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F  # noqa: N812

from gradiometer import Draw
from gradiometer.convergence.schedules import Cosine
from gradiometer.exploration.ensembles import Predictions, averaged, disagreement, validation_mask
from gradiometer.exploration.temperature import escape_time
from gradiometer.measurement import Order

HEATS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
RATE, SHARE, POINTS = 0.1, 5, 41
"""η of a cycle, the part of a training that it is (a fifth), and points on a line."""


def cycle(data: Data, parent: nn.Module, heat: float, seed: int) -> tuple[nn.Module, float]:
    """The network after a hot cycle from a parent, and its training loss at the end of the hot half."""
    model, length, hot = copy.deepcopy(parent), data.steps // SHARE, 0.0
    order = Order(Draw.RESHUFFLED, len(data.train[0]), BATCH_SIZE, seed=seed)
    noise = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), RATE, momentum=MOMENTUM, nesterov=True, weight_decay=1e-4, fused=True
    )
    scheduler = Cosine(RATE, length).warmed_up(length // 10, within=True).scheduler(optimizer)
    for step in range(length):
        index = order.batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(data.train[0][index]), data.train[1][index]).backward()
        optimizer.step()
        if step < length // 2:
            add_noise(model, heat, optimizer.param_groups[0]["lr"] / (1 - MOMENTUM), noise)
            hot = train_loss(data, model)
        scheduler.step()
    return model, hot


def train_loss(data: Data, model: nn.Module) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(data.train[0]), data.train[1]))


def profile(data: Data, one: nn.Module, other: nn.Module) -> np.ndarray:
    """The training loss at evenly spaced points on the line between two networks."""
    between, ends = data.model(), (one.state_dict(), other.state_dict())
    losses = []
    for share in np.linspace(0, 1, POINTS):
        between.load_state_dict({name: torch.lerp(ends[0][name], ends[1][name], float(share)) for name in ends[0]})
        losses.append(train_loss(data, between))
    return np.array(losses)


def barrier(losses: np.ndarray) -> float:
    """The largest height above the straight line between the ends, nats."""
    return float((losses - np.linspace(losses[0], losses[-1], len(losses))).max())


def kramers(data: Data, one: nn.Module, other: nn.Module) -> tuple[float, Callable[[float], float]]:
    """The barrier between two networks, and log10 of Kramers' mean number of steps across it at a temperature."""
    losses = profile(data, one, other)
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    spacing = math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs)) / (POINTS - 1)
    bends = np.gradient(np.gradient(losses, spacing), spacing)
    bottom, top = float(bends[: POINTS // 4].max()), float(bends[losses.argmax()])
    height, step = barrier(losses), RATE / (1 - MOMENTUM)

    def steps(temperature: float) -> float:
        unhindered = escape_time(height, bottom, min(top, -1e-6), height) / math.e / step
        return math.log10(unhindered) + height / temperature / math.log(10)

    return height, steps


def studied(data: Data, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One row a heat: means over seeds."""
    labels = data.scored[1].numpy()
    validation = validation_mask(len(labels))
    parents = [trained(data, SINGLE, seed)[0] for seed in seeds]
    said = [log_probabilities(each, data.scored[0]) for each in parents]
    crossings = [kramers(data, parents[place - 1], parents[place]) for place in range(len(seeds))]
    size = sum(each.numel() for each in parents[0].parameters())
    heights = [height for height, _ in crossings]
    apart = [profile(data, parents[place - 1], parents[place]) for place in range(len(seeds))]

    def of(losses: Sequence[np.ndarray], both: Sequence[list[np.ndarray]]) -> dict[str, float]:
        scored = [[found[~validation] for found in pair] for pair in both]
        alone = [Predictions.split(pair[1], labels, validation).losses["calibrated_nll"].mean() for pair in both]
        pairs = [Predictions.split(averaged(pair), labels, validation).losses["calibrated_nll"].mean() for pair in both]
        return {
            "barrier": float(np.mean([barrier(each) for each in losses])),
            "disagreement": float(np.mean([disagreement(pair, labels[~validation]).value for pair in scored])),
            "alone": float(np.mean(alone)),
            "pair": float(np.mean(pairs)),
        }

    new = float(np.mean([train_loss(data, data.model()) for _ in range(10)]))
    together = [[said[place - 1], said[place]] for place in range(len(seeds))]
    yield {"network": data.name, "heat": "two runs", "hot": new, **of(apart, together)}
    for heat in (*HEATS, float(np.mean(heights)) * size):
        found = [cycle(data, parent, heat, seed) for parent, seed in zip(parents, seeds, strict=True)]
        lines = [profile(data, parent, model) for parent, (model, _) in zip(parents, found, strict=True)]
        pairs = [[ours, log_probabilities(model, data.scored[0])] for ours, (model, _) in zip(said, found, strict=True)]
        hot = float(np.mean([loss for _, loss in found]))
        steps = float(np.mean([each(heat / size) for _, each in crossings])) if heat else math.inf
        yield {"network": data.name, "heat": heat, "hot": hot, "steps": steps, **of(lines, pairs)}


@click.command()
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def main(seeds: int, as_json: bool) -> None:
    torch.set_num_threads(1)
    rows = [row for data in data_of("digits") for row in studied(data, range(seeds))]
    if as_json:
        click.echo(json.dumps({"rows": rows}))
        return
    table = Table(box=None, title=f"means over {seeds} seeds; losses in nats")
    for column in ("network", "heat", "hot loss", "log10 steps", "barrier", "D/E", "alone", "with it"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        heat = row["heat"] if isinstance(row["heat"], str) else f"{row['heat']:.3g}"
        names = ("hot", "steps", "barrier", "disagreement", "alone", "pair")
        numbers = (f"{row[name]:.3g}" if name in row else "" for name in names)
        table.add_row(row["network"], heat, *numbers)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
