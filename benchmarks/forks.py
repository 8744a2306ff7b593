"""Are the effects of forks right, where the answer is known? Quadratics with exact laws after any
schedule.

    .venv/bin/python benchmarks/forks.py           # all parts, about fifteen minutes of processor
    time .venv/bin/python benchmarks/forks.py --forks 60 --races 20 --engine 4

Six settings: plain, heavy-ball and Nesterov SGD on two spectra. A fork has six alternatives (half
and twice the rate, half and twice the batch with √ of the rate, a cut to a tenth, another
momentum), four replicates of 64 updates cooled linearly to zero, and a fresh test set of 100
examples. Its effects are compared with the exact ones.

1. Effects from simulated branches: bias, and the coverage of the three kinds of intervals.
2. Races over six rates, early and late in training: whether the truly best one is kept, and what
   the race cost.
3. The real engine, `gradiometer.loop.fork`, on the same quadratics: do its branches end where the
   law says?
"""

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from cases.fork_quadratics import (
    ADAM,
    BATCH,
    GO_ON,
    SETTINGS,
    WARM,
    Going,
    HeldOut,
    Setting,
    results_of,
)
from scipy.stats import binomtest, t

from gradiometer.loop import Fork, Loop, Rate, fork
from gradiometer.loop.branch import Branch
from gradiometer.loop.comparison.effects import effects_of
from gradiometer.loop.comparison.racing import Rung, race

HORIZON, REPLICATES, STARTS, EARLY = 64 * BATCH, 4, 10, 5
RATES = (0.25, 0.5, 2.0, 4.0, 8.0)
RUNGS = (Rung(HORIZON // 4, REPLICATES), Rung(HORIZON // 2, REPLICATES), Rung(HORIZON, REPLICATES))


@dataclass
class Scores:
    """What came of many forks of one setting."""

    errors: list[list[float]] = field(default_factory=list)
    single: list[list[bool]] = field(default_factory=list)
    together: list[bool] = field(default_factory=list)
    in_general: list[bool] = field(default_factory=list)
    widths: list[list[float]] = field(default_factory=list)

    @property
    def z(self) -> float:
        """The largest |mean error| of an alternative, in standard errors."""
        errors = np.array(self.errors)
        return float(np.abs(errors.mean(0) / errors.std(0, ddof=1)).max() * math.sqrt(len(errors)))

    @property
    def width(self) -> float:
        """Median width of the simultaneous intervals, relative to Bonferroni's."""
        return float(np.median(self.widths))


def effects_study(
    setting: Setting, forks: int, replicates: int = REPLICATES, level: float = 0.9
) -> Scores:
    """Effects of simulated forks against the law."""
    scores, generator = Scores(), np.random.default_rng(1)
    tried = (GO_ON, *setting.alternatives)
    starts = [setting.start(seed) for seed in range(STARTS)]
    laws = [[Going(setting, one, HORIZON).law(*start) for one in tried] for start in starts]
    for number in range(forks):
        place, test = number % STARTS, HeldOut.drawn(setting, generator)
        branches = [
            Branch(one, replicate, HORIZON) for replicate in range(replicates) for one in tried
        ]
        found = effects_of(
            list(results_of(setting, test, branches, starts[place], number)),
            GO_ON.name,
            level=level,
        )
        here = np.array([law.excess_loss_from(test.mean) for law in laws[place]])
        general = np.array([law.excess_loss for law in laws[place]])
        known, wider = here[1:] - here[0], general[1:] - general[0]
        scores.errors.append(
            [effect.estimate.value - truth for effect, truth in zip(found, known, strict=True)]
        )
        scores.single.append(
            [
                each.single.low <= truth <= each.single.high
                for each, truth in zip(found, known, strict=True)
            ]
        )
        scores.together.append(
            all(
                each.estimate.low <= truth <= each.estimate.high
                for each, truth in zip(found, known, strict=True)
            )
        )
        scores.in_general.append(
            all(
                each.in_general is not None and each.in_general.low <= truth <= each.in_general.high
                for each, truth in zip(found, wider, strict=True)
            )
        )
        alone = effects_of_alone(level, len(found), replicates)
        scores.widths.append(
            [
                (each.estimate.high - each.estimate.low)
                / (each.single.high - each.single.low)
                / alone
                for each in found
            ]
        )
    return scores


def effects_of_alone(level: float, alternatives: int, replicates: int) -> float:
    """Bonferroni's interval relative to Student's."""
    single, all_of_them = (
        t.ppf(1 - (1 - level) / 2 / count, replicates - 1) for count in (1, alternatives)
    )
    return float(all_of_them / single)


def race_study(
    setting: Setting, races: int, warm: int
) -> tuple[int, int, list[float], list[float]]:
    """How often the truly best rate is kept and picked, the regret of what is picked, and the share
    spent.

    The regret is relative to the exact excess loss; the share is that of the first four replicates.
    """
    alternatives = [Rate(factor) for factor in RATES]
    tried, generator = [GO_ON, *alternatives], np.random.default_rng(2)
    budget = sum(rung.horizon * rung.replicates for rung in RUNGS) * len(tried)
    kept, picked, regrets, spent = 0, 0, [], []
    starts = [setting.start(seed, warm) for seed in range(STARTS)]
    laws = [[Going(setting, one, HORIZON).law(*start) for one in tried] for start in starts]
    for number in range(races):
        place, test = number % STARTS, HeldOut.drawn(setting, generator)
        truth = {
            one.name: law.excess_loss_from(test.mean)
            for one, law in zip(tried, laws[place], strict=True)
        }
        best = min(truth, key=lambda name: truth[name])
        found = race(
            lambda branches: results_of(setting, test, branches, starts[place], number),  # noqa: B023
            alternatives,
            RUNGS,
            budget=budget,
        )
        kept += best in found.left
        picked += best == found.best
        regrets.append(truth[found.best] / truth[best] - 1)
        first = sum(result.horizon for result in found.results if result.replicate < REPLICATES)
        spent.append(first / budget)
    return kept, picked, regrets, spent


def engine_fork(
    setting: Setting,
    start: tuple[np.ndarray, np.ndarray],
    test: HeldOut,
    seed: int,
    replicates: int = REPLICATES,
    horizon: int = HORIZON,
) -> Fork:
    """A fork of the real engine, from this start, on fresh Gaussian examples."""
    quadratic, spread = setting.quadratic, np.sqrt(setting.noises) / np.array(setting.curvatures)
    model = quadratic.problem(examples=1, start=start[0]).model()
    position = next(model.parameters())
    optimizer = torch.optim.SGD(
        [position], lr=setting.rate, momentum=setting.momentum, nesterov=setting.nesterov
    )
    if setting.momentum:
        optimizer.state[position]["momentum_buffer"] = torch.from_numpy(start[1].copy())

    def batches(order: int) -> Iterator[torch.Tensor]:
        generator = np.random.default_rng((order, 5))
        while True:
            yield torch.from_numpy(spread * generator.standard_normal((BATCH, quadratic.dimension)))

    def evaluate(trained: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {"test_loss": trained(torch.from_numpy(test.examples))}

    loop = Loop(
        model, optimizer, loss=lambda model, batch: model(batch), batches=batches, evaluate=evaluate
    )
    alternatives = list(setting.alternatives)
    return fork(loop, alternatives, horizon=f"{horizon} examples", replicates=replicates, seed=seed)


def engine_study(setting: Setting, forks: int) -> tuple[dict[str, float], np.ndarray]:
    """z of the mean end of the engine's branches from the law, by alternative; and
    single coverage."""
    start, test = setting.start(0), HeldOut.drawn(setting, np.random.default_rng(3))
    floor = test.readout(test.mean).mean
    ends: dict[str, list[float]] = {}
    covered = []
    laws = {
        one.name: Going(setting, one, HORIZON).law(*start) for one in (GO_ON, *setting.alternatives)
    }
    known = {name: law.excess_loss_from(test.mean) + floor for name, law in laws.items()}
    for number in range(forks):
        found = engine_fork(setting, start, test, number)
        for result in found.results:
            ends.setdefault(result.alternative, []).append(result.readouts["test_loss"].mean)
        covered.append(
            [
                each.single.low <= known[each.alternative] - known[GO_ON.name] <= each.single.high
                for each in effects_of(found.results, GO_ON.name)
            ]
        )
    z = {
        name: (np.mean(each) - known[name]) / (np.std(each, ddof=1) / math.sqrt(len(each)))
        for name, each in ends.items()
    }
    return z, np.array(covered)


def share(count: int, total: int) -> str:
    """A share with its 95 % interval."""
    low, high = binomtest(count, total).proportion_ci(method="wilson")
    return f"{count / total:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forks", type=int, default=600)
    parser.add_argument("--races", type=int, default=120)
    parser.add_argument("--engine", type=int, default=6)
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    singles, together = [], []
    for setting in (*SETTINGS, *ADAM) if arguments.forks else ():
        scores = effects_study(setting, arguments.forks, arguments.replicates)
        by_alternative = np.mean(scores.single, axis=0)
        singles += [each for row in scores.single for each in row]
        together += scores.together
        print(
            f"{setting.name}: largest |z| {scores.z:.1f}; single {np.mean(scores.single):.3f} "
            f"({', '.join(f'{each:.2f}' for each in by_alternative)}); "
            f"together {share(sum(scores.together), len(scores.together))}; "
            f"in general {share(sum(scores.in_general), len(scores.in_general))}; "
            f"width against Bonferroni {scores.width:.2f}",
            flush=True,
        )
    if together:
        print(
            f"all: single {share(sum(singles), len(singles))}, together "
            f"{share(sum(together), len(together))}"
        )
    for warm, setting in itertools.product((EARLY, WARM), SETTINGS if arguments.races else ()):
        kept, picked, regrets, spent = race_study(setting, arguments.races, warm)
        print(
            f"race after {warm} updates, {setting.name}: kept {share(kept, arguments.races)}, "
            f"picked {picked / arguments.races:.2f}, "
            f"regret mean {np.mean(regrets):.3f}, 95 % {np.quantile(regrets, 0.95):.3f}; "
            f"spent {np.mean(spent):.2f} of all branches",
            flush=True,
        )
    for setting in SETTINGS if arguments.engine else ():
        z, covered = engine_study(setting, arguments.engine)
        print(
            f"engine, {setting.name}: z "
            f"{', '.join(f'{name} {each:+.1f}' for name, each in z.items())}; single "
            f"{share(int(covered.sum()), covered.size)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
