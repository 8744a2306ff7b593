"""Checks of the losses given to `step`: against what `backward` was called on, and against the
loss given to `watch`."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.integrations.fsdp import OFF
from gradiometer.integrations.gradients import Listener
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.objective import Gradients
from gradiometer.measurement.parts import inner_products, squared_norms

# Relative difference of a factor from the expected one that may be rounding of a loss in half
# precision.
NEAR = 0.02

# Relative difference of the factors of two micro-batches that may be rounding of a loss in half
# precision.
ONE_FACTOR = 4e-3

# Number of measured steps at which the factor is looked for.
TRIES = 4


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
        # Number of measured steps at which the factor is still looked for.
        self.left = TRIES if accumulation > 1 else 0
        self._heard: list[Tensor | None] = []
        self._roots: list[Tensor | None] = []
        self._plain = True
        self._listener = Listener(before=lambda _: None, after=self._heard.append)
        # True from `start` to `stop`.
        self.listens = False
        # `.grad` of an update divided by the mean of the gradients of its backwards; None if it is
        # not a multiple.
        self.multiple: float | None = 1.0

    def start(self) -> None:
        """Listen to the backwards of the next step: the factor is not known yet."""
        self.stop()
        self._listener.start()
        self.listens = True

    def stop(self) -> None:
        """Do not listen."""
        if self.listens:
            self._listener.remove()
            self.listens = False
        self._heard.clear()
        self._roots.clear()
        self._plain = True

    def given(self, loss: Any) -> None:
        """Take in the loss given to `step`, as it was given."""
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
        self.left -= 1
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
        self.left = 0
        mean = sum(factors) / len(factors)
        if any(abs(factor - mean) > ONE_FACTOR * abs(mean) for factor in factors):
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


# Two values of a loss with a smaller relative difference are equal up to rounding (TF32 included).
SAME = 1e-3

# With a smaller relative difference they may differ in precision (bfloat16); with a larger one they
# are two losses.
ALIKE = 0.05

# Two gradients differ by more than precision if their difference is longer than this share of one
# of them.
UNLIKE = 0.5

# Two gradients with a larger cosine differ by a factor, which does not change the noise scale.
PARALLEL = 0.9

# Number of times that a loss with random numbers is run to see how much it varies.
DRAWS = 4

# A loss with random numbers is another one if it differs by this share and so many standard
# deviations.
FAR, SIGMAS = 0.25, 6.0

# After the first measured step, one in so many is checked again.
AGAIN = 16


class LossCheck:
    """Compares training's loss with the given loss on the same batch: at the first measured step,
    and at random later.

    Args:
        subject: The training and the given loss.
        warn: Takes a warning, in one sentence, and what it withholds.
    """

    def __init__(self, subject: Subject, warn: Callable[..., None]) -> None:
        self._objective = subject.objective
        self._warn = warn
        self._accumulation = subject.accumulation
        self._seed = subject.seed
        self._done = False
        self._chance = random.Random(subject.seed)
        self._tolerance = ALIKE
        # False if training's gradient is not the gradient of the given loss: it is not called
        # again.
        self.same_loss = True
        # Number of measured steps until the next comparison.
        self.left = 0

    def __call__(
        self,
        batch: Batch,
        loss: Tensor | float,
        made: Gradients | Callable[[], Gradients | None] | None,
    ) -> None:
        """Compare, and choose the next time.

        Args:
            batch: The examples of the first backward.
            loss: Training's loss on them.
            made: Training's gradient, or a function that returns it, if there was one backward on
                one process.

        Raises:
            BadArgument: The loss given to `step` was divided for accumulation.
        """
        first, self._done = not self._done, True
        self.left = 0
        while self._chance.random() >= 1 / AGAIN:
            self.left += 1
        trained = float(loss)
        if not math.isfinite(trained):
            return
        if self._objective.traits(batch, seed=self._seed).random:
            self._compare_random(batch, trained, first=first)
        elif first and (made := made() if callable(made) else made) is not None:
            value, own = self._objective.loss_and_gradient(batch, seed=self._seed)
            if self._is_same(trained, value, batch, first=first):
                self._compare_gradients(own, made, batch)
        else:
            self._is_same(trained, self._value(batch, self._seed), batch, first=first)

    def _value(self, batch: Batch, seed: int) -> float:
        with torch.no_grad(), self._objective.untouched_randomness(seed):
            return self._objective.mean_loss(self._objective.parameters, batch).item()

    def _is_same(self, trained: float, value: float, batch: Batch, *, first: bool) -> bool:
        """True if the two values are of one loss, up to precision."""
        self.same_loss = _near(trained, value, SAME)
        if (
            self._accumulation > 1
            and not self.same_loss
            and _near(trained * self._accumulation, value, SAME)
        ):
            raise BadArgument(
                f"`loss` of the step is {trained:.4g}, {self._accumulation} times less than the "
                f"loss given to `watch` ({value:.4g}): give the mean loss of the micro-batch, "
                "before it is divided for accumulation."
            )
        if _near(trained, value, self._tolerance):
            self._tolerance = 10 * SAME if self.same_loss else ALIKE
            return True
        self.same_loss = False
        self._tell(trained, value, batch, first=first)
        return False

    def _compare_random(self, batch: Batch, trained: float, *, first: bool) -> None:
        """Compare a loss that draws random numbers with several runs of it."""
        values = torch.tensor(
            [self._value(batch, self._seed + draw) for draw in range(DRAWS)], dtype=torch.float64
        )
        value, spread = float(values.mean()), float(values.std())
        if abs(trained - value) > FAR * max(abs(trained), abs(value)) + SIGMAS * spread:
            self.same_loss = False
            self._tell(trained, value, batch, first=first)

    def _tell(self, trained: float, value: float, batch: Batch, *, first: bool) -> None:
        size = batch_size(batch)
        if first and size > 1 and _near(trained, size * value, ALIKE):
            self._warn(
                f"the loss in training, {trained:.4g}, is the sum over the {size} examples of a "
                f"batch, and the loss given to `watch` is the mean, {value:.4g}: give `step` the "
                f"mean, which is the sum divided by {size}",
                withholds="loss",
            )
            return
        remedy = (
            "the measurements describe the former; give `watch` the loss that is trained"
            if first
            else "they were equal at the first measured step; give `step` the batch of its loss, at every step"
        )
        self._warn(
            f"the loss given to `watch` is {value:.4g} on a batch where the loss in training is "
            f"{trained:.4g}: {remedy}",
            withholds="loss",
        )

    def _compare_gradients(self, own: Gradients, made: Gradients, batch: Batch) -> None:
        length = float(squared_norms(own).sum().sqrt())
        off = float(squared_norms(torch._foreach_sub(made, own)).sum().sqrt())
        self.same_loss &= not off > OFF * length
        if off > UNLIKE * length > 0:
            along = float(inner_products(made, own).sum()) / length
            parallel = along > PARALLEL * float(squared_norms(made).sum().sqrt())
            if parallel and _near(along / length, float(size := batch_size(batch)), ALIKE):
                self._warn(
                    f"`backward` was called on the sum over the {size} examples of a batch, and "
                    "`loss` is their mean: a sum grows with the batch, so under SGD divide the "
                    "learning rate that is advised for another batch by the factor of the batch"
                )
                return
            self._warn(
                f"`backward` made another gradient than `loss` has, {along / length:.4g} times as "
                "long along it: the measurements describe `loss`; give the scaler as `scaler`, "
                "call `backward` on the loss without a factor, and give `step` the batch of that "
                "loss",
                **({} if parallel else {"withholds": "loss"}),
            )


def _near(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * max(abs(one), abs(other))
