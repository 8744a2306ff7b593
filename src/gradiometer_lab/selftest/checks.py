"""The checks of the noise gauge: its moments are unbiased on thousands of batches at a fixed point,
and its intervals cover the true noise scale in many windows."""

import math
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import product
from types import SimpleNamespace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.estimation.noise import GradientNoise, noise_moments
from gradiometer.jobs.choice import opened
from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.pool import Pool
from gradiometer.measurement import Objective, TrainingStep
from gradiometer.measurement.batch import Batch, batch_size, chunks
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.parts import SpreadBuilder
from gradiometer.measurement.reading import Draw, Reading, Sampling, Series, Spread
from gradiometer.measurement.uncertainty import proportion, ratio_of_means
from gradiometer_lab.selftest.known import KnownProblem, KnownQuadratic, Weights, known_problems


@dataclass(frozen=True)
class SelfTest:
    """One statement about the noise gauge, tested on this machine.

    Args:
        problem: Name of the problem.
        batch_size: B.
        quantity: The measured quantity.
        expected: Its expected value, as text.
        measured: Its measured value.
        low, high: Interval of the measured value.
        passed: True if it is as expected.
    """

    problem: str
    batch_size: int
    quantity: str
    expected: str
    measured: float
    low: float
    high: float
    passed: bool

    @property
    def name(self) -> str:
        """The check in a few words."""
        return f"{self.quantity}, {self.problem}, B = {self.batch_size}"


NUMBERS = SimpleNamespace(
    **tomllib.loads((files("gradiometer_lab.selftest") / "settings.toml").read_text("utf-8"))
)


@dataclass(frozen=True)
class Bench:
    """One way to draw and measure batches.

    Args:
        known: The problem.
        batch_size: B.
        parts: k; None for one part per example.
        draw: With or without replacement.
        shared: True if the micro-batches are those that training accumulates; else the gauge
            computes them.
    """

    known: KnownProblem
    batch_size: int
    parts: int | None = 2
    draw: Draw = Draw.REPLACEMENT
    shared: bool = False

    @property
    def sampling(self) -> Sampling:
        """How batches are drawn."""
        return Sampling(self.draw, len(self.known.examples))

    @property
    def gauge(self) -> GradientNoise:
        """The gauge under test."""
        return GradientNoise(self.parts)

    @property
    def manner(self) -> str:
        """The settings that differ from the default, as text."""
        parts = {
            "per example": self.parts is None,
            f"k = {self.parts}": self.parts not in (None, 2),
            "shared": self.shared,
            "without replacement": self.draw is Draw.RESHUFFLED,
        }
        return ", ".join(words for words, applies in parts.items() if applies)

    def series(self, steps: int, seed: int = 0) -> Series:
        """Readings of independent batches, one per step."""
        generator, objective = torch.Generator().manual_seed(seed), self.known.objective()
        readings = []
        examples = len(self.known.examples)
        for index in range(steps):
            if self.draw is Draw.RESHUFFLED:
                chosen = torch.randperm(examples, generator=generator)[: self.batch_size]
            else:
                chosen = torch.randint(examples, (self.batch_size,), generator=generator)
            batch = self.known.batch(chosen)
            step = TrainingStep(
                objective,
                batch,
                index=index,
                learning_rate=0.0,
                sampling=self.sampling,
                spread=accumulation_spread(objective, batch, self.parts or self.batch_size)
                if self.shared
                else None,
                seed=seed,
            )
            readings.append(
                Reading(self.gauge.name, index, self.batch_size, 0.0, self.gauge.measure(step))
            )
        return Series.of(readings, self.sampling, objective.layers)

    def checks(self, steps: int) -> Iterator[SelfTest]:
        """tr Σ and ‖g‖², in total and of the last of several layers, and E‖ĝ − g‖² if it is not
        simply tr Σ/B."""
        series = self.series(steps)
        estimates = self.gauge.estimate(series)
        each, examples = self.known.per_example, len(self.known.examples)
        variance = series.moments["gradient_variance"]
        norm_squared = series.moments["gradient_norm_squared"]
        if self.draw is Draw.RESHUFFLED:
            norm_squared = norm_squared + variance / examples
            error = (
                gradient_variance(each)
                / self.batch_size
                * (examples - self.batch_size)
                / (examples - 1)
            )
            seen = estimates["gradient_norm_squared"].value / estimates["signal_to_noise"].value
            scale = 1 / self.batch_size - 1 / examples
            yield self._check("E‖ĝ − g‖²", seen, error, variance.sum(axis=1) * scale)
        whole = estimates["gradient_variance"].value, estimates["gradient_norm_squared"].value
        yield self._check("tr Σ", whole[0], gradient_variance(each), variance.sum(axis=1))
        yield self._check("‖g‖²", whole[1], gradient_norm_squared(each), norm_squared.sum(axis=1))
        if len(series.layers) > 1 and self.draw is not Draw.RESHUFFLED:
            layer, part = series.layers[-1], each[:, self.known.layers[series.layers[-1]]]
            for symbol, readings, truth in (
                ("tr Σ", variance, gradient_variance(part)),
                ("‖g‖²", norm_squared, gradient_norm_squared(part)),
            ):
                yield self._check(
                    f"{symbol} of layer {layer}", readings[:, -1].mean(), truth, readings[:, -1]
                )

    def _check(
        self, quantity: str, value: float, truth: float, readings: Float[np.ndarray, " steps"]
    ) -> SelfTest:
        """An estimate against its true value, in standard errors of independent readings."""
        margin = NUMBERS.standard_errors * float(readings.std(ddof=1)) / math.sqrt(len(readings))
        return SelfTest(
            problem=self.known.name,
            batch_size=self.batch_size,
            quantity=f"{quantity} ({self.manner})" if self.manner else quantity,
            expected=f"{truth:.4g}, within {NUMBERS.standard_errors} s.e.",
            measured=float(value),
            low=float(value) - margin,
            high=float(value) + margin,
            passed=abs(float(value) - truth) < margin,
        )


def accumulation_spread(objective: Objective, batch: Batch, parts: int) -> Spread:
    """The spread of micro-batches whose mean is the training gradient, as in a loop that
    accumulates gradients."""
    builder, size = SpreadBuilder(objective.layer_of), batch_size(batch)
    mean = [torch.zeros_like(parameter) for parameter in objective.parameters]
    for part in chunks(batch, parts):
        gradients = objective.gradient(part)
        builder.add(batch_size(part), gradients)
        torch._foreach_add_(mean, gradients, alpha=batch_size(part) / size)
    return builder.finish(mean)


def gradient_variance(per_example: Float[Tensor, "examples params"]) -> float:
    """tr Σ of an example drawn from the training set, with N in the denominator."""
    return float((per_example - per_example.mean(0)).square().sum(1).mean())


def gradient_norm_squared(per_example: Float[Tensor, "examples params"]) -> float:
    """‖g‖² of the training set."""
    return float(per_example.mean(0).square().sum())


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

    def covered(self, level: float = LEVEL) -> int:
        """The number of windows whose interval contains the noise scale."""
        estimates = (
            ratio_of_means(*pair, level=level)
            for pair in zip(self.gradient_variance, self.gradient_norm_squared, strict=True)
        )
        return sum(estimate.low <= self.noise_scale <= estimate.high for estimate in estimates)


def windows_of_readings(
    known: KnownProblem,
    batch_size: int,
    learning_rate: float,
    windows: int,
    steps: int,
    burn_in: int = 0,
    seed: int = 0,
) -> Windows:
    """Readings along stationary runs of SGD at a constant learning rate; at 0, of independent
    batches at the fixed point.

    Every run gives several windows in turn. The true noise scale has a closed form for the
    quadratic; else it is the ratio of the exact tr Σ and ‖g‖², averaged over all points of all
    runs.

    Args:
        known: The problem; batches are drawn from its training set with replacement.
        batch_size: B.
        learning_rate: η.
        windows: Number of windows, a multiple of the number of parallel runs.
        steps: Steps per window.
        burn_in: Steps before the first window.
        seed: Seed of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    points = known.point.repeat(NUMBERS.chains, 1)
    length = steps * (windows // NUMBERS.chains)
    moments, exact = np.empty((length, 2, NUMBERS.chains)), np.empty((length, 2))
    for step in range(-burn_in, length):
        drawn = drawn_halves(generator, NUMBERS.chains, batch_size, len(known.examples))
        halves, full, gradient_variance = known.gradients(points, drawn)
        points -= learning_rate * halves.mean(1)
        if step >= 0:
            moments[step] = half_moments(halves, batch_size)
            exact[step] = gradient_variance.mean(), full.square().sum(1).mean()
    variance, norm_squared = moments.transpose(1, 2, 0).reshape(2, -1, steps)
    scale = known.stationary_noise_scale(learning_rate, batch_size) if learning_rate else None
    return Windows(variance, norm_squared, scale or float(exact[:, 0].mean() / exact[:, 1].mean()))


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
    steps, windows = NUMBERS.steps, NUMBERS.windows
    if full:
        steps, windows = NUMBERS.full_steps, NUMBERS.full_windows
    parts = [*_tests_of_moments(steps, full), *_tests_of_coverage(windows)]
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
        Bench(known, size)
        for known, size in product((quadratic, logistic, network), NUMBERS.batch_sizes)
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
    """The intervals in this number of windows, or twice as many if they are cheap to simulate.

    Along SGD η is 1.5 on the quadratic, whose sharpness is 1, and for classifiers at B = 32, else
    1: the readings of ‖g‖² have an integrated autocorrelation time of 1.2 to 2.2 steps.
    """
    problems = list(product(known_problems(), NUMBERS.batch_sizes))
    for known, size in problems:
        yield partial(coverage, known, size, 2 * windows)
    for known, size in problems:
        linear = isinstance(known, KnownQuadratic)
        fast = linear or size == NUMBERS.batch_sizes[-1]
        skewed = known.name == "logistic regression" and size == 2
        yield partial(
            coverage,
            known,
            size,
            # A step of the quadratic is cheap.
            2 * windows if linear else windows,
            rate=NUMBERS.fast_rate if fast else NUMBERS.rate,
            steps=NUMBERS.along_skewed if skewed else NUMBERS.along,
        )
    yield partial(
        coverage,
        problems[0][0],
        2,
        2 * windows,
        rate=NUMBERS.undecided_rate,
        steps=NUMBERS.undecided,
        undecided=True,
    )


def coverage(
    known: KnownProblem,
    batch_size: int,
    windows: int,
    *,
    rate: float = 0.0,
    steps: int = NUMBERS.independent,
    undecided: bool = False,
) -> list[SelfTest]:
    """The intervals in windows of readings, independent ones at the fixed point or along SGD.

    With `undecided` most windows give only a lower bound, because ‖g‖² may be zero: they cover more
    often than the level.
    """
    burn_in = NUMBERS.burn_in if rate else 0
    made = windows_of_readings(known, batch_size, rate, windows, steps, burn_in)
    share = proportion(made.covered(LEVEL), len(made), level=LEVEL)
    least, most = NUMBERS.band[0], 1.0 if undecided else NUMBERS.band[1]
    how = f"along SGD, η = {rate:g}" if rate else "independent readings"
    if undecided:
        how += ", ‖g‖² undecided"
    return [
        SelfTest(
            problem=known.name,
            batch_size=batch_size,
            quantity=f"coverage of the noise scale, {how}",
            expected=f"{least:.0%} to {most:.0%}",
            measured=share.value,
            low=share.low,
            high=share.high,
            passed=least <= share.value <= most,
        )
    ]
