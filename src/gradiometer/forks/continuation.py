"""`Continuation`: how training continues in one branch, and one update of it."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.convergence.averaging import REFRESHED, refresh_batch_norm
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.forks.stream import ORIGINAL, Stream
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.loss import Loss, checked_loss, with_graph
from gradiometer.measurement.optimizer.averaged import averages_itself, to_average
from gradiometer.measurement.optimizer.clipping import Clipping
from gradiometer.problems.user_code import user_code

Step = Callable[[nn.Module, torch.optim.Optimizer, Batch], Tensor | float]
"""Called as `step(model, optimizer, batch)`: makes one whole update and returns the loss of the batch."""


@dataclass(frozen=True)
class Update:
    """One update of a branch.

    Args:
        loss: The mean loss of the batch; None if the whole batch was skipped.
        examples: How far the data went on.
    """

    loss: Tensor | float | None
    examples: int


class Continuation:
    """How training continues in one branch. The parts are copies of its own; an alternative changes them.

    In every update the rate of each parameter group is the one that training would have there (its scheduler continues
    in units of the original batch), times `factor`, times the factor of the tail.

    Args:
        model: The model, in the mode it is trained in.
        optimizer: Its optimizer.
        stream: The examples.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example. May use autocast.
        step: Makes one whole update by itself, in place of `loss`.
        schedulers: Schedulers of `optimizer` or of a wrapper, each stepped once per original update.
        epoch: Steps the schedulers once per so many original updates; 1 for every update.
        scaler: A GradScaler for `loss`.
        step_index: Index of the first update, as training counts.

    Raises:
        BadArgument: Both `loss` and `step` are given, or neither.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        stream: Stream,
        *,
        loss: Loss | None = None,
        step: Step | None = None,
        schedulers: Sequence[torch.optim.lr_scheduler.LRScheduler] = (),
        epoch: int = 1,
        scaler: Any = None,
        step_index: int = 0,
    ) -> None:
        if (loss is None) == (step is None):
            raise BadArgument("`loss` or `step` must be given, and not both.")
        self.model, self.optimizer, self.stream = model, optimizer, stream
        self.factor = 1.0
        """Factor on the rate of training."""
        self.batch_factor = ORIGINAL
        """Factor on the batch of training."""
        self.share = 1.0
        """Share of the length of the branch that is trained."""
        self.clip: float | None = None
        """Largest norm of the gradient; None for no clipping besides training's own."""
        self.hold: float | None = None
        """Share of the branch before its rate falls to zero; None for that of its tail."""
        self.step = step_index
        """Index of the first update, as training counts."""
        self._loss, self._step, self._schedulers, self._epoch, self._scaler = loss, step, schedulers, epoch, scaler
        self._schedule: Schedule | None = None
        self._fixed: dict[str, Sequence[Any]] = {}
        self._planner, self._rates = optimizer, [float(group["lr"]) for group in optimizer.param_groups]
        self._scheduled = 0
        self._is_clipping = False
        self._reached = False
        self._newest: deque[Batch] = deque(maxlen=REFRESHED)

    @property
    def devices(self) -> set[torch.device]:
        """The devices of the parameters."""
        return {parameter.device for parameter in self.model.parameters()}

    @property
    def calls(self) -> tuple[Callable[..., Any], ...]:
        """The user's functions that an update calls."""
        return tuple(call for call in (self._loss, self._step) if call is not None)

    def fix(self, setting: str, values: Sequence[Any]) -> None:
        """Keep a setting of the optimizer at these values, one for every parameter group, in all updates."""
        self._fixed[setting] = values

    def follow(self, schedule: Schedule) -> None:
        """Take the rate from a schedule of the original updates since the fork, in place of training's own."""
        if not max(self._rates) > 0:
            raise BadArgument(
                "`optimizer` has the rate 0 now, so a schedule has no ratios to keep: fork an update later."
            )
        self._schedule = schedule

    def use(self, optimizer: torch.optim.Optimizer) -> None:
        """Use another optimizer. Its rate changes in the proportion in which training's own would have changed."""
        if not max(self._rates) > 0:
            raise BadArgument(
                "`optimizer` has the rate 0 now, and another one cannot follow its schedule: fork an update later."
            )
        self.optimizer = optimizer
        if averages_itself(optimizer):
            optimizer.train()  # type: ignore[attr-defined]
        self._fixed.clear()

    def finish(self) -> None:
        """Move the model to the average of an optimizer that averages its iterates, with new BatchNorm statistics."""
        if to_average(self.optimizer) and self._loss is not None and self._newest:
            refresh_batch_norm(self.model, self._newest, self._loss)

    def update(self, tail: Callable[[int, int], float], most: int) -> Update:
        """Make one update.

        Args:
            tail: The factor of the tail, called with the number of examples before and after the update.
            most: Largest number of examples.
        """
        before = self.stream.examples
        original = self.stream.original if self._schedule is not None else Fraction(0)
        taken = self.stream.take(self.batch_factor, most)
        loss = None
        if taken.pieces and averages_itself(self.optimizer):
            self._newest.extend(taken.pieces)
        if taken.pieces:
            groups = self.optimizer.param_groups
            base = [group["lr"] for group in groups]
            self._set(self._planned(base, original), self.factor * tail(before, self.stream.examples))
            loss = self._made(taken.pieces)
            for group, rate in zip(groups, base, strict=True):
                group["lr"] = rate
        self._advance_schedulers()
        return Update(loss, taken.examples)

    def _planned(self, base: Sequence[Any], original: Fraction) -> Sequence[Any]:
        """The rate of every group at this update, without the factors."""
        replaced = self.optimizer is not self._planner
        if self._schedule is not None:
            rates = base if replaced else self._rates
            largest = max(map(float, rates))
            return [self._schedule(math.floor(original)) * (float(rate) / largest) for rate in rates]
        if replaced:
            now = max(float(group["lr"]) for group in self._planner.param_groups)
            return [rate * (now / max(self._rates)) for rate in base]
        return base

    def _set(self, rates: Sequence[Any], multiplier: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * multiplier
        for setting, values in self._fixed.items():
            for group, value in zip(self.optimizer.param_groups, values, strict=True):
                group[setting] = value

    def _made(self, pieces: Sequence[Batch]) -> Tensor | float:
        """Train on these pieces, and return their mean loss."""
        if self.clip is not None and not self._is_clipping:
            self.optimizer.register_step_pre_hook(Clipping(float(self.clip)))
            self._is_clipping = True
        if self._step is not None:
            if len(pieces) > 1:
                raise BadArgument("`step` takes one batch, and these batches cannot be joined: give `loss` instead.")
            with user_code("step"):
                loss = self._step(self.model, self.optimizer, pieces[0])
            if not isinstance(loss, Tensor | float):
                raise UserCodeFailed(f"`step` returned {type(loss).__name__}: return the mean loss of the batch.")
            return loss.detach().mean() if isinstance(loss, Tensor) else loss
        self.optimizer.zero_grad(set_to_none=True)
        mean = self._backward(pieces)
        self._check_gradient()
        with user_code("optimizer"):
            if self._scaler is None:
                self.optimizer.step()
            else:
                self._scaler.step(self.optimizer)
                self._scaler.update()
        return mean

    def _backward(self, pieces: Sequence[Batch]) -> Tensor:
        """Add up the gradient of the mean loss, and return this loss."""
        assert self._loss is not None
        sizes = [batch_size(piece) for piece in pieces] if len(pieces) > 1 else [1]
        total, losses = sum(sizes), []
        for piece, size in zip(pieces, sizes, strict=True):
            with user_code("loss"):
                loss = with_graph(checked_loss(self._loss(self.model, piece), piece).mean())
            if len(pieces) > 1:
                # A division where sizes are equal, since that is what training loops write; it has other bits.
                loss = loss / len(pieces) if size * len(pieces) == total else loss * (size / total)
            with user_code("loss", "in backward"):
                (loss if self._scaler is None else self._scaler.scale(loss)).backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _check_gradient(self) -> None:
        """Raise if the first backward gave no gradient to the branch's own model."""
        if not self._reached:
            self._reached = any(p.grad is not None for group in self.optimizer.param_groups for p in group["params"])
            if not self._reached:
                raise BadArgument(
                    "`loss` gave no gradient to the model that it was called with: use its arguments (model, batch), "
                    "not a model from outside."
                )

    def _advance_schedulers(self) -> None:
        """Step the schedulers as often as training would have by now."""
        if not self._schedulers:
            return
        due = self.stream.updates // self._epoch
        if due == self._scheduled:
            return
        # Its first step warns if its own optimizer has made none, as with another optimizer or a skipped batch.
        with warnings.catch_warnings() if self._scheduled == 0 else nullcontext():
            if self._scheduled == 0:
                warnings.simplefilter("ignore")
            for _ in range(due - self._scheduled):
                for scheduler in self._schedulers:
                    scheduler.step()
        self._scheduled = due
