"""Do samplers keep the temperature in every direction at real batches, and do their intervals cover?

    python benchmarks/sampler_directions.py [--runs 10] [--out FILE] [--json]
    python benchmarks/sampler_directions.py --families coverage --runs 400 --judged 400

Six families, B = 32 and T = 1: a conjugate Gaussian whose noise and curvature have different axes, an ill-conditioned
linear regression, a logistic regression, a linear regression whose noise has heavy tails (Student's with 3 degrees of
freedom), a conjugate Gaussian of 100 parameters with noise in 60 of them, and a small MLP. SGLD as it is by default,
SGLD as published, and SGHMC. Every run is one parameter group. If a sampler is refused, the next row is at the step
that the error names. The five families of `coverage` differ in their noise, and are there for the intervals.

Coldest and hottest: the matrix N E[(Φ − c)∇Lᵀ], with c the mean of all runs, along the eigenvectors that it has in the
other half of the runs; the mean over runs and its standard error. For the 100 parameters: the mean along the
directions without and with noise. Coverage, of T, in the first 10 runs or as many as `--judged` says: the
mean temperature of a run at 90 %, its hottest and coldest direction and its tail at 99 %.
Finished rows are kept in the file and not computed again. 100 runs take about 20 minutes of one core, and 400 of
`coverage` an hour.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from sampler_families import EXAMPLES, FAMILIES, Family
from torch import Tensor, nn

from gradiometer import SGHMC, SGLD, BadArgument
from gradiometer.exploration.samplers import Sampler
from gradiometer.exploration.temperature.equipartition import DIRECTIONS, Equipartition
from gradiometer.exploration.temperature.virial import Virial

BATCH_SIZE, BURN_IN, DECAY = 32, 1200, 0.02
BELOW = 0.999
"""Share of the step that an error names."""

KINDS: dict[str, tuple[type[Sampler], dict[str, Any]]] = {
    "SGLD": (SGLD, {}),
    "SGHMC": (SGHMC, {"momentum": 0.5}),
    "SGLD, as published": (SGLD, {"hold": False}),
}


def studied(family: Family, who: str, runs: int, rate: float, judged: int) -> dict[str, Any]:
    """One row of the table, at a learning rate."""
    kind, settings = KINDS[who]
    chains = [nn.Parameter(family.start.clone()) for _ in range(runs)]
    given = {"examples": EXAMPLES, "weight_decay": DECAY, "burn_in": BURN_IN // 2, "batch_size": BATCH_SIZE}
    sampler = kind([{"params": [chain]} for chain in chains], rate, **given, **settings)
    draws, size, steps = torch.Generator().manual_seed(1), len(family.start), round(family.steps * family.rate / rate)
    virials = [Virial(family.start, steps) for _ in chains[:judged]]
    watched = torch.eye(min(size, DIRECTIONS), size).double()
    shapes = [Equipartition(watched, family.start, steps) for _ in chains[:judged]]
    products, totals = torch.zeros(runs, size, size).double(), torch.zeros(2, runs, size).double()
    row: dict[str, Any] = {"family": family.name, "sampler": who, "rate": rate, "runs": runs, "judged": judged}
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
        "too hot": {name: sum(e.low > 1 for e in all_) for name, all_ in estimates.items()},
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


def rows_of(family: Family, who: str, runs: int, judged: int) -> Iterator[dict[str, Any]]:
    """The row at the family's learning rate, and as long as it is refused the one at the step that the error names."""
    rate = family.rate
    while True:
        row = studied(family, who, runs, rate, judged)
        yield row
        named = re.search(r"Use `lr` below ([\d.e-]+),", row.get("refused", ""))
        if named is None:
            return
        rate = BELOW * float(named[1])


@click.command()
@click.option("--runs", type=click.IntRange(min=4), default=10, show_default=True, help="Runs of each row.")
@click.option("--judged", type=click.IntRange(min=1), default=10, show_default=True, help="Runs with intervals.")
@click.option("--families", "which", type=click.Choice(list(FAMILIES)), default="directions", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("sampler-directions.jsonl"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def main(runs: int, judged: int, which: str, out: Path, as_json: bool) -> None:
    torch.set_num_threads(1)
    kept = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["family"], row["sampler"]) for row in kept if row["runs"] == runs}
    for who in KINDS:
        for family in FAMILIES[which]():
            if (family.name, who) not in done:
                kept += (rows := list(rows_of(family, who, runs, judged)))
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
