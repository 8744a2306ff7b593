"""Find out what accumulated gradients are a multiple of: the mean over the backwards of an update,
or their sum."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.integrations.backwards import Listener

NEAR = 0.02
"""Relative difference of a factor from the expected one that may be rounding of a loss in half
precision."""

SAME = 4e-3
"""Relative difference of the factors of two micro-batches that may be rounding of a loss in half
precision."""

TRIES = 4
"""Number of measured steps at which the factor is looked for."""


class Shares:
    """Compares the numbers that `backward` was called on with the losses given to `step`, at the
    first measured step.

    With `accumulation` backwards per update, each mean loss should be divided by that number.

    Args:
        accumulation: Number of backwards per update on this process.
        warn: Takes a warning, in one sentence.
        is_checked: True if the losses given to `step` are compared with the loss given to `watch`.
    """

    def __init__(self, accumulation: int, warn: Callable[..., None], *, is_checked: bool) -> None:
        self._accumulation = accumulation
        self._warn = warn
        self._is_checked = is_checked
        self._left = TRIES if accumulation > 1 else 0
        self._heard: list[Tensor | None] = []
        self._roots: list[Tensor | None] = []
        self._plain = True
        self._listener = Listener(before=lambda _: None, after=self._heard.append)
        self._listens = False
        self.multiple: float | None = 1.0
        """`.grad` of an update divided by the mean of the gradients of its backwards; None if it is
        not a multiple."""

    def start(self) -> None:
        """Listen to the backwards of the next step, if the factor is not known yet."""
        self.stop()
        if self._left:
            self._listener.start()
            self._listens = True

    def stop(self) -> None:
        """Do not listen."""
        if self._listens:
            self._listener.remove()
            self._listens = False
        self._heard.clear()
        self._roots.clear()
        self._plain = True

    def given(self, loss: Any) -> None:
        """Take in the loss given to `step`, as it was given."""
        if self._listens:
            node = type(getattr(loss, "grad_fn", None)).__name__
            self._plain &= not node.startswith(("Div", "Mul", "NoneType"))
            self._roots += self._heard[-1:]
            self._heard.clear()

    def decide(self, losses: Sequence[Tensor | float], scale: Callable[[], float]) -> None:
        """Decide from all backwards of an update.

        Args:
            losses: The losses given to `step`.
            scale: A function that returns the factor of the GradScaler.

        Raises:
            BadArgument: The losses given to `step` were divided for accumulation.
        """
        if not self._left:
            return
        self._left -= 1
        roots, given = (
            [root for root in self._roots if root is not None],
            [float(loss) for loss in losses],
        )
        if len(roots) != len(given) or not all(math.isfinite(one) and one != 0 for one in given):
            return
        factor = scale()
        factors = [float(root) / one / factor for root, one in zip(roots, given, strict=True)]
        if not all(map(math.isfinite, factors)):
            return
        self._left = 0
        mean = sum(factors) / len(factors)
        if any(abs(factor - mean) > SAME * abs(mean) for factor in factors):
            return  # another term was added to the loss, or the micro-batches have weights
        if abs(mean / self._accumulation - 1) < NEAR:
            raise BadArgument(
                f"`loss` of the step was divided by {self._accumulation}, and what `backward` was "
                "called on was not: give `step` the mean loss of the micro-batch, before it is "
                "divided for accumulation."
            )
        if abs(mean - 1) < NEAR and not (self._plain or self._is_checked):
            self.multiple = None
            self._warn(
                "`backward` was called on the losses given to `step` as they are, so that they "
                f"were either divided by {self._accumulation} before, or never: nothing is "
                "measured; give `step` the mean loss of the micro-batch, and call `backward` on a "
                f"{self._accumulation}th of it"
            )
        elif abs(mean * self._accumulation - 1) > NEAR:
            self.multiple = mean * self._accumulation
            self._warn(
                f"gradients are accumulated as {self.multiple:.3g} times their mean, since "
                f"`backward` was called on {mean:.3g} times the losses given to `step`: the "
                f"readings are divided by that, and the learning rate counts {self.multiple:.3g} "
                f"times; to train on the mean, divide each loss by {self._accumulation}"
            )
