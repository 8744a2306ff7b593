"""The gauge on thousands of batches at a fixed point, against the exact tr Σ and ‖g‖²."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradiometer.estimation.noise import GradientNoise
from gradiometer.lab.selftest.known import KnownProblem
from gradiometer.measurement.batch import Batch, batch_size, chunks
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.parts import SpreadBuilder
from gradiometer.measurement.reading import Draw, Reading, Sampling, Series, Spread
from gradiometer.measurement.step import TrainingStep


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


STANDARD_ERRORS = 4
"""The error exceeds this in 1 of 16,000 tests."""


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
        for index in range(steps):
            batch = self.known.batch(self._indices(generator))
            spread = (
                accumulation_spread(objective, batch, self.parts or self.batch_size)
                if self.shared
                else None
            )
            step = TrainingStep(
                objective,
                batch,
                index=index,
                learning_rate=0.0,
                sampling=self.sampling,
                spread=spread,
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
        variance, norm_squared = (
            series.moments["gradient_variance"],
            series.moments["gradient_norm_squared"],
        )
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

    def _indices(self, generator: torch.Generator) -> Int[Tensor, " chosen"]:
        examples = len(self.known.examples)
        if self.draw is Draw.RESHUFFLED:
            return torch.randperm(examples, generator=generator)[: self.batch_size]
        return torch.randint(examples, (self.batch_size,), generator=generator)

    def _check(
        self, quantity: str, value: float, truth: float, readings: Float[np.ndarray, " steps"]
    ) -> SelfTest:
        """An estimate against its true value, in standard errors of independent readings."""
        margin = STANDARD_ERRORS * float(readings.std(ddof=1)) / math.sqrt(len(readings))
        return SelfTest(
            problem=self.known.name,
            batch_size=self.batch_size,
            quantity=f"{quantity} ({self.manner})" if self.manner else quantity,
            expected=f"{truth:.4g}, within {STANDARD_ERRORS} s.e.",
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
