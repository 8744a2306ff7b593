"""Which rate do branches choose, and what does that choice cost in the long run?

    .venv/bin/python benchmarks/horizons.py --keep FOLDER      # about six minutes of processor time
    .venv/bin/python benchmarks/horizons.py --seeds 5 --networks "CNN, SGD"

Each of four networks is trained for 150 updates. Then branches try five rates, a factor of 2 apart,
over a share of what is left, with `gradiometer.loop.fork`. They keep their rate, or it falls to
zero over their last half, or over their whole length. The rate with the lowest mean test loss of
four replicates is the choice. Its regret is the test loss of the whole rest of the training, cooled
to zero from that rate, over that from the best rate, minus 1; other data orders than those of the
branches. The best rate is the one with the lowest mean over all seeds. A seed is a start of the
network; intervals are Student's over seeds, 90 %, and in the rows of all networks over networks and
seeds.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from cases.horizon_networks import NETWORKS, Network

from gradiometer.loop import Fork, Loop, fork
from gradiometer.loop.branch import Tail
from gradiometer.measurement import Estimate
from gradiometer.measurement.uncertainty.differences import mean_of_few

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SHARES = (0.05, 0.1, 0.25, 0.5)
TAILS: tuple[Tail, ...] = ("none", "half", "linear")
REPLICATES, LATER = 4, 1000
"""Replicates of every branch, and what is added to the seed of the data orders of the long
branches."""

FEWEST = 3
"""Fewest seeds of one network for an interval."""

WORDS = {"none": "constant", "half": "linear over the last half", "linear": "linear to zero"}


@dataclass
class Choices:
    """What branches of one network chose, by seed.

    Args:
        long: Mean test loss of the whole rest by factor of the rate, for every seed.
        chosen: The factor that branches with this tail and share preferred, for every seed.
    """

    long: list[dict[float, float]] = field(default_factory=list)
    chosen: dict[tuple[Tail, float], list[float]] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """The factor with the lowest mean over the seeds."""
        return min(
            FACTORS, key=lambda factor: float(np.mean([losses[factor] for losses in self.long]))
        )

    def regrets(self, tail: Tail, share: float) -> list[float]:
        """The regret of what was chosen, for every seed."""
        pairs = zip(self.long, self.chosen[tail, share], strict=True)
        return [losses[factor] / losses[self.best] - 1 for losses, factor in pairs]


def losses_of(found: Fork) -> dict[float, float]:
    """The mean test loss by factor of the rate; infinite if a branch diverged."""
    names = {factor: found.names[0] if factor == 1 else f"rate {factor:g}x" for factor in FACTORS}
    return {
        factor: float(
            np.mean(
                [
                    each.readouts["test_loss"].mean if each.readouts else np.inf
                    for each in found.of(name)
                ]
            )
        )
        for factor, name in names.items()
    }


def add_seed(choices: Choices, network: Network, seed: int, pool: str, keep: Path) -> None:
    """Train all branches of one start."""
    model, optimizer, train, test = network.started(seed)
    rest = network.rest * network.batch_size

    def tried(share: float, tail: Tail, order: int) -> Fork:
        loop = Loop(
            model,
            optimizer,
            loss=network.loss,
            batches=train,
            batch_size=network.batch_size,
            evaluate=test,
            left=f"{rest} examples",
        )
        rates = [f"rate {factor:g}x" for factor in FACTORS if factor != 1]
        return fork(
            loop,
            rates,
            horizon=f"{round(share * network.rest)} updates",
            replicates=REPLICATES,
            tail=tail,
            seed=order,
            pool=pool,
            out=keep / f"{network.name}, {seed}, {share:g} {tail} {order}",
        )

    for tail in TAILS:
        for share in SHARES:
            losses = losses_of(tried(share, tail, seed))
            choices.chosen.setdefault((tail, share), []).append(
                min(losses, key=lambda factor: losses[factor])
            )
    choices.long.append(losses_of(tried(1, "linear", LATER + seed)))


def rows(choices: Sequence[tuple[str, Choices]]) -> list[str]:
    """The table, one line for every network and horizon, and for all networks together."""
    lines = [
        f"| network | horizon | {' | '.join(WORDS[tail] for tail in TAILS)} |",
        f"|{' --- |' * (2 + len(TAILS))}",
    ]
    for share in SHARES:
        for name, each in choices:
            cells = [
                _cell(each.regrets(tail, share), each.chosen[tail, share], each.best)
                for tail in TAILS
            ]
            lines.append(f"| {name} | {share:.0%} | {' | '.join(cells)} |")
        together = [
            [regret for _, each in choices for regret in each.regrets(tail, share)]
            for tail in TAILS
        ]
        lines.append(
            f"| all | {share:.0%} | {' | '.join(percent(mean_of_few(each)) for each in together)} |"
        )
    return lines


def _cell(regrets: Sequence[float], chosen: Sequence[float], best: float) -> str:
    """The chosen rates relative to the best one, and the mean regret."""
    relative = sorted(factor / best for factor in chosen)
    text = f"{relative[len(relative) // 2]:g}"
    if relative[0] != relative[-1]:
        text += f" ({relative[0]:g} to {relative[-1]:g})"
    mean = f"{100 * float(np.mean(regrets)):.1f} %"
    return f"{text}: {percent(mean_of_few(regrets)) if len(regrets) >= FEWEST else mean}"


def percent(share: Estimate) -> str:
    """A share as "1.2 [0.3, 2.1] %"."""
    value, low, high = (f"{100 * each:.1f}" for each in (share.value, share.low, share.high))
    return f"{value} [{low}, {high}] %"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=[network.name for network in NETWORKS])
    parser.add_argument("--pool", default="here")
    parser.add_argument(
        "--keep", type=Path, help="a folder of finished branches, from which the command continues"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        found = [
            (each.name, each, Choices()) for each in NETWORKS if each.name in arguments.networks
        ]
        for seed in range(arguments.seeds):
            for _, network, choices in found:
                add_seed(choices, network, seed, arguments.pool, arguments.keep or Path(temporary))
        for name, _, choices in found:
            long = (
                (factor, float(np.mean([losses[factor] for losses in choices.long])))
                for factor in FACTORS
            )
            print(
                f"{name}, whole rest: "
                f"{', '.join(f'rate {factor:g}x ends at {loss:.4f}' for factor, loss in long)}"
            )
        print("\n".join(rows([(name, choices) for name, _, choices in found])))


if __name__ == "__main__":
    main()
