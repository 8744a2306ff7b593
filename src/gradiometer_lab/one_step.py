"""What one step does: how far the gradient drifts (statement S3 of the lecture), the change of the
loss as gradient and curvature predict it and as measured, and the curvature along the gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from gradiometer.drift.stability import HALF_THE_RATE
from gradiometer.measurement import Estimate, Estimates, Finding, Issue, Moments, Series, State
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.reading import GradientOf, check_gradient_of

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class StepDrift(Gauge):
    """‖g(Φ − ηĝ) − g(Φ)‖² of one plain step, relative to ‖g(Φ)‖².

    Two halves of examples that did not make the step are differentiated before and after it. Their
    noise is independent, so ⟨ĝ_1(Φ′) − ĝ_1(Φ), ĝ_2(Φ′) − ĝ_2(Φ)⟩ is unbiased for the squared drift.
    The squared difference of two training gradients is 1.4 to 2 times too large, because the step
    changes the gradient of this batch most.

    Costs about two plain steps if the step has a probe, one and a half without: then half of the
    batch makes the step and the other half judges it, and the drift is that of a step at B/2. The
    step is −ηĝ, without momentum. If that half was drawn without replacement from N examples, both
    squares are their noise over N too small, which `estimate` corrects.

    Args:
        gradient_of: The g that is meant, "train" or "population"; see `GradientNoise`.

    Source: the lecture, S3. For the drift over many steps see `gradiometer.drift.horizon`.
    """

    gradient_of: GradientOf = "train"

    name: ClassVar[str] = "step_drift"
    issue: ClassVar[Issue] = Issue.DRIFT
    unit: ClassVar[str] = "(loss / parameter)²"
    labels: ClassVar[Mapping[str, str]] = {"step_drift": "step drift, ‖g(Φ′) − g(Φ)‖² / ‖g(Φ)‖²"}
    one_in: ClassVar[int] = 16
    copies: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_gradient_of(self.gradient_of)

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """The squared drift and ‖g‖², the noise of both if the step has no probe, and the size of
        the batch.

        The noise is 0 if a probe judges the step, since its examples are independent.
        """
        from gradiometer.measurement.parts import difference, squared_distance  # noqa: PLC0415 (it needs torch)

        halves = zip(step.judging_halves(), step.judging_halves(after=True), strict=True)
        kept = [(before, difference(after, before), size) for (before, size), (after, _) in halves]
        (before, drift, size), (other_before, other_drift, other_size) = kept
        shared = 0.0 if step.has_probe else size * other_size / (size + other_size)
        return {
            "drift": step.product_of(drift, other_drift),
            "gradient_norm_squared": step.product_of(before, other_before),
            "drift_variance": shared * squared_distance(drift, other_drift),
            "gradient_variance": shared * squared_distance(before, other_before),
            "made_by": float(step.acting_size),
        }

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """Squared drift relative to ‖g‖² and absolute, and the batch size of the step."""
        moments, finite = series.moments, series.sampling.one_over_examples(self.gradient_of)
        drift = moments["drift"] + finite * moments["drift_variance"]
        norm_squared = moments["gradient_norm_squared"] + finite * moments["gradient_variance"]
        return {
            "step_drift": series.ratio(drift, norm_squared, level=level, fourth_powers=True),
            "drift_squared": series.mean(drift, level=level, unit=self.unit, fourth_powers=True),
            "drift_batch_size": Estimate.exact(series.setting(moments["made_by"]), unit="examples"),
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """If a step changes the gradient as a whole, or a part of it."""
        drift, batch = estimates["step_drift"], estimates["drift_batch_size"].value
        if not drift.tells:
            claim, state = "step_drift_unknown", State.CANNOT_TELL
        elif drift.low > 1:
            claim, state = "step_drift_whole", State.LOOK
        else:
            claim, state = "step_drift_part", State.OK
        return Finding(
            self.name, self.issue, claim, state, {"step_drift": drift}, {"batch_size": batch}
        )


@dataclass(frozen=True)
class LossChange(Gauge):
    """The second-order loss change of a plain step, −ηĝᵀg + ½η²ĝᵀHĝ, and the measured L(Φ − ηĝ) −
    L(Φ).

    g, H and L come from examples that did not make the step, so all three terms are unbiased for
    the change of the mean
    loss. They are paired: the same step on the same examples. The step is −ηĝ, without momentum.

    Costs about three and a half plain steps if the step has a probe (a gradient with its graph, a
    product, a forward),
    and two without: then half of the batch makes the step and the other half judges it.

    Source: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, eq. 2.3.
    """

    name: ClassVar[str] = "loss_change"
    issue: ClassVar[Issue] = Issue.DRIFT
    unit: ClassVar[str] = "loss"
    labels: ClassVar[Mapping[str, str]] = {
        "curvature_share": "share of the slope's gain that curvature undoes",
        "predicted_change": "loss change of a step, predicted",
        "seen_change": "loss change of a step, measured",
    }
    one_in: ClassVar[int] = 16
    copies: ClassVar[int] = 3

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """The first-order and second-order terms, and the measured change."""
        direction, rate, graph = step.acting_gradient, step.learning_rate, step.judging_graph
        slope = step.product_of(direction, graph.gradients)
        curvature = step.product_of(direction, graph.product(direction))
        return {
            "first_order": -rate * slope,
            "second_order": rate**2 * curvature / 2,
            "seen": step.judging_loss_after - graph.loss,
        }

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """Predicted and measured change, their difference, and the share of the slope's gain that
        curvature undoes."""
        first, second, seen = (
            series.moments[name] for name in ("first_order", "second_order", "seen")
        )
        return {
            "curvature_share": series.ratio(
                second, -first, level=level, nonnegative=False, fourth_powers=True
            ),
            "predicted_change": series.mean(first + second, level=level, unit=self.unit),
            "seen_change": series.mean(seen, level=level, unit=self.unit),
            "unpredicted_change": series.mean(
                seen - first - second, level=level, unit=self.unit, fourth_powers=True
            ),
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """If a step raises the loss, and if a shorter one would gain more in one step."""
        share = estimates["curvature_share"]
        if not share.tells:
            claim, state = "loss_change_unknown", State.CANNOT_TELL
        elif share.low > 1:
            claim, state = "loss_change_up", State.ACT
        elif share.low > 0.5:
            claim, state = "loss_change_long_step", State.LOOK
        elif share.high < 0.5:
            claim, state = "loss_change_short_step", State.OK
        else:
            claim, state = "loss_change_unclear", State.CANNOT_TELL
        numbers = {name: estimates[name] for name in ("curvature_share", "seen_change")}
        return Finding(
            self.name,
            self.issue,
            claim,
            state,
            numbers,
            cure=(HALF_THE_RATE,) if state in (State.ACT, State.LOOK) else (),
        )


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
