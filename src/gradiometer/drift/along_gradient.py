"""The curvature along the gradient and along its noise, and the noise scale weighted
by curvature."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from gradiometer.measurement import Estimate, Estimates, Finding, Issue, State
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.reading import GradientOf, Moments, Series, check_gradient_of

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class CurvatureAlongGradient(Gauge):
    """gᵀHg, tr(HΣ), and their ratio: the batch size at which noise costs as much as the step
    itself.

    To second order a step of length η changes the loss by −η‖g‖² + ½η²(gᵀHg + tr(HΣ)/B). Let ĝ_1
    and ĝ_2 be the gradients of two disjoint parts of the batch, and H the Hessian of other
    examples. Then ĝ_1ᵀHĝ_2 is unbiased for gᵀHg. The excess of ĝ_1ᵀHĝ_1 and ĝ_2ᵀHĝ_2 over it, times
    their number of examples, is unbiased for tr(HΣ) if the
    examples are drawn independently. Both can be negative: if the loss curves down, and at a single
    step by chance. For batches drawn without replacement from N examples ĝ_1ᵀHĝ_2 is tr(HΣ)/N too
    small, which `estimate` corrects. This is exact if H comes from a probe. Without one, the
    covariance of an example's gradient and Hessian remains, also divided by N.

    Costs about five and a half plain steps if the step has a probe (a gradient in two halves, one
    gradient with its
    graph, and two products), and half of that without: then half of the batch gives H, and the
    quarters of the other half give ĝ_1 and ĝ_2. On several processes each measures its share of the
    batch, and the moments are averaged.

    Args:
        gradient_of: The g that is meant, "train" or "population"; see `GradientNoise`.

    Source: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, eq. 2.6 to 2.8.
    """

    gradient_of: GradientOf = "train"

    name: ClassVar[str] = "curvature_along_gradient"
    issue: ClassVar[Issue] = Issue.DRIFT
    unit: ClassVar[str] = "loss³ / parameter⁴"
    labels: ClassVar[Mapping[str, str]] = {
        "curvature_noise_scale": "noise scale weighted by curvature, tr(HΣ) / gᵀHg",
        "gradient_curvature": "curvature along the gradient, gᵀHg",
    }
    one_in: ClassVar[int] = 16
    copies: ClassVar[int] = 3
    processes: ClassVar[Literal["one", "many", "sharded"]] = "many"

    def __post_init__(self) -> None:
        check_gradient_of(self.gradient_of)

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """gᵀHg and tr(HΣ) for independent examples; `estimate` corrects for how they were drawn."""
        graph, halves = step.judging_graph, step.acting_halves()
        gradient, size = next(halves)
        image = graph.product(gradient)
        first = step.product_of(gradient, image)
        # At most three copies of the parameters are held at once, as `copies` promises.
        del gradient
        gradient, other_size = next(halves)
        across = step.product_of(gradient, image)
        del image
        second = step.product_of(gradient, graph.product(gradient))
        noise = ((first - across) * size + (second - across) * other_size) / 2
        return {"gradient_curvature": across, "noise_curvature": noise}

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """gᵀHg, tr(HΣ), their ratio (a number of examples), and B."""
        finite = series.sampling.one_over_examples(self.gradient_of)
        gradient = series.moments["gradient_curvature"] + finite * series.moments["noise_curvature"]
        noise = (1 - finite) * series.moments["noise_curvature"]
        return {
            "curvature_noise_scale": series.ratio(
                noise, gradient, level=level, unit="examples", nonnegative=False
            ),
            "gradient_curvature": series.mean(gradient, level=level, unit=self.unit),
            "noise_curvature": series.mean(noise, level=level, unit=self.unit),
            "batch_size": Estimate.exact(series.usual_batch_size, unit="examples"),
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """The scale that gives the share of noise in the second-order cost of a step, if it is
        known."""
        numbers = {name: estimates[name] for name in ("curvature_noise_scale", "batch_size")}
        scale = numbers["curvature_noise_scale"]
        if scale.tells and scale.value > 0:
            return Finding(self.name, self.issue, "curvature_noise_share", State.OK, numbers)
        return Finding(self.name, self.issue, "curvature_noise_unknown", State.CANNOT_TELL, numbers)
