"""Step drift: the change of the gradient over one step, with the noise removed (statement S3 of the lecture)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradiometer.measurement.estimate import Estimate, Estimates, about, counted, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import GradientOf, Moments, Series, check_gradient_of

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class StepDrift(Gauge):
    """‖g(Φ − ηĝ) − g(Φ)‖² of one plain step, relative to ‖g(Φ)‖².

    Two halves of examples that did not make the step are differentiated before and after it. Their noise is
    independent, so ⟨ĝ_1(Φ′) − ĝ_1(Φ), ĝ_2(Φ′) − ĝ_2(Φ)⟩ is unbiased for the squared drift. The squared difference of
    two training gradients is 1.4 to 2 times too large, because the step changes the gradient of this batch most.

    Costs about two plain steps if the step has a probe, one and a half without: then half of the batch makes the step
    and the other half judges it, and the drift is that of a step at B/2. The step is −ηĝ, without momentum. If that
    half was drawn without replacement from N examples, both squares are their noise over N too small, which `estimate`
    corrects.

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
        """The squared drift and ‖g‖², the noise of both if the step has no probe, and the size of the batch.

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

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """Squared drift relative to ‖g‖² and absolute, and the batch size of the step."""
        moments, finite = series.moments, series.sampling.one_over_examples(self.gradient_of)
        drift, norm_squared = moments["drift"], moments["gradient_norm_squared"]
        if "drift_variance" in moments:  # runs of version 0.1 have no noise of the two
            drift = drift + finite * moments["drift_variance"]
            norm_squared = norm_squared + finite * moments["gradient_variance"]
        return {
            "step_drift": series.ratio(drift, norm_squared, level=level, fourth_powers=True),
            "drift_squared": series.mean(drift, level=level, unit=self.unit, fourth_powers=True),
            "drift_batch_size": Estimate.exact(series.setting(moments["made_by"]), unit="examples"),
        }

    def interpret(self, estimates: Estimates) -> Finding | None:
        """Say by which share of its length the gradient changes over a step."""
        drift, batch = estimates["step_drift"], estimates["drift_batch_size"].value
        if not drift.tells:
            needed = f"; an upper bound needs {about(drift.needed)} more steps" if drift.needed else ""
            seen = f"The drift of the gradient over a step is not known yet{needed}."
            return self._finding(State.CANNOT_TELL, seen, "It is too early to say how long a gradient stays valid.")
        share, low, high = (f"{100 * math.sqrt(max(end, 0)):.2g} %" for end in (drift.value, drift.low, drift.high))
        seen = (
            f"Over one step of B = {batch:,.0f} the gradient changes by {share} [{low}, {high}] of its length "
            f"({counted(drift.samples, 'measured step')})."
        )
        if drift.low > 1:
            means = "Every step changes the gradient completely: it leaves the region in which g is nearly constant."
            advice = "A smaller learning rate, or a larger batch if noise dominates."
            return self._finding(State.LOOK, seen, means, advice)
        lasts = significant(1 / math.sqrt(drift.value), 2) if drift.value > 0 else "many"
        means = f"Steps in one direction would change the gradient completely after about {lasts} of them."
        return self._finding(State.OK, seen, means)

    def _finding(self, state: State, seen: str, means: str, advice: str = "") -> Finding:
        return Finding(self.name, self.issue, state, seen, means, advice, estimates=("step_drift",))
