"""Do the intervals of fourth-moment gauges cover in windows of 30 readings?

    .venv/bin/python benchmarks/short_windows.py                 # 400 windows a row, five minutes
    on one core

At fixed parameters of linear models, batches of 32 are drawn independently and the moments of
`NoiseShape`, `StepDrift`, `LossChange` and `BatchSharpness` computed from them, many at once. The
truth is the ratio or mean of these
moments over 100,000 other readings. *covers*: the share of finite intervals that contain it;
*cannot tell*: the share of windows without one; *wrong*: the share of all windows with an interval
that misses; *ends*: the median of the width over the size of the truth.

Two networks of `cases/tail_families.py`, a digits MLP with wrong labels and a digits CNN late in
training, have only the three quantities that are functions of the inner products of gradients at
one point.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from cases.tail_families import label_noise, late

from gradiometer import Draw, Sampling, Series
from gradiometer.drift import BatchSharpness, LossChange, StepDrift
from gradiometer.estimation import NoiseShape
from gradiometer.measurement.estimate import Estimates
from gradiometer_lab.noise_shape import moments_of_gram

BATCH, READINGS, TRUTH = 32, 30, 100_000
PARTS = 8

Moments = Mapping[str, np.ndarray]
Draws = Callable[[int, np.random.Generator], dict[str, Moments]]


@dataclass(frozen=True)
class Linear:
    """Predictions z = ⟨x, Φ⟩ with a squared or a logistic loss, at fixed parameters.

    Attributes:
        inputs: x, [examples, features].
        targets: [examples].
        params: Φ.
        rate: η.
        logistic: True for the logistic loss, with targets 0 and 1.
    """

    inputs: np.ndarray
    targets: np.ndarray
    params: np.ndarray
    rate: float
    logistic: bool

    def losses(self, predictions: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The loss of each example."""
        targets = self.targets[places]
        if self.logistic:
            return np.logaddexp(0, predictions) - targets * predictions
        return (predictions - targets) ** 2 / 2

    def slopes(self, predictions: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Its derivative by the prediction."""
        return (_sigmoid(predictions) if self.logistic else predictions) - self.targets[places]

    def bends(self, predictions: np.ndarray) -> np.ndarray:
        """Its second derivative by the prediction."""
        share = _sigmoid(predictions)
        return share * (1 - share) if self.logistic else np.ones_like(predictions)

    def gradients(self, places: np.ndarray, params: np.ndarray) -> np.ndarray:
        """Mean gradients over the last axis of `places`, at parameters that may differ by row."""
        inputs = self.inputs[places]
        slopes = self.slopes(np.einsum("...bd,...d->...b", inputs, params), places)
        return np.einsum("...bd,...b->...d", inputs, slopes) / places.shape[-1]

    def drift(self, count: int, random: np.random.Generator) -> dict[str, Moments]:
        """The moments of `StepDrift`, `LossChange` and `BatchSharpness`; half of a batch steps,
        half judges."""
        places = random.integers(len(self.inputs), size=(count, BATCH))
        acting, judging = places[:, : BATCH // 2], places[:, BATCH // 2 :]
        here = np.broadcast_to(self.params, (count, len(self.params)))
        step = self.gradients(acting, here)
        there = here - self.rate * step
        halves = [judging[:, : BATCH // 4], judging[:, BATCH // 4 :]]
        before, after = (
            [self.gradients(half, point) for half in halves] for point in (here, there)
        )
        first, second = (b - a for a, b in zip(before, after, strict=True))
        inputs = self.inputs[judging]
        now, moved = (np.einsum("nbd,nd->nb", inputs, point) for point in (here, there))
        along = np.einsum("nbd,nd->nb", inputs, step)
        loss = [self.losses(each, judging).mean(axis=1) for each in (now, moved)]
        whole = self.gradients(places, here)
        images = np.einsum("nbd,nd->nb", self.inputs[places], whole)
        bends = self.bends(np.einsum("nbd,nd->nb", self.inputs[places], here))
        return {
            "step_drift": {
                "drift": _products(first, second),
                "gradient_norm_squared": _products(*before),
                "drift_variance": 4 * _products(first - second, first - second),
                "gradient_variance": 4 * _products(before[0] - before[1], before[0] - before[1]),
                "made_by": np.full(count, BATCH / 2),
            },
            "loss_change": {
                "first_order": -self.rate * (self.slopes(now, judging) * along).mean(axis=1),
                "second_order": self.rate**2 / 2 * (self.bends(now) * along**2).mean(axis=1),
                "seen": loss[1] - loss[0],
            },
            "batch_sharpness": {
                "curvature": (bends * images**2).mean(axis=1),
                "norm_squared": _products(whole, whole),
            },
        }

    def shape(self, count: int, random: np.random.Generator) -> dict[str, Moments]:
        """The moments of `NoiseShape` from eight parts of a batch."""
        places = random.integers(len(self.inputs), size=(count, PARTS, BATCH // PARTS))
        each = self.gradients(
            places, np.broadcast_to(self.params, (count, PARTS, len(self.params)))
        )
        return _noise_shape(np.einsum("nid,njd->nij", each, each))

    @property
    def draws(self) -> Mapping[Draws, int]:
        """What draws readings, and how many for the truth."""
        return {self.drift: TRUTH, self.shape: TRUTH // 4}


@dataclass(frozen=True, eq=False)
class Network:
    """A network at fixed parameters.

    Attributes:
        gram: Inner products of the gradients of its examples, [examples, examples].
    """

    gram: np.ndarray

    def shape(self, count: int, random: np.random.Generator) -> dict[str, Moments]:
        """The moments of `NoiseShape` from eight parts of a batch."""
        places = random.integers(len(self.gram), size=(count, BATCH))
        own = np.stack([self.gram[np.ix_(batch, batch)] for batch in places])
        return _noise_shape(
            own.reshape(count, PARTS, BATCH // PARTS, PARTS, BATCH // PARTS).mean(axis=(2, 4))
        )

    @property
    def draws(self) -> Mapping[Draws, int]:
        """What draws readings, and how many for the truth."""
        return {self.shape: TRUTH // 4}


def _noise_shape(grams: np.ndarray) -> dict[str, Moments]:
    found = [moments_of_gram(gram, BATCH // PARTS) for gram in grams]
    return {"noise_shape": {name: np.array([one[name] for one in found]) for name in found[0]}}


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def _products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", first, second)


def _logistic(seed: int, wrong: float = 0.0, spread: float = 0.0, share: float = 0.5) -> Linear:
    """Two classes, some labels wrong, at a share of the way to the optimum; `spread` makes lengths
    lognormal."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(4_000, 10)) * np.linspace(0.3, 1.5, 10)
    inputs *= np.exp(spread * random.normal(size=(4_000, 1)))
    weights = random.normal(size=10)
    targets = (random.random(4_000) < _sigmoid(2 * inputs @ weights)).astype(float)
    swapped = random.random(4_000) < wrong
    targets[swapped] = 1 - targets[swapped]
    return Linear(inputs, targets, share * 2 * weights, 0.5, logistic=True)


def _outliers() -> Linear:
    """Least squares: 1 % of the examples have targets far off and half of the loss."""
    random = np.random.default_rng(4)
    inputs = np.concatenate([np.ones((4_000, 1)), random.normal(size=(4_000, 9))], axis=1)
    params = 0.3 * random.normal(size=10)
    targets = random.normal(size=4_000)
    targets[:40] += 10
    return Linear(inputs, targets, params, 0.1, logistic=False)


def _posterior() -> Linear:
    """Least squares with uneven scales, off its optimum: a Gaussian posterior."""
    random = np.random.default_rng(5)
    inputs = random.normal(size=(4_000, 10)) * np.linspace(0.3, 1.2, 10)
    return Linear(
        inputs, random.normal(size=4_000), 0.3 * random.normal(size=10), 0.2, logistic=False
    )


FAMILIES: dict[str, Callable[[], Linear | Network]] = {
    "logistic, early": lambda: _logistic(0, share=0.1),
    "logistic, 20 % wrong labels": lambda: _logistic(1, wrong=0.2),
    "logistic, late": lambda: _logistic(2, share=2.5),
    "lognormal inputs": lambda: _logistic(3, spread=0.5),
    "1 % of the examples, half of the loss": _outliers,
    "Gaussian posterior": _posterior,
    "label noise, digits MLP": lambda: Network(label_noise().gram),
    "a digits CNN late in training": lambda: Network(late().gram),
}
GAUGES = {
    gauge.name: gauge for gauge in (NoiseShape(), StepDrift(), LossChange(), BatchSharpness())
}
QUANTITIES = {
    "noise_shape": ("orthogonality_test", "inner_product_test", "effective_dimension"),
    "step_drift": ("step_drift", "drift_squared"),
    "loss_change": ("curvature_share", "unpredicted_change", "seen_change"),
    "batch_sharpness": ("batch_sharpness",),
}


def estimates(name: str, moments: Moments, newest: bool) -> Estimates:
    """What a gauge estimates from readings ten steps apart."""
    count = len(next(iter(moments.values())))
    series = Series(
        gauge=name,
        steps=np.arange(1, count + 1) * 10,
        batch_size=np.full(count, BATCH),
        learning_rate=np.full(count, 0.1),
        moments=moments,
        sampling=Sampling(Draw.FRESH),
    )
    return GAUGES[name].estimate(series.at_newest() if newest else series)


@dataclass(frozen=True)
class Score:
    """How the intervals of one quantity fared.

    Attributes:
        windows: Number of windows.
        told: Windows with a finite interval.
        held: Windows with a finite interval that contains the truth.
        width: Median width of the finite intervals over the size of the truth; NaN if there is
            none.
    """

    windows: int
    told: int
    held: int
    width: float

    @property
    def covers(self) -> float:
        """The share of finite intervals that contain the truth; NaN if there is none."""
        return self.held / self.told if self.told else math.nan

    @property
    def cannot_tell(self) -> float:
        """The share of windows without a finite interval."""
        return (self.windows - self.told) / self.windows

    @property
    def wrong(self) -> float:
        """The share of all windows with an interval that misses."""
        return (self.told - self.held) / self.windows


def scores(
    model: Linear | Network, windows: int, newest: bool, seed: int = 0, readings: int = READINGS
) -> dict[str, Score]:
    """The score of every quantity, over independent windows of readings."""
    random, found = np.random.default_rng(seed), {}
    for draw, truth_count in model.draws.items():
        drawn, many = draw(windows * readings, random), draw(truth_count, np.random.default_rng(99))
        for name, moments in drawn.items():
            truth = estimates(name, many[name], newest=False)
            each = [
                estimates(
                    name,
                    {key: value[place : place + readings] for key, value in moments.items()},
                    newest,
                )
                for place in range(0, windows * readings, readings)
            ]
            for quantity in QUANTITIES[name]:
                value, said = truth[quantity].value, [one[quantity] for one in each]
                told = [one for one in said if one.tells]
                held = sum(one.low <= value <= one.high for one in told)
                widths = [(one.high - one.low) / abs(value) for one in told]
                found[quantity] = Score(
                    windows, len(told), held, float(np.median(widths)) if told else math.nan
                )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=400)
    parser.add_argument("--readings", type=int, default=READINGS)
    parser.add_argument("--only", choices=FAMILIES, help="one family")
    given = parser.parse_args()
    print(
        "| family | quantity | of | covers | cannot tell | wrong | ends "
        "|\n|---|---|---|---|---|---|---|"
    )
    for name, make in FAMILIES.items():
        if given.only not in (None, name):
            continue
        for newest in (True, False):
            for quantity, score in scores(
                make(), given.windows, newest, readings=given.readings
            ).items():
                print(
                    f"| {name} | {quantity} | {'now' if newest else 'window'} | {score.covers:.2f} "
                    f"| {score.cannot_tell:.2f} | {score.wrong:.2f} | {score.width:.2g} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
