"""The edge of stability of SGD on a quadratic, and a sharpness compared with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradiometer.errors import BadArgument
from gradiometer.measurement import Estimate, Finding, Issue, State
from gradiometer.measurement.optimizer.groups import Group

# Training is at the edge between these shares of it: sharpness oscillates about the edge.
BELOW, BEYOND = 0.8, 1 / 0.8

# The change that tries a smaller learning rate.
HALF_THE_RATE = "rate 0.5x"


@dataclass(frozen=True)
class MomentumRule:
    """What an optimizer makes of successive gradients: nothing, or a momentum.

    Args:
        momentum: μ, in [0, 1); β₁ of Adam and its kind.
        nesterov: True for Nesterov's momentum.
        averaged: True if the velocity is a mean of the gradients, as in Adam, and not a sum, as in
            `torch.optim.SGD`.

    Example:
        >>> MomentumRule(0.9).limit, MomentumRule(0.9).formula
        (3.8, '2(1 + μ)/η')
    """

    momentum: float = 0.0
    nesterov: bool = False
    averaged: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise BadArgument(f"`momentum` must be at least 0 and below 1, got {self.momentum}.")

    @classmethod
    def of(cls, group: Group) -> "MomentumRule":
        """The rule of a parameter group."""
        is_mean = group.family == "adaptive" and "rmsprop" not in group.optimizer.lower()
        return cls(group.momentum, group.nesterov, averaged=is_mean)

    @property
    def limit(self) -> float:
        """η λ above which full-batch steps along an eigenvector of curvature λ grow.

        2 for gradient descent, 2(1 + μ) for the heavy ball, 2(1 + μ)/(1 + 2μ) for Nesterov; of a
        mean of gradients 1/(1 − μ) times as much: 38 for Adam's usual β₁ = 0.9.

        Source: Cohen, Kaur, Li, Kolter & Talwalkar (2021), Gradient Descent on Neural Networks
        Typically Occurs at the Edge of Stability, app. B; Polyak (1964); Cohen et al. (2022),
        Adaptive Gradient Methods at the Edge of Stability.
        """
        limit = 2 * (1 + self.momentum)
        if self.nesterov:
            limit /= 1 + 2 * self.momentum
        return limit / (1 - self.momentum) if self.averaged else limit

    @property
    def limit_of_small_batches(self) -> float:
        """η times the batch sharpness at which small batches are reported to settle: 2(1 − μ); 2
        without momentum, and for a mean of gradients.

        A heavy-ball velocity is a sum over about 1/(1 − μ) noisy gradients, so a step is that much
        longer than ηĝ.
        """
        return 2.0 if self.averaged else 2 * (1 - self.momentum)

    @property
    def formula(self) -> str:
        """The edge as a formula."""
        if not self.momentum:
            return "2/η"
        if self.averaged:
            return "2(1 + β₁)/((1 − β₁)η)"
        return "2(1 + μ)/((1 + 2μ)η)" if self.nesterov else "2(1 + μ)/η"


PLAIN = MomentumRule()


def stability_limit(
    learning_rate: float, kind: MomentumRule = PLAIN, *, weight_decay: float = 0.0
) -> float:
    """The largest curvature, in loss / parameter², at which full-batch steps do not grow. Weight
    decay adds to H.

    Example:
        >>> stability_limit(0.1)  # 2/η
        20.0
    """
    if not learning_rate > 0:
        raise BadArgument(f"`learning_rate` must be positive, got {learning_rate}.")
    if not weight_decay >= 0:
        raise BadArgument(f"`weight_decay` must be at least 0, got {weight_decay}.")
    return kind.limit / learning_rate - weight_decay


def largest_stable_rate(
    sharpness: Estimate, kind: MomentumRule = PLAIN, *, weight_decay: float = 0.0
) -> Estimate:
    """The learning rate above which full-batch steps grow, from λ_max and its bounds; infinite if
    λ_max ≤ 0.

    Example:
        >>> from gradiometer import Estimate
        >>> sharpness = Estimate.bound(40.0, low=39.5, high=40.5, method="Lanczos, residual", samples=12)
        >>> print(largest_stable_rate(sharpness))
        0.0500 [0.0494, 0.0506]
    """

    def rate(curvature: float) -> float:
        total = curvature + weight_decay
        return kind.limit / total if total > 0 else float("inf")

    low, high = rate(sharpness.high), rate(sharpness.low)
    return Estimate.bound(
        rate(sharpness.value),
        low=low,
        high=high,
        method=sharpness.method,
        samples=sharpness.samples,
    )


def edge_finding(
    sharpness: Estimate,
    learning_rate: float,
    kind: MomentumRule = PLAIN,
    *,
    weight_decay: float = 0.0,
) -> Finding:
    """Compare the full-batch sharpness λ_max with the edge of this learning rate: below, at, or
    beyond."""
    limit = stability_limit(learning_rate, kind, weight_decay=weight_decay)
    largest = largest_stable_rate(sharpness, kind, weight_decay=weight_decay)
    # A weight decay above the limit leaves no curvature that would be stable.
    share = sharpness.value / limit if limit > 0 else float("inf")
    if share < BELOW:
        claim, state = "sharpness_below_edge", State.OK
    elif share <= BEYOND:
        claim, state = "sharpness_at_edge", State.LOOK
    else:
        claim, state = "sharpness_beyond_edge", State.ACT
    facts = {
        "share": share,
        "learning_rate": learning_rate,
        "momentum": kind.momentum,
        "nesterov": kind.nesterov,
        "largest_stable_rate": largest.value,
        "surely_stable_rate": largest.low,
    }
    return Finding(
        "sharpness",
        Issue.DRIFT,
        claim,
        state,
        {"sharpness": sharpness, "edge": Estimate.exact(limit, unit=sharpness.unit)},
        facts,
    )


def no_edge_finding(sharpness: Estimate, step: int, optimizers: Sequence[str]) -> Finding:
    """A sharpness under optimizers whose edge of stability is not known.

    Args:
        sharpness: λ_max.
        step: The step at which it was measured.
        optimizers: Names of the optimizers.
    """
    facts = {"step": step, "optimizers": tuple(optimizers)}
    return Finding(
        "sharpness",
        Issue.DRIFT,
        "sharpness_without_edge",
        State.CANNOT_TELL,
        {"sharpness": sharpness},
        facts,
    )
