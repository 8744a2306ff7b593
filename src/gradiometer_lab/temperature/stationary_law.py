"""The exact stationary law of SGD on a quadratic, at a constant learning rate of any size, and the
exact mean time to cross a barrier.

SGD is a Markov chain: at a constant learning rate it forgets its start and keeps a spread (lecture,
S6, S10 and S11). The time to cross is exponential in barrier / temperature (Kramers).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gradiometer.arguments import check_number, check_whole
from gradiometer.drift.stability import MomentumRule
from gradiometer.errors import BadArgument

Square = Float[np.ndarray, "params params"]
Pairs = Float[np.ndarray, "params params 2 2"]
Responses = Float[np.ndarray, "params batches 2"]


@dataclass(frozen=True)
class SGDRule:
    """The update rule of `torch.optim.SGD`, at a constant learning rate and batch size.

    Args:
        learning_rate: η, positive.
        batch_size: B.
        momentum: μ, in [0, 1): v ← μv + ĝ, Φ ← Φ − ηv.
        nesterov: Nesterov's momentum instead: Φ ← Φ − η(ĝ + μv).

    Example:
        >>> from gradiometer_lab.temperature.stationary_law import SGDRule
        >>> SGDRule(learning_rate=0.1, batch_size=4, momentum=0.9).limit(sharpness=2.0)
        1.9
    """

    learning_rate: float
    batch_size: int
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, positive=True)
        check_whole("batch_size", self.batch_size, 1)
        MomentumRule(self.momentum, self.nesterov)

    @property
    def heat(self) -> float:
        """η/(2B(1 − μ)): the temperature, in units of the loss, for noise of tr Σ/d = 1 and small
        η."""
        return self.learning_rate / (2 * self.batch_size * (1 - self.momentum))

    def limit(self, sharpness: float) -> float:
        """The learning rate from which the iterates diverge along the sharpest direction."""
        return MomentumRule(self.momentum, self.nesterov).limit / sharpness

    def transitions(
        self, curvatures: Float[np.ndarray, " params"]
    ) -> Float[np.ndarray, "params 2 2"]:
        """P of every mode in (φ, v) ← P (φ, v) + kick ζ. φ is the distance from the minimum, ζ the
        noise of ĝ.

        Raises:
            BadArgument: A curvature is not positive, or η is at least `limit`.
        """
        if not (curvatures.min() > 0 and np.isfinite(curvatures).all()):
            raise BadArgument(
                "`curvature` must be positive and finite, its smallest eigenvalue is "
                f"{curvatures.min():.3g}."
            )
        limit = self.limit(float(curvatures.max()))
        if not self.learning_rate < limit:
            formula = (
                "2(1 + momentum)/((1 + 2 momentum) sharpness)"
                if self.nesterov
                else "2(1 + momentum)/sharpness"
            )
            raise BadArgument(
                f"`learning_rate` must lie between 0 and {formula} = {limit:.4g}, got "
                f"{self.learning_rate}: above it SGD has no stationary law."
            )
        return update_matrices(curvatures, self.learning_rate, self.momentum, self.nesterov)

    @property
    def kick(self) -> Float[np.ndarray, " 2"]:
        """How far noise of size 1 in ĝ moves the position and the velocity."""
        return update_kick(self.learning_rate, self.momentum, self.nesterov)


def update_matrices(
    curvatures: Float[np.ndarray, " params"], learning_rate: float, momentum: float, nesterov: bool
) -> Float[np.ndarray, "params 2 2"]:
    """P of every mode in (φ, v) ← P (φ, v) + kick ζ, at any learning rate, also one where the
    iterates diverge."""
    matrices = np.empty((len(curvatures), 2, 2))
    matrices[:, 0, 0] = 1 + update_kick(learning_rate, momentum, nesterov)[0] * curvatures
    matrices[:, 0, 1] = -learning_rate * momentum * (momentum if nesterov else 1)
    matrices[:, 1, 0], matrices[:, 1, 1] = curvatures, momentum
    return matrices


def update_kick(learning_rate: float, momentum: float, nesterov: bool) -> Float[np.ndarray, " 2"]:
    """How far noise of size 1 in ĝ moves the position and the velocity in one update."""
    return np.array([-learning_rate * (1 + momentum if nesterov else 1), 1.0])


def stationary_covariance(curvature: ArrayLike, noise: ArrayLike, rule: SGDRule) -> Square:
    """S, the stationary covariance of the iterates, for batches of independent draws (fresh or with
    replacement).

    Without momentum it solves S = (I − ηH) S (I − ηH) + η² Σ/B; with momentum, the same equation
    for position and velocity together. In the axes of H it separates into one 4 × 4 system per pair
    of modes. For batches of different examples, drawn from all N at every step, multiply Σ by
    `without_replacement(B, N)`.

    Args:
        curvature: H, symmetric and positive definite, in loss / parameter².
        noise: Σ, the covariance of the gradient of one example, symmetric.
        rule: The update rule.

    Example:
        >>> import numpy as np
        >>> from gradiometer_lab.temperature.stationary_law import SGDRule, stationary_covariance
        >>> curvature, noise = np.diag([1.0, 0.1]), np.eye(2)
        >>> covariance = stationary_covariance(curvature, noise, SGDRule(learning_rate=0.1, batch_size=4))
        >>> covariance.diagonal().round(4)
        array([0.0132, 0.1256])

    Source: McAllester (2020), TTIC 31230, SGD as a form of MCMC; Mandt, Hoffman & Blei (2017),
    section 3.
    """
    curvatures, axes, in_axes = _in_axes(curvature, noise)
    transitions, in_axes = rule.transitions(curvatures), in_axes / rule.batch_size
    modes = _stationary_solution(
        transitions, in_axes[:, :, None, None] * np.outer(rule.kick, rule.kick)
    )[:, :, 0, 0]
    return np.asarray(axes @ modes @ axes.T)


def reshuffled_covariance(
    curvature: ArrayLike,
    noise: ArrayLike,
    rule: SGDRule,
    examples: int,
    *,
    batches: int | None = None,
) -> Square:
    """S for epochs in random order, as with `DataLoader(shuffle=True)`.

    The noise of an epoch sums to zero, so each batch is undone by the others. Directions too flat
    to forget within an epoch (ηh < B/N) are far colder than with independent draws: at B = 1 and N
    = 200 by factors of 1.01, 1.24 and 13.1 at ηh = 0.5, 0.05 and 0.005. The deviations of the batch
    means have covariance −Σ/(N − 1) across batches and Σ(N/B − 1)/(N − 1) within one. A smaller
    last batch is taken into account.

    Args:
        curvature, noise, rule: As in `stationary_covariance`; Σ with N in the denominator.
        examples: N.
        batches: S after this number of batches of an epoch. None: the mean over all positions in an
            epoch.

    Example:
        >>> import numpy as np
        >>> from gradiometer_lab.temperature.stationary_law import SGDRule, reshuffled_covariance
        >>> curvature, noise = np.diag([1.0, 0.1]), np.eye(2)
        >>> reshuffled_covariance(curvature, noise, SGDRule(learning_rate=0.1, batch_size=4), 100).diagonal().round(4)
        array([0.0067, 0.01  ])

    Source: finite populations: Cochran (1977), Sampling Techniques, th. 2.2; the rest is the linear
    recursion.
    """
    whole, left = divmod(examples, rule.batch_size)
    sizes = np.array([rule.batch_size] * whole + [left] * bool(left), dtype=np.float64)
    curvatures, axes, in_axes = _in_axes(curvature, noise)
    transitions, in_axes = rule.transitions(curvatures), in_axes / (examples - 1)
    # P⁰ … P^m of every mode.
    powers = [np.broadcast_to(np.eye(2), transitions.shape)]
    for _ in sizes:
        powers.append(transitions @ powers[-1])
    # The effect at the end of an epoch of noise in its k-th batch.
    responses: Responses = np.stack([power @ rule.kick for power in powers[-2::-1]], axis=1)

    def contribution(count: int) -> Pairs:
        """The covariance added by the first `count` batches of an epoch."""
        felt = responses[:, len(sizes) - count :]
        apart = np.einsum("ika,jkb,k->ijab", felt, felt, examples / sizes[:count])
        # The deviations of an epoch sum to zero, so each batch is undone by the others.
        together = felt.sum(axis=1)
        return np.asarray(
            in_axes[:, :, None, None] * (apart - np.einsum("ia,jb->ijab", together, together))
        )

    start = _stationary_solution(powers[-1], contribution(len(sizes)))
    positions = range(len(sizes)) if batches is None else [batches]
    modes = [
        (np.einsum("iab,jcd,ijbd->ijac", powers[k], powers[k], start) + contribution(k))[:, :, 0, 0]
        for k in positions
    ]
    return np.asarray(axes @ np.mean(modes, axis=0) @ axes.T)


def without_replacement(batch_size: int, examples: int) -> float:
    """(N − B)/(N − 1), the factor by which different examples in a batch reduce the variance of its
    mean.

    Example:
        >>> from gradiometer_lab.temperature.stationary_law import without_replacement
        >>> round(without_replacement(batch_size=32, examples=100), 3)
        0.687

    Source: Cochran (1977), Sampling Techniques, th. 2.2.
    """
    return (examples - batch_size) / (examples - 1)


def configurational_temperature(curvature: Square, covariance: Square) -> float:
    """tr(HS)/d, which equals T if the law is exp(−L/T): E⟨Φ − Φ*, g⟩ = dT (equipartition)."""
    return float(np.sum(curvature * covariance)) / len(curvature)


def small_rate_temperature(gradient_variance: float, parameters: int, rule: SGDRule) -> float:
    """T = η tr Σ/(2dB(1 − μ)), in units of the loss: the limit of small η, exact for no η.

    Example:
        >>> from gradiometer_lab.temperature.stationary_law import SGDRule
        >>> from gradiometer_lab.temperature.stationary_law import small_rate_temperature
        >>> small_rate_temperature(gradient_variance=8.0, parameters=2, rule=SGDRule(learning_rate=0.1, batch_size=4))
        0.05

    Source: the lecture, S11; Mandt, Hoffman & Blei (2017), eq. 11; momentum: their section 4.
    """
    return rule.heat * gradient_variance / parameters


def _in_axes(
    curvature: ArrayLike, noise: ArrayLike
) -> tuple[Float[np.ndarray, " params"], Square, Square]:
    """The eigenvalues of H, its axes, and Σ in these axes."""
    H, Sigma = np.asarray(curvature, dtype=np.float64), np.asarray(noise, dtype=np.float64)
    square = [np.atleast_1d(H).shape[0]] * 2
    for name, matrix in (("curvature", H), ("noise", Sigma)):
        if list(matrix.shape) != square:
            raise BadArgument(f"`{name}` must be of shape {square}, got {list(matrix.shape)}.")
        if not (np.isfinite(matrix).all() and np.allclose(matrix, matrix.T)):
            raise BadArgument(f"`{name}` must be finite and symmetric.")
    curvatures, axes = np.linalg.eigh(H)
    return curvatures, axes, axes.T @ Sigma @ axes


def _stationary_solution(transitions: Float[np.ndarray, "params 2 2"], noise: Pairs) -> Pairs:
    """The solution X of X = P_i X P_jᵀ + Q for every pair of modes."""
    count = len(transitions)
    # In the axes of H modes meet in pairs: 4 × 4 systems instead of one of (2d)².
    pairs = np.einsum("iab,jcd->ijacbd", transitions, transitions).reshape(count, count, 4, 4)
    noise = noise.reshape(count, count, 4, 1)
    return np.linalg.solve(np.eye(4) - pairs, noise).reshape(count, count, 2, 2)


def passage_steps(
    gradient: Callable[[np.ndarray], np.ndarray],
    learning_rate: float,
    temperature: float,
    *,
    start: float,
    end: float,
    lowest: float,
) -> float:
    """The exact mean number of steps from `start` until Φ first reaches or passes `end`, at any
    learning rate.

    For Φ ← Φ − ηV′(Φ) + √(2ηT) N(0, 1): m(x) = 1 + ∫ p(x → y) m(y) dy over all y below the end,
    solved on Gauss–Legendre nodes dense enough to integrate the Gaussian of one step to rounding.

    Args:
        gradient: V′.
        learning_rate: η.
        temperature: T, positive. Gradient noise of variance σ²/B gives T = ησ²/(2B).
        start: The first position, between `lowest` and `end`.
        end: The position to reach.
        lowest: A position below which Φ practically never is.

    Example:
        >>> from gradiometer_lab.temperature.stationary_law import passage_steps
        >>> def bowl(position):
        ...     return position
        >>> steps = passage_steps(bowl, learning_rate=0.5, temperature=1.0, start=0.0, end=1.0, lowest=-8.0)
        >>> print(f"{steps:.2f}")
        7.52

    Source: the equation of a first passage of a Markov chain, Gardiner (2009), section 3.5; solved
    as Nyström (1930).
    """
    width = math.sqrt(2 * learning_rate * temperature)
    # Four nodes per standard deviation integrate a Gaussian to rounding.
    count = math.ceil(4 * (end - lowest) / width) + 20
    if not count <= 3000:
        raise BadArgument(
            f"`learning_rate` {learning_rate:g} at temperature {temperature:g} makes steps too "
            f"short for an exact solution ({count:,} nodes, at most 3,000): take a larger "
            "rate or a higher temperature."
        )
    nodes, weights = np.polynomial.legendre.leggauss(count)
    nodes, weights = lowest + (nodes + 1) / 2 * (end - lowest), weights * (end - lowest) / 2

    def chances_from(points: Float[np.ndarray, " starts"]) -> Float[np.ndarray, "starts nodes"]:
        away = (nodes - (points - learning_rate * gradient(points))[:, None]) / width
        return np.exp(-(away**2) / 2) / (width * math.sqrt(2 * math.pi)) * weights

    steps = np.linalg.solve(np.eye(count) - chances_from(nodes), np.ones(count))
    return 1 + float(chances_from(np.array([start]))[0] @ steps)
