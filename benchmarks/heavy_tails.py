"""Do the sentences about the noise scale hold when few examples carry the gradient?

    .venv/bin/python benchmarks/heavy_tails.py                   # 400 windows a row, some ten
    minutes on one core .venv/bin/python benchmarks/heavy_tails.py --windows 50

At fixed parameters, batches of 32 examples are drawn from problems with light and with heavy tails
(`tail_families`). Each window of readings is given to `GradientNoise`, as during training.
*covers*: the interval contains the noise
scale. *said*: the share of windows with the sentence "at least L"; *true*: the share of these in
which it holds,
and *without*: the same if the interval has no room for pairs of rare examples that were not seen.
*L*: the median of L
over the noise scale. *refused*: the share of windows in which few readings carry the noise, so
that the finding says so and advises nothing. *ends*: the median ratio of the ends of closed
intervals.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from cases.tail_families import FAMILIES, Family

from gradiometer import Draw, Estimate, Finding, GradientNoise, Sampling, Series
from gradiometer.measurement.uncertainty.now import NOISE_PRIOR, ratio_now
from gradiometer.verdict import say

BATCH = 32
COUNTS = (20, 40, 100, 200)


@dataclass(frozen=True)
class Row:
    """What was said in some windows of one family.

    Attributes:
        truth: The noise scale.
        scales: Its estimates.
        findings: What was said.
        plain: Its estimates without room for pairs of rare examples.
    """

    truth: float
    scales: tuple[Estimate, ...]
    findings: tuple[Finding, ...]
    plain: tuple[Estimate, ...]

    @property
    def covers(self) -> float:
        """Share of the intervals that contain the truth."""
        return float(np.mean([each.low <= self.truth <= each.high for each in self.scales]))

    @property
    def lows(self) -> np.ndarray:
        """The L of every sentence "at least L"."""
        pairs = zip(self.scales, self.findings, strict=True)
        return np.array([each.low for each, finding in pairs if "is at least" in say(finding).seen])

    @property
    def lows_without_room(self) -> np.ndarray:
        """The L of every open interval without room for pairs of rare examples."""
        return np.array([each.low for each in self.plain if each.low > 0 and np.isinf(each.high)])

    @property
    def refused(self) -> float:
        """Share of the findings which say that nothing bounds the noise scale."""
        return float(
            np.mean(["cannot be bounded" in say(finding).seen for finding in self.findings])
        )

    @property
    def ends(self) -> float:
        """Median ratio of the ends of closed intervals; NaN if none is closed."""
        ratios = [each.high / each.low for each in self.scales if each.tells and each.low > 0]
        return float(np.median(ratios)) if ratios else np.nan


def row(family: Family, readings: int, windows: int, seed: int = 0) -> Row:
    """What `GradientNoise` says in independent windows."""
    gauge, scales, findings, plain = GradientNoise(), [], [], []
    for variance, norm_squared in zip(
        *family.readings(windows, readings, BATCH, seed), strict=True
    ):
        series = Series(
            gauge="noise",
            steps=np.arange(1, readings + 1) * 10,
            batch_size=np.full(readings, BATCH),
            learning_rate=np.full(readings, 0.1),
            moments={
                "gradient_variance": variance[:, None],
                "gradient_norm_squared": norm_squared[:, None],
            },
            sampling=Sampling(Draw.FRESH),
        )
        estimates = gauge.estimate(series.at_newest())
        finding = gauge.judge(estimates)
        assert finding is not None
        scales.append(estimates["noise_scale"])
        findings.append(finding)
        plain.append(ratio_now(variance, norm_squared, steps=series.steps, prior=NOISE_PRIOR))
    return Row(family.noise_scale, tuple(scales), tuple(findings), tuple(plain))


def share_true(lows: np.ndarray, truth: float) -> str:
    """The share of the limits that hold."""
    return f"{np.mean(lows <= truth):.2f}" if len(lows) else "–"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=400)
    windows = parser.parse_args().windows
    print(
        "| family | noise scale | CV² of ‖g_i‖² | readings | covers | said | true | without | L | "
        "refused | ends |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, make in FAMILIES.items():
        family = make()
        for readings in COUNTS:
            found = row(family, readings, windows)
            lows = found.lows
            true, without = (
                share_true(each, found.truth) for each in (lows, found.lows_without_room)
            )
            typical = f"{np.median(lows) / found.truth:.2g}" if len(lows) else "–"
            print(
                f"| {name} | {found.truth:.0f} | {family.variation:.2g} | {readings} | "
                f"{found.covers:.2f} | {len(lows) / windows:.2f} | {true} | {without} | {typical} "
                f"| {found.refused:.2f} | {found.ends:.2g} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
