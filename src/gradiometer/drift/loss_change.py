"""The loss change of a step: predicted by gradient and curvature, and seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradiometer.measurement.estimate import Estimate, Estimates, counted, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Moments, Series
from gradiometer.measurement.uncertainty.means import difference_of_means, mean, ratio_of_means

if TYPE_CHECKING:  # estimates are made, a year later, on a machine without torch
    import gradiometer.measurement.step

CAVEAT = (
    "One step ahead only: the rate that gains most in one step is far below the one that gains most in many "
    "(Wu et al. 2018)."
)


@dataclass(frozen=True)
class LossChange(Gauge):
    """−ηĝᵀg + ½η²ĝᵀHĝ, the loss change of a plain step to second order, against L(Φ − ηĝ) − L(Φ).

    g, H and L are those of examples that did not make the step, so that all three are unbiased for the change of the
    mean loss, and paired: the same step on the same examples. Momentum is left out: it is the step −ηĝ.

    Costs about three and a half plain steps where the step has a probe (a gradient with its graph, a product, a
    forward), and two without: then half of the batch makes the step and the other judges it.

    Source: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, eq. 2.3.
    """

    name: ClassVar[str] = "loss_change"
    issue: ClassVar[Issue] = Issue.DRIFT
    unit: ClassVar[str] = "loss"
    labels: ClassVar[Mapping[str, str]] = {
        "curvature_share": "share of the slope's gain that curvature takes back",
        "predicted_change": "loss change of a step, predicted",
        "seen_change": "loss change of a step, seen",
    }
    one_in: ClassVar[int] = 16

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """The first and the second order, and the change seen."""
        direction = step.acting_direction
        wide, rate = direction.double(), step.learning_rate
        slope = float(wide @ step.judging_graph.gradient.double())
        curvature = float(wide @ step.judging_graph.products(direction[None])[0].double())
        return {
            "first_order": -rate * slope,
            "second_order": rate**2 * curvature / 2,
            "seen": step.judging_loss_after - step.judging_graph.loss,
        }

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """The change predicted and seen, what is left of it, and how much of the slope's gain curvature takes back."""
        first, second, seen = (series.moments[name] for name in ("first_order", "second_order", "seen"))
        settings: dict[str, Any] = {"level": level, "spacing": series.spacing}
        return {
            "curvature_share": ratio_of_means(second, -first, nonnegative=False, **settings),
            "predicted_change": mean(first + second, unit=self.unit, **settings),
            "seen_change": mean(seen, unit=self.unit, **settings),
            "unpredicted_change": difference_of_means(seen, first + second, unit=self.unit, **settings),
        }

    def interpret(self, estimates: Estimates) -> Finding | None:
        """What a step gains, and how much of it curvature takes back."""
        share, seen_change = estimates["curvature_share"], estimates["seen_change"]
        if not share.tells:
            needed = f"; that needs about {share.needed:,} more steps" if share.needed else ""
            seen = f"The gain of a step is not distinguishable from zero yet{needed}."
            return self._finding(State.CANNOT_TELL, seen, "Whether the steps are too long cannot be told yet.")
        seen = (
            f"A step changes the loss by {_signed(seen_change)}; of what the slope gains, curvature takes back a share "
            f"of {share} ({counted(share.samples, 'measured step')})."
        )
        if share.low > 1:
            means = "To second order a step raises the loss: it is longer than this curvature bears."
            return self._finding(State.ACT, seen, means, "A smaller --lr, or a larger batch where the step is noise.")
        if share.low > 0.5:
            means = f"A step {significant(2 * share.value, 2)} times shorter would gain more in that step."
            return self._finding(State.LOOK, seen, means, "A smaller --lr, if the loss no longer falls.")
        if share.high < 0.5:
            return self._finding(State.OK, seen, "The slope outweighs the curvature: steps are short enough to gain.")
        return self._finding(State.CANNOT_TELL, seen, "Whether a shorter step would gain more cannot be told yet.")

    def _finding(self, state: State, seen: str, means: str, advice: str = "") -> Finding:
        caveat = "" if state is State.CANNOT_TELL else CAVEAT
        return Finding(self.name, self.issue, state, seen, means, advice, caveat, ("curvature_share", "seen_change"))


def _signed(change: Estimate) -> str:
    """A change with its sign, which is the point of it."""
    return f"+{change}" if change.value > 0 else str(change)
