"""Do samplers keep the temperature in every direction at real batches, and do their intervals cover?

    python benchmarks/sampler_directions.py [--runs 10] [--out FILE] [--json]

Six families, B = 32 and T = 1: a conjugate Gaussian whose noise and curvature have different axes, an ill-conditioned
linear regression, a logistic regression, a linear regression whose noise has heavy tails (Student's with 3 degrees of
freedom), a conjugate Gaussian of 100 parameters with noise in 60 of them, and a small MLP. SGLD as it is by default,
SGLD as published, and SGHMC. Every run is one parameter group. If a sampler is refused, the next row is at the step
that the error names.

Coldest and hottest: the matrix N E[(Φ − c)∇Lᵀ], with c the mean of all runs, along the eigenvectors that it has in the
other half of the runs; the mean over runs and its standard error. For the 100 parameters: the mean along the
directions without and with noise. Coverage, of T, in the first 10 runs: the mean temperature of a run at 90 %, its
hottest and coldest direction and its tail at 99 %.
Finished rows are kept in the file and not computed again. 100 runs take about 20 minutes of one core.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import grad, vmap

from gradiometer import SGHMC, SGLD, BadArgument
from gradiometer.exploration.samplers import Sampler
from gradiometer.exploration.temperature.equipartition import DIRECTIONS, Equipartition
from gradiometer.exploration.temperature.virial import Virial

BATCH_SIZE, BURN_IN, DECAY, EXAMPLES = 32, 1200, 0.02, 500
JUDGED, BELOW = 10, 0.999
"""Runs whose intervals are judged, and the share of the step that an error names."""

KINDS: dict[str, tuple[type[Sampler], dict[str, Any]]] = {
    "SGLD": (SGLD, {}),
    "SGHMC": (SGHMC, {"momentum": 0.5}),
    "SGLD, as published": (SGLD, {"hold": False}),
}


@dataclass(frozen=True)
class Family:
    """A posterior of 500 examples: the gradient of the mean loss of a batch, for every run.

    Args:
        name: What it is called.
        start: Φ at the start.
        gradient: From positions [runs, params] and indices [runs, batch] to gradients without the prior.
        rate: η.
        steps: Measured steps at this rate; at a smaller one as many more.
        ends: The coldest and the hottest directions, if they are known: orthonormal columns.
    """

    name: str
    start: Tensor
    gradient: Callable[[Tensor, Tensor], Tensor]
    rate: float
    steps: int
    ends: tuple[Tensor, Tensor] | None = None


def families() -> Iterator[Family]:
    """The six of the study."""
    draws = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draws, dtype=torch.float64)

    turn, zeros = torch.linalg.qr(normal(5, 5))[0], torch.zeros(5, dtype=torch.float64)
    hessian = turn @ torch.diag(torch.linspace(0.2, 1, 5, dtype=torch.float64)) @ turn.T
    offsets = normal(EXAMPLES, 5) * torch.tensor([1.0, 0.5, 0.3, 0.2, 0.1], dtype=torch.float64)
    yield Family("conjugate", zeros, lambda at, index: at @ hessian - offsets[index].mean(dim=1), 0.1, 3000)
    inputs = normal(EXAMPLES, 5) @ torch.diag(torch.logspace(-0.75, 0, 5, dtype=torch.float64))

    def linear(noise: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda at, index: _linear(inputs[index], noise[index], at)

    yield Family("ill-conditioned", zeros, linear(normal(EXAMPLES)), 0.1, 8000)
    labels = (torch.sigmoid(2 * inputs.sum(dim=1)) > torch.rand(EXAMPLES, generator=draws)).double()

    def logistic(at: Tensor, index: Tensor) -> Tensor:
        errors = torch.sigmoid(torch.einsum("rbi,ri->rb", inputs[index], at)) - labels[index]
        return torch.einsum("rb,rbi->ri", errors, inputs[index]) / index.shape[1]

    yield Family("logistic regression", zeros, logistic, 0.3, 4000)
    student = torch.from_numpy(np.random.default_rng(0).standard_t(3, EXAMPLES)) / 3**0.5
    yield Family("heavy-tailed noise", zeros, linear(student), 0.1, 8000)
    many, axes = 0.8 * normal(EXAMPLES, 100), torch.eye(100, dtype=torch.float64)
    many[:, 60:] = 0

    def large(at: Tensor, index: Tensor) -> Tensor:
        return at - many[index].mean(dim=1)

    yield Family("100 parameters", zeros.new_zeros(100), large, 0.1, 1500, ends=(axes[:, 60:], axes[:, :60]))
    points = normal(EXAMPLES, 2)
    values = (points[:, :1] * 1.5).sin() + 0.3 * normal(EXAMPLES, 1)

    def loss(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(x @ at[:6].view(2, 3) + at[6:9])
        return (hidden @ at[9:12].view(3, 1) + at[12] - y).square().mean() / 2

    small_mlp = vmap(grad(loss))
    start = 0.5 * normal(13)
    yield Family("MLP 2-3-1", start, lambda at, index: small_mlp(at, points[index], values[index]), 0.05, 6000)


def _linear(inputs: Tensor, noise: Tensor, at: Tensor) -> Tensor:
    return torch.einsum("rb,rbi->ri", torch.einsum("rbi,ri->rb", inputs, at) - noise, inputs) / inputs.shape[1]


def studied(family: Family, who: str, runs: int, rate: float) -> dict[str, Any]:
    """One row of the table, at a learning rate."""
    kind, settings = KINDS[who]
    chains = [nn.Parameter(family.start.clone()) for _ in range(runs)]
    given = {"examples": EXAMPLES, "weight_decay": DECAY, "burn_in": BURN_IN // 2, "batch_size": BATCH_SIZE}
    sampler = kind([{"params": [chain]} for chain in chains], rate, **given, **settings)
    draws, size, steps = torch.Generator().manual_seed(1), len(family.start), round(family.steps * family.rate / rate)
    virials = [Virial(family.start, steps) for _ in chains[:JUDGED]]
    watched = torch.eye(min(size, DIRECTIONS), size).double()
    shapes = [Equipartition(watched, family.start, steps) for _ in chains[:JUDGED]]
    products, totals = torch.zeros(runs, size, size).double(), torch.zeros(2, runs, size).double()
    row: dict[str, Any] = {"family": family.name, "sampler": who, "rate": rate, "runs": runs}
    for step in range(-BURN_IN, steps):
        positions = torch.stack([chain.detach() for chain in chains])
        drawn = family.gradient(positions, torch.randint(EXAMPLES, (runs, BATCH_SIZE), generator=draws))
        if step >= 0:
            forces = drawn + DECAY * positions
            products += positions[:, :, None] * forces[:, None] / steps
            totals += torch.stack([positions, forces]) / steps
            for virial, shape, position, force in zip(virials, shapes, positions, forces, strict=False):
                virial.add(position, force)
                shape.add(position, force)
        for chain, gradient in zip(chains, drawn, strict=True):
            chain.grad = gradient
        try:
            sampler.advance()
            if step % 20 == 0:
                index = torch.randint(EXAMPLES, (2, runs, BATCH_SIZE // 2), generator=draws)
                sampler.halves(*(list(family.gradient(positions, half)) for half in index))
        except BadArgument as error:
            return row | {"refused": str(error)}
    center = totals[0].mean(dim=0)
    matrices = EXAMPLES * (products - center[:, None] * totals[1][:, None])
    along = along_ends((matrices + matrices.mT) / 2, family.ends)
    ends = {name: (float(each.mean()), float(each.std()) / runs**0.5) for name, each in along.items()}
    found = [shape.shape(EXAMPLES) for shape in shapes]
    estimates = {
        "mean": [virial.temperature(EXAMPLES) for virial in virials],
        **{name: [getattr(each, name) for each in found] for name in ("hottest", "coldest", "tail")},
    }
    return row | {
        **ends,
        "covered": {name: sum(e.low <= 1 <= e.high for e in all_) for name, all_ in estimates.items()},
        "kept": sum(not each.differing(1.0) for each in found),
    }


def along_ends(matrices: Tensor, known: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    """The temperature of every run along the coldest and the hottest direction, [runs]."""
    found = {}
    for place, name in ((0, "coldest"), (-1, "hottest")):
        if known is not None:
            found[name] = (known[place].T @ matrices @ known[place]).diagonal(dim1=1, dim2=2).mean(dim=1)
            continue
        along = []
        for here, other in ((matrices[::2], matrices[1::2]), (matrices[1::2], matrices[::2])):
            vector = torch.linalg.eigh(other.mean(dim=0))[1][:, place]
            along.append(here @ vector @ vector)
        found[name] = torch.cat(along)
    return found


def rows_of(family: Family, who: str, runs: int) -> Iterator[dict[str, Any]]:
    """The row at the family's learning rate, and as long as it is refused the one at the step that the error names."""
    rate = family.rate
    while True:
        row = studied(family, who, runs, rate)
        yield row
        named = re.search(r"Use `lr` below ([\d.e-]+),", row.get("refused", ""))
        if named is None:
            return
        rate = BELOW * float(named[1])


@click.command()
@click.option("--runs", type=click.IntRange(min=4), default=10, show_default=True, help="Runs of each row.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("sampler-directions.jsonl"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def main(runs: int, out: Path, as_json: bool) -> None:
    torch.set_num_threads(1)
    kept = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["family"], row["sampler"]) for row in kept if row["runs"] == runs}
    for who in KINDS:
        for family in families():
            if (family.name, who) not in done:
                kept += (rows := list(rows_of(family, who, runs)))
                with out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
    rows = [row for row in kept if row["runs"] == runs]
    if as_json:
        click.echo(json.dumps({"rows": rows}))
        return
    table = Table(box=None, title=f"T = 1, B = {BATCH_SIZE}, {runs} runs each")
    for column in ("family", "sampler", "η", "coldest", "hottest", "mean", "cold", "hot", "tail covered", "kept"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        names = row["family"], row["sampler"], f"{row['rate']:.3g}"
        if "refused" in row:
            found = re.search(r"`lr` below [\d.e-]+, a batch of at least [\d,]+", row["refused"])
            table.add_row(*names, f"refused: {found[0] if found else row['refused']}")
            continue
        ends = (f"{value:.3f} ± {error:.3f}" for value, error in (row["coldest"], row["hottest"]))
        covered = (str(row["covered"][name]) for name in ("mean", "coldest", "hottest", "tail"))
        table.add_row(*names, *ends, *covered, str(row["kept"]))
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
