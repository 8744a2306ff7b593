"""Does `gradiometer sample` cover a posterior that is known, as it is typed?

    python benchmarks/sample_coverage.py [--seeds 60]
    python benchmarks/sample_coverage.py [--seeds 60] -- --batch-size 500 --lr 0.5 --steps 10000

`gradiometer sample linear-regression --seed S` for many S, with what follows the two dashes: how often the 90 %
intervals contain the known mean and spread of each slope, how often it says that it cannot tell, and how often the
temperature is called kept. The problems of these seeds have other data, and smallest curvatures from 0.01 to 0.1. 6 to
12 seconds of one core for a seed.
"""

import json
from collections import Counter

import click
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

from gradiometer.cli.sample import sample
from gradiometer.exploration.chains.moment import ENOUGH

PARTS = "mean", "spread"


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=60, show_default=True)
@click.argument("further", nargs=-1)
def main(seeds: int, further: tuple[str, ...]) -> None:
    covered, told = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    kept = refused = 0
    for seed in range(seeds):
        result = CliRunner().invoke(sample, ["linear-regression", "--seed", str(seed), "--json", *further])
        if result.exit_code:
            refused += 1
            continue
        said = json.loads(result.stdout)
        kept += said["kept"]
        for name, moment in said["moments"].items():
            for part, known in zip(PARTS, (moment["known"], moment["known_spread"]), strict=True):
                if known is not None:
                    known_and_told = moment["effective"] >= ENOUGH
                    told[name, part] += known_and_told
                    covered[name, part] += known_and_told and moment[part]["low"] <= known <= moment[part]["high"]
    table = Table(box=None, title=f"{seeds} seeds, {refused} refused, {kept} kept the temperature")
    for column in ("quantity", "mean told", "covered", "spread told", "covered"):
        table.add_column(column)
    for name in dict.fromkeys(name for name, _ in told):
        table.add_row(name, *(str(of[name, part]) for part in PARTS for of in (told, covered)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
