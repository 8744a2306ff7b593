"""A certificate: what kind of point training has come to, at a stated level. Numbers and words; torch is not needed."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from gradiometer.errors import BadArgument
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.uncertainty.arithmetic import transformed

TOLERANCE = 0.01
"""A gradient of this share of the one at the start counts as none; a curvature of this share of λ_max as flat."""


class Verdict(StrEnum):
    """What kind of point it is."""

    MINIMUM = "minimum"
    """No gradient to speak of, and no direction that curves down to speak of."""
    SADDLE = "saddle"
    """No gradient to speak of, and a direction that curves down."""
    NOT_STATIONARY = "not stationary"
    """A gradient."""
    CANNOT_TELL = "cannot tell"
    """An interval straddles its tolerance."""


@dataclass(frozen=True)
class Certificate(Artifact):
    """The gradient of the training loss and its lowest curvature at one point, each between ends that hold at a level.

    Args:
        step: Training steps made before.
        mode: Of the model: "train" (Dropout, batch statistics) or "eval".
        gradient_squared: ‖g‖² of the training loss, its weight decay included.
        start_squared: The same at the start of training.
        lowest: λ_min of the Hessian of the training loss.
        largest: λ_max, its scale.
        gradients: How many examples the gradient is of; all of them where it is exact.
        curved: How many examples the curvature is of.
        of: N.
        tolerance: The share below which a gradient and a curvature count as none.
        level: Every interval's confidence level, and the verdict's.
    """

    files: ClassVar[str] = "certificates/step_*.json"

    step: int
    mode: str
    gradient_squared: Estimate
    start_squared: Estimate
    lowest: Estimate
    largest: Estimate
    gradients: int
    curved: int
    of: int
    tolerance: float = TOLERANCE
    level: float = 0.95

    def __post_init__(self) -> None:
        refuse_unless_shares(self.tolerance, self.level)

    @property
    def gradient_norm(self) -> Estimate:
        """‖g‖."""
        return root(self.gradient_squared, "loss / parameter")

    @property
    def relative(self) -> Estimate:
        """‖g‖ as a share of what it was at the start."""
        return root(_ratio(self.gradient_squared, self.start_squared))

    @property
    def curvature_share(self) -> Estimate:
        """λ_min as a share of λ_max. The interval is λ_min's: λ_max is taken as its scale."""
        scale = self.largest.value
        if not scale > 0:
            return self.lowest
        return transformed(self.lowest, lambda curvature: curvature / scale)

    @property
    def verdict(self) -> Verdict:
        """Wrong with probability at most 1 − level: the gradient's end and the curvature's err in half of that each."""
        relative, share = self.relative, self.curvature_share
        if relative.low > self.tolerance:
            return Verdict.NOT_STATIONARY
        if not relative.high <= self.tolerance:
            return Verdict.CANNOT_TELL
        if share.low >= -self.tolerance:
            return Verdict.MINIMUM
        return Verdict.SADDLE if share.high < -self.tolerance else Verdict.CANNOT_TELL

    @property
    def estimates(self) -> dict[str, Estimate]:
        """What a page or a terminal shows, by name."""
        return {
            "gradient_norm": self.gradient_norm,
            "relative_gradient_norm": self.relative,
            "lowest_curvature": self.lowest,
            "lowest_curvature_share": self.curvature_share,
            "certificate_tolerance": Estimate.exact(self.tolerance),
        }

    def finding(self) -> Finding:
        """The verdict in words, with its numbers, and what to do."""
        state, means, advice = self._words()
        return Finding(
            gauge="certificate",
            issue=Issue.CONVERGENCE,
            state=state,
            seen=(
                f"The gradient of the training loss at step {self.step:,} is "
                f"{_per_cent(self.relative)} of what it was at the start, and the lowest curvature "
                f"{_per_cent(self.curvature_share)} of the largest ({self.level:.0%})."
            ),
            means=means,
            advice=advice,
            caveat=(
                f"Below {significant(100 * self.tolerance, 2)} % counts as none, of both; another tolerance may give "
                f"another verdict. It is a point of the training loss in {self.mode} mode: nothing is said of test "
                "examples."
            ),
            estimates=("relative_gradient_norm", "certificate_tolerance"),
        )

    def _words(self) -> tuple[State, str, str]:
        match self.verdict:
            case Verdict.MINIMUM:
                return State.OK, "This is a minimum of the training loss, as far as the tolerance sees.", ""
            case Verdict.SADDLE:
                means = "The gradient has vanished and a direction curves down: this is a saddle, not a minimum."
                return State.LOOK, means, "Go on with a larger rate or a smaller batch: noise leaves a saddle."
            case Verdict.NOT_STATIONARY:
                means = "Training has not come to a stationary point of its loss."
                return State.LOOK, means, "More steps, at a rate that goes to zero: `--schedule linear`."
        if self.relative.high <= self.tolerance:
            means = "The gradient has vanished; whether a direction curves down is not told yet."
            return State.CANNOT_TELL, means, "`gradiometer certify --examples` with more examples tells."
        return State.CANNOT_TELL, "Whether this is a stationary point is not told yet.", self._how_many()

    def _how_many(self) -> str:
        """About how many batches would tell: the interval shrinks as their square root."""
        target, squared = self.tolerance**2, _ratio(self.gradient_squared, self.start_squared)
        distance, width = target - squared.value, squared.high - squared.value
        if not (distance and self.gradient_squared.samples):
            return "`--exact` goes over all examples."
        batches = self.gradient_squared.samples * (width / distance) ** 2
        if not batches * self.gradients / self.gradient_squared.samples < self.of:
            return "`--exact` goes over all examples."
        return f"`--batches {significant(math.ceil(batches), 2).replace(',', '')}`, or `--exact`, tells."


def refuse_unless_shares(tolerance: float, level: float) -> None:
    """Refuse a tolerance or a level that is no share, before anything is measured."""
    if not 0 < tolerance < 1:
        raise BadArgument(f"`tolerance` must lie between 0 and 1, got {tolerance}: 0.01 is one per cent.")
    if not 0 < level < 1:
        raise BadArgument(f"`level` must lie between 0 and 1, got {level}: write 0.95 for 95 %.")


def root(squared: Estimate, unit: str = "") -> Estimate:
    """√ of a square that may have been estimated below zero: the ends' roots, at zero where there is none."""
    if squared.method == "exact":
        return Estimate.exact(math.sqrt(max(squared.value, 0.0)), unit=unit)
    return transformed(squared, lambda value: math.sqrt(max(value, 0.0)), unit=unit)


def _ratio(numerator: Estimate, denominator: Estimate) -> Estimate:
    """Of independent estimates, the denominator's above zero: their distances to their ends, carried over.

    Source: Donner & Zou (2012), Closed-form Confidence Intervals for Functions of the Normal Mean and Standard
        Deviation, Statistical Methods in Medical Research 21, section 2, for a ratio.
    """
    if denominator.method == "exact":
        if not denominator.value > 0:
            raise BadArgument(
                f"`start` has the squared gradient {denominator.value}: there is nothing to compare with."
            )
        if numerator.method == "exact":
            return Estimate.exact(numerator.value / denominator.value)
        return transformed(numerator, lambda value: value / denominator.value)
    if not denominator.low > 0:
        raise BadArgument(f"`start` has a gradient that is not told from zero, {denominator}: take more `--batches`.")
    a, low, high = numerator.value, numerator.low, numerator.high
    b, least, most = denominator.value, denominator.low, denominator.high
    below = (a * b) ** 2 - low * most * (2 * a - low) * (2 * b - most)
    above = (a * b) ** 2 - high * least * (2 * a - high) * (2 * b - least)
    return Estimate.interval(
        a / b,
        min((a * b - math.sqrt(max(below, 0.0))) / (most * (2 * b - most)), a / b) if 2 * b > most else 0.0,
        max((a * b + math.sqrt(max(above, 0.0))) / (least * (2 * b - least)), a / b),
        level=denominator.level,
        method=numerator.method,
        samples=numerator.samples,
    )


def _per_cent(estimate: Estimate) -> str:
    """ "1.3 % [1.1, 1.6]", or the number alone where it is exact."""
    middle = f"{significant(100 * estimate.value)} %"
    if estimate.method == "exact":
        return middle
    return f"{middle} [{significant(100 * estimate.low)}, {significant(100 * estimate.high)}]"
