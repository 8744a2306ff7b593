"""The checks of the noise gauge: its moments are unbiased, its intervals cover."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.estimation.noise import noise_moments
from gradiometer.jobs.choice import opened
from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.pool import Pool
from gradiometer.lab.selftest.known import KnownProblem, KnownQuadratic, Weights, known_problems
from gradiometer.lab.selftest.unbiased import Bench, SelfTest
from gradiometer.measurement.reading import Draw, Spread
from gradiometer.measurement.uncertainty.means import ratio_of_means
from gradiometer.measurement.uncertainty.proportions import proportion

CHAINS = 100
"""Parallel runs of SGD: enough to make a step efficient, few enough to stay in the processor's
cache."""


@dataclass(frozen=True)
class Windows:
    """The moments of `GradientNoise` in many windows, and the true noise scale.

    Args:
        gradient_variance: Estimates of tr Σ, one per window and step.
        gradient_norm_squared: Estimates of ‖g‖².
        noise_scale: tr Σ / ‖g‖², known exactly, in examples.
    """

    gradient_variance: Float[np.ndarray, "windows steps"]
    gradient_norm_squared: Float[np.ndarray, "windows steps"]
    noise_scale: float

    def __len__(self) -> int:
        return len(self.gradient_variance)

    def covered(self, level: float = 0.9) -> int:
        """The number of windows whose interval contains the noise scale."""
        estimates = (
            ratio_of_means(*pair, level=level)
            for pair in zip(self.gradient_variance, self.gradient_norm_squared, strict=True)
        )
        return sum(estimate.low <= self.noise_scale <= estimate.high for estimate in estimates)


def independent_windows(
    known: KnownProblem, batch_size: int, windows: int, steps: int, seed: int = 0
) -> Windows:
    """Readings at the fixed point, from independent batches drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    per_example = known.per_example
    # Only inner products matter: the span of the gradients has at most as many dimensions as
    # examples.
    reduced = torch.linalg.qr(per_example.mT).R.mT
    moments = []
    # 20_000: number of batches whose gradients are in memory at once.
    for count in np.diff([*range(0, windows * steps, 20_000), windows * steps]):
        halves = drawn_halves(generator, int(count), batch_size, len(reduced)) @ reduced
        moments.append(half_moments(halves, batch_size))
    variance, norm_squared = np.concatenate(moments, axis=1).reshape(2, windows, steps)
    full = per_example.mean(0).square().sum()
    return Windows(
        variance, norm_squared, float((per_example.square().sum(1).mean() - full) / full)
    )


def stationary_windows(
    known: KnownProblem,
    batch_size: int,
    learning_rate: float,
    windows: int,
    steps: int,
    burn_in: int,
    seed: int = 0,
) -> Windows:
    """Readings along stationary runs of SGD at a constant learning rate.

    Every run gives several windows in turn. The true noise scale has a closed form for the
    quadratic; else it is the ratio of the exact tr Σ and ‖g‖², averaged over all points of all
    runs.

    Args:
        known: The problem; batches are drawn from its training set with replacement.
        batch_size: B.
        learning_rate: η.
        windows: Number of windows, a multiple of `CHAINS`.
        steps: Steps per window.
        burn_in: Steps before the first window.
        seed: Seed of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    points = known.point.repeat(CHAINS, 1)
    length = steps * (windows // CHAINS)
    moments, exact = np.empty((length, 2, CHAINS)), np.empty((length, 2))
    for step in range(-burn_in, length):
        drawn = drawn_halves(generator, CHAINS, batch_size, len(known.examples))
        halves, full, gradient_variance = known.gradients(points, drawn)
        points -= learning_rate * halves.mean(1)
        if step >= 0:
            moments[step] = half_moments(halves, batch_size)
            exact[step] = gradient_variance.mean(), full.square().sum(1).mean()
    variance, norm_squared = moments.transpose(1, 2, 0).reshape(2, -1, steps)
    passed = float(exact[:, 0].mean() / exact[:, 1].mean())
    return Windows(
        variance, norm_squared, known.stationary_noise_scale(learning_rate, batch_size) or passed
    )


def drawn_halves(generator: torch.Generator, count: int, batch_size: int, examples: int) -> Weights:
    """Batches drawn with replacement and halved, as weights over the examples: [count, 2,
    examples]."""
    half = batch_size // 2
    drawn = torch.randint(examples, (count, 2, half), generator=generator)
    share = torch.full(drawn.shape, 1 / half, dtype=torch.float64)
    return torch.zeros(count, 2, examples, dtype=torch.float64).scatter_add_(2, drawn, share)


def half_moments(
    halves: Float[Tensor, "batches 2 params"], batch_size: int
) -> Float[np.ndarray, "2 batches"]:
    """The moments of `GradientNoise` for every batch: tr Σ and ‖g‖², from the gradients of its
    halves."""
    spread = Spread(
        sizes=np.full(2, batch_size // 2),
        squared_norms=halves.square().sum(2).mT.numpy(),
        mean_squared_norm=halves.mean(1).square().sum(1).numpy(),
    )
    return np.stack(noise_moments(spread))


BATCH_SIZES = (2, 4, 32)
LEVEL = 0.9
BAND = (0.87, 0.93)
"""Allowed coverage of a 90 % interval."""

Progress = Callable[[int, int], None]
Part = Callable[[], list[SelfTest]]


def run_checks(
    full: bool = False, progress: Progress | None = None, pool: str | Pool = "here"
) -> list[SelfTest]:
    """Test the noise gauge against exact answers, on this machine.

    The problems are a quadratic, a logistic regression and a small network with known per-example
    gradients, at B = 2, 4 and 32. The gauge measures tr Σ and ‖g‖² on thousands of batches. The 90
    % interval of the noise scale is computed in at least a thousand windows, of independent
    readings and of readings along SGD at stationarity. It takes half a minute. The full test has
    more batches and four times the windows, and takes three minutes.

    Args:
        full: True for more batches and windows.
        progress: Called with the number of parts done and the number of all parts.
        pool: Where the parts run: "here", "processes", "processes:4", "ray", or a `Pool`. The
            numbers are the same.
    """
    parts = (
        [*_tests_of_moments(3000, full=True), *_tests_of_coverage(4000)]
        if full
        else [*_tests_of_moments(2000), *_tests_of_coverage(1000)]
    )
    jobs = [Job(f"part {number}", part) for number, part in enumerate(parts, start=1)]

    def tell(_: Outcome, done: int, total: int) -> None:
        if progress is not None:
            progress(done, total)

    with opened(pool) as where:
        return [check for found in where.results(jobs, progress=tell) for check in found]


def _tests_of_moments(steps: int, full: bool = False) -> Iterator[Part]:
    """The gauge's moments at a fixed point: from halves everywhere, with other settings on some
    problems."""
    quadratic, logistic, network = known_problems()
    benches = [
        Bench(known, size) for known, size in product((quadratic, logistic, network), BATCH_SIZES)
    ]
    benches += [
        Bench(quadratic, 4, parts=None),
        Bench(logistic, 32, parts=4, shared=True),
        Bench(logistic, 32, draw=Draw.RESHUFFLED),
    ]
    if full:
        benches += [Bench(network, 4, parts=None), Bench(network, 32, parts=4)]
    for bench in benches:
        yield partial(lambda bench: list(bench.checks(steps)), bench)


def _tests_of_coverage(windows: int) -> Iterator[Part]:
    """The intervals in this number of windows, or twice as many if they are cheap to simulate."""
    problems = list(product(known_problems(), BATCH_SIZES))
    for known, size in problems:
        yield partial(independent_coverage, known, size, 2 * windows)
    for known, size in problems:
        yield partial(
            stationary_coverage,
            known,
            size,
            2 * windows if isinstance(known, KnownQuadratic) else windows,
        )
    yield partial(undecided_coverage, 2 * windows)


def independent_coverage(known: KnownProblem, batch_size: int, windows: int) -> list[SelfTest]:
    """Independent batches at a fixed point, 100 readings per window."""
    # 100: readings in a window at a fixed point.
    made = independent_windows(known, batch_size, windows, 100)
    return [_coverage(known, batch_size, "independent readings", made)]


def stationary_coverage(known: KnownProblem, batch_size: int, windows: int) -> list[SelfTest]:
    """Along SGD at a constant learning rate, large enough for many independent points in a window.

    η is 1.5 on the quadratic, whose sharpness is 1, and for classifiers at B = 32, else 1: the
    readings of ‖g‖² have an integrated autocorrelation time of 1.2 to 2.2 steps. A window has 200
    readings; 400 for logistic regression at B = 2, whose readings are the most skewed. 200 steps
    precede the first window.
    """
    linear, skewed = (
        isinstance(known, KnownQuadratic),
        known.name == "logistic regression" and batch_size == 2,
    )
    learning_rate = 1.5 if linear or batch_size == 32 else 1.0
    steps = 400 if skewed else 200
    made = stationary_windows(known, batch_size, learning_rate, windows, steps, burn_in=200)
    return [_coverage(known, batch_size, f"along SGD, η = {learning_rate:g}", made)]


def undecided_coverage(windows: int) -> list[SelfTest]:
    """Windows that mostly give only a lower bound, because ‖g‖² may be zero: they cover more often
    than the level."""
    quadratic = known_problems()[0]
    made = stationary_windows(quadratic, 2, 0.2, windows, 100, burn_in=200)
    return [
        _coverage(quadratic, 2, "along SGD, η = 0.2, ‖g‖² undecided", made, band=(BAND[0], 1.0))
    ]


def _coverage(
    known: KnownProblem,
    batch_size: int,
    how: str,
    windows: Windows,
    band: tuple[float, float] = BAND,
) -> SelfTest:
    share = proportion(windows.covered(LEVEL), len(windows), level=LEVEL)
    return SelfTest(
        problem=known.name,
        batch_size=batch_size,
        quantity=f"coverage of the noise scale, {how}",
        expected=f"{band[0]:.0%} to {band[1]:.0%}",
        measured=share.value,
        low=share.low,
        high=share.high,
        passed=band[0] <= share.value <= band[1],
    )
