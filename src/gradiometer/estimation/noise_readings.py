"""Readings of tr Σ and ‖g‖², from the parts of batches or from products of training's successive
gradients."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from gradiometer.estimation.products import PRODUCT_PRIOR, GradientMemory, Steps, signal
from gradiometer.measurement.reading import Draw, Series
from gradiometer.measurement.uncertainty.now import NOISE_PRIOR
from gradiometer.measurement.uncertainty.power_law import LAW, Drift

HALVES = 2.0
"""If all noise points one way, ⟨ĝ_1, ĝ_2⟩ of two halves has the standard deviation 2 tr Σ/B; it is
less with more."""

PRODUCT = "product"
"""The moment that readings from products have, and others have not."""

Moments = Float[np.ndarray, "steps layers"]


def is_of_products(series: Series | None) -> bool:
    """True for readings that are products of training's own gradients, for which no loss was run."""
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
    pairs: float = HALVES
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
    in_epochs = series.sampling.draw is Draw.RESHUFFLED
    finite = 1 / series.sampling.examples if in_epochs and series.sampling.examples else 0.0
    found = signal(
        moments[PRODUCT],
        moments["squared"],
        momentum=GradientMemory(moments["momentum"], nesterov=bool(moments["nesterov"].all())),
        memory=moments.get("memory"),
        loss=moments.get("loss"),
        travelled=moments.get("travelled"),
        # 0.49: largest share of the examples in one batch for which the correction for reshuffled
        # epochs is made.
        share_of_examples=min(float(series.usual_batch_size) * finite, 0.49),
    )

    # runs of version 0.2 have batches of one size
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

    return source(found.norm_squared, tuple(source(found.ways[name]) for name in found.doubted))
