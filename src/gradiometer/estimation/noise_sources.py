"""The sources of the gradient noise: the choice of examples, and random numbers in the model (S2 of
the lecture)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gradiometer.estimation.noise import noise_moments
from gradiometer.measurement.estimate import Estimate, Estimates
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.reading import Moments, Series
from gradiometer.measurement.uncertainty.arithmetic import transform

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


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
        if step.objective.traits(step.batch, seed=step.derived_seed("probe")).random:
            from gradiometer.estimation.micro_batches import noise_of_draws  # noqa: PLC0415 (it needs torch)

            drawn = noise_of_draws(step)
        return {"gradient_variance": variance.tolist(), "drawn": drawn.tolist()}

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
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
