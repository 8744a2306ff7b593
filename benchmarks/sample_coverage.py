"""Does `gradiometer sample` cover a posterior that is known, as it is typed, with its defaults?

    python benchmarks/sample_coverage.py [--seeds 100]

`gradiometer sample linear-regression --seed S` for many S: how often the 90 % intervals contain the known mean and
spread of each slope, and how often the temperature is called kept. 6 seconds of one core for a seed.
"""

import json
from collections import Counter

import click
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

from gradiometer.cli.sample import sample


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--sampler", type=click.Choice(["sgld", "sghmc", "sgnht"]), default="sgld", show_default=True)
def main(seeds: int, sampler: str) -> None:
    covered: Counter[tuple[str, str]] = Counter()
    kept = refused = 0
    for seed in range(seeds):
        given = ["linear-regression", "--seed", str(seed), "--sampler", sampler, "--json"]
        result = CliRunner().invoke(sample, given)
        if result.exit_code:
            refused += 1
            continue
        said = json.loads(result.stdout)
        kept += said["kept"]
        for name, moment in said["moments"].items():
            for part, known in (("mean", moment["known"]), ("spread", moment["known_spread"])):
                if known is not None:
                    covered[name, part] += moment[part]["low"] <= known <= moment[part]["high"]
    table = Table(box=None, title=f"{sampler}, {seeds} seeds, {refused} refused; {kept} kept the temperature")
    for column in ("quantity", "mean covered", "spread covered"):
        table.add_column(column)
    for name in dict.fromkeys(name for name, _ in covered):
        table.add_row(name, str(covered[name, "mean"]), str(covered.get((name, "spread"), "")))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
