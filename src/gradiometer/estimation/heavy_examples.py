"""How unevenly the examples of a batch contribute to the gradient noise (statement S2 of the
lecture)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimates
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.reading import Moments, Series
from gradiometer.measurement.uncertainty.arithmetic import transform

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class HeavyExamples(Gauge):
    """The share of Σ‖g_i‖² in the top tenth of a batch, and the variation of ‖g_i‖².

    The variation is Var ‖g_i‖²/(E‖g_i‖²)²: 0 if all norms are equal, 2 for a Gaussian in one
    direction, in the hundreds late in training, when only a few examples are not learnt yet. Then
    single readings vary wildly, windows must be long, and a few examples (mislabelled, or unlike
    all others) make most of the noise: `noisiest` lists them.

    The variation is a ratio of fourth powers of gradients, and the window does not show the effect
    of rare examples with still larger gradients. So only its lower bound is given; an upper bound
    would not hold (for lognormal ‖g_i‖² with a variation of 2, 8 and 54, in batches of 32,
    Fieller's fails in 16 to 76 % of windows of 30 to 200 steps).

    Costs about one step in a model of Linear layers on [examples, features], and the cost of
    per-example gradients elsewhere. Works only for a loss that does not couple the examples of a
    batch.

    Source: per-example norms: Goodfellow (2015), Efficient Per-Example Gradient Computations.
    """

    name: ClassVar[str] = "heavy_examples"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "(loss / parameter)²"
    labels: ClassVar[Mapping[str, str]] = {
        "top_tenth_share": "share of Σ‖gᵢ‖² of a batch’s top tenth",
        "norm_variation": "variation of ‖gᵢ‖², Var/E²",
        "example_norm_squared": "mean of ‖gᵢ‖²",
    }
    one_in: ClassVar[int] = 16

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """The means of ‖g_i‖², ‖g_i‖⁴ and ‖g_i‖²‖g_j‖² (i ≠ j), and the largest tenth's part of the
        first."""
        from gradiometer.estimation.micro_batches import squared_norms  # noqa: PLC0415 (it needs torch)

        norms = squared_norms(step.objective, step.batch, seed=step.derived_seed("norms"))
        return norm_moments(norms.cpu().numpy())

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """The share of the top tenth, the variation, and the mean of ‖g_i‖²."""
        moments = series.moments
        ratio = series.ratio(moments["square"], moments["pair"], level=level)
        return {
            "top_tenth_share": series.ratio(moments["top_tenth"], moments["mean"], level=level),
            "norm_variation": replace(
                transform(ratio, lambda square: max(square - 1, 0.0)), high=math.inf
            ),
            "example_norm_squared": series.mean(moments["mean"], level=level, unit=self.unit),
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """If few examples make most of the noise; None if that is not known yet."""
        share = estimates["top_tenth_share"]
        if not share.tells:
            return None
        claim, state = "noise_of_many", State.OK
        if share.low > 0.5:
            claim, state = "noise_of_few", State.LOOK
        numbers = {name: estimates[name] for name in ("top_tenth_share", "norm_variation")}
        return Finding(self.name, self.issue, claim, state, numbers)


def norm_moments(norms: Float[np.ndarray, " examples"]) -> dict[str, float]:
    """The moments of one batch's squared norms. The top tenth of 32 is the largest three and a
    fifth of the fourth."""
    size = len(norms)
    if not size >= 2:
        raise BadArgument(
            f"`norms` must hold at least 2 examples, got {size}: one shows no variation."
        )
    total, squares = float(norms.sum()), float(np.square(norms).sum())
    ordered, tenth = np.sort(norms)[::-1], size / 10
    whole = math.floor(tenth)
    top = float(ordered[:whole].sum()) + (tenth - whole) * float(ordered[whole])
    return {
        "mean": total / size,
        "square": squares / size,
        "pair": (total * total - squares) / (size * (size - 1)),
        "top_tenth": top / size,
    }
