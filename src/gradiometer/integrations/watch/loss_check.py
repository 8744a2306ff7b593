"""Check once that the loss given to `watch` is the loss that is trained."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.integrations.fsdp import OFF
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.objective import Gradients, Objective
from gradiometer.measurement.parts import inner_products, squared_norms

SAME = 1e-3
"""Two values of a loss with a smaller relative difference are equal up to rounding (TF32 included)."""

ALIKE = 0.05
"""With a smaller relative difference they may differ in precision (bfloat16); with a larger one they are two losses."""

UNLIKE = 0.5
"""Two gradients differ by more than precision if their difference is longer than this share of one of them."""


class LossCheck:
    """Compares the value and the gradient of training with those of the given loss, at the first measured step.

    Args:
        objective: The bare model and the given loss.
        warn: Takes a warning, in one sentence.
        accumulation: Backwards an update takes on this process.
        seed: Seed of the random numbers that measuring draws.
    """

    def __init__(self, objective: Objective, warn: Callable[[str], None], accumulation: int, seed: int) -> None:
        self._objective, self._warn, self._accumulation, self._seed = objective, warn, accumulation, seed
        self._done = False
        self.same_loss = True
        """False if training's gradient is not the gradient of the given loss."""

    def __call__(self, batch: Batch, loss: Tensor | float, made: Gradients | None) -> None:
        """Compare, the first time it is called. A loss that draws random numbers is not compared.

        Args:
            batch: The examples of the first backward.
            loss: Training's loss on them.
            made: Training's gradient, if there was one backward on one process.

        Raises:
            BadArgument: The loss given to `step` was divided for accumulation.
        """
        if self._done:
            return
        self._done = True
        seed, objective, trained = self._seed, self._objective, float(loss)
        if objective.traits(batch, seed=seed).random or not math.isfinite(trained):
            return
        if made is None:
            with torch.no_grad(), objective.untouched_randomness(seed):
                value = objective.mean_loss(objective.parameters, batch).item()
        else:
            value, own = objective.loss_and_gradient(batch, seed=seed)
        self.same_loss = _near(trained, value, SAME)
        if self._accumulation > 1 and not self.same_loss and _near(trained * self._accumulation, value, SAME):
            raise BadArgument(
                f"`loss` of the step is {trained:.4g}, {self._accumulation} times less than the loss given to `watch` "
                f"({value:.4g}): give the mean loss of the micro-batch, before it is divided for accumulation."
            )
        if not _near(trained, value, ALIKE):
            self._warn(
                f"the loss given to `watch` is {value:.4g} on a batch where the loss in training is {trained:.4g}: the "
                "measurements describe the former; give `watch` the loss that is trained."
            )
        elif made is not None:
            self._compare_gradients(own, made)

    def _compare_gradients(self, own: Gradients, made: Gradients) -> None:
        length = float(squared_norms(own).sum().sqrt())
        off = float(squared_norms(torch._foreach_sub(made, own)).sum().sqrt())
        self.same_loss &= not off > OFF * length
        if off > UNLIKE * length > 0:
            factor = float(inner_products(made, own).sum()) / length**2
            self._warn(
                f"`backward` made another gradient than `loss` has, {factor:.4g} times as long along it: the "
                "measurements describe `loss`; give the scaler as `scaler`, call `backward` on the loss without a "
                "factor, and give `step` the batch of that loss"
            )


def _near(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * max(abs(one), abs(other))
