"""How well is a drifting quantity known at the newest reading?

    .venv/bin/python benchmarks/now.py                         # the judging networks, about half an
    hour on one core .venv/bin/python benchmarks/now.py --networks larger       # seven of another
    kind, up to 2.8 million parameters .venv/bin/python benchmarks/now.py --networks choosing     #
    those on which the method was chosen

Networks are trained, and tr Σ and ‖g‖² read from the two halves of the batch at every step. Of
these readings, 20, 40, 100 or 300 are given to each method, evenly spaced from the first step to
the newest. The truth is the ratio of the means of tr Σ and ‖g‖² over full passes within 5 % of the
run, since ‖g‖² at single parameters jumps. Under *geometric* it is the ratio of their geometric
means, in which a jump counts less. *Score* is the interval score in logarithms: the width plus 20
times the miss. An interval that is open, or whose ends are more than 30 apart, counts as log 30 =
3.4 wide. *knows the drift* is given the true drift, and errors widened by the factor that scores
best after the fact: what it loses is the noise of the readings. At last come series of 200 readings
without drift, with two sizes of noise.

*sharpness* is the batch sharpness, *temperature* the heat η E‖ĝ‖², to which the temperature of SGD
is proportional.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from noise.larger import LARGER
from noise.networks import CHOOSING, EARLIER, JUDGING
from noise.oracle import oracle_rows
from noise.runs import recorded
from noise.scores import COUNTS, Case, noise_cases, row, scored, sharpness_cases, temperature_cases

from gradiometer import Estimate
from gradiometer.jobs import Job, pool_of
from gradiometer.measurement.uncertainty import mean, ratio_of_means
from gradiometer.measurement.uncertainty.now import (
    SHARPNESS_PRIOR,
    TEMPERATURE_PRIOR,
    mean_now,
    ratio_now,
)

Method = Callable[[Case], Estimate]


def newest(count: Callable[[int], int]) -> Method:
    """The mean or ratio of means of the newest readings."""

    def method(case: Case) -> Estimate:
        kept = slice(-count(len(case.steps)), None)
        if case.denominator is None:
            return mean(case.numerator[kept])
        return ratio_of_means(case.numerator[kept], case.denominator[kept])

    return method


def now(**settings: object) -> Method:
    """The estimate at the newest reading."""

    def method(case: Case) -> Estimate:
        given = {"steps": case.steps, "learning_rate": case.learning_rate, **settings}
        if case.denominator is None:
            return mean_now(case.numerator, **given)
        return ratio_now(case.numerator, case.denominator, **given)

    return method


WINDOWS: dict[str, Method] = {
    "pooled": newest(lambda count: count),
    "last 20": newest(lambda count: 20),
    "last quarter": newest(lambda count: count // 4),
}
QUANTITIES = {
    "noise scale": (noise_cases, now()),
    "sharpness": (sharpness_cases, now(prior=SHARPNESS_PRIOR)),
    "temperature": (temperature_cases, now(prior=TEMPERATURE_PRIOR)),
}

NETWORKS = {"judging": JUDGING, "larger": LARGER, "earlier": EARLIER, "choosing": CHOOSING}


def tables(name: str, cases: list[Case], method: Method, more: Sequence[str] = ()) -> None:
    """Print the scores by method and number of readings, some more rows, and the scores of `now` by
    network."""
    found = {
        label: [scored(case, each(case)) for case in cases]
        for label, each in (WINDOWS | {"now": method}).items()
    }
    print(f"\n{name}: {len(cases)} cases\n")
    print(
        "| | readings | covers | geometric | score | ratio of ends | open "
        "|\n|---|---|---|---|---|---|---|"
    )
    for label, scores in found.items():
        for count in COUNTS:
            some = [
                score for score, case in zip(scores, cases, strict=True) if len(case.steps) == count
            ]
            print(f"| {label} | {count} | {row(some)} |")
        print(f"| {label} | all | {row(scores)} |")
    for line in more:
        print(line)
    print(
        "\n| now, by network | covers | geometric | score | ratio of ends | open "
        "|\n|---|---|---|---|---|---|"
    )
    for network in dict.fromkeys(case.network for case in cases):
        some = [
            score
            for score, case in zip(found["now"], cases, strict=True)
            if case.network == network
        ]
        print(f"| {network} | {row(some)} |")


def without_drift() -> None:
    """Print the ratio of the ends where nothing drifts."""
    rng, steps = np.random.default_rng(1), np.arange(200)
    print("\n| without drift | noise of a reading | ratio of ends | covers |\n|---|---|---|---|")
    for noise in (0.8, 1.45):
        pairs = [(np.full(200, 50.0), 1 + noise * rng.standard_normal(200)) for _ in range(200)]
        for label, estimates in (
            ("pooled", [ratio_of_means(*pair) for pair in pairs]),
            ("now", [ratio_now(*pair, steps=steps) for pair in pairs]),
        ):
            ratio = np.median([each.high / each.low for each in estimates])
            covers = np.mean([each.low <= 50 <= each.high for each in estimates])
            print(f"| {label} | {noise} | {ratio:.2f} | {covers:.2f} |")


def main() -> None:
    """Record what is missing, and print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", choices=tuple(NETWORKS), default="judging")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "gradiometer-now"
    )
    parser.add_argument("--pool", default="here", help="here, processes[:COUNT] or ray[:ADDRESS]")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    networks = NETWORKS[settings.networks]
    jobs = [
        Job(name, recorded, (name, network, settings.cache)) for name, network in networks.items()
    ]
    with pool_of(settings.pool) as pool:
        runs = dict(zip(networks, pool.results(jobs), strict=True))
    for name, run in runs.items():
        parameters, batch, examples = run["size"]
        print(
            f"{name}: {parameters:,} parameters, B = {batch}, {examples:,} examples, "
            f"{len(run['readings'])} steps"
        )
    for name, (cases, method) in QUANTITIES.items():
        if not (found := list(cases(runs))):
            continue
        tables(name, found, method, oracle_rows(runs, found) if name == "noise scale" else ())
    without_drift()


if __name__ == "__main__":
    main()
