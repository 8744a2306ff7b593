"""The gradient noise: how accurate ĝ is as an estimate of g (statement S2 of the lecture)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.estimation.batch_advice import full_batch, judge_batch_size
from gradiometer.estimation.products import ReadingSource, means_of_neighbours, source_of
from gradiometer.measurement.estimate import LEVEL, Estimate, Estimates
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.reading import GradientOf, Moments, Series, Spread, check_gradient_of
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.measurement.uncertainty.now import SIGNAL_PRIOR
from gradiometer.measurement.uncertainty.skewed import Tails

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class GradientNoise(Gauge):
    """The noise of the batch gradient: tr Σ, ‖g‖², and their ratio, the gradient noise scale, in
    total and by layer.

    E‖ĝ − g‖² = tr Σ / B, with Σ the covariance of per-example gradients. Both moments are unbiased
    at every step; ‖g‖² can be negative at a single step and keeps its sign. The noise scale tr Σ /
    ‖g‖² is a ratio of means, never a mean of ratios. Along training it is estimated at the newest
    reading.

    In a watched loop with one backward per update it is read from training's own gradients:
    products of successive ones with the bias of the drift taken out (see
    `gradiometer.estimation.products`), in total and not by layer. Nothing is run again. Otherwise
    the gradients of the parts of a batch are compared.

    With two micro-batches it costs half a step if the loss is a fixed function of the batch, and
    one step if it is not (Dropout, batch statistics). If training accumulates micro-batches anyway,
    it costs only their norms. Dropout and augmentation are noise of ĝ and are counted in tr Σ.

    Args:
        parts: k, disjoint parts of the batch whose gradients are compared, at least 2. None makes
            every example a part, which is the most precise and the most expensive.
        gradient_of: The g that is meant. "train": the gradient of the training set, so that the
            error of a batch drawn without replacement is tr Σ/B · (N − B)/(N − 1). "population":
            the gradient of the distribution from which the training set was drawn. Neither holds
            for the coming batch of a shuffled epoch over few examples, which has not been trained
            on yet: there measure a `probe` (see `watch`).

    Source: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, app. A; finite
    populations: Cochran (1977), Sampling Techniques, th. 2.2; the cosine: ⟨ĝ, g⟩/(‖ĝ‖‖g‖) with E⟨ĝ,
    g⟩ = ‖g‖² and E‖ĝ‖² = ‖g‖² + E‖ĝ − g‖², whose square root is close to E‖ĝ‖ if the noise has many
    directions.

    Example:
        >>> from gradiometer import Draw, GradientNoise, Sampling, Series
        >>> from gradiometer.measurement.reading import Reading
        >>> moments = [{"gradient_variance": [8.0 + i % 3], "gradient_norm_squared": [0.1]} for i in range(60)]
        >>> readings = [Reading("noise", i, batch_size=32, learning_rate=0.1, moments=m) for i, m in enumerate(moments)]
        >>> estimates = GradientNoise().estimate(Series.of(readings, Sampling(Draw.FRESH)))
        >>> print(estimates["noise_scale"])
        90.0 [88.7, 91.3] examples
        >>> print(estimates["signal_to_noise"])
        0.356 [0.351, 0.361]
    """

    parts: int | None = 2
    gradient_of: GradientOf = "train"

    name: ClassVar[str] = "noise"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "(loss / parameter)²"
    labels: ClassVar[Mapping[str, str]] = {
        "noise_scale": "gradient noise scale, tr Σ / ‖g‖²",
        "gradient_variance": "noise, tr Σ",
        "gradient_norm_squared": "squared gradient norm, ‖g‖²",
        "signal_to_noise": "signal to noise, ‖g‖² / E‖ĝ − g‖²",
        "cosine": "cosine of ĝ with g",
        "noise_variation": "variation of the readings of tr Σ, Var/E²",
        "batch_size": "batch size, B",
    }
    symbols: ClassVar[Mapping[str, str]] = {"batch_size": "B"}
    question: ClassVar[str] = "Is the batch too small, or too large?"
    needs_loss: ClassVar[bool] = False
    processes: ClassVar[Literal["one", "many", "sharded"]] = "sharded"
    from_run: ClassVar[tuple[str, ...]] = ("parts",)

    def __post_init__(self) -> None:
        if not (self.parts is None or self.parts >= 2):
            raise BadArgument(
                f"`parts` must be at least 2, got {self.parts}: one gradient per step shows no "
                "spread."
            )
        check_gradient_of(self.gradient_of)

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """tr Σ and ‖g‖² by layer for independent examples; `estimate` corrects for how they were
        drawn."""
        count = self.parts if self.parts is None else min(self.parts, step.batch_size)
        variance, norm_squared = noise_moments(step.spread(count))
        return {
            "gradient_variance": variance.tolist(),
            "gradient_norm_squared": norm_squared.tolist(),
        }

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """Noise scale, tr Σ and its variation, ‖g‖², signal-to-noise ratio ‖g‖²/E‖ĝ − g‖², cosine
        of ĝ with g, and B.

        For each layer: its noise scale and its share of tr Σ.
        """
        series = means_of_neighbours(series)
        source = source_of(series)
        variance, norm_squared, error = of_the_gradient_meant(
            source.variance, source.norm_squared, series, self.gradient_of
        )
        whole = variance.sum(axis=1), norm_squared.sum(axis=1)
        per_example = whole[0].sum() / error.sum() if error.sum() > 0 else 0.0
        noise_to_signal = series.ratio(
            error.sum(axis=1),
            whole[1],
            level=level,
            prior=source.prior,
            rare_noise=source.pairs / series.usual_batch_size * per_example,
        )
        signal_to_noise = transform(
            noise_to_signal, lambda ratio: 1 / ratio if ratio > 0 else math.inf
        )
        shares = {
            f"noise_share/{layer}": series.ratio(variance[:, place], whole[0], level=level)
            for place, layer in enumerate(_layers(series, variance))
        }
        return {
            **noise_scales("noise_scale", source, series, self.gradient_of, level),
            "gradient_variance": series.mean(whole[0], level=level, unit=self.unit),
            "gradient_norm_squared": series.mean(
                whole[1], level=level, unit=self.unit, prior=SIGNAL_PRIOR
            ),
            "signal_to_noise": signal_to_noise,
            "noise_variation": variation_of(whole[0]),
            "cosine": transform(signal_to_noise, cosine),
            "batch_size": Estimate.exact(series.usual_batch_size, unit="examples"),
            **shares,
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """Compare the batch size with the noise scale: below, near, above, or not known yet."""
        scale, variation = estimates["noise_scale"], estimates.get("noise_variation")
        found = judge_batch_size(
            self.name, estimates["batch_size"], scale, variation=variation, run=run
        )
        return full_batch(found) if run.is_full_batch else found


def of_the_gradient_meant(
    variance: Float[np.ndarray, "steps layers"],
    norm_squared: Float[np.ndarray, "steps layers"],
    series: Series,
    gradient_of: GradientOf,
) -> tuple[
    Float[np.ndarray, "steps layers"],
    Float[np.ndarray, "steps layers"],
    Float[np.ndarray, "steps layers"],
]:
    """tr Σ, ‖g‖² and E‖ĝ − g‖² for the gradient that is meant and the way batches were drawn.

    Args:
        variance: tr Σ, unbiased for independent examples.
        norm_squared: ‖g‖², unbiased for independent examples.
        series: The readings that they come from.
        gradient_of: See `GradientNoise`.

    Raises:
        BadArgument: The size of the training set is missing.
    """
    finite = series.sampling.one_over_examples(gradient_of)
    error = variance * (1 / series.batch_size[:, None] - finite)
    return variance * (1 - finite), norm_squared + variance * finite, error


def noise_scales(
    name: str, source: ReadingSource, series: Series, gradient_of: GradientOf, level: float
) -> dict[str, Estimate]:
    """tr Σ / ‖g‖² as `name`, and of every layer as `name/layer` if there are several.

    If a way of reading ‖g‖² contradicts the others, the interval contains its own too.
    """

    def scale(
        variance: Float[np.ndarray, " steps"], norm_squared: Float[np.ndarray, " steps"]
    ) -> Estimate:
        return series.ratio(
            variance,
            norm_squared,
            level=level,
            unit="examples",
            prior=source.prior,
            rare_noise=source.pairs / series.usual_batch_size,
        )

    variance, norm_squared, _ = of_the_gradient_meant(
        source.variance, source.norm_squared, series, gradient_of
    )
    whole = scale(variance.sum(axis=1), norm_squared.sum(axis=1))
    for other in source.doubts:
        of_other = of_the_gradient_meant(other.variance, other.norm_squared, series, gradient_of)
        doubt = scale(of_other[0].sum(axis=1), of_other[1].sum(axis=1))
        whole = replace(
            whole,
            low=min(whole.low, doubt.low),
            high=max(whole.high, doubt.high),
            method=f"{whole.method}, widened since two ways of reading ‖g‖² disagree",
        )
    return {
        name: whole,
        **{
            f"{name}/{layer}": scale(variance[:, place], norm_squared[:, place])
            for place, layer in enumerate(_layers(series, variance))
        },
    }


def _layers(series: Series, moments: Float[np.ndarray, "steps layers"]) -> tuple[str, ...]:
    """The layers, if there are several and the moments are known of each."""
    return series.layers if len(series.layers) == moments.shape[1] > 1 else ()


def variation_of(variance: Float[np.ndarray, " steps"]) -> Estimate:
    """CV² of the readings of tr Σ that were made, without slow drift. It describes the readings, so
    it is exact."""
    return replace(Estimate.exact(Tails.of(variance).variation), samples=len(variance))


def cosine(signal_to_noise: float) -> float:
    """The cosine of ĝ with g for a signal-to-noise ratio ‖g‖²/E‖ĝ − g‖²: 1/√(1 + 1/snr) = 1/√(1 +
    tr Σ/(B‖g‖²)).

    Example:
        >>> cosine(1 / 3)
        0.5
    """
    return 1 / math.sqrt(1 + 1 / signal_to_noise) if signal_to_noise > 0 else 0.0


def noise_moments(
    spread: Spread,
) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " layers"]]:
    """tr Σ and ‖g‖² by layer from the micro-batches of one step, unbiased for independent examples.

    tr Σ = (Σ_j b_j‖ĝ_j‖² − B‖ĝ‖²)/(k − 1), which for equal sizes b is b times the sample variance
    of the ĝ_j, and ‖g‖² = ‖ĝ‖² − tr Σ/B, which for equal sizes is the mean of ⟨ĝ_i, ĝ_j⟩ over i ≠
    j. For examples drawn without replacement from N they are unbiased for the covariance with
    divisor N − 1, and for ‖g‖² − tr Σ/N.

    Example:
        >>> halves = Spread(np.array([16, 16]), np.array([[3.0], [5.0]]), np.array([2.0]))
        >>> variance, norm_squared = noise_moments(halves)  # of the layers, here one
        >>> print(variance, norm_squared)
        [64.] [0.]
    """
    total = int(spread.sizes.sum())
    small = (spread.sizes[:, None] * spread.squared_norms).sum(axis=0) / total
    return moments_of_norms(small, spread.mean_squared_norm, total / len(spread.sizes), total)


def moments_of_norms(
    small: Float[np.ndarray, " layers"],
    big: Float[np.ndarray, " layers"],
    small_size: float,
    big_size: int,
) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " layers"]]:
    """tr Σ = (small − big)/(1/b − 1/B) and ‖g‖² = big − tr Σ/B by layer, unbiased for independent
    examples.

    Args:
        small: ‖ĝ‖² for batches of b examples, or its mean over several of them.
        big: ‖ĝ‖² for a batch of B examples.
        small_size: b.
        big_size: B.

    Source: McCandlish et al. (2018), app. A.1.

    Example:
        >>> variance, norm_squared = moments_of_norms(np.array([4.0]), np.array([2.0]), 16.0, 32)
        >>> print(variance, norm_squared)
        [64.] [0.]
    """
    variance = (small - big) * big_size / (big_size / small_size - 1)
    return variance, big - variance / big_size


@dataclass(frozen=True)
class NoiseSources(Gauge):
    """tr Σ in two parts: noise from the data, and noise from random numbers in the model (Dropout,
    augmentation).

    tr Σ = tr Cov_x(E[g_i | x]) + E_x tr Cov(g_i | x), the law of total variance. For the second
    part the same b
    examples are run twice with different random numbers: ‖ĝ′ − ĝ″‖²·b/2. The first part is the
    rest. Both are unbiased if every example has separate random numbers, as in Dropout; a draw for
    the whole batch (a skipped layer) counts b times.

    If the loss draws random numbers, it costs one step more than the noise gauge, whose
    micro-batches it shares; if not, it costs nothing.

    Source: the law of total variance; Wei, Kakade & Ma (2020), The Implicit and Explicit
        Regularization Effects of Dropout.
    """

    name: ClassVar[str] = "noise_sources"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "(loss / parameter)²"
    labels: ClassVar[Mapping[str, str]] = {
        "noise_of_data": "noise from the data",
        "noise_of_draws": "noise from random numbers in the model",
        "drawn_share": "share of the noise from random numbers",
    }
    one_in: ClassVar[int] = 16

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """tr Σ by layer, and the part of it from random numbers in the model."""
        variance, _ = noise_moments(step.spread(2))
        drawn = np.zeros_like(variance)
        if step.objective.traits(step.batch, seed=step.seed_for("probe")).random:
            from gradiometer.estimation.micro_batches import noise_of_draws  # noqa: PLC0415 (it needs torch)

            drawn = noise_of_draws(step)
        return {"gradient_variance": variance.tolist(), "drawn": drawn.tolist()}

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """Both parts, and the share from random numbers in the model, in total and by layer."""
        variance, drawn = series.moments["gradient_variance"], series.moments["drawn"]

        def share(part: np.ndarray, whole: np.ndarray) -> Estimate:
            ratio = series.ratio(part, whole, level=level)
            return transform(ratio, lambda share: min(share, 1.0))

        by_layer = {
            f"drawn_share/{layer}": share(drawn[:, place], variance[:, place])
            for place, layer in enumerate(series.layers)
            if len(series.layers) > 1
        }
        return {
            "noise_of_data": series.mean(
                (variance - drawn).sum(axis=1), level=level, unit=self.unit
            ),
            "noise_of_draws": series.mean(drawn.sum(axis=1), level=level, unit=self.unit),
            "drawn_share": share(drawn.sum(axis=1), variance.sum(axis=1)),
            **by_layer,
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """How much of the noise comes from random numbers in the model; None if it draws none."""
        share, drawn = estimates["drawn_share"], estimates["noise_of_draws"]
        if drawn.low == drawn.high == 0 or not share.tells:
            return None
        claim, state = "noise_of_examples", State.OK
        if share.low > 0.5:
            claim, state = "noise_of_draws", State.LOOK
        return Finding(self.name, self.issue, claim, state, {"drawn_share": share})
