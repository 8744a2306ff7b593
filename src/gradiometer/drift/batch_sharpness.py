"""Batch sharpness: the curvature of a batch along its own gradient, and the edge of stochastic
stability."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from gradiometer.drift.stability import BELOW, BEYOND, HALF_THE_RATE, MomentumRule
from gradiometer.errors import Unsupported
from gradiometer.measurement import Estimate, Estimates, Moments, Series
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.finding import Doubt, Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.uncertainty.now import SHARPNESS_PRIOR

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class BatchSharpness(Gauge):
    """E ĝᵀH_Bĝ / E‖ĝ‖², with ĝ the gradient and H_B the Hessian of the same batch.

    With small batches the batch sharpness, not λ_max of the full loss, rises to 2/η and stays
    there: beyond it a step overshoots the loss of that batch. The full-batch sharpness stays below,
    and lower for smaller batches. The estimate is a ratio of means, not a mean of ratios.

    Costs about three plain steps: the gradient once more with its graph, and one product. On
    several processes each takes the product of its share of the batch with the gradient of the
    whole batch, and their mean is exact.

    Args:
        momentum: μ of training, for the edge: 2(1 + μ)/η with large batches. With small batches the
            edge is reported to be 2(1 − μ)/η; fewer studies have seen that.
        nesterov: True for Nesterov's momentum.

    Source: Andreyev & Beneventano (2024), Edge of Stochastic Stability: Revisiting the Edge of
    Stability for SGD.
    """

    momentum: float = 0.0
    nesterov: bool = False

    name: ClassVar[str] = "batch_sharpness"
    issue: ClassVar[Issue] = Issue.DRIFT
    unit: ClassVar[str] = "loss / parameter²"
    labels: ClassVar[Mapping[str, str]] = {
        "batch_sharpness": "batch sharpness, E ĝᵀH_Bĝ / E‖ĝ‖²",
        "edge": "edge of stability, median of the readings",
    }
    question: ClassVar[str] = "Is the learning rate too high?"
    sgd_only: ClassVar[str] = "edge of stability"
    from_run: ClassVar[tuple[str, ...]] = ("momentum", "nesterov")
    one_in: ClassVar[int] = 16
    copies: ClassVar[int] = 3
    processes: ClassVar[Literal["one", "many", "sharded"]] = "many"

    def __post_init__(self) -> None:
        MomentumRule(self.momentum, self.nesterov)

    @property
    def kind(self) -> MomentumRule:
        """The kind of SGD whose edge is used."""
        return MomentumRule(self.momentum, self.nesterov)

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """ĝᵀH_Bĝ and ‖ĝ‖², with the same random numbers (Dropout) in both, and the momentum if the
        step knows it.

        Raises:
            Unsupported: The step is not one of SGD.
        """
        for group in step.groups:
            if group.family != "sgd":
                raise Unsupported(
                    f"`optimizer` is now {group.optimizer}, whose edge of stability is not known: "
                    f"leave {self.name} out of `gauges`."
                )
        kinds = [MomentumRule(group.momentum, group.nesterov) for group in step.groups]
        # The group with the lowest edge is the first that overshoots.
        kind = min(kinds, key=lambda kind: kind.limit, default=None)
        gradient = step.graph_gradient
        along = step.product_of(gradient, step.graph.product(gradient))
        found = {"curvature": along, "norm_squared": step.product_of(gradient, gradient)}
        if kind is None:
            return found
        return {**found, "momentum": kind.momentum, "nesterov": float(kind.nesterov)}

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """Batch sharpness, its edge, and its share of the edge.

        At the newest reading the edge is that of η and μ now. Over a window the share has η and μ
        of every step.
        """
        curvature, norm_squared = series.moments["curvature"], series.moments["norm_squared"]
        settings: dict[str, Any] = {
            "level": level,
            "nonnegative": False,
            "prior": SHARPNESS_PRIOR,
            "fourth_powers": True,
        }
        # The kind of SGD at every reading: as it was measured, or else that of the gauge.
        kinds = [self.kind] * len(series)
        if "momentum" in series.moments:
            measured = zip(series.moments["momentum"], series.moments["nesterov"], strict=True)
            kinds = [MomentumRule(float(mu), bool(nesterov)) for mu, nesterov in measured]
        # The lowest rate of the last half of the readings, as a share of the highest of all.
        rates = series.learning_rate
        steadiness = float(rates[len(rates) // 2 :].min() / rates.max()) if rates.any() else 0.0
        shares = rates / np.array([kind.limit for kind in kinds])
        small = rates / np.array([kind.limit_of_small_batches for kind in kinds])
        sharpness = series.ratio(curvature, norm_squared, unit=self.unit, **settings)
        present = series.setting(shares)
        if series.newest and present > 0:
            # Under a schedule a fit of its own would contradict the two numbers beside it.
            ends = (sharpness.value, sharpness.low, sharpness.high)
            value, low, high = (present * end for end in ends)
            share = replace(sharpness, value=value, low=low, high=high, unit="", earlier=None)
        else:
            share = series.ratio(shares * curvature, norm_squared, **settings)
        return {
            "batch_sharpness": sharpness,
            "edge_share": share,
            "edge": Estimate.exact(_edge(present), unit=self.unit),
            "small_batch_edge": Estimate.exact(_edge(series.setting(small)), unit=self.unit),
            "momentum": Estimate.exact(series.setting(np.array([kind.momentum for kind in kinds]))),
            "steadiness": Estimate.exact(steadiness),
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """Compare batch sharpness with its edge: far below, below, at, beyond, or not known yet."""
        share = estimates["edge_share"]
        kind = MomentumRule(estimates["momentum"].value, self.nesterov)
        lowest = kind.limit_of_small_batches / kind.limit
        # A rate that falls to zero, or warms up, is far below its edge on purpose.
        steady = "steadiness" in estimates and estimates["steadiness"].value >= 0.8
        cure: tuple[str, ...] = ()
        # A quarter of the lowest edge: tuned rates of small networks were at 0.5 to 2 of it.
        # Training can stay anywhere between the lowest edge and the edge itself.
        if steady and share.high < lowest / 4:
            claim, state = "batch_sharpness_far_below_edge", State.LOOK
            cure = ("rate 2x", "rate 4x")
        elif share.high < BELOW * lowest:
            claim, state = "batch_sharpness_below_edge", State.OK
        elif share.low > BEYOND:
            claim, state, cure = "batch_sharpness_beyond_edge", State.ACT, (HALF_THE_RATE,)
        elif share.low >= BELOW * lowest and share.high <= BEYOND:
            claim, state = "batch_sharpness_at_edge", State.LOOK
        else:
            claim, state = "batch_sharpness_unclear", State.CANNOT_TELL
        facts = {
            "share": share.value,
            "share_is_known": share.tells,
            "needed": share.needed,
            "momentum": kind.momentum,
            "nesterov": kind.nesterov,
            "room": lowest / share.high if share.high > 0 else None,
        }
        doubts = [Doubt("batch_edge_of_quadratic")]
        if kind.momentum:
            doubts.insert(
                0, Doubt("lower_edge_of_momentum", {"edge": estimates["small_batch_edge"].value})
            )
        return Finding(
            self.name,
            self.issue,
            claim,
            state,
            {name: estimates[name] for name in ("batch_sharpness", "edge")},
            facts,
            cure,
            doubts=() if state is State.CANNOT_TELL else tuple(doubts),
        )


def _edge(share: float) -> float:
    """The edge from one over it, which is zero for η = 0."""
    return 1 / share if share > 0 else math.inf
