"""Is the noise scale better known from products of training's own gradients than from halves of
some batches?

    .venv/bin/python benchmarks/products.py                       # the judging trainings, about 40
    minutes on one core .venv/bin/python benchmarks/products.py --trainings choosing  # those on
    which the method was chosen .venv/bin/python benchmarks/products.py --quadratics          #
    known answers, 400 runs each, ten minutes .venv/bin/python benchmarks/products.py --reshuffled
    # epochs in random order, in one dimension
    .venv/bin/python benchmarks/products.py --entries             # some entries of each gradient

*halves* are read at every 25th step, which costs 2 % of the training. *products* are read at every
step (1.00 to 1.02 on a CNN and a transformer) and *a quarter* in chains of 8 steps of 32, if a
product costs 8 % of a step. *short steps* are too short to pay for anything: 40 products in 300
steps, and then a chain whenever training is longer by an eighth. All are given to `GradientNoise` or, under AdamW, to
`PreconditionedNoise` too, as in a watched loop, at 15 places of each run. The truth is the ratio of
the means of tr Σ and ‖g‖² from full passes within 5 % of the run. *covers* is for nominal 90 %;
*score* is the interval score in logarithms, where an interval that is open, or whose ends are more
than 30 apart, counts as log 30 = 3.4 wide; *ends* is the median ratio of the ends. *decided*: of
the trainings whose truth at step 500 is a factor of 2 or more from B, the share in which the
interval lies beyond B on the right side; *wrong*: on the other.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from noise import entries
from noise.brief import BRIEF
from noise.products import COLUMNS, Training, recorded
from noise.quadratics import BATCH, RULES, readings_of, reshuffled, walk
from noise.scores import PLACES, SMOOTHED, Case, Score, row, scored
from noise.trainings import CHOOSING, FRESH, JUDGING

from gradiometer import Draw, Estimate, GradientNoise, Sampling, Series
from gradiometer.estimation import PreconditionedNoise
from gradiometer.estimation.products import PRODUCT_PRIOR, GradientMemory, by_loss
from gradiometer.integrations.watch.observers.products import (
    CHAIN,
    PAIRS_A_READING,
    READINGS_A_RUN,
    longest_pause,
)
from gradiometer.measurement.uncertainty.now import ratio_now

TRAININGS = {"choosing": CHOOSING, "judging": JUDGING, "fresh": FRESH, "brief": BRIEF}
HALVES_EVERY = 25
QUARTER = 32
"""Steps from the beginning of one chain to that of the next, if a quarter of the steps is read."""

DECIDED_AT = 500
KINDS = ("plain", "preconditioned")
SIZES = (0.01, 0.03, 0.1, 0.3, 1.0)
Run = Mapping[str, np.ndarray]


class Reader:
    """Makes series of readings from a recorded training, as a watched loop would have."""

    def __init__(self, training: Training, run: Run, kind: str) -> None:
        self.rows = {name: run[kind][:, place] for place, name in enumerate(COLUMNS)}
        self.momentum, self.adaptive = float(run["momentum"]), len(run["preconditioned"]) > 0
        self.kind, self.batch = kind, training.batch
        self.nesterov = bool(training.optimizer([torch.zeros(1)]).param_groups[0].get("nesterov"))
        draw = Draw.RESHUFFLED if training.reshuffled else Draw.REPLACEMENT
        self.sampling = Sampling(draw, int(run["size"][2]))
        rates = self.rows["rate"] * (1 - self.momentum if self.adaptive else 1.0)
        self.travelled = np.concatenate([[0.0], np.cumsum(rates)[:-1]])

    def halves(self, until: int) -> Series:
        """The readings of halves up to a step."""
        steps = np.arange(HALVES_EVERY - 1, until + 1, HALVES_EVERY)
        steps = steps[np.isfinite(self.rows["half_product"][steps])]
        names = (
            ("gradient_variance", "gradient_norm_squared")
            if self.kind == "plain"
            else ("variance", "norm_squared")
        )
        columns = self.rows["variance"][steps][:, None], self.rows["half_product"][steps][:, None]
        return self._series(steps, dict(zip(names, columns, strict=True)), self.rows["rate"][steps])

    def products(self, steps: np.ndarray) -> Series:
        """The readings of products at these steps."""
        known = np.isfinite(self.rows["product_1"][steps])
        if self.momentum:
            known &= np.isfinite(self.rows["buffer"][steps])
        steps = steps[known]
        starts, place = [], 0
        while place < len(steps):
            starts.append(place)
            place += max(PAIRS_A_READING, math.ceil(steps[place] / READINGS_A_RUN))
        starts = np.array(starts)
        counts = np.diff([*starts, len(steps)])

        def mean(column: np.ndarray) -> np.ndarray:
            return np.add.reduceat(column[steps], starts) / counts

        rows = self.rows
        moments = {
            "squared": mean(rows["norm"])[:, None],
            "product": mean(rows["product_1"])[:, None],
            "momentum": np.full(len(starts), self.momentum),
            "nesterov": np.full(len(starts), float(self.nesterov)),
        }
        if self.momentum:
            moments["memory"] = mean(rows["buffer"])[:, None] * (
                1 if self.adaptive else 1 - self.momentum
            )
        if not self.adaptive:
            moments |= {"loss": mean(rows["loss"]), "travelled": mean(self.travelled)}
        last = steps[starts + counts - 1]
        return self._series(last, moments, rows["rate"][last])

    def _series(
        self, steps: np.ndarray, moments: Mapping[str, np.ndarray], rates: np.ndarray
    ) -> Series:
        sizes = np.full(len(steps), self.batch)
        return Series("noise", steps, sizes, rates, moments, self.sampling, newest=True)

    def estimate(self, series: Series) -> Estimate:
        """The noise scale now."""
        if self.kind == "plain":
            return GradientNoise().estimate(series)["noise_scale"]
        return PreconditionedNoise().estimate(series)["preconditioned_noise_scale"]


def of_short_steps(until: int) -> np.ndarray:
    """The steps whose products a watched loop reads if no chain is ever paid for."""
    chains = []
    first = 1
    while first <= until:
        chains.append(np.arange(first, first + CHAIN))
        step = first + CHAIN
        first = step + longest_pause(step)
    steps = np.concatenate(chains)
    return steps[steps <= until]


def truth(run: Run, kind: str, step: int) -> float:
    """tr Σ over ‖g‖² around a step."""
    near = SMOOTHED * len(run["plain"])
    full = run["truths" if kind == "plain" else "truths_preconditioned"]
    full = full[np.abs(full[:, 0] - step) <= near]
    norms = run["norms"][np.abs(run["norms"][:, 0] - step) <= near][:, 1 + KINDS.index(kind)]
    return float(np.nanmean(full[:, 1]) / np.nanmean(norms))


def scores_of(training: Training, run: Run) -> Iterator[tuple[str, str, Score, bool | None]]:
    """Kind, method, score, and at step 500 whether the right side of B is decided (None if it need
    not be)."""
    for kind in KINDS if len(run["preconditioned"]) else KINDS[:1]:
        reader = Reader(training, run, kind)
        count = len(run["plain"])
        for share in [*PLACES, DECIDED_AT / count]:
            step = min(int(share * count), count - 1)
            case = Case("", truth(run, kind, step), math.nan, np.empty(0), np.empty(0), np.empty(0))
            ratio = case.truth / training.batch
            steps = np.arange(step + 1)
            for method, series in (
                ("halves", reader.halves(step)),
                ("products", reader.products(steps)),
                ("a quarter", reader.products(steps[steps % QUARTER < CHAIN])),
                ("short steps", reader.products(of_short_steps(step))),
            ):
                found = reader.estimate(series)
                decided = None
                if share == DECIDED_AT / count:
                    side = (
                        1
                        if found.low > training.batch
                        else -1
                        if found.high < training.batch
                        else 0
                    )
                    if not 0.5 < ratio < 2:
                        decided = side * (1 if ratio > 1 else -1)
                    yield kind, method, scored(case, found), decided
                else:
                    yield kind, method, scored(case, found), math.nan


def judge(trainings: Mapping[str, Training], cache: Path, *, each: bool) -> None:
    """Print the scores of all trainings together, and of each."""
    everything = defaultdict(list)
    decisions = defaultdict(list)
    for name, training in trainings.items():
        own = defaultdict(list)
        for kind, method, score, decided in scores_of(training, recorded(name, training, cache)):
            if decided is not None and math.isnan(decided):
                own[kind, method].append(score)
                everything["all", method].append(score)
                everything[kind, method].append(score)
            elif decided is not None:
                decisions[method].append(decided)
        if each:
            for (kind, method), scores in own.items():
                print(f"| {name} | {kind} | {method} | {row(scores)} |", flush=True)
    print("| | | covers | geometric | score | ends | open |")
    for (kind, method), scores in sorted(everything.items()):
        print(f"| {kind} | {method} | {row(scores)} |")
    for method, sides in decisions.items():
        right, wrong = np.mean(np.array(sides) == 1), np.mean(np.array(sides) == -1)
        print(f"{method}: decided {right:.0%}, wrong {wrong:.0%} of {len(sides)}")


def quadratics(runs: int) -> None:
    """Print the known answers: means over the runs, as multiples of the true ‖g‖²."""
    print(
        "| | ηh | noise/signal | levels, z | product | ways, ± of one run | together | width | "
        "covers |"
    )
    for rule in RULES:
        for size in SIZES:
            seen = walk(rule, size, runs=runs, steps=600, seed=1)
            square, variance = seen.truth.mean(), seen.variance.mean()
            errors = (seen.product - seen.level).mean(axis=1) - seen.truth.mean(axis=1)
            z = errors.mean() / errors.std(ddof=1) * math.sqrt(runs)
            ways, covered, widths = defaultdict(list), 0, []
            for run in range(runs):
                found, norm_squared = readings_of(seen, run, rule)
                for name, readings in {**found.ways, "together": found.norm_squared}.items():
                    ways[name].append(readings.mean() / square)
                noise = BATCH * (norm_squared - found.norm_squared)
                scale = ratio_now(
                    noise,
                    found.norm_squared,
                    steps=np.arange(len(noise)),
                    prior=PRODUCT_PRIOR,
                    rare_noise=1 / BATCH,
                )
                covered += scale.low <= variance / square <= scale.high
                widths.append(
                    (1 / scale.low - 1 / scale.high) * variance / square
                    if scale.low > 0
                    else math.inf
                )
            shown = ", ".join(
                f"{name} {np.mean(all_):.2f} ± {np.std(all_):.2f}" for name, all_ in ways.items()
            )
            print(
                f"| {rule.name} | {size} | {variance / BATCH / square:.1f} | {z:.1f} | "
                f"{seen.product.mean() / square:.2f} | {shown} | {np.median(widths):.2f} | "
                f"{covered / runs:.2f} |",
                flush=True,
            )


def epochs() -> None:
    """Print what the ways give in reshuffled epochs, as multiples of ‖g‖²."""
    print("| N, B | μ | ηh | tr Σ/N | levels | lags | slope | slope less tr Σ/N |")
    for examples, batch in ((200, 2), (1400, 32)):
        for momentum in (0.0, 0.9):
            for size in (0.01, 0.03, 0.1, 0.3):
                seen = reshuffled(momentum, size, examples=examples, batch=batch, runs=200, seed=1)
                square = seen["truth"].mean()
                product, memory = seen["product"], seen["memory"]
                rule = GradientMemory(momentum)
                share = rule.first / (rule.mean - rule.first) if momentum else math.nan
                slope = by_loss(product, memory if momentum else None, np.zeros_like(product), rule)
                per_set = examples / (examples - 1) / examples
                numbers = (
                    per_set,
                    (product - seen["level"]).mean(),
                    (product + share * (product - memory)).mean(),
                    slope.mean(),
                    slope.mean() - per_set,
                )
                shown = " | ".join(f"{number / square:.2f}" for number in numbers)
                print(f"| {examples}, {batch} | {momentum} | {size} | {shown} |", flush=True)


def precision() -> None:
    """Print what some entries of a gradient add to the noise of a product."""
    print("| network | parameters | entries | added / noise | wider by | mean error / its s.e. |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, network in (entries.CHOOSING | entries.JUDGING).items():
        for parameters, count, added, bias in entries.added(network):
            wider = math.sqrt(1 + added**2) - 1
            print(
                f"| {name} | {parameters:,} | {count:,} | {added:.3f} | {wider:.1%} | {bias:+.1f} |",
                flush=True,
            )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainings", choices=TRAININGS, default="judging")
    parser.add_argument("--cache", type=Path, default=Path("runs/products"))
    parser.add_argument("--each", action="store_true", help="also print each training")
    parser.add_argument("--quadratics", action="store_true")
    parser.add_argument("--reshuffled", action="store_true")
    parser.add_argument("--entries", action="store_true")
    parser.add_argument("--runs", type=int, default=400, help="runs of each quadratic")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.quadratics:
        quadratics(asked.runs)
    elif asked.entries:
        precision()
    elif asked.reshuffled:
        epochs()
    else:
        judge(TRAININGS[asked.trainings], asked.cache / asked.trainings, each=asked.each)


if __name__ == "__main__":
    main()
