"""‖g‖² and tr Σ from training's own gradients: products of successive ones, with the bias of the
drift taken out.

The product ⟨ĝ_{t−1}, ĝ_t⟩ of the gradients of two successive steps has no noise of its own in
expectation, since their examples are drawn independently. But the noise of ĝ_{t−1} has moved the
parameters at which ĝ_t is taken, so that its mean is ‖g‖² − b, with b = η(gᵀHg + tr(HΣ)/B) under
plain SGD: at a stationary state twice ‖g‖². There are two ways to take b out.

1. *Lags* (`by_lags`): with momentum the noise of a gradient moves the parameters little at first
   and by 1/(1 − μ) in the end. A product with the momentum buffer, which remembers earlier
   gradients, has seen more of it; a line through both gives the product at no displacement.
2. *Slope of the loss* (`by_loss`): the loss falls along the mean of the gradients before and after
   a step, which is a relation between its slope, the products, and ‖g‖². Exact on quadratics at any
   rate. For SGD: under Adam the loss also falls along what P is clipped for, and P contains the
   batch when the step is made.

In reshuffled epochs over N examples the noise of successive batches is correlated, by −tr Σ/(N − 1)
at fixed parameters, and the coming batch has not been trained on yet. Simulated at stationarity (N
= 200 and 1,400, one dimension, ηh from 0.01 to 0.3), the second way less tr Σ/N is 0.99 to 1.36 of
‖g‖² wherever tr Σ/N is below ‖g‖²/3, with momentum and without, and the first way as it is 0.83 to
1.18. Beyond, where the noise scale is near N, the second way with momentum is up to 4.9 of ‖g‖² and
the first one 1.34: there the first stands alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.ndimage import uniform_filter1d

from gradiometer.errors import BadArgument
from gradiometer.measurement.reading import Draw, Series
from gradiometer.measurement.uncertainty.means import batch_length, batch_means
from gradiometer.measurement.uncertainty.now import NOISE_PRIOR
from gradiometer.measurement.uncertainty.power_law import LAW, Drift

# The drift of 1/B read from products.
PRODUCT_PRIOR = Drift.of("products")

# Standard deviation of the bias of the steadier way, as a share of ‖g‖², where the first
# displacement is 1. It grows with the third power of that, since the line bends: on quadratics with
# ηh of 0.1 and 0.3 the lags lose 0.04 and 0.13 of ‖g‖² with the heavy ball, and 0.32 and 0.81 with
# Nesterov, whose first displacement is 1.9. On ten trainings the interval score was 1.52 with 0.1,
# 1.49 with 0.2 and 1.58 with 0.3.
BIAS = 0.2

# Readings to either side behind the slope of the loss, as a share of all. A 24th and a 6th scored
# 1.51 and 1.53.
SLOPE_REACH = 1 / 12

Steps = Float[np.ndarray, " steps"]


@dataclass(frozen=True)
class GradientMemory:
    """How an optimizer remembers gradients: Φ ← Φ − η v with v ← μ v + ĝ, or with Nesterov's Φ ← Φ
    − η (ĝ + μ v).

    Adam and its kind are the same with P, and β₁ for μ.

    Args:
        decay: μ or β₁, from 0 to below 1; one number, or one for every reading if it changed, shape
            [steps].
        nesterov: True for Nesterov's step.

    >>> from gradiometer.estimation.products import GradientMemory
    >>> GradientMemory(0.9).first, round(GradientMemory(0.9).mean, 3)
    (1.0, 5.263)
    """

    decay: float | Steps = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        decays = np.asarray(self.decay, dtype=np.float64)
        if not ((decays >= 0) & (decays < 1)).all():
            raise BadArgument(f"`decay` must be at least 0 and below 1, got {self.decay}.")

    @property
    def remembers(self) -> bool:
        """True with momentum at every reading."""
        return bool(np.all(np.asarray(self.decay) > 0))

    @property
    def first(self) -> float | Steps:
        """By how much η times a gradient has moved the parameters one step later."""
        return 1 + self.decay if self.nesterov else 1.0

    @property
    def mean(self) -> float | Steps:
        """The same for the gradients that the buffer remembers, with their weights (1 − μ) μ^(lag −
        1)."""
        if self.nesterov:
            return 1 + self.decay / (1 - self.decay**2)
        return 1 / (1 - self.decay**2)


def by_lags(product: Steps, memory: Steps, momentum: GradientMemory) -> Steps:
    """‖g‖² from products with the gradient before and with the mean of earlier ones, which the
    buffer remembers.

    The line through both, as a function of the displacement, at no displacement. On one-dimensional
    quadratics at stationarity with μ = 0.9 it is 1.00 of ‖g‖² where ηh is small.

    Args:
        product: ⟨ĝ_{t−1}, ĝ_t⟩, shape [steps].
        memory: ⟨(1 − μ) v_{t−1}, ĝ_t⟩ with the buffer v before the update, or ⟨m_{t−1}, ĝ_t⟩ under
            Adam, shape [steps].
        momentum: The momentum, above 0.

    Returns:
        A reading for every step, shape [steps].

    >>> import numpy as np
    >>> from gradiometer.estimation.products import GradientMemory, by_lags
    >>> by_lags(np.array([0.8]), np.array([-0.05]), GradientMemory(0.9)).round(2)
    array([1.])
    """
    share = momentum.first / (momentum.mean - momentum.first)
    readings: Steps = product + share * (product - memory)
    return readings


def by_loss(product: Steps, memory: Steps | None, slope: Steps, momentum: GradientMemory) -> Steps:
    """‖g‖² from the slope of the loss and the products: 2s − p under plain SGD, 2s − (1 + μ)⟨v, ĝ⟩
    with the heavy ball.

    The loss changes by half the step times the sum of the gradients at both of its ends (to second
    order). Weight decay moves the parameters too, which is not taken into account: it is small
    beside the step.

    Args:
        product: ⟨ĝ_{t−1}, ĝ_t⟩, shape [steps].
        memory: See `by_lags`; None without momentum.
        slope: s, by how much the loss falls per unit of η, shape [steps].
        momentum: The momentum.

    Returns:
        A reading for every step, shape [steps].

    >>> import numpy as np
    >>> from gradiometer.estimation.products import GradientMemory, by_loss
    >>> by_loss(np.array([-1.0]), None, np.array([0.0]), GradientMemory())
    array([1.])
    """
    decay = momentum.decay
    if memory is None:
        plain: Steps = 2 * slope - product
        return plain
    buffer = memory / (1 - decay)
    readings: Steps = 2 * slope - (1 + decay) * buffer
    if momentum.nesterov:
        readings = (2 * slope - product - decay * (1 + decay) * buffer) / (1 + decay)
    return readings


def slope_of_loss(loss: Steps, travelled: Steps, reach: int) -> Steps:
    """By how much the loss falls per unit of η, around every reading: the slope of a line through
    its neighbours.

    Args:
        loss: Mean losses, shape [steps].
        travelled: Sum of η so far at each of them, not decreasing, shape [steps].
        reach: Readings to either side, at least 1. At the ends the line has as many readings as
            elsewhere.

    >>> import numpy as np
    >>> from gradiometer.estimation.products import slope_of_loss
    >>> slope_of_loss(np.array([3.0, 2.5, 2.0, 1.5]), np.array([0.0, 1.0, 2.0, 3.0]), 1)
    array([0.5, 0.5, 0.5, 0.5])
    """
    count = len(loss)
    width = min(2 * reach + 1, count)
    slopes = np.zeros(count)
    for place in range(count):
        first = min(max(place - reach, 0), count - width)
        near = slice(first, first + width)
        distance = travelled[near] - travelled[near].mean()
        squares = float(distance @ distance)
        if squares > 0:
            slopes[place] = -float(distance @ loss[near]) / squares
    return slopes


@dataclass(frozen=True)
class Signal:
    """Readings of ‖g‖² from products.

    Attributes:
        norm_squared: The combination of all ways, shape [steps].
        ways: The readings of each way alone, by its name: "lags", "loss"; and "floor",
            what ‖g‖² is at least, which no combination holds.
    """

    norm_squared: Steps
    ways: Mapping[str, Steps]

    @property
    def doubted(self) -> tuple[str, ...]:
        """Names of the ways that contradict the combination over the newest half of the readings.

        A way does if its mean differs by more than chance and by more than the bias that is
        expected of it; the floor only if it is above.
        """
        together = _newest_half(self.norm_squared)
        least = BIAS * abs(float(together.mean()))
        # 2.6: standard errors beyond which two ways contradict each other: one comparison in a
        # hundred by chance.
        doubted = []
        for name, way in self.ways.items():
            difference = _newest_half(way) - together
            above = float(difference.mean())
            distance = above if name == "floor" else abs(above)
            if distance > max(least, 2.6 * _error(difference)):
                doubted.append(name)
        return tuple(doubted)

    @property
    def contradictions(self) -> tuple[Steps, ...]:
        """The readings of the doubted ways that are clearly above zero over their newest half.

        A way that gives zero or less contradicts itself: ‖g‖² is positive. So do the lags at a high
        rate, where the line through them bends (Nesterov). If such readings counted, an interval
        that contains them would always be open.
        """
        kept = []
        for name in self.doubted:
            newest = _newest_half(self.ways[name])
            if newest.mean() > 2.6 * _error(newest):
                kept.append(self.ways[name])
        return tuple(kept)


def signal(
    product: Steps,
    norm_squared: Steps,
    *,
    momentum: GradientMemory,
    memory: Steps | None = None,
    loss: Steps | None = None,
    travelled: Steps | None = None,
    share_of_examples: float = 0.0,
) -> Signal:
    """Readings of ‖g‖² by all ways that these numbers allow, and their combination.

    Args:
        product: ⟨ĝ_{t−1}, ĝ_t⟩, each a mean over some successive steps, oldest first, shape
            [steps].
        norm_squared: ‖ĝ_t‖² at the same steps, shape [steps].
        momentum: How the optimizer remembers gradients.
        memory: See `by_lags`.
        loss: Mean losses at the same steps; None under another optimizer than SGD with one learning
            rate.
        travelled: Sum of η so far at each of them; needed with `loss`.
        share_of_examples: B/N if batches are drawn in reshuffled epochs over N examples, 0 for
            independent draws.

    Raises:
        BadArgument: There is no way.

    >>> import numpy as np
    >>> from gradiometer.estimation.products import GradientMemory, signal
    >>> rng, steps = np.random.default_rng(0), np.arange(64)
    >>> products, loss = -1 + rng.normal(size=64), np.ones(64)
    >>> memory = GradientMemory()
    >>> found = signal(products, np.full(64, 9.0), momentum=memory, loss=loss, travelled=0.1 * steps)
    >>> bool(abs(found.norm_squared.mean() - 1) < 0.4), list(found.ways)
    (True, ['loss'])
    """
    ways: dict[str, Steps] = {}
    if memory is not None and momentum.remembers:
        ways["lags"] = by_lags(product, memory, momentum)
    if (
        loss is not None
        and travelled is not None
        and (memory is not None or not momentum.remembers)
    ):
        reach = max(round(SLOPE_REACH * len(loss)), 2)
        falling = by_loss(product, memory, slope_of_loss(loss, travelled, reach), momentum)
        ways["loss"] = _without_epochs(falling, norm_squared, share_of_examples)
        if "lags" in ways and _is_near_the_set(ways["lags"], norm_squared, share_of_examples):
            del ways["loss"]
    # Under Adam at a high rate directions flip their sign within the memory, so that no line goes
    # through the lags: ‖g‖² was 2.6 times too small in an autoencoder. The loss of a training does
    # not rise in the mean, and that bounds ‖g‖² at any rate. In nine recorded trainings with AdamW
    # the bound contradicted the lags at none of 144 places.
    floor = None
    if "lags" in ways and loss is None:
        standing = by_loss(product, memory, np.zeros(len(product)), momentum)
        floor = _without_epochs(standing, norm_squared, share_of_examples)
    if not ways:
        raise BadArgument(
            "`product` alone is not enough: give `loss` and `travelled`, or `memory`."
        )
    first, *others = ways.values()
    bias = BIAS * float(np.mean(momentum.first)) ** 3
    together = combination(first, others[0], bias=bias) if others else first
    return Signal(together, ways if floor is None else ways | {"floor": floor})


def _is_near_the_set(lags: Steps, norm_squared: Steps, share_of_examples: float) -> bool:
    """True if tr Σ/N is above ‖g‖²/3 over the newest half of the readings, by the lags."""
    noise = float(_newest_half(norm_squared - lags).mean())
    of_the_set = share_of_examples / (1 - share_of_examples) * noise
    return of_the_set > max(float(_newest_half(lags).mean()), 0.0) / 3


def _without_epochs(readings: Steps, norm_squared: Steps, share_of_examples: float) -> Steps:
    """The readings less tr Σ/N, with tr Σ (1/B − 1/N) = ‖ĝ‖² less the corrected reading."""
    part = share_of_examples / (1 - share_of_examples)
    return (readings - part * norm_squared) / (1 - part)


def combination(steady: Steps, unbiased: Steps, bias: float = BIAS) -> Steps:
    """A weighted mean of two ways: one with little noise and some bias, one with more noise and
    less bias.

    The bias of the steady way has a prior, and is larger if both differ by more than their noise
    over the newest half of the readings. The other way has the weight that this bias deserves
    beside the noise of the difference. So it counts where it is sharp, and does no harm where it is
    not.

    Args:
        steady, unbiased: Readings of both ways, shape [steps].
        bias: Standard deviation of the bias of the steady way, as a share of its mean.

    >>> import numpy as np
    >>> from gradiometer.estimation.products import combination
    >>> rng = np.random.default_rng(0)
    >>> steady, unbiased = 1 + 0.1 * rng.normal(size=64), 1.5 + 30 * rng.normal(size=64)
    >>> bool(combination(steady, unbiased).mean() < 1.1)  # the second is too noisy to correct the first
    True
    """
    difference = _newest_half(unbiased - steady)
    error = _error(difference)
    if not error > 0:
        return unbiased
    # 2.0: standard errors by which two ways have to differ before the bias is taken to be larger
    # than its prior.
    seen = float(difference.mean()) ** 2 - (2.0 * error) ** 2
    squared_bias = max((bias * float(_newest_half(steady).mean())) ** 2, seen)
    weight = squared_bias / (squared_bias + error**2)
    return (1 - weight) * steady + weight * unbiased


def _newest_half(readings: Steps) -> Float[np.ndarray, " newest"]:
    """The newest half of the readings: at least 16, since fewer do not show the error of a mean."""
    return readings[-max(len(readings) // 2, 16) :]


def _error(samples: Steps) -> float:
    """The standard error of the mean, from batch means."""
    means = batch_means(samples, batch_length(samples))
    return float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.inf


def left_by_scaler(left: Float[np.ndarray, " looks"]) -> Float[np.ndarray, " looks"]:
    """The part of what is left of a gradient at the update that is one over the factor of a scaler
    that was not given: all of it if it is a power of two, 1 otherwise.

    >>> left_by_scaler(np.array([2.0**-16, 0.3, 1.0]))
    array([1.52587891e-05, 1.00000000e+00, 1.00000000e+00])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = np.log2(left)
        is_exact = (np.abs(powers - powers.round()) < 1e-3) & (powers.round() < 0)
    found: np.ndarray = np.where(is_exact, left, 1.0)
    return found


# The moment that readings from products have, and others have not.
PRODUCT = "product"

Moments = Float[np.ndarray, "steps layers"]


def is_of_products(series: Series | None) -> bool:
    """True for readings that are products of training's own gradients, for which no loss was
    run."""
    return series is not None and PRODUCT in series.moments


@dataclass(frozen=True)
class ReadingSource:
    """tr Σ and ‖g‖² at every reading, both as for independent examples.

    Attributes:
        variance: tr Σ, shape [steps, layers].
        norm_squared: ‖g‖², shape [steps, layers].
        prior: The drift that is expected of ‖g‖²/tr Σ.
        pairs: Largest standard deviation that the noise can give one reading of ‖g‖², in units of
            tr Σ/B.
        doubts: The readings of every way that contradicts the others.
    """

    variance: Moments
    norm_squared: Moments
    prior: Drift = NOISE_PRIOR
    # If all noise points one way, ⟨ĝ_1, ĝ_2⟩ of two halves has the standard deviation 2 tr Σ/B;
    # it is less with more.
    pairs: float = 2.0
    doubts: tuple["ReadingSource", ...] = ()


def means_of_neighbours(series: Series) -> Series:
    """The same with at most 96 readings if they are from products: each the mean of some
    neighbours.

    Single products are mostly noise, and readings are weighed by the size of their neighbours.
    """
    length = math.ceil(len(series) / LAW["most_readings"])
    if PRODUCT not in series.moments or length < 2:
        return series
    first = len(series) % length

    def means(values: np.ndarray) -> np.ndarray:
        kept = values[first:].reshape(-1, length, *values.shape[1:])
        mean: np.ndarray = kept.mean(axis=1)
        return mean

    return replace(
        series,
        steps=series.steps[first + length - 1 :: length],
        batch_size=means(series.batch_size).round().astype(np.int64),
        learning_rate=means(series.learning_rate),
        moments={name: means(values) for name, values in series.moments.items()},
    )


def source_of(
    series: Series, variance: str = "gradient_variance", norm_squared: str = "gradient_norm_squared"
) -> ReadingSource:
    """The readings of a series.

    Args:
        series: The readings of `GradientNoise`, or of `PreconditionedNoise`.
        variance, norm_squared: Names of the moments, if the readings are not from products.
    """
    if PRODUCT not in series.moments:
        return ReadingSource(series.moments[variance], series.moments[norm_squared])
    moments = {name: values.reshape(len(series)) for name, values in series.moments.items()}
    memory, travelled = moments.get("memory"), moments.get("travelled")
    # Gradients are read before they are clipped, and the optimizer has seen what that left. How much
    # is recorded only with the memory of the optimizer or the slope of the loss. A look shows it for
    # one update only, so neighbours are averaged: under plain momentum of 0.5 the intervals were a
    # third wider without that.
    applied = moments.get("applied", np.ones(len(series)))
    near = 2 * max(round(SLOPE_REACH * len(series)), 2) + 1
    applied = uniform_filter1d(applied, near, mode="nearest")
    applied = np.where(applied > 0, applied, 1.0)
    if memory is not None:
        memory = memory / applied
    if travelled is not None:
        travelled = np.cumsum(np.diff(travelled, prepend=0.0) * applied)
    in_epochs = series.sampling.draw is Draw.RESHUFFLED
    finite = 1 / series.sampling.examples if in_epochs and series.sampling.examples else 0.0
    found = signal(
        moments[PRODUCT],
        moments["squared"],
        momentum=GradientMemory(moments["momentum"], nesterov=bool(moments["nesterov"].all())),
        memory=memory,
        loss=moments.get("loss"),
        travelled=travelled,
        # 0.49: largest share of the examples in one batch for which the correction for reshuffled
        # epochs is made.
        share_of_examples=min(float(series.usual_batch_size) * finite, 0.49),
    )

    # without it, all batches have one size
    inverse_size = moments.get("inverse_size", 1 / series.batch_size)

    def source(readings: Steps, doubts: tuple[ReadingSource, ...] = ()) -> ReadingSource:
        per_batch = inverse_size - finite
        noise = np.where(
            per_batch > 0,
            (moments["squared"] - readings) / np.where(per_batch > 0, per_batch, 1.0),
            0.0,
        )
        independent = readings - noise * finite
        # 1.0: standard deviation of ⟨ĝ_1, ĝ_2⟩ of two whole batches if all noise points one way, in
        # units of tr Σ/B.
        return ReadingSource(noise[:, None], independent[:, None], PRODUCT_PRIOR, 1.0, doubts)

    return source(found.norm_squared, tuple(map(source, found.contradictions)))
