"""The noise scale under the preconditioner of Adam and its kind, which plays there the part of tr
Σ/‖g‖²."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from gradiometer.errors import BadArgument
from gradiometer.estimation.batch_advice import (
    full_batch,
    impossible,
    judge_batch_size,
    with_a_bracket,
    with_claim,
)
from gradiometer.estimation.noise import (
    noise_moments,
    noise_scales,
    of_the_gradient_meant,
    variation_of,
)
from gradiometer.estimation.products import means_of_neighbours, source_of
from gradiometer.measurement.estimate import LEVEL, Estimate, Estimates
from gradiometer.measurement.finding import Doubt, Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.reading import GradientOf, Moments, Series, check_gradient_of
from gradiometer.measurement.uncertainty.arithmetic import transform

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step

# Largest factor between this scale and the batch size that branches with tuned rates found.
VALID = 2.0

# The doubt of every claim that compares a batch with this scale.
TRIALS = Doubt("preconditioned_trials")


@dataclass(frozen=True)
class PreconditionedNoise(Gauge):
    """The preconditioned noise scale tr(PΣ) / gᵀPg under Adam, AdamW, RMSprop or Adagrad, in total
    and by layer.

    These optimizers step along P ĝ, with P = 1/(√v̂ + ε) for every parameter. The noise and the
    gradient that matter to them are those of √P ĝ. P is taken from before the step: afterwards it
    contains the batch, and the estimate grows 1.4- to 3-fold. It is clipped at three times its
    median, since the v of rarely touched rows decays. So P does not
    depend on the batch, and both moments are unbiased: for halves a and b, gᵀPg by aᵀPb and tr(PΣ)
    by ((aᵀPa + bᵀPb)/2 − aᵀPb)·B/2. There is no reading before the first update, when P is not
    known yet.

    It uses the parts that `GradientNoise` uses, so that beside it the cost is their norms and one
    more copy of the parameters, for P. Under FSDP every process holds the whole P in bfloat16 while
    a step is measured, so that `watch` measures a sharded model only if it is asked to.

    While the learning rate falls below half of its peak the number grows although the batch is not
    too small: then no batch is advised. `train` trains with SGD, so that only `watch` has this
    gauge.

    Args:
        parts: k, disjoint parts of the batch whose gradients are compared, at least 2. None makes
            every example a part, which is the most precise and the most expensive.
        gradient_of: The g that is meant, "train" or "population"; see `GradientNoise`.
        tokens: Number of tokens in an example, if the loss is a mean over tokens, as in a language
            model. The scale and B are then given in tokens, which predicts better than sequences
            when the length changes.

    Source: the moments: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, app.
    A, applied to √P ĝ. As a predictor, compared with 700 branches with tuned rates on a character
    transformer and a small CNN under AdamW: predicted over branched 1.11 in the geometric mean and
    1.63 at most, where tr Σ/‖g‖² had 0.70 and 2.6.

    Example:
        >>> from gradiometer import Draw, Sampling, Series, say
        >>> from gradiometer.measurement.reading import Reading
        >>> from gradiometer.estimation import PreconditionedNoise
        >>> name, gauge = "preconditioned_noise", PreconditionedNoise(tokens=128)
        >>> moments = [{"variance": [8.0 + i % 3], "norm_squared": [0.1]} for i in range(60)]
        >>> readings = [Reading(name, i, batch_size=8, learning_rate=1e-3, moments=m) for i, m in enumerate(moments)]
        >>> estimates = gauge.estimate(Series.of(readings, Sampling(Draw.FRESH)))
        >>> print(estimates["preconditioned_noise_scale"])
        11,500 [11,400, 11,700] tokens
        >>> print(say(gauge.judge(estimates)).seen)
        The batch is small: the preconditioned noise scale is 11,500 [11,400, 11,700] ...
    """

    parts: int | None = 2
    gradient_of: GradientOf = "train"
    tokens: int | None = None

    name: ClassVar[str] = "preconditioned_noise"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "loss / parameter"
    symbols: ClassVar[Mapping[str, str]] = {"preconditioned_batch_size": "B"}
    labels: ClassVar[Mapping[str, str]] = {
        "preconditioned_noise_scale": "preconditioned noise scale, tr PΣ / gᵀPg",
        "preconditioned_variance": "preconditioned noise, tr PΣ",
        "preconditioned_norm_squared": "preconditioned squared gradient norm, gᵀPg",
        "preconditioned_variation": "variation of the readings of tr PΣ, Var/E²",
        "preconditioned_batch_size": "batch size, B, in the unit of the preconditioned noise scale",
        "cool_down": "learning rate over its peak, during a cool-down",
    }
    question: ClassVar[str] = "Is the batch too small, or too large?"
    needs_loss: ClassVar[bool] = False
    copies: ClassVar[int] = 2
    needs_preconditioner: ClassVar[bool] = True
    processes: ClassVar[Literal["one", "many", "sharded"]] = "sharded"
    from_run: ClassVar[tuple[str, ...]] = ("parts",)

    def __post_init__(self) -> None:
        if not (self.parts is None or self.parts >= 2):
            raise BadArgument(
                f"`parts` must be at least 2, got {self.parts}: one gradient per step shows no "
                "spread."
            )
        check_gradient_of(self.gradient_of)
        if not (self.tokens is None or self.tokens >= 1):
            raise BadArgument(
                f"`tokens` must be the number of tokens in an example, at least 1, got "
                f"{self.tokens}."
            )

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments | None:
        """tr(PΣ) and gᵀPg by layer, for independent examples; None if P is not known yet."""
        spread = step.preconditioned_spread(
            self.parts if self.parts is None else min(self.parts, step.batch_size)
        )
        if spread is None:
            return None
        variance, norm_squared = noise_moments(spread)
        return {"variance": variance.tolist(), "norm_squared": norm_squared.tolist()}

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """The noise scale, also by layer; tr(PΣ) and its variation; gᵀPg; B; in a cool-down, η over
        its peak."""
        series = means_of_neighbours(series)
        source = source_of(series, "variance", "norm_squared")
        variance, norm_squared, _ = of_the_gradient_meant(
            source.variance, source.norm_squared, series, self.gradient_of
        )
        scales = noise_scales("preconditioned_noise_scale", source, series, self.gradient_of, level)
        batch_size = Estimate.exact(series.usual_batch_size, unit="examples")
        cooled = _share_of_peak(series)
        return {
            **{name: self._in_tokens(scale) for name, scale in scales.items()},
            "preconditioned_variance": series.mean(
                variance.sum(axis=1), level=level, unit=self.unit
            ),
            "preconditioned_norm_squared": series.mean(
                norm_squared.sum(axis=1), level=level, unit=self.unit
            ),
            "preconditioned_variation": variation_of(variance.sum(axis=1)),
            "preconditioned_batch_size": self._in_tokens(batch_size),
            **({} if cooled is None else {"cool_down": Estimate.exact(cooled)}),
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding:
        """Compare the batch size with the scale, within its validity of a factor of 2; no advice in
        a cool-down."""
        scale, batch = (
            estimates["preconditioned_noise_scale"],
            estimates["preconditioned_batch_size"],
        )
        found = judge_batch_size(
            self.name,
            batch,
            scale,
            kind="preconditioned",
            unit="" if self.tokens is None else "tokens",
            variation=estimates.get("preconditioned_variation"),
        )
        if run.is_full_batch:
            return full_batch(found)
        if found.state is State.CANNOT_TELL:
            return found
        cooled = estimates.get("cool_down")
        if cooled is not None:
            return with_claim(
                found, "batch_in_cool_down", State.CANNOT_TELL, {"cooled": cooled.value}
            )
        is_uncertain = scale.low <= VALID * batch.value and scale.high >= batch.value / VALID
        if found.claim == "batch_near" or not is_uncertain:
            return self._with_rates(replace(found, doubts=(TRIALS,)), batch.value, run)
        if not math.isfinite(scale.high):
            return with_claim(found, "batch_not_large", State.CANNOT_TELL, {})
        return replace(with_claim(found, "batch_within_validity", State.OK, {}), doubts=(TRIALS,))

    def _with_rates(self, found: Finding, batch: float, run: RunFacts) -> Finding:
        """The claim about B with what belongs to another one: a range of rates, or that there are
        too few examples."""
        examples = batch / (self.tokens or 1)
        found = replace(found, facts={**found.facts, "batch_in_examples": examples})
        if (
            found.claim == "batch_small"
            and run.examples is not None
            and 2 * examples > run.examples
        ):
            return impossible(found, run.examples)
        has_other = found.claim == "batch_small" or (found.claim == "batch_large" and examples >= 2)
        return (
            with_a_bracket(found, run.settings, round(examples))
            if has_other and run.settings
            else found
        )

    def _in_tokens(self, examples: Estimate) -> Estimate:
        """The same in tokens, if the user counts them."""
        tokens = self.tokens
        if tokens is None:
            return examples
        found = transform(examples, lambda number: tokens * number, unit="tokens")
        return replace(found, reached=examples.reached)


def _share_of_peak(series: Series) -> float | None:
    """η over its peak if it is below half of it and still falls over the last quarter of the
    readings; else None."""
    recent = series.learning_rate[-max(len(series) // 4, 2) :]
    peak = float(series.learning_rate.max())
    # 0.5: below this share of its peak, a learning rate that falls is a cool-down.
    cools = recent[-1] < 0.5 * peak and recent[-1] < recent.max()
    return float(recent[-1]) / peak if cools else None
