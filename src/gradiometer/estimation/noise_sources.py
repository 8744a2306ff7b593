"""Where the gradient noise comes from: the choice of the examples, or what the model draws (S2)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gradiometer.estimation.noise import noise_moments
from gradiometer.measurement.estimate import Estimate, Estimates, counted
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Moments, Series
from gradiometer.measurement.uncertainty.arithmetic import transformed
from gradiometer.measurement.uncertainty.means import mean, ratio_of_means

if TYPE_CHECKING:  # estimates are made, a year later, on a machine without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class NoiseSources(Gauge):
    """tr Σ in two parts: from the data, and from what the model draws (Dropout, augmentation inside it).

    tr Σ = tr Cov_x(E[g_i | x]) + E_x tr Cov(g_i | x), the law of total variance. The second part is read off the same
    examples run twice with other draws, ‖ĝ′ − ĝ″‖²·b/2, the first is the rest; both are unbiased. Every example is
    taken to have draws of its own, as Dropout's have; what is drawn once for a batch (a skipped layer) counts b times.

    Costs a step more than the noise gauge, whose micro-batches it shares, where the loss draws random numbers, and
    nothing where it does not.

    Source: the law of total variance; Wei, Kakade & Ma (2020), The Implicit and Explicit Regularization Effects of
        Dropout.
    """

    name: ClassVar[str] = "noise_sources"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "(loss / parameter)²"
    one_in: ClassVar[int] = 16

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """tr Σ, and the part of it that is drawn, by layer."""
        variance, _ = noise_moments(step.spread(2))
        if not step.objective.traits(step.batch, seed=step.derived_seed("probe")).random:
            return {"gradient_variance": variance.tolist(), "drawn": np.zeros_like(variance).tolist()}
        from gradiometer.estimation.repeated import noise_of_draws  # noqa: PLC0415 (it needs torch)

        return {"gradient_variance": variance.tolist(), "drawn": noise_of_draws(step).tolist()}

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """Both parts, and the share that is drawn, whole and by layer."""
        variance, drawn, spacing = series.moments["gradient_variance"], series.moments["drawn"], series.spacing

        def share(part: np.ndarray, whole: np.ndarray) -> Estimate:
            ratio = ratio_of_means(part, whole, level=level, spacing=spacing)
            return transformed(ratio, lambda share: min(share, 1.0))

        by_layer = {
            f"drawn_share/{layer}": share(drawn[:, place], variance[:, place])
            for place, layer in enumerate(series.layers)
            if len(series.layers) > 1
        }
        return {
            "noise_of_data": mean((variance - drawn).sum(axis=1), level=level, unit=self.unit, spacing=spacing),
            "noise_of_draws": mean(drawn.sum(axis=1), level=level, unit=self.unit, spacing=spacing),
            "drawn_share": share(drawn.sum(axis=1), variance.sum(axis=1)),
            **by_layer,
        }

    def interpret(self, estimates: Estimates) -> Finding | None:
        """How much of the noise the model draws itself; nothing where it draws none."""
        share, drawn = estimates["drawn_share"], estimates["noise_of_draws"]
        if drawn.low == drawn.high == 0 or not share.tells:
            return None
        steps = f"({counted(share.samples, 'measured step')})"
        percent = f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"
        if share.low > 0.5:
            state = State.LOOK
            means = "Most of the noise is not in the data: other draws change a step more than other examples do."
            advice = "Less Dropout, or a larger batch, makes ĝ more accurate; more data does not."
        else:
            state, means, advice = State.OK, "The rest is the choice of the examples.", ""
        return Finding(
            gauge=self.name,
            issue=self.issue,
            state=state,
            seen=f"Of the gradient noise {percent} is drawn by the model itself, as by Dropout {steps}.",
            means=means,
            advice=advice,
            caveat="Every example is taken to have draws of its own; augmentation outside the model counts as data.",
            estimates=("drawn_share",),
        )
