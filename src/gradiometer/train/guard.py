"""`Guard`: goes back at a lower rate if a training collapses, or learns far less than was seen at
its rate before."""

import copy
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.loss import Loss, checked_loss
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness

WINDOW, FEWEST = 1 / 30, 5
"""Losses are smoothed over this share of the steps, and over at least so many."""

START = 4
"""Number of first losses whose mean is the loss at the start."""

KEEP = 1 / 50
"""The state is kept at most once in this share of the steps."""

LEARNT = 0.9
"""No state is kept before the smoothed loss is below this share of the loss at the start."""

COLLAPSE, HALF, LOST = 5.0, 0.5, 0.5
"""The training may have collapsed if the smoothed loss is this many times its lowest value; or,
where it was below this share of the start, if this share of the fall is lost again. It has if the
kept state is better on the same batch."""

FROM, HIGH, STUCK, WAIT = 0.3, 3.0, 0.97, 0.1
"""From this share of the steps on, the rate is too high if the smoothed loss is so many times the
expected one, or above this share of the loss at the start. After a return, that waits for this
share of the steps."""

CONFIRMED = 2.0
"""The kept state is better if its loss on the batch is lower by this factor, or by half of the way
to the start."""

LOWER, MUCH_LOWER = 0.5**0.5, 0.5
"""Factors of the rate at a return, and at one from a loss or gradient that is not finite."""

MOST = 40
"""Most returns of a training."""


class Guard:
    """Watches the loss of a training, and returns to an earlier state at a lower rate where the
    rate proves too high.

    The state with the lowest smoothed loss is kept. The guard returns to it if the loss or the
    gradient is not finite, or if the smoothed loss is 5 times its lowest value, or half of what was
    learnt is lost, and the kept state is better on the same batch. From 30 % of the steps on, it
    lowers the rate if the smoothed loss is 3 times `expected`, or still as high as at the start; it
    then returns only if the kept state is better, on the batch or by its smoothed loss, or if
    nothing has been learnt.

    A return makes no update in its step, so that the number of steps stays the same. It multiplies
    the rate, and all later rates of the scheduler, by 0.71, or by 0.5 where something is not
    finite. A test costs one forward pass, and the kept state one more copy of the model and of the
    optimizer's state. It draws no random numbers: the same losses
    give the same returns. Clip the gradients: a loss that grows without becoming infinite is
    answered late. Under a GradScaler call it after `unscale_`, and not in a step whose gradients
    overflowed.

    Args:
        model: The model in training.
        optimizer: Its optimizer.
        scheduler: The scheduler of its rate.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example.
        steps: Steps of the training.
        expected: The training loss that a shorter training has reached; None if it is not known.

    Raises:
        BadArgument: `steps` or `expected` cannot be used.

    >>> import torch
    >>> from torch import nn
    >>> from gradiometer import supervised
    >>> from gradiometer.train.guard import Guard
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Flatten(0))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.5)  # diverges: the edge is at 1
    >>> scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=100)
    >>> loss, batch = supervised(nn.MSELoss(reduction="none")), (torch.ones(4, 1), torch.zeros(4))
    >>> guard = Guard(model, optimizer, scheduler, loss=loss, steps=100, expected=0.0)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     value = loss(model, batch).mean()
    ...     value.backward()
    ...     if not guard.went_back(value, batch):
    ...         optimizer.step()
    ...     scheduler.step()
    >>> guard.returns > 0 and value.item() < 1e-3
    True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler,
        *,
        loss: Loss,
        steps: int,
        expected: Amount | None = None,
    ) -> None:
        check_whole("steps", steps, 1)
        if expected is not None and not math.isfinite(expected):
            check_number("expected", expected)
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.loss = loss
        self.steps = steps
        self.expected = expected
        self.window = max(round(WINDOW * steps), FEWEST)
        self.step = 0
        self.returns = 0
        self.start = math.nan
        self.smoothed = math.nan
        self.lowest = math.inf
        self.kept_at = math.inf
        self.count = 0
        self.waits = FROM * steps
        self.kept: tuple[dict[str, Any], dict[Any, Any]] = self._state()

    def went_back(self, loss: Tensor | float, batch: Batch) -> bool:
        """Take in the loss of a step, after its backward pass. True if the guard went back: make no
        update then.

        Args:
            loss: The mean loss of the batch.
            batch: The batch.
        """
        value, step = float(loss.detach()) if isinstance(loss, Tensor) else float(loss), self.step
        self.step += 1
        if self.returns >= MOST:
            return False
        if not (math.isfinite(value) and self._gradient_is_finite()):
            return self._go_back(step, MUCH_LOWER, restoring=True)
        self._smooth(value, step)
        if self.count < self.window:
            return False
        if self._seems_collapsed() or self._too_high(step):
            high = self._too_high(step)
            worse = self._is_worse(value, batch, step) or (high and self._has_lost())
            if worse or high:
                return self._go_back(step, LOWER, restoring=worse)
            self.count = 0  # it is tested again after a window
            return False
        self._keep(step)
        return False

    def _go_back(self, step: int, factor: float, *, restoring: bool) -> bool:
        if restoring:
            self._restore()
        scale_rates(self.optimizer, self.scheduler, factor)
        self.returns = self.returns + 1
        self.count = 0
        self.waits = max(self.waits, step + WAIT * self.steps)
        return True

    def _smooth(self, value: float, step: int) -> None:
        if step < START:
            self.start = (
                value
                if step == 0 or math.isnan(self.start)
                else self.start + (value - self.start) / (step + 1)
            )
        self.count += 1
        before = value if self.count == 1 else self.smoothed
        self.smoothed = before + (value - before) / min(self.count, self.window)

    @property
    def _learnt(self) -> bool:
        """True if the loss has been well below that of the start."""
        return self.lowest < self.start - (1 - LEARNT) * abs(self.start)

    def _seems_collapsed(self) -> bool:
        """True if the smoothed loss is far above its lowest value."""
        half = math.inf
        if self.lowest < self.start - HALF * abs(self.start):
            half = self.lowest + LOST * (self.start - self.lowest)
        return self._learnt and self.smoothed > min(_times(COLLAPSE, self.lowest), half)

    def _too_high(self, step: int) -> bool:
        """True if the smoothed loss is far above what is expected by now."""
        if self.expected is None or step < self.waits:
            return False
        learnable = self.expected < self.start - (1 - LEARNT) * abs(self.start)
        level = self.start - (1 - STUCK) * abs(self.start) if learnable else math.inf
        return self.smoothed > min(_times(HIGH, self.expected), level)

    def _has_lost(self) -> bool:
        """True if half of what the kept state had learnt is lost, by smoothed losses: single
        batches differ."""
        return self.smoothed > self.kept_at + LOST * max(self.start - self.kept_at, 0.0)

    def _keep(self, step: int) -> None:
        """Keep the state if the smoothed loss is the lowest so far."""
        self.lowest = min(self.lowest, self.smoothed)
        if (
            step % max(round(KEEP * self.steps), 1) == 0
            and self.smoothed < self.kept_at
            and self._learnt
        ):
            self.kept = self._state()
            self.kept_at = self.smoothed

    def _state(self) -> tuple[dict[str, Any], dict[Any, Any]]:
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()["state"]))

    def _restore(self) -> None:
        """Restore the kept state. The optimizer keeps its settings."""
        groups = self.optimizer.state_dict()["param_groups"]
        self.model.load_state_dict(self.kept[0])
        self.optimizer.load_state_dict(
            {"state": copy.deepcopy(self.kept[1]), "param_groups": groups}
        )

    @torch.no_grad()
    def _is_worse(self, value: float, batch: Batch, step: int) -> bool:
        """True if the kept state has a clearly lower loss on the batch, or if nothing has been
        learnt since."""
        if not self._learnt:
            return True
        now = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.kept[0])
        devices = {parameter.device for parameter in self.model.parameters()}
        try:
            with (
                untouched_randomness(zlib.crc32(f"{step}/guard".encode()), devices),
                user_code("loss"),
            ):
                kept = float(checked_loss(self.loss(self.model, batch), batch).mean())
        finally:
            self.model.load_state_dict(now)
        return value > min(_times(CONFIRMED, kept), kept + LOST * max(self.start - kept, 0.0))

    def _gradient_is_finite(self) -> bool:
        gradients = [
            p.grad
            for group in self.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        values = [
            gradient.coalesce().values() if gradient.is_sparse else gradient
            for gradient in gradients
        ]
        return not values or bool(
            torch.stack([torch.isfinite(value).all() for value in values]).all()
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of its state, for a checkpoint."""
        model, optimizer = self.kept
        found = {f"model.{name}": value for name, value in model.items()}
        for index, state in optimizer.items():
            found |= {
                f"optimizer.{index}.{name}": value
                for name, value in state.items()
                if torch.is_tensor(value)
            }
        return found

    def values(self) -> dict[str, Any]:
        """The rest of its state, as values for JSON."""
        return {name: getattr(self, name) for name in NAMES}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Put a state back, from `tensors` and `values`."""
        model, optimizer = dict[str, Any](), dict[Any, Any]()
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            if part == "model":
                model[rest] = value.clone()
            else:
                index, _, key = rest.partition(".")
                optimizer.setdefault(int(index), {})[key] = value.clone()
        self.kept = model, optimizer
        for name in NAMES:
            setattr(self, name, values[name])


NAMES = ("step", "returns", "start", "smoothed", "lowest", "kept_at", "count", "waits")
"""The values of a guard's state."""


def scale_rates(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, factor: float) -> None:
    """Multiply the rate of the optimizer and all later rates of its scheduler."""
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr", "max_lr", "min_lr"):
            if name in group:
                group[name] *= factor
    for one in _all_of(scheduler):
        for name in ("base_lrs", "max_lrs"):
            if name in vars(one):
                setattr(one, name, [rate * factor for rate in getattr(one, name)])


def _all_of(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    """A scheduler and those that it consists of."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _all_of(part)


def _times(factor: float, loss: float) -> float:
    """A loss this many times as high, also if it is negative."""
    return loss + (factor - 1) * abs(loss)
