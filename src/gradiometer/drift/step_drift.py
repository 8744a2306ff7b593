"""Step drift: the change of the gradient over one step, with the noise removed (statement S3 of the
lecture)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradiometer.measurement import Estimate, Estimates, Finding, Issue, State
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.reading import GradientOf, Moments, Series, check_gradient_of

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
        drift, norm_squared = moments["drift"], moments["gradient_norm_squared"]
        # Runs of version 0.1 have no noise of the two.
        if "drift_variance" in moments:
            drift = drift + finite * moments["drift_variance"]
            norm_squared = norm_squared + finite * moments["gradient_variance"]
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
