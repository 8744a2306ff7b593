"""Where SGD turns unstable on a quadratic, and what a sharpness says about the learning rate."""

from dataclasses import dataclass

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding, Issue, State

BELOW, BEYOND = 0.8, 1.25
"""Shares of the edge between which training is said to be at it: sharpness keeps swinging about its edge."""

CAVEAT = (
    "The edge is that of a quadratic. A network's sharpness usually rises to it and stays there (Cohen et al. 2021), "
    "so being at it is no failure, and a sharpness at the start says little about the one to come."
)


@dataclass(frozen=True)
class Momentum:
    """The kind of SGD: plain, heavy-ball or Nesterov, as `torch.optim.SGD` makes the step.

    Args:
        momentum: μ, in [0, 1).
        nesterov: Nesterov's momentum instead of the heavy ball's.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise BadArgument(f"`momentum` must be at least 0 and below 1, got {self.momentum}.")

    @property
    def limit(self) -> float:
        """η λ at which full-batch steps along an eigenvector of curvature λ stop shrinking.

        2 for gradient descent, 2(1 + μ) for the heavy ball, 2(1 + μ)/(1 + 2μ) for Nesterov.

        Source: Cohen, Kaur, Li, Kolter & Talwalkar (2021), Gradient Descent on Neural Networks Typically Occurs at
        the Edge of Stability, app. B; Polyak (1964).
        """
        heavy_ball = 2 * (1 + self.momentum)
        return heavy_ball / (1 + 2 * self.momentum) if self.nesterov else heavy_ball

    @property
    def limit_of_small_batches(self) -> float:
        """η times the batch sharpness at which small batches are reported to settle: 2(1 − μ); 2 without momentum.

        Heavy-ball velocities average 1/(1 − μ) noisy gradients, so that the step is that much longer than ηĝ.
        """
        return 2 * (1 - self.momentum)

    @property
    def words(self) -> str:
        """The limit as it is written on paper."""
        if not self.momentum:
            return "2/η"
        return "2(1 + μ)/((1 + 2μ)η)" if self.nesterov else "2(1 + μ)/η"


PLAIN = Momentum()


def stability_limit(learning_rate: float, kind: Momentum = PLAIN, *, weight_decay: float = 0.0) -> float:
    """The largest curvature, in loss / parameter², at which full-batch steps do not grow. Weight decay adds to H."""
    if not learning_rate > 0:
        raise BadArgument(f"`learning_rate` must be positive, got {learning_rate}.")
    if not weight_decay >= 0:
        raise BadArgument(f"`weight_decay` must be at least 0, got {weight_decay}.")
    return kind.limit / learning_rate - weight_decay


def largest_stable_rate(sharpness: Estimate, kind: Momentum = PLAIN, *, weight_decay: float = 0.0) -> Estimate:
    """The learning rate above which full-batch steps grow, from λ_max with its bound; infinite where λ_max ≤ 0."""

    def rate(curvature: float) -> float:
        total = curvature + weight_decay
        return kind.limit / total if total > 0 else float("inf")

    return Estimate.bound(
        rate(sharpness.value),
        low=rate(sharpness.high),
        high=rate(sharpness.low),
        method=sharpness.method,
        samples=sharpness.samples,
    )


def edge_sentence(
    sharpness: Estimate, learning_rate: float, kind: Momentum = PLAIN, *, weight_decay: float = 0.0
) -> Finding:
    """λ_max, full batch, against the edge: what it says about this learning rate."""
    limit = stability_limit(learning_rate, kind, weight_decay=weight_decay)
    rate = largest_stable_rate(sharpness, kind, weight_decay=weight_decay)
    share = sharpness.value / limit if limit > 0 else float("inf")
    seen = (
        f"The sharpness λ_max = {sharpness} is {significant(share, 2)} of the edge "
        f"{kind.words} = {significant(limit)} at η = {significant(learning_rate)}."
    )
    if share < BELOW:
        state = State.OK
        means = f"Full-batch steps are stable on this quadratic up to η = {significant(rate.value)}."
        advice = ""
    elif share <= BEYOND:
        state = State.LOOK
        means = "Training is at the edge of stability: this learning rate, and not the loss, sets the sharpness."
        advice = "A smaller --lr goes on to a sharper region, a larger one to a flatter."
    else:
        state = State.ACT
        means = f"Full-batch steps grow along that direction: they are stable up to η = {significant(rate.value)}."
        advice = f"`--lr {rate.low:.2g}`, or a warm-up, if the loss jumps and does not come down again."
    return Finding("sharpness", Issue.DRIFT, state, seen, means, advice, CAVEAT, ("sharpness", "edge"))
