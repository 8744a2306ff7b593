"""The edge of stability of SGD on a quadratic, and what a sharpness means for the learning rate."""

from dataclasses import dataclass

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding, Issue, State

BELOW, BEYOND = 0.8, 1.25
"""Training is at the edge between these shares of it: sharpness oscillates about the edge."""

MOVES = "A smaller learning rate lets training move to a sharper region, a larger one to a flatter region."

HALF_THE_RATE = "rate 0.5x"
"""The alternative that tries a smaller learning rate."""

CAVEAT = (
    "The edge is that of a quadratic. A network's sharpness usually rises to it and stays there (Cohen et al. 2021), "
    "so being at the edge is not a failure, and the sharpness at the start says little about the later one."
)


@dataclass(frozen=True)
class Momentum:
    """The kind of SGD: plain, heavy-ball or Nesterov, as in `torch.optim.SGD`.

    Args:
        momentum: μ, in [0, 1).
        nesterov: True for Nesterov's momentum.

    Example:
        >>> Momentum(0.9).limit, Momentum(0.9).formula
        (3.8, '2(1 + μ)/η')
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise BadArgument(f"`momentum` must be at least 0 and below 1, got {self.momentum}.")

    @property
    def limit(self) -> float:
        """η λ above which full-batch steps along an eigenvector of curvature λ grow.

        2 for gradient descent, 2(1 + μ) for the heavy ball, 2(1 + μ)/(1 + 2μ) for Nesterov.

        Source: Cohen, Kaur, Li, Kolter & Talwalkar (2021), Gradient Descent on Neural Networks Typically Occurs at
        the Edge of Stability, app. B; Polyak (1964).
        """
        heavy_ball = 2 * (1 + self.momentum)
        return heavy_ball / (1 + 2 * self.momentum) if self.nesterov else heavy_ball

    @property
    def limit_of_small_batches(self) -> float:
        """η times the batch sharpness at which small batches are reported to settle: 2(1 − μ); 2 without momentum.

        A heavy-ball velocity is a sum over about 1/(1 − μ) noisy gradients, so a step is that much longer than ηĝ.
        """
        return 2 * (1 - self.momentum)

    @property
    def formula(self) -> str:
        """The edge as a formula."""
        if not self.momentum:
            return "2/η"
        return "2(1 + μ)/((1 + 2μ)η)" if self.nesterov else "2(1 + μ)/η"


PLAIN = Momentum()


def stability_limit(learning_rate: float, kind: Momentum = PLAIN, *, weight_decay: float = 0.0) -> float:
    """The largest curvature, in loss / parameter², at which full-batch steps do not grow. Weight decay adds to H.

    Example:
        >>> stability_limit(0.1)  # 2/η
        20.0
    """
    if not learning_rate > 0:
        raise BadArgument(f"`learning_rate` must be positive, got {learning_rate}.")
    if not weight_decay >= 0:
        raise BadArgument(f"`weight_decay` must be at least 0, got {weight_decay}.")
    return kind.limit / learning_rate - weight_decay


def largest_stable_rate(sharpness: Estimate, kind: Momentum = PLAIN, *, weight_decay: float = 0.0) -> Estimate:
    """The learning rate above which full-batch steps grow, from λ_max and its bounds; infinite if λ_max ≤ 0.

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
    return Estimate.bound(rate(sharpness.value), low=low, high=high, method=sharpness.method, samples=sharpness.samples)


def edge_sentence(
    sharpness: Estimate, learning_rate: float, kind: Momentum = PLAIN, *, weight_decay: float = 0.0
) -> Finding:
    """Compare the full-batch sharpness λ_max with the edge of this learning rate: below, at, or beyond."""
    limit = stability_limit(learning_rate, kind, weight_decay=weight_decay)
    rate = largest_stable_rate(sharpness, kind, weight_decay=weight_decay)
    share = sharpness.value / limit if limit > 0 else float("inf")
    seen = (
        f"The sharpness λ_max = {sharpness} is {significant(share, 2)} of the edge "
        f"{kind.formula} = {significant(limit)} at η = {significant(learning_rate)}."
    )
    if share < BELOW:
        state = State.OK
        means = f"Full-batch steps are stable on this quadratic up to η = {significant(rate.value)}."
        advice = ""
    elif share <= BEYOND:
        state = State.LOOK
        means = "Training is at the edge of stability: the learning rate, not the loss, sets the sharpness."
        advice = MOVES
    else:
        state = State.ACT
        means = f"Full-batch steps grow along that direction: they are stable up to η = {significant(rate.value)}."
        advice = f"`--lr {rate.low:.2g}`, or a warm-up, if the loss jumps up and stays there."
    return Finding("sharpness", Issue.DRIFT, state, seen, means, advice, CAVEAT, ("sharpness", "edge"))
