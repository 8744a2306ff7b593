"""The loss change of a step: as gradient and curvature predict it, and as measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gradiometer.drift.stability import HALF_THE_RATE
from gradiometer.measurement import Estimates, Finding, Issue, Moments, Series, State
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


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
