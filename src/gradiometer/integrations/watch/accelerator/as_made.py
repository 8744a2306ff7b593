"""ĝ from `.grad`, which may be clipped or unscaled since `backward` made it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.integrations.watch.accelerator.copied import Copied
from gradiometer.measurement.motion import both_norms, factor_of
from gradiometer.measurement.objective import Gradients
from gradiometer.measurement.step import LikelyGradient


@dataclass
class Seen:
    """What `.grad` was at the last measured step: it is the most likely this time, too."""

    as_made: bool = True
    """True if it was as `backward` made it, with the factor of a gradient scaler."""
    unscaled: bool = False
    """True if it was ĝ itself."""


class AsMade(LikelyGradient):
    """ĝ from `.grad`; None if that is not a multiple of what `backward` made.

    Args:
        parameters: The trainable parameters.
        made: ‖·‖² of every parameter's `.grad` at the end of the last backward.
        scale: A function that returns the factor of a gradient scaler at that time. It may wait for
            an accelerator.
        divisor: The same factor as a tensor, for which nothing waits; None if there is no scaler.
        seen: What `.grad` was at the last step.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        made: Float[Tensor, " parameters"],
        scale: Callable[[], float],
        divisor: Tensor | None,
        seen: Seen,
    ) -> None:
        self._parameters = parameters
        self._made = made
        self._scale = scale
        self._divisor = divisor
        self._seen = seen
        self._norms: Copied | None = None
        self._assumed: Seen | None = None

    def __call__(self) -> Gradients | None:
        """ĝ, or None."""
        taken = self._taken()
        factor = self._look(taken)
        if factor is None or not math.isfinite(factor):
            return None
        return (
            taken
            if self._seen.unscaled
            else list(torch._foreach_div(taken, factor * self._scale()))
        )

    def likely(self) -> Gradients | None:
        """ĝ if `.grad` is what it was at the last step; None on a CPU, where ĝ is known at once."""
        if self._made.is_cpu or not (self._seen.as_made or self._seen.unscaled):
            return None
        self._assumed = Seen(self._seen.as_made, self._seen.unscaled)
        taken = self._taken()
        self._norms = Copied(both_norms(self._made, taken))
        if self._seen.unscaled or self._divisor is None:
            return taken
        return list(torch._foreach_div(taken, self._divisor.to(taken[0])))

    def was_right(self) -> bool:
        """True if `likely` returned ĝ, or None."""
        if self._assumed is None:
            return True
        assumed, self._assumed = self._assumed, None
        self._look(self._taken())
        return self._seen.unscaled if assumed.unscaled else self._seen.as_made

    def _taken(self) -> Gradients:
        return [
            torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in self._parameters
        ]

    def _look(self, taken: Gradients) -> float | None:
        """The factor between `.grad` and what `backward` made."""
        norms = both_norms(self._made, taken).cpu() if self._norms is None else self._norms()
        factor = factor_of(norms, taken)
        known = factor is not None and math.isfinite(factor)
        self._seen.as_made = known and math.isclose(factor or 0.0, 1.0)
        self._seen.unscaled = known and math.isclose((factor or 0.0) * self._scale(), 1.0)
        return factor
