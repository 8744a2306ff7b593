"""Batch sharpness: the curvature each batch has along its own gradient, against the edge of stochastic stability."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gradiometer.drift.stability import BELOW, BEYOND, Momentum
from gradiometer.measurement.estimate import Estimate, Estimates, counted, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Moments, Series
from gradiometer.measurement.uncertainty.means import ratio_of_means

if TYPE_CHECKING:  # estimates are made, a year later, on a machine without torch
    import gradiometer.measurement.step

CAVEAT = "The edge is that of a quadratic; batch sharpness usually rises to it and hovers there, which is no failure."


@dataclass(frozen=True)
class BatchSharpness(Gauge):
    """E ĝᵀH_Bĝ / E‖ĝ‖², with H_B the Hessian of the very batch that ĝ is the gradient of.

    With small batches it is this, and not λ_max of the full loss, that rises to 2/η and stays: beyond it a step of a
    batch overshoots the batch's own loss. The full-batch sharpness sits lower, the lower the smaller the batch. A
    ratio of means over a window, with Fieller's interval, not the mean of ratios.

    Costs about three plain steps: the gradient once more with its graph, and one product.

    Args:
        momentum: μ of training, for the edge: 2(1 + μ)/η with large batches. With small ones it is reported to lie
            at 2(1 − μ)/η, which has been seen by fewer people.
        nesterov: Whether it is Nesterov's.

    Source: Andreyev & Beneventano (2024), Edge of Stochastic Stability: Revisiting the Edge of Stability for SGD.
    """

    momentum: float = 0.0
    nesterov: bool = False

    name: ClassVar[str] = "batch_sharpness"
    issue: ClassVar[Issue] = Issue.DRIFT
    unit: ClassVar[str] = "loss / parameter²"
    labels: ClassVar[Mapping[str, str]] = {
        "batch_sharpness": "batch sharpness, E ĝᵀH_Bĝ / E‖ĝ‖²",
        "edge": "edge of stability, at the median η",
    }
    question: ClassVar[str] = "Is the learning rate too high?"
    sgd_only: ClassVar[str] = "edge of stability"
    from_run: ClassVar[tuple[str, ...]] = ("momentum", "nesterov")
    one_in: ClassVar[int] = 16

    def __post_init__(self) -> None:
        Momentum(self.momentum, self.nesterov)

    @property
    def kind(self) -> Momentum:
        """Plain, heavy-ball or Nesterov."""
        return Momentum(self.momentum, self.nesterov)

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """ĝᵀH_Bĝ and ‖ĝ‖², with the same draws (Dropout) in both."""
        gradient = step.graph.gradient
        image = step.graph.products(gradient[None])[0]
        wide = gradient.double()
        return {"curvature": float(wide @ image.double()), "norm_squared": float(wide @ wide)}

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """The batch sharpness, its edge at the window's median η, and its share of the edge as η went."""
        curvature, norm_squared = series.moments["curvature"], series.moments["norm_squared"]
        settings: dict[str, Any] = {"level": level, "spacing": series.spacing, "nonnegative": False}
        learning_rate = float(np.median(series.learning_rate))
        return {
            "batch_sharpness": ratio_of_means(curvature, norm_squared, unit=self.unit, **settings),
            "edge_share": ratio_of_means(series.learning_rate * curvature / self.kind.limit, norm_squared, **settings),
            "edge": Estimate.exact(self.kind.limit / learning_rate, unit=self.unit),
            "small_batch_edge": Estimate.exact(self.kind.limit_of_small_batches / learning_rate, unit=self.unit),
        }

    def interpret(self, estimates: Estimates) -> Finding | None:
        """Batch sharpness against its edge: below, at it, beyond, or cannot tell yet."""
        sharpness, share, edge = (estimates[name] for name in ("batch_sharpness", "edge_share", "edge"))
        lowest = self.kind.limit_of_small_batches / self.kind.limit
        state, means, advice = _against(share, lowest)
        times = f"{significant(share.value, 2)} of the edge {self.kind.words} = {significant(edge.value)}"
        measured = counted(sharpness.samples, "measured step")
        seen = f"The batch sharpness {sharpness} is {times} ({measured})."
        if not share.tells:
            seen = f"The batch sharpness is not known yet, {measured}; {_needs(share)}."
        caveat = CAVEAT
        if self.momentum:
            plateau = significant(estimates["small_batch_edge"].value)
            caveat = f"With momentum and small batches it is reported to settle at 2(1 − μ)/η = {plateau}. {CAVEAT}"
        return Finding(
            gauge=self.name,
            issue=self.issue,
            state=state,
            seen=seen,
            means=means,
            advice=advice,
            caveat="" if state is State.CANNOT_TELL else caveat,
            estimates=("batch_sharpness", "edge"),
        )


def _against(share: Estimate, lowest: float) -> tuple[State, str, str]:
    """What a share of the edge means; between `lowest` and 1 training may be held at the edge."""
    if share.high < BELOW * lowest:
        room = f" η could be {significant(lowest / share.high, 2)} times larger" if share.high > 0 else " A larger η"
        return (
            State.OK,
            f"On average a batch does not overshoot its own loss:{room} before it does, at this curvature.",
            "",
        )
    if share.low > BEYOND:
        return (
            State.ACT,
            "Batches overshoot their own loss: the steps are longer than this curvature bears.",
            "A smaller --lr, or a warm-up, unless the loss comes down again by itself.",
        )
    if share.low >= BELOW * lowest and share.high <= BEYOND:
        return (
            State.LOOK,
            "Training is at the edge of stochastic stability: the learning rate, and not the loss, sets the curvature.",
            "A smaller --lr goes on to a sharper region, a larger one to a flatter.",
        )
    return State.CANNOT_TELL, "Whether the learning rate is at its edge cannot be told yet.", ""


def _needs(share: Estimate) -> str:
    if share.needed is None:
        return "how many more steps an interval needs cannot be told either"
    return f"an interval needs about {share.needed:,} more steps"
