"""Batch sharpness: the curvature of a batch along its own gradient, and the edge of stochastic
stability."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from gradiometer.drift.stability import BELOW, BEYOND, HALF_THE_RATE, MomentumRule
from gradiometer.errors import Unsupported
from gradiometer.measurement import Estimate, Estimates, Moments, Series
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.finding import Doubt, Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.uncertainty.now import SHARPNESS_PRIOR

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step
    from gradiometer.measurement.slopes import OwnCurvature


# Share of the edge of small batches below which the steps of a training stay whose rate is far
# too low. In 383 trainings at the best rates of a grid one reading of seven reached 0.17 and more
# under plain SGD (124), 0.24 under a momentum of 0.9 (128) and 0.30 under AdamW (131); at a 30th
# of them at most 0.08 under plain SGD, and less than an eighth in 174 of 192 under all three.
FAR_BELOW = 0.125

# Readings of the batch sharpness before anything is made of their largest one.
FEWEST_READINGS = 3


@dataclass(frozen=True)
class BatchSharpness(Gauge):
    """E ĝᵀH_Bĝ / E‖ĝ‖², with ĝ the gradient and H_B the Hessian of the same batch.

    With small batches the batch sharpness, not λ_max of the full loss, rises to 2/η and stays
    there: beyond it a step overshoots the loss of that batch. The full-batch sharpness stays below,
    and lower for smaller batches. The estimate is a ratio of means, not a mean of ratios.

    Costs about three plain steps: the gradient once more with its graph, and one product. Above
    half a million parameters it is a difference of two slopes, which holds one copy of the
    parameters (`gradient_curvature`). On several processes each takes the product of its share of
    the batch with the gradient of the whole batch, and their mean is exact.

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
    quantities: ClassVar[tuple[str, str]] = ("batch_sharpness", "edge")
    question: ClassVar[str] = "Is the learning rate too high?"
    sgd_only: ClassVar[str] = "edge of stability"
    from_run: ClassVar[tuple[str, ...]] = ("momentum", "nesterov")
    one_in: ClassVar[int] = 16
    copies: ClassVar[int] = 2
    processes: ClassVar[Literal["one", "many", "sharded"]] = "many"

    def __post_init__(self) -> None:
        MomentumRule(self.momentum, self.nesterov)

    @property
    def kind(self) -> MomentumRule:
        """The kind of SGD whose edge is used."""
        return MomentumRule(self.momentum, self.nesterov)

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments | None:
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
        from gradiometer.drift.gradient_curvature import gradient_curvature  # noqa: PLC0415 (loaded when a step is measured)

        return _moments_of(step, gradient_curvature(step))

    def kinds(self, series: Series) -> list[MomentumRule]:
        """The momentum at every reading: as it was measured, or else that of the gauge."""
        if "momentum" not in series.moments:
            return [self.kind] * len(series)
        averaged = series.moments.get("averaged", np.zeros(len(series)))
        measured = zip(
            series.moments["momentum"], series.moments["nesterov"], averaged, strict=True
        )
        return [
            MomentumRule(float(mu), bool(nesterov), averaged=bool(is_mean))
            for mu, nesterov, is_mean in measured
        ]

    def shares(self, series: Series) -> Float[np.ndarray, " readings"]:
        """η times the batch sharpness at every reading, as a share of the edge of small batches."""
        limits = np.array([kind.limit_of_small_batches for kind in self.kinds(series)])
        curvature, norm_squared = series.moments["curvature"], series.moments["norm_squared"]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(series.learning_rate * curvature / (norm_squared * limits))

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
        kinds = self.kinds(series)
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
        found = {
            self.quantities[0]: sharpness,
            "edge_share": share,
            self.quantities[1]: Estimate.exact(_edge(present), unit=self.unit),
            "small_batch_edge": Estimate.exact(_edge(series.setting(small)), unit=self.unit),
            "momentum": Estimate.exact(series.setting(np.array([kind.momentum for kind in kinds]))),
            "averaged": Estimate.exact(float(kinds[-1].averaged)),
            "steadiness": Estimate.exact(steadiness),
        }
        came_to = reached(self.shares(series)[series.steps > 0])
        return found | {"reached": Estimate.exact(came_to)} if math.isfinite(came_to) else found

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """Compare batch sharpness with its edge: far below, below, at, beyond, or not known yet."""
        share = estimates["edge_share"]
        is_mean = "averaged" in estimates and estimates["averaged"].value > 0
        kind = MomentumRule(estimates["momentum"].value, self.nesterov, averaged=is_mean)
        lowest = kind.limit_of_small_batches / kind.limit
        # A rate that falls to zero, or warms up, is far below its edge on purpose.
        steady = "steadiness" in estimates and estimates["steadiness"].value >= 0.8
        cure: tuple[str, ...] = ()
        # Training can stay anywhere between the lowest edge and the edge itself.
        is_far_below = "reached" not in estimates or estimates["reached"].value < FAR_BELOW
        if steady and is_far_below and share.high / lowest < FAR_BELOW:
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
            "averaged": kind.averaged,
            "room": lowest / share.high if share.high > 0 else None,
        }
        doubts = [Doubt("batch_edge_of_quadratic")]
        if kind.momentum:
            doubt = "lower_edge_of_a_mean" if is_mean else "lower_edge_of_momentum"
            doubts.insert(0, Doubt(doubt, {"edge": estimates["small_batch_edge"].value}))
        return Finding(
            self.name,
            self.issue,
            claim,
            state,
            {
                name: estimates[quantity]
                for name, quantity in zip(("batch_sharpness", "edge"), self.quantities, strict=True)
            },
            facts,
            cure,
            doubts=() if state is State.CANNOT_TELL else tuple(doubts),
        )


@dataclass(frozen=True)
class PreconditionedSharpness(BatchSharpness):
    """E ûᵀH_Bû / E ĝᵀû with û = P ĝ, the batch sharpness in the geometry of Adam's kind.

    A step of Adam is that of SGD in parameters that are divided by √P. There the edge of small
    batches is 2/η, as Adam's velocity is a mean of gradients, and that of large ones
    2(1 + β₁)/((1 − β₁)η): 38/η for β₁ = 0.9. P is that of `preconditioner_of`, from before the
    update; without a state, as before the first one, a step has no reading.

    Costs about three plain steps.

    Source: Cohen et al. (2022), Adaptive Gradient Methods at the Edge of Stability; the batch
    sharpness: Andreyev & Beneventano (2024).
    """

    name: ClassVar[str] = "preconditioned_sharpness"
    unit: ClassVar[str] = "1 / learning rate"
    labels: ClassVar[Mapping[str, str]] = {
        "preconditioned_sharpness": "preconditioned batch sharpness, E ûᵀH_Bû / E ĝᵀû",
        "preconditioned_edge": "its edge of stability, median of the readings",
    }
    quantities: ClassVar[tuple[str, str]] = ("preconditioned_sharpness", "preconditioned_edge")
    sgd_only: ClassVar[str] = ""
    needs_preconditioner: ClassVar[bool] = True
    from_run: ClassVar[tuple[str, ...]] = ()
    copies: ClassVar[int] = 2
    processes: ClassVar[Literal["one", "many", "sharded"]] = "one"

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments | None:
        """ûᵀH_Bû and ĝᵀû, and the momentum; None if P is not known yet."""
        from gradiometer.drift.gradient_curvature import gradient_curvature  # noqa: PLC0415 (loaded when a step is measured)

        return _moments_of(step, gradient_curvature(step, preconditioned=True))


def reached(shares: Float[np.ndarray, " readings"]) -> float:
    """The share of the edge that steps come to in their steepest time; NaN with few readings.

    It is the largest of at most seven, and of more the largest median of seven stretches: the
    largest of many readings is an outlier.
    """
    known = shares[np.isfinite(shares)]
    if len(known) < FEWEST_READINGS:
        return float("nan")
    return max(float(np.median(part)) for part in np.array_split(known, 7) if len(part))


def _moments_of(
    step: "gradiometer.measurement.step.TrainingStep", found: "OwnCurvature | None"
) -> Moments | None:
    """The moments of a step whose curvature along its gradient is known; None if it is not."""
    if found is None:
        return None
    return {"curvature": found.along, "norm_squared": found.product, **_settings_of(step)}


def _settings_of(step: "gradiometer.measurement.step.TrainingStep") -> dict[str, float]:
    """The momentum of the group with the lowest edge, the first that overshoots; empty if the step
    knows none."""
    kind = min(map(MomentumRule.of, step.groups), key=lambda kind: kind.limit, default=None)
    if kind is None:
        return {}
    return {
        "momentum": kind.momentum,
        "nesterov": float(kind.nesterov),
        "averaged": float(kind.averaged),
    }


def _edge(share: float) -> float:
    """The edge from one over it, which is zero for η = 0."""
    return 1 / share if share > 0 else math.inf
