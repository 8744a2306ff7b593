"""Does the step that a refused sampler names do?

    python benchmarks/sampler_refusals.py [--seeds 6]

Five kinds of noise and a Gaussian of 100 parameters, at B = 32 and T = 1, at four times a learning rate that does. Each
run is one sampler with one group. If it is refused, it starts again at the step that the error names, until it runs to
its end. A row counts the runs by their refusals: at 1 the first step that was named did. 4 minutes of one core.
"""

import itertools
import re
from collections import Counter

import click
import torch
from rich.console import Console
from rich.table import Table
from sampler_directions import BATCH_SIZE, BELOW, BURN_IN, DECAY, KINDS
from sampler_families import EXAMPLES, Family, coverage, directions
from torch import nn

from gradiometer import BadArgument

HOTTER, SHORTEST, LONGEST = 4, 4_000, 20_000
"""How much higher the first learning rate is, and the least and the most steps of a run."""


def refused(family: Family, who: str, rate: float, seed: int) -> str | None:
    """The error of one run, or None if there is none."""
    kind, settings = KINDS[who]
    chain = nn.Parameter(family.start.clone())
    given = {"examples": EXAMPLES, "weight_decay": DECAY, "burn_in": BURN_IN // 2, "batch_size": BATCH_SIZE}
    sampler = kind([chain], rate, seed=seed, **given, **settings)
    draws = torch.Generator().manual_seed(seed)
    steps = round((family.steps + BURN_IN) * family.rate / rate)
    for step in range(min(max(steps, SHORTEST), LONGEST)):
        at = chain.detach()[None]
        chain.grad = family.gradient(at, torch.randint(EXAMPLES, (1, BATCH_SIZE), generator=draws))[0]
        try:
            sampler.advance()
            if step % 20 == 0:
                halves = torch.randint(EXAMPLES, (2, 1, BATCH_SIZE // 2), generator=draws)
                sampler.halves(*([family.gradient(at, half)[0]] for half in halves))
        except BadArgument as error:
            return str(error)
    return None


def refusals(family: Family, who: str, seed: int) -> tuple[int, float]:
    """How often a run is refused, and the step at which it runs."""
    rate = HOTTER * family.rate
    for count in itertools.count():
        said = refused(family, who, rate, seed)
        if said is None:
            return count, rate
        named = re.search(r"Use `lr` below ([\d.e-]+),", said)
        assert named is not None, said
        rate = BELOW * float(named[1])
    raise AssertionError("the count has no end")


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=6, show_default=True)
def main(seeds: int) -> None:
    torch.set_num_threads(1)
    table = Table(box=None, title=f"runs by their refusals, {seeds} each")
    for column in ("family", "sampler", "0", "1", "2", "3 or more", "η at the end"):
        table.add_column(column, no_wrap=True)
    wide = (family for family in directions() if len(family.start) == 100)
    for family, who in itertools.product([*coverage(), *wide], ("SGLD", "SGHMC")):
        found = [refusals(family, who, seed) for seed in range(seeds)]
        counts, rates = Counter(min(count, 3) for count, _ in found), [rate for _, rate in found]
        numbers = (str(counts[count]) for count in range(4))
        table.add_row(family.name, who, *numbers, f"{min(rates):.3g} to {max(rates):.3g}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
