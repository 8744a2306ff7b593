"""The loss change of a step: as gradient and curvature predict it, and as measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradiometer.drift.stability import HALF_THE_RATE
from gradiometer.measurement.estimate import Estimate, Estimates, about, counted, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Moments, Series

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step

CAVEAT = (
    "This looks one step ahead only: the learning rate that gains most in one step is far below the one that gains "
    "most in many steps (Wu et al. 2018)."
)


@dataclass(frozen=True)
class LossChange(Gauge):
    """The second-order loss change of a plain step, −ηĝᵀg + ½η²ĝᵀHĝ, and the measured L(Φ − ηĝ) − L(Φ).

    g, H and L come from examples that did not make the step, so all three terms are unbiased for the change of the mean
    loss. They are paired: the same step on the same examples. The step is −ηĝ, without momentum.

    Costs about three and a half plain steps if the step has a probe (a gradient with its graph, a product, a forward),
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

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """Predicted and measured change, their difference, and the share of the slope's gain that curvature undoes."""
        first, second, seen = (series.moments[name] for name in ("first_order", "second_order", "seen"))
        return {
            "curvature_share": series.ratio(second, -first, level=level, nonnegative=False, fourth_powers=True),
            "predicted_change": series.mean(first + second, level=level, unit=self.unit),
            "seen_change": series.mean(seen, level=level, unit=self.unit),
            "unpredicted_change": series.mean(seen - first - second, level=level, unit=self.unit, fourth_powers=True),
        }

    def interpret(self, estimates: Estimates) -> Finding | None:
        """Say what a step gains, and which share of the gain curvature undoes."""
        share, seen_change = estimates["curvature_share"], estimates["seen_change"]
        if not share.tells:
            needed = f"; that needs {about(share.needed)} more steps" if share.needed else ""
            seen = f"The gain of a step is not distinguishable from zero yet{needed}."
            return self._finding(State.CANNOT_TELL, seen, "It is too early to say whether the steps are too long.")
        seen = (
            f"A step changes the loss by {_signed(seen_change)}; curvature undoes a share of {share} of the gain from "
            f"the slope ({counted(share.samples, 'measured step')})."
        )
        if share.low > 1:
            means = "To second order a step raises the loss: it is too long for this curvature."
            return self._finding(
                State.ACT, seen, means, "A smaller learning rate, or a larger batch if noise dominates."
            )
        if share.low > 0.5:
            means = f"A step {significant(2 * share.value, 2)} times shorter would gain more in that step."
            return self._finding(State.LOOK, seen, means, "A smaller learning rate, if the loss no longer falls.")
        if share.high < 0.5:
            return self._finding(State.OK, seen, "The slope outweighs the curvature: steps are short enough to gain.")
        return self._finding(State.CANNOT_TELL, seen, "It is too early to say whether a shorter step would gain more.")

    def _finding(self, state: State, seen: str, means: str, advice: str = "") -> Finding:
        caveat = "" if state is State.CANNOT_TELL else CAVEAT
        rests_on, tries = ("curvature_share", "seen_change"), (HALF_THE_RATE,) if advice else ()
        return Finding(self.name, self.issue, state, seen, means, advice, caveat, rests_on, tries)


def _signed(change: Estimate) -> str:
    """A change with its sign."""
    return f"+{change}" if change.value > 0 else str(change)
