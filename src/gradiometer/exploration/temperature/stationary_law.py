"""The law the iterates of SGD settle into at a constant learning rate, on a quadratic, exactly.

SGD is a Markov chain: at a constant learning rate it forgets its start and keeps a spread (statements S6, S10 and S11
of the lecture). On a quadratic the spread is known without any limit of a small learning rate.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gradiometer.drift.stability import Momentum
from gradiometer.errors import BadArgument

Square = Float[np.ndarray, "params params"]
Pairs = Float[np.ndarray, "params params 2 2"]
Responses = Float[np.ndarray, "params batches 2"]


@dataclass(frozen=True)
class Rule:
    """How a step is made: at a constant learning rate, from batches of one size, as `torch.optim.SGD` makes it.

    Args:
        learning_rate: η, positive.
        batch_size: B.
        momentum: μ, in [0, 1): v ← μv + ĝ, Φ ← Φ − ηv.
        nesterov: Nesterov's momentum instead: Φ ← Φ − η(ĝ + μv).
    """

    learning_rate: float
    batch_size: int
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < np.inf:
            raise BadArgument(f"`learning_rate` must be positive and finite, got {self.learning_rate}.")
        if not self.batch_size >= 1:
            raise BadArgument(f"`batch_size` must be at least 1, got {self.batch_size}.")
        Momentum(self.momentum, self.nesterov)

    @property
    def heat(self) -> float:
        """η/(2B(1 − μ)): the temperature, in units of the loss, that a noise of tr Σ/d = 1 gives at a small η."""
        return self.learning_rate / (2 * self.batch_size * (1 - self.momentum))

    def limit(self, sharpness: float) -> float:
        """The learning rate at and beyond which the iterates diverge along the sharpest direction."""
        return Momentum(self.momentum, self.nesterov).limit / sharpness

    def transitions(self, curvatures: Float[np.ndarray, " params"]) -> Float[np.ndarray, "params 2 2"]:
        """Of every mode, (φ, v) ← transition (φ, v) + kick ζ, with φ the way from the minimum and ζ the noise of ĝ.

        Raises:
            BadArgument: A curvature is not positive, or η is at or beyond the limit.
        """
        if not (curvatures.min() > 0 and np.isfinite(curvatures).all()):
            raise BadArgument(
                f"`curvature` must be positive and finite, its least eigenvalue is {curvatures.min():.3g}."
            )
        limit = self.limit(float(curvatures.max()))
        if not self.learning_rate < limit:
            formula = "2(1 + momentum)/((1 + 2 momentum) sharpness)" if self.nesterov else "2(1 + momentum)/sharpness"
            raise BadArgument(
                f"`learning_rate` must lie between 0 and {formula} = {limit:.4g}, got {self.learning_rate}: "
                "there is no stationary law beyond."
            )
        eta, mu = self.learning_rate, self.momentum
        transitions = np.empty((len(curvatures), 2, 2))
        transitions[:, 0, 0] = 1 + self.kick[0] * curvatures
        transitions[:, 0, 1] = -eta * mu * (mu if self.nesterov else 1)
        transitions[:, 1, 0], transitions[:, 1, 1] = curvatures, mu
        return transitions

    @property
    def kick(self) -> Float[np.ndarray, " 2"]:
        """By how much the noise of ĝ moves the position and the velocity."""
        reach = self.learning_rate * (1 + self.momentum if self.nesterov else 1)
        return np.array([-reach, 1.0])


def mode_variance(curvature: float, noise: float, rule: Rule) -> float:
    """ηc(1 + μ)/(Bh(1 − μ)(2(1 + μ) − ηh)), the variance along one axis of H of curvature h and noise c.

    Without momentum ηc/(Bh(2 − ηh)), and with h = 1 the lecture's ησ²/(B(2 − η)). Of the heavy ball; Nesterov's is in
    `stationary_covariance`.

    Source: the 2 × 2 equation of `stationary_covariance` solved by hand; without momentum Mandt, Hoffman & Blei
        (2017), Stochastic Gradient Descent as Approximate Bayesian Inference, before their limit of small η.
    """
    if rule.nesterov:
        raise BadArgument("`rule` is Nesterov's, the closed form is the heavy ball's: ask `stationary_covariance`.")
    if not 0 <= noise < np.inf:
        raise BadArgument(f"`noise` must be at least 0 and finite, got {noise}.")
    rule.transitions(np.array([curvature]))
    eta, mu = rule.learning_rate, rule.momentum
    friction = curvature * (1 - mu) * (2 * (1 + mu) - eta * curvature)
    return eta * noise * (1 + mu) / (rule.batch_size * friction)


def stationary_covariance(curvature: ArrayLike, noise: ArrayLike, rule: Rule) -> Square:
    """S, the covariance of the iterates for batches of independent draws, fresh or with replacement.

    Without momentum it solves S = (I − ηH) S (I − ηH) + η² Σ/B; with it, the same equation for the pair of position
    and velocity. In the axes of H every pair of modes stands alone, so it is one 4 × 4 system a pair. For a batch
    drawn without replacement from N examples, anew at every step, put Σ · `without_replacement(B, N)` for Σ.

    Args:
        curvature: H, symmetric and positive definite, in loss / parameter².
        noise: Σ, the covariance of the gradient of one example, symmetric.
        rule: How a step is made.

    Source: McAllester (2020), TTIC 31230, SGD as a form of MCMC; Mandt, Hoffman & Blei (2017), section 3.
    """
    curvatures, axes, in_axes = _in_axes(curvature, noise)
    transitions, in_axes = rule.transitions(curvatures), in_axes / rule.batch_size
    modes = _settled(transitions, in_axes[:, :, None, None] * np.outer(rule.kick, rule.kick))[:, :, 0, 0]
    covariance: Square = axes @ modes @ axes.T
    return covariance


def reshuffled_covariance(
    curvature: ArrayLike, noise: ArrayLike, rule: Rule, examples: int, *, batches: int | None = None
) -> Square:
    """S where the training set is gone through in a new random order each epoch, as a `DataLoader(shuffle=True)` does.

    The noise of an epoch sums to zero, so what one batch does the others undo: directions too flat to forget within
    an epoch (ηh < B/N) are far colder than independent draws make them, at B = 1 and N = 200 by 1.01, 1.24 and 13.1
    at ηh = 0.5, 0.05 and 0.005. The deviations of the batch means have covariance −Σ/(N − 1) across batches and
    Σ(N/B − 1)/(N − 1) within one; a last batch that is smaller is counted as it is.

    Args:
        curvature, noise, rule: As in `stationary_covariance`; Σ with N in the denominator.
        examples: N.
        batches: How many batches into an epoch; None: the mean over all places in an epoch.

    Source: finite populations: Cochran (1977), Sampling Techniques, th. 2.2; the rest is the linear recursion.
    """
    sizes = _batches_of_an_epoch(examples, rule.batch_size)
    if batches is not None and not 0 <= batches <= len(sizes):
        raise BadArgument(f"`batches` must lie between 0 and the {len(sizes)} batches of an epoch, got {batches}.")
    curvatures, axes, in_axes = _in_axes(curvature, noise)
    transitions, in_axes = rule.transitions(curvatures), in_axes / (examples - 1)
    powers, responses = _through_an_epoch(transitions, rule.kick, len(sizes))

    def gathered(count: int) -> Pairs:
        """The covariance that the first batches of an epoch bring in."""
        felt = responses[:, len(sizes) - count :]
        apart = np.einsum("ika,jkb,k->ijab", felt, felt, examples / sizes[:count])
        together = felt.sum(axis=1)
        brought: Pairs = in_axes[:, :, None, None] * (apart - np.einsum("ia,jb->ijab", together, together))
        return brought

    start = _settled(powers[-1], gathered(len(sizes)))
    places = range(len(sizes)) if batches is None else [batches]
    modes = np.mean(
        [
            np.einsum("iab,jcd,ijbd->ijac", powers[k], powers[k], start)[:, :, 0, 0] + gathered(k)[:, :, 0, 0]
            for k in places
        ],
        axis=0,
    )
    covariance: Square = axes @ modes @ axes.T
    return covariance


def without_replacement(batch_size: int, examples: int) -> float:
    """(N − B)/(N − 1), by how much less a batch errs whose examples are all different, drawn anew at every step.

    Source: Cochran (1977), Sampling Techniques, th. 2.2.
    """
    if not examples >= 2:
        raise BadArgument(f"`examples` must be at least 2, got {examples}.")
    if not 1 <= batch_size <= examples:
        raise BadArgument(f"`batch_size` must lie between 1 and the {examples:,} examples, got {batch_size}.")
    return (examples - batch_size) / (examples - 1)


def excess_loss(curvature: Square, covariance: Square) -> float:
    """½ tr(HS), the mean loss above its floor."""
    return float(np.sum(curvature * covariance)) / 2


def configurational_temperature(curvature: Square, covariance: Square) -> float:
    """tr(HS)/d, which is T where the law is exp(−L/T): E⟨Φ − Φ*, g⟩ = dT (equipartition)."""
    return float(np.sum(curvature * covariance)) / len(curvature)


def small_rate_temperature(gradient_variance: float, parameters: int, rule: Rule) -> float:
    """T = η tr Σ/(2dB(1 − μ)), in units of the loss: the limit of small η, and exact in none.

    Source: the lecture, S11; Mandt, Hoffman & Blei (2017), eq. 11; momentum: their section 4.
    """
    if not gradient_variance >= 0:
        raise BadArgument(f"`gradient_variance` must be at least 0, got {gradient_variance}.")
    if not parameters >= 1:
        raise BadArgument(f"`parameters` must be at least 1, got {parameters}.")
    return rule.heat * gradient_variance / parameters


def _in_axes(curvature: ArrayLike, noise: ArrayLike) -> tuple[Float[np.ndarray, " params"], Square, Square]:
    """The eigenvalues and the axes of H, and Σ in these axes."""
    H, Sigma = np.asarray(curvature, dtype=np.float64), np.asarray(noise, dtype=np.float64)
    for name, matrix in (("curvature", H), ("noise", Sigma)):
        if matrix.shape != (len(np.atleast_1d(H)),) * 2:
            raise BadArgument(
                f"`{name}` is of shape {list(matrix.shape)}, two matrices [params, params] were expected."
            )
        if not (np.isfinite(matrix).all() and np.allclose(matrix, matrix.T)):
            raise BadArgument(f"`{name}` must be finite and symmetric.")
    curvatures, axes = np.linalg.eigh(H)
    return curvatures, axes, axes.T @ Sigma @ axes


def _settled(transitions: Float[np.ndarray, "params 2 2"], noise: Pairs) -> Pairs:
    """The X of every pair of modes with X = P_i X P_jᵀ + Q."""
    count = len(transitions)
    pairs = np.einsum("iab,jcd->ijacbd", transitions, transitions).reshape(count, count, 4, 4)
    solved: np.ndarray = np.linalg.solve(np.eye(4) - pairs, noise.reshape(count, count, 4, 1))
    return solved.reshape(count, count, 2, 2)


def _through_an_epoch(
    transitions: Float[np.ndarray, "params 2 2"], kick: Float[np.ndarray, " 2"], count: int
) -> tuple[list[Float[np.ndarray, "params 2 2"]], Responses]:
    """P⁰ … P^m of every mode, and P^(m−1−k) kick: what is left at the epoch's end of the noise of its k-th batch."""
    powers = [np.broadcast_to(np.eye(2), transitions.shape)]
    for _ in range(count):
        powers.append(transitions @ powers[-1])
    return powers, np.stack([power @ kick for power in powers[-2::-1]], axis=1)


def _batches_of_an_epoch(examples: int, batch_size: int) -> Float[np.ndarray, " batches"]:
    without_replacement(batch_size, examples)
    whole, left = divmod(examples, batch_size)
    return np.array([batch_size] * whole + [left] * bool(left), dtype=np.float64)
