"""A certificate: the kind of point that training has reached, at a confidence level. Torch is not
needed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from gradiometer.arguments import check_level, check_whole
from gradiometer.errors import BadArgument
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Doubt, Finding, Issue, State
from gradiometer.measurement.uncertainty.arithmetic import transform

# Gradients below this share of the one at the start, and curvatures below this share of λ_max,
# count as zero.
TOLERANCE = 0.01

# The confidence level of a certificate, unless another one is asked for: that of its verdict, too.
CERTAINTY = 0.95


class PointKind(StrEnum):
    """The kind of point.

    Attributes:
        MINIMUM: The gradient is zero, within the tolerance, and no direction curves down.
        SADDLE: The gradient is zero, within the tolerance, and a direction curves down.
        NOT_STATIONARY: The gradient is not zero.
        CANNOT_TELL: An interval contains its tolerance.
    """

    MINIMUM = "minimum"
    SADDLE = "saddle"
    NOT_STATIONARY = "not stationary"
    CANNOT_TELL = "cannot tell"


# The claim of each kind, and its state. If the curvature is not what is unclear, the gradient is.
CLAIMS = {
    PointKind.MINIMUM: ("certificate_minimum", State.OK),
    PointKind.SADDLE: ("certificate_saddle", State.LOOK),
    PointKind.NOT_STATIONARY: ("certificate_not_stationary", State.LOOK),
    PointKind.CANNOT_TELL: ("certificate_curvature_unclear", State.CANNOT_TELL),
}


@dataclass(frozen=True)
class Certificate(Artifact):
    """The gradient of the training loss and its lowest curvature at one point, each with an
    interval.

    Args:
        step: Training steps so far.
        mode: Mode of the model: "train" (Dropout, batch statistics) or "eval".
        gradient_squared: ‖g‖² of the training loss, weight decay included.
        start_squared: The same at the start of training.
        lowest: λ_min of the Hessian of the training loss.
        largest: λ_max, the scale for `lowest`.
        gradients: Number of examples behind the gradient; all of them if it is exact.
        curved: Number of examples behind the curvature.
        of: N, the size of the training set.
        tolerance: The share below which a gradient and a curvature count as zero.
        level: Confidence level of every interval, and of the verdict.

    >>> from gradiometer.convergence.certificate import Certificate
    >>> from gradiometer import Estimate
    >>> exact = Estimate.exact
    >>> squares, curvatures = (exact(1e-6), exact(4.0)), (exact(-0.5), exact(2.0))
    >>> point = Certificate(900, "eval", *squares, *curvatures, gradients=64, curved=64, of=64)
    >>> print(point.verdict, point.relative)
    saddle 0.000500
    """

    files: ClassVar[str] = "certificates/step_*.json"
    labels: ClassVar[Mapping[str, str]] = {
        "gradient_norm": "gradient of the training loss, ‖g‖",
        "relative_gradient_norm": "the same, of what it was at the start",
        "lowest_curvature": "lowest curvature, λ_min",
        "lowest_curvature_share": "the same, of the largest, λ_min / λ_max",
    }
    symbols: ClassVar[Mapping[str, str]] = {"certificate_tolerance": "tolerance"}

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
    level: float = CERTAINTY

    def __post_init__(self) -> None:
        check_whole("step", self.step, 0)
        for name in ("gradients", "curved", "of"):
            check_whole(name, getattr(self, name), 1)
        check_level(self.tolerance, "tolerance")
        check_level(self.level)

    @property
    def gradient_norm(self) -> Estimate:
        """‖g‖."""
        return root(self.gradient_squared, "loss / parameter")

    @property
    def relative(self) -> Estimate:
        """‖g‖ divided by its value at the start."""
        return root(_ratio(self.gradient_squared, self.start_squared))

    @property
    def curvature_share(self) -> Estimate:
        """λ_min/λ_max. The interval is that of λ_min: λ_max is only a scale."""
        scale = self.largest.value
        if not scale > 0:
            return self.lowest
        return transform(self.lowest, lambda curvature: curvature / scale)

    @property
    def verdict(self) -> PointKind:
        """Wrong with probability at most 1 − level: half of it for the gradient's end, half for the
        curvature's."""
        relative, share = self.relative, self.curvature_share
        # A claim needs its whole interval on one side of the tolerance.
        if relative.low > self.tolerance:
            return PointKind.NOT_STATIONARY
        if not relative.high <= self.tolerance:
            return PointKind.CANNOT_TELL
        if share.low >= -self.tolerance:
            return PointKind.MINIMUM
        return PointKind.SADDLE if share.high < -self.tolerance else PointKind.CANNOT_TELL

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The estimates that the page and the terminal show."""
        return {
            "gradient_norm": self.gradient_norm,
            "relative_gradient_norm": self.relative,
            "lowest_curvature": self.lowest,
            "lowest_curvature_share": self.curvature_share,
            "certificate_tolerance": Estimate.exact(self.tolerance),
        }

    def finding(self) -> Finding:
        """The verdict with its numbers."""
        estimates = self.estimates
        claim, state = CLAIMS[self.verdict]
        if self.verdict is PointKind.CANNOT_TELL and not self.relative.high <= self.tolerance:
            claim = "certificate_gradient_unclear"
        return Finding(
            gauge="certificate",
            issue=Issue.CONVERGENCE,
            claim=claim,
            state=state,
            numbers={
                name: estimates[name]
                for name in ("relative_gradient_norm", "certificate_tolerance")
            },
            facts={
                "step": self.step,
                "curvature_share": self.curvature_share,
                "level": self.level,
                "batches": self._enough_batches()
                if claim == "certificate_gradient_unclear"
                else None,
            },
            doubts=(
                Doubt("certificate_tolerance", {"tolerance": self.tolerance, "mode": self.mode}),
            ),
        )

    def _enough_batches(self) -> int | None:
        """About how many batches would decide: the interval shrinks with the square root of their
        number.

        None if all examples are needed.
        """
        target, squared = self.tolerance**2, _ratio(self.gradient_squared, self.start_squared)
        distance, width = target - squared.value, squared.high - squared.value
        if not (distance and self.gradient_squared.samples):
            return None
        batches = self.gradient_squared.samples * (width / distance) ** 2
        # That many examples would be a full pass.
        if not batches * self.gradients / self.gradient_squared.samples < self.of:
            return None
        return math.ceil(batches)


def root(squared: Estimate, unit: str = "") -> Estimate:
    """√ of a square whose estimate and ends may be negative; these become 0."""
    if squared.method == "exact":
        return Estimate.exact(math.sqrt(max(squared.value, 0.0)), unit=unit)
    return transform(squared, lambda value: math.sqrt(max(value, 0.0)), unit=unit)


def _ratio(numerator: Estimate, denominator: Estimate) -> Estimate:
    """The ratio of two independent estimates, the denominator above zero, with an interval from
    those of the two.

    Source: Donner & Zou (2012), Closed-form Confidence Intervals for Functions of the Normal Mean
        and Standard Deviation, Statistical Methods in Medical Research 21, section 2, for a ratio.
    """
    if denominator.method == "exact":
        if not denominator.value > 0:
            raise BadArgument(
                f"`start` must be a positive squared gradient, got {denominator.value}."
            )
        if numerator.method == "exact":
            return Estimate.exact(numerator.value / denominator.value)
        return transform(numerator, lambda value: value / denominator.value)
    if not denominator.low > 0:
        raise BadArgument(
            f"`start` must be clearly above zero, got {denominator}: take more `--batches`."
        )
    # In units of the two values, whose products could be beyond all floats.
    unit = abs(numerator.value) or 1.0
    a, low, high = numerator.value / unit, numerator.low / unit, numerator.high / unit
    least, most = denominator.low / denominator.value, denominator.high / denominator.value
    below = a * a - low * most * (2 * a - low) * (2 - most)
    above = a * a - high * least * (2 * a - high) * (2 - least)
    scale = unit / denominator.value
    return Estimate.interval(
        a * scale,
        min((a - math.sqrt(max(below, 0.0))) / (most * (2 - most)), a) * scale if most < 2 else 0.0,
        max((a + math.sqrt(max(above, 0.0))) / (least * (2 - least)), a) * scale,
        level=denominator.level,
        method=numerator.method,
        samples=numerator.samples,
    )
