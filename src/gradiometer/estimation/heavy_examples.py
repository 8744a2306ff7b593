"""Whether few examples carry the gradient noise (S2)."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimates, counted
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Moments, Series
from gradiometer.measurement.uncertainty.arithmetic import transformed
from gradiometer.measurement.uncertainty.means import mean, ratio_of_means

if TYPE_CHECKING:  # estimates are made, a year later, on a machine without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class HeavyExamples(Gauge):
    """How unevenly the examples of a batch share Σ‖g_i‖²: the share of its top tenth, and the variation of ‖g_i‖².

    The variation is Var ‖g_i‖²/(E‖g_i‖²)²: 0 where all are as long, 2 for a Gaussian in one direction, in the hundreds
    late in training, when few examples are not learnt yet. Then single readings are wild, windows must be long, and a
    few examples (mislabelled, or unlike all others) make most of the noise: `example_norms.noisiest` names them.

    The variation is a fourth power, and what examples longer than any in the window would add is not seen: its lower
    end holds, an upper one would not (of lognormal ‖g_i‖² with a variation of 2, 8 and 54, in batches of 32, Fieller's
    fails in 16 to 76 % of windows of 30 to 200 steps), so none is given.

    Costs about a step more in a model of Linear layers on rows, and what per-example gradients cost elsewhere. Only
    for a loss that does not couple the examples of a batch.

    Source: per-example norms: Goodfellow (2015), Efficient Per-Example Gradient Computations.
    """

    name: ClassVar[str] = "heavy_examples"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "(loss / parameter)²"
    one_in: ClassVar[int] = 16

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """The mean of ‖g_i‖², of ‖g_i‖⁴, of ‖g_i‖²‖g_j‖² over i ≠ j, and what the largest tenth adds to the first."""
        from gradiometer.estimation.example_norms import squared_norms  # noqa: PLC0415 (it needs torch)

        norms = squared_norms(step.objective, step.batch, seed=step.derived_seed("norms"))
        return norm_moments(norms.cpu().numpy())

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """The share of the top tenth, the variation, and the mean of ‖g_i‖²."""
        moments, spacing = series.moments, series.spacing
        ratio = ratio_of_means(moments["square"], moments["pair"], level=level, spacing=spacing)
        return {
            "top_tenth_share": ratio_of_means(moments["top_tenth"], moments["mean"], level=level, spacing=spacing),
            "norm_variation": replace(transformed(ratio, lambda square: max(square - 1, 0.0)), high=math.inf),
            "example_norm_squared": mean(moments["mean"], level=level, unit=self.unit, spacing=spacing),
        }

    def interpret(self, estimates: Estimates) -> Finding | None:
        """Whether a tenth of the examples carries most of it."""
        share, variation = estimates["top_tenth_share"], estimates["norm_variation"]
        if not share.tells:
            return None
        seen = (
            f"A tenth of a batch carries {share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of its squared gradient "
            f"norms ({counted(share.samples, 'measured step')}; their variation is {variation})."
        )
        heavy = share.low > 0.5
        return Finding(
            gauge=self.name,
            issue=self.issue,
            state=State.LOOK if heavy else State.OK,
            seen=seen,
            means=(
                "Few examples make most of the noise: single steps are wild, and intervals need long windows."
                if heavy
                else "Many examples share the noise."
            ),
            advice="`noisiest(objective, batch, 10)` names them: look whether they are labelled rightly."
            if heavy
            else "",
            caveat="Late in training most examples are learnt, and a few carry the noise in any sound run too.",
            estimates=("top_tenth_share", "norm_variation"),
        )


def norm_moments(norms: Float[np.ndarray, " examples"]) -> dict[str, float]:
    """The moments of one batch's squared norms. A tenth of 32 is the largest three and a fifth of the fourth.

    Raises:
        BadArgument: There is but one example.
    """
    size = len(norms)
    if not size >= 2:
        raise BadArgument(f"`norms` holds {size} example: at least two are needed to see how they differ.")
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
