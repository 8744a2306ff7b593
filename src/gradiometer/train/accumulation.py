"""ĝ as the mean over micro-batches, made one after another, and on several processes at once."""

import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradiometer.measurement.batch import Batch, batch_size, chunks, span
from gradiometer.measurement.objective import Loss, Objective, checked_loss
from gradiometer.measurement.parts import SpreadBuilder
from gradiometer.measurement.reading import Spread
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import seed_everything
from gradiometer.run.budget import READINGS, Budget
from gradiometer.run.ranks import Ranks


class Where(NamedTuple):
    """The step and the batch at which a loss is run, as the end of a message."""

    step: int
    batch: Batch

    def __str__(self) -> str:
        size = batch_size(self.batch)
        return f"at step {self.step:,}, of {size:,} example{'s' if size > 1 else ''}"


class Accumulator:
    """Puts ĝ into `.grad`. Measuring reads norms and leaves this arithmetic as it is.

    Every process makes the gradient of its share of the batch, in one or more micro-batches, and
    one exchange adds the shares up. At a measured step their norms are exchanged too. The sum is
    the same for any number of processes up to rounding, and has the same bits for the same number.

    Args:
        objective: The model and its loss.
        accumulation: k, the number of micro-batches over all processes; each process makes at least
            one.
        ranks: The processes.
        budget: The account that the cost of reading norms is charged to.
        seed: Seed of the training. Every process except rank 0 sets its own seed at each step (for
            Dropout), so that checkpoints need not keep its random states.
        preconditioner: Reads P from the state of the optimizer, if norms under P are wanted too.
    """

    def __init__(
        self,
        objective: Objective,
        accumulation: int,
        ranks: Ranks,
        budget: Budget,
        seed: int,
        preconditioner: Callable[[], Sequence[Tensor] | None] | None = None,
    ) -> None:
        self._objective = objective
        self._accumulation = accumulation
        self._ranks = ranks
        self._budget = budget
        self._seed = seed
        self._preconditioner = preconditioner
        # Kept from step to step, since memory that is freed costs page faults when it is allocated
        # again.
        self._mean = [torch.zeros_like(parameter) for parameter in objective.parameters]

    def __call__(
        self, batch: Batch, measured: bool, index: int, where: Callable[[Batch], object]
    ) -> tuple[float, Spread | None]:
        """Put ĝ into `.grad`. Returns the loss and, at a measured step, the spread of the
        micro-batches.

        Args:
            batch: The whole batch, the same on all processes.
            measured: True if the step is measured; the same on all processes.
            index: The step's number.
            where: Describes the place of a part of the batch, for messages.
        """
        # Checkpoints keep the random states of rank 0 only: the others draw from a seed of the
        # step.
        if not self._ranks.first:
            seed_everything(zlib.crc32(f"{self._seed}/{self._ranks.rank}/{index}".encode()))
        builder = SpreadBuilder(self._objective.layer_of)
        if measured and self._preconditioner is not None:
            with self._budget.spending(READINGS):
                builder.preconditioner = self._preconditioner()
        loss = self._accumulate(
            self._share(batch), batch_size(batch), builder if measured else None, where
        )
        if not self._ranks.alone:
            loss = self._add_up(loss)
        for parameter, gradient in zip(self._objective.parameters, self._mean, strict=True):
            parameter.grad = gradient
        if not measured:
            return loss, None
        with self._budget.spending(READINGS):
            return loss, self._join(builder).finish(self._mean)

    def _accumulate(
        self,
        parts: Sequence[Batch],
        size: int,
        builder: SpreadBuilder | None,
        where: Callable[[Batch], object],
    ) -> float:
        """Add up this process's part of the mean gradient, and return its part of the mean loss."""
        mean_loss, parameters = 0.0, self._objective.parameters
        if not parts:  # more processes than examples
            torch._foreach_zero_(self._mean)
        for place, part in enumerate(parts):
            weight = (examples := batch_size(part)) / size
            with user_code("loss", where(part)):
                value = self._objective.loss(self._objective.model, part)
                loss = checked_loss(value, part, has_graph=True).mean()
                gradients = torch.autograd.grad(
                    loss, parameters, allow_unused=True, materialize_grads=True
                )
            if builder is not None:
                with self._budget.spending(READINGS):
                    builder.add(examples, gradients)
            if place == 0:
                torch._foreach_copy_(self._mean, gradients)
                torch._foreach_mul_(self._mean, weight)
            else:
                torch._foreach_add_(self._mean, gradients, alpha=weight)
            del gradients  # so that the next ones reuse its memory
            mean_loss += weight * loss.item()
        return mean_loss

    def _share(self, batch: Batch) -> list[Batch]:
        """The micro-batches of this process, of neighbouring examples."""
        size, rank, count = batch_size(batch), self._ranks.rank, self._ranks.count
        if self._ranks.alone:
            return chunks(batch, min(self._accumulation, size))
        start, stop = size * rank // count, size * (rank + 1) // count
        share = span(batch, start, stop)
        return chunks(share, min(self._each, stop - start)) if stop > start else []

    @property
    def _each(self) -> int:
        """Most micro-batches of one process."""
        return -(-self._accumulation // self._ranks.count)

    def _add_up(self, loss: float) -> float:
        """Add up the gradients and losses of all processes in one exchange. Returns the loss."""
        parts = [part.reshape(-1) for part in self._mean]
        flat = torch.cat([*parts, parts[0].new_tensor([loss])])
        self._ranks.add(flat)
        *sums, loss_sum = flat.split([part.numel() for part in parts] + [1])
        for mean, total in zip(self._mean, sums, strict=True):
            mean.copy_(total.view_as(mean))
        return float(loss_sum)

    def _join(self, builder: SpreadBuilder) -> SpreadBuilder:
        """The norms of the micro-batches of all processes."""
        if self._ranks.alone:
            return builder
        places, under = len(self._objective.parameters), builder.preconditioner is not None
        width = 1 + places * (2 if under else 1)
        rows = torch.zeros(self._each, width, dtype=torch.float64, device=self._mean[0].device)
        if builder.sizes:
            rows[: len(builder.sizes), 0] = torch.tensor(builder.sizes, dtype=torch.float64)
            norms = [
                torch.cat(builder.squared),
                *([torch.cat(builder.preconditioned)] if under else []),
            ]
            rows[: len(builder.sizes), 1:] = torch.cat(norms, dim=1)
        everyone = self._ranks.gathered(rows)
        everyone = everyone[everyone[:, 0] > 0]
        sizes, squared = everyone[:, 0].int().tolist(), [everyone[:, 1 : 1 + places]]
        preconditioned = [everyone[:, 1 + places :]] if under else []
        return SpreadBuilder(
            self._objective.layer_of, sizes, squared, builder.preconditioner, preconditioned
        )


class MicroBatches:
    """The gradient of a batch as a training makes it that accumulates: see
    `gradiometer.loop.loop.Gradient`.

    Args:
        loss: The loss of training.
        accumulation: Number of micro-batches of a batch of training; a larger batch has more of
            them.
        seed: Seed of the training.
    """

    def __init__(self, loss: Loss, accumulation: int, seed: int) -> None:
        self._loss = loss
        self._accumulation = accumulation
        self._seed = seed
        self._newest: tuple[nn.Module, int, Accumulator] | None = None

    def __call__(self, model: nn.Module, batch: Batch, factor: Fraction) -> float:
        """Put the gradient into `.grad`, and return the loss."""
        parts = max(round(self._accumulation * factor), 1)
        if self._newest is None or self._newest[0] is not model or self._newest[1] != parts:
            accumulator = Accumulator(
                Objective(model, self._loss), parts, Ranks(), Budget(0.0), self._seed
            )
            self._newest = model, parts, accumulator
        loss, _ = self._newest[2](batch, False, 0, lambda _: "in a branch")
        return loss
