"""Other answers to "has this learning rate stopped paying?", each the same kind of object, with what is wrong with it.

How often each acts too early, and how late, on problems with a known floor: `benchmarks/stationarity.py`.
"""

import math
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from detectors import Detector, Observation
from jaxtyping import Bool, Float
from scipy.special import ndtri
from torch import Tensor

from gradiometer import BadArgument
from gradiometer.convergence.plateau import Looks

Flags = Bool[Tensor, " runs"]
PerRun = Float[Tensor, " runs"]


class Pflug(Detector):
    """Σ ĝ_t·ĝ_{t−1} has become negative.

    Weakness: along a run the sum is a random walk whose drift is of the second order in η while its noise is of the
    first, so that it crosses zero by chance long before the start is forgotten, and more surely the smaller η.

    Args:
        burn_in: Steps before the first answer.

    Source: Pflug (1990), Non-asymptotic Confidence Bounds for Stochastic Approximation Algorithms with Constant Step
        Size; as a rule for SGD: Chee & Toulis (2018), Convergence Diagnostics for Stochastic Gradient Descent.
    """

    name: ClassVar[str] = "pflug"

    def __init__(self, burn_in: int = 100) -> None:
        _need_count("burn_in", burn_in)
        self.burn_in, self.steps = burn_in, 0
        self.total: Tensor | float = 0.0
        self.before: Tensor | None = None

    def observe(self, seen: Observation) -> Flags:
        """Add one inner product of neighbouring gradients."""
        self.steps += 1
        if self.before is not None:
            self.total = self.total + (seen.gradient * self.before).sum(dim=1).double()
        self.before = seen.gradient
        if self.steps <= self.burn_in or not isinstance(self.total, Tensor):
            return _none(seen)
        return self.total < 0


class Distance(Detector):
    """‖Φ_t − Φ_0‖² no longer grows as a power of t: its log-log slope between looks is below a threshold.

    Weakness: the distance from the start stops growing when the *fast* directions have settled; a slow one that still
    holds a loss adds next to nothing to it.

    Args:
        ratio: Of one look's step to the one before.
        first: Step of the first look.
        skip: Looks before the first answer.
        threshold: Of the slope; 1 is free diffusion, 0 a standstill.

    Source: Pesme, Dieuleveut & Flammarion (2020), On Convergence-Diagnostic based Step Sizes for Stochastic Gradient
        Descent, algorithm 3, whose defaults these are.
    """

    name: ClassVar[str] = "distance"

    def __init__(self, ratio: float = 1.5, first: int = 10, skip: int = 5, threshold: float = 0.6) -> None:
        if not ratio > 1:
            raise BadArgument(f"`ratio` of one look's step to the one before must be above 1, got {ratio}.")
        _need_count("first", first)
        self.ratio, self.skip, self.threshold = ratio, skip, threshold
        self.steps, self.taken, self.next = 0, 0, first
        self.start: Tensor | None = None
        self.before: Tensor | None = None

    def observe(self, seen: Observation) -> Flags:
        """Compare the distance with that at the look before."""
        self.start = seen.position if self.start is None else self.start
        self.steps += 1
        if self.steps < self.next:
            return _none(seen)
        distance = ((seen.position - self.start) ** 2).sum(dim=1).double()
        before, self.before = self.before, distance
        self.taken, self.next = self.taken + 1, max(math.ceil(self.next * self.ratio), self.next + 1)
        if before is None or self.taken <= self.skip:
            return _none(seen)
        return (distance / before).log() / math.log(self.ratio) < self.threshold


class Fluctuation(Detector):
    """E[Φ·ĝ] and (η/2)(1+μ) E‖v‖² of the last half of the steps agree within a tolerance: Yaida's relation.

    Weakness: along any run the difference of the two sums is (‖Φ_0 − c‖² − ‖Φ_T − c‖²)/(2η) identically (without
    momentum), so it only asks whether ‖Φ‖ has moved: the verdict hangs on where the origin is. A tolerance is no level.

    Args:
        tolerance: Of the ratio's distance from 1.
        every: Steps from one answer to the next.
        least: Steps before the first.

    Source: Yaida (2018), Fluctuation-Dissipation Relations for Stochastic Gradient Descent, eq. FDR1 and section 3.3.
    """

    name: ClassVar[str] = "fluctuation"

    def __init__(self, tolerance: float = 0.01, every: int = 100, least: int = 200) -> None:
        if not tolerance > 0:
            raise BadArgument(f"`tolerance` must be positive, got {tolerance}.")
        _need_count("every", every)
        self.tolerance, self.every, self.least = tolerance, every, least
        self.history = _Sums()

    def observe(self, seen: Observation) -> Flags:
        """Compare the two averages over the last half of the steps."""
        self.history.add(torch.stack(_fluctuation(seen), dim=1))
        steps = self.history.steps
        if steps < self.least or steps % self.every:
            return _none(seen)
        left, right = self.history.mean(steps // 2).unbind(dim=1)
        return (left / right - 1).abs() <= self.tolerance


class ConfidentFluctuation(Detector):
    """The interval of E[Φ·ĝ − (η/2)(1+μ)‖v‖²], from batch means over the newest steps, holds zero: SASA+.

    Weakness: it fires on "not rejected", so it has no false-alarm rate: where little is known, it fires. And as the
    relation it tests, it only asks whether ‖Φ‖ has moved.

    Args:
        share: Of the steps, the newest, that are tested.
        least: Tested steps, at fewest. The method's own value is 1,000, with which it cannot fire before step 8,000.
        every: Steps from one test to the next.
        level: Confidence level of the interval.

    Source: Zhang, Lang, Liu & Xiao (2020), Statistical Adaptive Stochastic Gradient Methods, algorithm 2.
    """

    name: ClassVar[str] = "sasa+"

    def __init__(self, share: float = 0.125, least: int = 100, every: int = 100, level: float = 0.95) -> None:
        if not 0 < share <= 1:
            raise BadArgument(f"`share` of the steps must lie in (0, 1], got {share}.")
        if not least >= 4:
            raise BadArgument(f"`least` must be at least 4 steps, got {least}.")
        _need_level(level)
        self.share, self.least, self.every, self.quantile = share, least, every, float(ndtri((1 + level) / 2))
        self.history = _Sums()

    def observe(self, seen: Observation) -> Flags:
        """Test the newest steps."""
        left, right = _fluctuation(seen)
        self.history.add(left - right)
        steps = self.history.steps
        tested = math.ceil(self.share * steps)
        if tested < self.least or steps % self.every:
            return _none(seen)
        batches = math.isqrt(tested)
        length = tested // batches
        edges = [steps - length * place for place in range(batches, -1, -1)]
        means = torch.stack([self.history.between(a, b) for a, b in pairwise(edges)], dim=0)
        return means.mean(dim=0).abs() <= self.quantile * means.std(dim=0) / math.sqrt(batches)


class Slope(Detector):
    """The slope of the losses over the last half of the steps is not below zero, with a Newey–West error.

    A prompt gauge with a level for a single look: "no sign that the loss still falls". Weakness: the absence of a sign
    is no evidence of absence. With the noise of batches it fires while the loss falls as slowly as it cannot see, and
    the more looks, the more often.

    Args:
        level: Of the one-sided statement that the loss falls, at a single look.
        first: Step of the first look.
        per_octave: Looks while the number of steps doubles.

    Source: Newey & West (1987), A Simple, Positive Semi-definite, Heteroskedasticity and Autocorrelation Consistent
        Covariance Matrix, with ⌊4(n/100)^(2/9)⌋ lags (1994).
    """

    name: ClassVar[str] = "slope"

    def __init__(self, level: float = 0.95, first: int = 64, per_octave: int = 4) -> None:
        _need_level(level)
        self.looks, self.quantile = Looks(first, per_octave), float(ndtri(level))
        self.losses: list[Tensor] = []

    def observe(self, seen: Observation) -> Flags:
        """Regress the last half of the losses on the step."""
        self.losses.append(seen.loss)
        if not self.looks.due(len(self.losses)):
            return _none(seen)
        losses = torch.stack(self.losses[len(self.losses) // 2 :]).double()
        slope, error = newey_west_slope(losses.cpu().numpy())
        return torch.from_numpy(slope + self.quantile * error >= 0).to(seen.loss.device)


def newey_west_slope(
    series: Float[np.ndarray, "steps runs"],
) -> tuple[Float[np.ndarray, " runs"], Float[np.ndarray, " runs"]]:
    """Least-squares slope a step of each column, and its standard error where neighbours depend on one another.

    So few lags see little of a long dependence: where correlations decay as 0.9^lag an interval of 1,000 steps, nominal
    90 %, covers in 60 %, and that of `gradiometer.measurement.uncertainty.slopes.slope` in 86 %.

    Source: Newey & West (1987), A Simple, Positive Semi-definite, Heteroskedasticity and Autocorrelation Consistent
        Covariance Matrix, with ⌊4(n/100)^(2/9)⌋ lags, their (1994) rule without a pilot.
    """
    steps = len(series)
    if not steps >= 3:
        raise BadArgument(f"`series` must have at least 3 steps for a slope with an error, got {steps}.")
    time = (np.arange(steps) - (steps - 1) / 2)[:, None]
    square = float((time**2).sum())
    slope = (time * series).sum(axis=0) / square
    scores = time * (series - series.mean(axis=0) - slope * time)
    variance = (scores**2).sum(axis=0)
    lags = min(int(4 * (steps / 100) ** (2 / 9)), steps - 1)
    for lag in range(1, lags + 1):
        variance = variance + 2 * (1 - lag / (lags + 1)) * (scores[lag:] * scores[:-lag]).sum(axis=0)
    return slope, np.sqrt(np.maximum(variance, 0) * steps / (steps - 2)) / square


class Plateau(Detector):
    """The mean loss of a window has not been below the best one before by a share of it, for some windows.

    Weakness: no level, and its delay is the windows it is told to wait, whatever the run.

    Args:
        window: Steps whose losses make one mean.
        patience: Windows without a new best.
        threshold: Share of the best by which a window must be lower to be a new one.

    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau`, whose patience and threshold these are.
    """

    name: ClassVar[str] = "plateau"

    def __init__(self, window: int = 100, patience: int = 10, threshold: float = 1e-4) -> None:
        _need_count("window", window)
        _need_count("patience", patience)
        self.window, self.patience, self.threshold = window, patience, threshold
        self.history = _Sums()
        self.best: Tensor | None = None
        self.waited: Tensor | None = None

    def observe(self, seen: Observation) -> Flags:
        """Compare the window's mean with the best before."""
        self.history.add(seen.loss)
        if self.history.steps % self.window:
            return _none(seen)
        mean = self.history.mean(self.window)
        if self.best is None or self.waited is None:
            self.best, self.waited = mean, torch.zeros_like(mean)
            return _none(seen)
        better = mean < self.best * (1 - self.threshold)
        self.waited = torch.where(better, torch.zeros_like(self.waited), self.waited + 1)
        self.best = torch.where(better, mean, self.best)
        return self.waited > self.patience


class _Sums:
    """Running sums of a statistic, so that the mean between any two steps is a difference."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []

    @property
    def steps(self) -> int:
        return max(len(self.sums) - 1, 0)

    def add(self, values: Tensor) -> None:
        values = values.double()
        if not self.sums:
            self.sums.append(torch.zeros_like(values))
        self.sums.append(self.sums[-1] + values)

    def between(self, first: int, last: int) -> Tensor:
        return (self.sums[last] - self.sums[first]) / (last - first)

    def mean(self, newest: int) -> Tensor:
        return self.between(self.steps - newest, self.steps)


def _fluctuation(seen: Observation) -> tuple[PerRun, PerRun]:
    """The two sides of Yaida's relation at one step."""
    left = (seen.position * seen.gradient).sum(dim=1)
    right = seen.learning_rate * (1 + seen.momentum) / 2 * (seen.velocity**2).sum(dim=1)
    return left, right


def _none(seen: Observation) -> Flags:
    return torch.zeros(len(seen.loss), dtype=torch.bool, device=seen.loss.device)


def _need_count(name: str, value: int) -> None:
    if not value >= 1:
        raise BadArgument(f"`{name}` must be at least 1, got {value}.")


def _need_level(level: float) -> None:
    if not 0 < level < 1:
        raise BadArgument(f"`level` must lie between 0 and 1, got {level}: write 0.95 for 95 %.")
