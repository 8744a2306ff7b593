"""The gradient noise: how accurate ĝ is as an estimate of g (statement S2 of the lecture)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.estimation.batch_advice import interpret_batch_size
from gradiometer.measurement.estimate import Estimate, Estimates
from gradiometer.measurement.finding import Finding, Issue
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Draw, Moments, Sampling, Series
from gradiometer.measurement.spread import Spread
from gradiometer.measurement.uncertainty.arithmetic import transformed
from gradiometer.measurement.uncertainty.means import mean, ratio_of_means

if TYPE_CHECKING:  # estimates are made, a year later, on a machine without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class GradientNoise(Gauge):
    """The noise of the batch gradient: tr Σ, ‖g‖², and their ratio, the gradient noise scale, whole and by layer.

    E‖ĝ − g‖² = tr Σ / B, with Σ the covariance of per-example gradients. Both moments are unbiased at every
    step; ‖g‖² may come out negative at a single step and keeps its sign. The noise scale tr Σ / ‖g‖² is a ratio
    of means over a window, never a mean of ratios, with Fieller's interval.

    Costs half a step more with two micro-batches where the loss is a fixed function of the batch, a step more
    where it is not (Dropout, batch statistics), and only norms where training accumulates micro-batches anyway.
    Dropout and augmentation are noise of ĝ, and are counted in tr Σ.

    Args:
        parts: k, disjoint parts of the batch whose gradients are compared, at least 2; None for one an
            example, the sharpest and the dearest.
        gradient_of: Whose gradient g is meant. "train": of the training set, so that a batch drawn without
            replacement errs by tr Σ/B · (N − B)/(N − 1). "population": of the distribution the set came from.

    Source: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, app. A; finite populations:
    Cochran (1977), Sampling Techniques, th. 2.2; the cosine: ⟨ĝ, g⟩/(‖ĝ‖‖g‖) with E⟨ĝ, g⟩ = ‖g‖² and
    E‖ĝ‖² = ‖g‖² + E‖ĝ − g‖², whose square root is close to E‖ĝ‖ where the noise lies in many directions.
    """

    parts: int | None = 2
    gradient_of: Literal["train", "population"] = "train"

    name: ClassVar[str] = "noise"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "(loss / parameter)²"

    def __post_init__(self) -> None:
        if self.parts is not None and not self.parts >= 2:
            raise BadArgument(f"`parts` must be at least 2, got {self.parts}: one gradient a step shows no spread.")
        if self.gradient_of not in ("train", "population"):
            raise BadArgument(f"`gradient_of` must be 'train' or 'population', got {self.gradient_of!r}.")

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """tr Σ and ‖g‖² by layer, as if the examples were independent draws; `estimate` knows how they were drawn."""
        count = self.parts if self.parts is None else min(self.parts, step.batch_size)
        variance, norm_squared = noise_moments(step.spread(count))
        return {"gradient_variance": variance.tolist(), "gradient_norm_squared": norm_squared.tolist()}

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """The noise scale, tr Σ, ‖g‖², the signal-to-noise ratio ‖g‖²/E‖ĝ − g‖², the cosine of ĝ with g, and B.

        By layer: its noise scale, and its share of tr Σ.
        """
        variance, norm_squared, error = self._about_the_gradient_meant(series)
        spacing = series.spacing

        def noise_scale(variance: Float[np.ndarray, " steps"], norm_squared: Float[np.ndarray, " steps"]) -> Estimate:
            return ratio_of_means(variance, norm_squared, level=level, unit="examples", spacing=spacing)

        whole = variance.sum(axis=1), norm_squared.sum(axis=1)
        signal_to_noise = ratio_of_means(whole[1], error.sum(axis=1), level=level, spacing=spacing)
        by_layer: dict[str, Estimate] = {}
        for place, layer in enumerate(series.layers) if len(series.layers) > 1 else ():
            by_layer[f"noise_scale/{layer}"] = noise_scale(variance[:, place], norm_squared[:, place])
            by_layer[f"noise_share/{layer}"] = ratio_of_means(
                variance[:, place], whole[0], level=level, spacing=spacing
            )
        return {
            "noise_scale": noise_scale(*whole),
            "gradient_variance": mean(whole[0], level=level, unit=self.unit, spacing=spacing),
            "gradient_norm_squared": mean(whole[1], level=level, unit=self.unit, spacing=spacing),
            "signal_to_noise": signal_to_noise,
            "cosine": transformed(signal_to_noise, cosine),
            "batch_size": Estimate.exact(float(np.median(series.batch_size)), unit="examples"),
            **by_layer,
        }

    def interpret(self, estimates: Estimates) -> Finding | None:
        """Batch size against noise scale: below, near, above, or cannot tell yet."""
        return interpret_batch_size(self.name, estimates["batch_size"], estimates["noise_scale"])

    def _about_the_gradient_meant(self, series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """tr Σ, ‖g‖² and E‖ĝ − g‖², each [steps, layers], for the g that is meant and the way batches were drawn."""
        variance, norm_squared = series.moments["gradient_variance"], series.moments["gradient_norm_squared"]
        batch_size = series.batch_size[:, None]
        if self.gradient_of == "population" or series.sampling.draw is not Draw.RESHUFFLED:
            return variance, norm_squared, variance / batch_size
        examples = _known_examples(series.sampling)
        return (
            variance * (1 - 1 / examples),
            norm_squared + variance / examples,
            variance * (1 / batch_size - 1 / examples),
        )


def cosine(signal_to_noise: float) -> float:
    """The cosine of ĝ with g where ‖g‖²/E‖ĝ − g‖² is this: 1/√(1 + 1/snr), which is 1/√(1 + tr Σ/(B‖g‖²))."""
    if signal_to_noise <= 0:
        return 0.0
    return 1 / math.sqrt(1 + 1 / signal_to_noise)


def noise_moments(spread: Spread) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, " layers"]]:
    """tr Σ and ‖g‖² by layer from the micro-batches of one step, unbiased for independent examples.

    tr Σ = (Σ_j b_j‖ĝ_j‖² − B‖ĝ‖²)/(k − 1), which is b times the sample variance of equal micro-batches, and
    ‖g‖² = ‖ĝ‖² − tr Σ/B, which for equal ones is the mean of ⟨ĝ_i, ĝ_j⟩ over i ≠ j. Drawn without replacement
    from N, they are unbiased for the covariance with divisor N − 1, and for ‖g‖² less tr Σ/N.
    """
    sizes, total = spread.sizes[:, None], spread.sizes.sum()
    between = (sizes * spread.squared_norms).sum(axis=0) - total * spread.mean_squared_norm
    variance = between / (len(sizes) - 1)
    return variance, spread.mean_squared_norm - variance / total


def _known_examples(sampling: Sampling) -> int:
    if sampling.examples is None:
        raise BadArgument(
            "`sampling` draws without replacement from a training set of unknown size: give its number of "
            "`examples`, or ask for `gradient_of='population'`."
        )
    return sampling.examples
