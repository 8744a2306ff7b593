"""ĝ as the mean over micro-batches, made here one after another and, of several processes, on all of them at once."""

import random
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from gradiometer.measurement.batch import Batch, batch_size, chunks, span
from gradiometer.measurement.loss import checked_loss, with_graph
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.parts import SpreadBuilder
from gradiometer.measurement.spread import Spread
from gradiometer.problems.user_code import user_code
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks


class Accumulator:
    """Puts ĝ into `.grad`. Measuring reads norms and leaves this arithmetic as it is.

    Every process makes the gradient of its share of the batch, in one micro-batch or several, and the shares are added
    up in one exchange; of a measured step their norms are exchanged as well. The sum is the same for any number of
    processes up to rounding, and the same bits for one number.

    Args:
        objective: The model and its loss.
        accumulation: k, over all processes; each makes at least one.
        ranks: The processes.
        budget: Where the cost of reading norms is counted.
        seed: Of the training. A process that is not the first draws (Dropout) from a seed of its own at every step,
            so that nothing of it has to be kept.
    """

    def __init__(self, objective: Objective, accumulation: int, ranks: Ranks, budget: Budget, seed: int) -> None:
        self._objective, self._accumulation, self._ranks = objective, accumulation, ranks
        self._budget, self._seed = budget, seed
        # Kept from step to step: memory that is given back is paid for again, page by page.
        self._mean = [torch.zeros_like(parameter) for parameter in objective.parameters]

    def __call__(
        self, batch: Batch, measured: bool, index: int, where: Callable[[Batch], str]
    ) -> tuple[float, Spread | None]:
        """The loss and, where the step is measured, the spread of the micro-batches; ĝ in `.grad`.

        Args:
            batch: The whole batch, the same on all processes.
            measured: Whether the step is; the same on all processes.
            index: The step's number.
            where: Of a part of the batch, where it is, for a message.
        """
        if not self._ranks.first:
            self._draw_anew(index)
        builder = SpreadBuilder(self._objective.layer_of)
        loss = self._accumulate(self._share(batch), batch_size(batch), builder if measured else None, where)
        if not self._ranks.alone:
            loss = self._added_up(loss)
        for parameter, gradient in zip(self._objective.parameters, self._mean, strict=True):
            parameter.grad = gradient
        if not measured:
            return loss, None
        with self._budget.spending():
            return loss, self._joined(builder).finish(self._mean)

    def _accumulate(
        self, parts: Sequence[Batch], size: int, builder: SpreadBuilder | None, where: Callable[[Batch], str]
    ) -> float:
        """This process's part of the mean gradient and of the mean loss."""
        mean_loss, parameters = 0.0, self._objective.parameters
        if not parts:  # more processes than examples
            torch._foreach_zero_(self._mean)
        for place, part in enumerate(parts):
            weight = batch_size(part) / size
            with user_code("loss", where(part)):
                value = self._objective.loss(self._objective.model, part)
                loss = with_graph(checked_loss(value, part).mean())
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            if builder is not None:
                with self._budget.spending():
                    builder.add(batch_size(part), gradients)
            if place == 0:
                torch._foreach_copy_(self._mean, gradients)
                torch._foreach_mul_(self._mean, weight)
            else:
                torch._foreach_add_(self._mean, gradients, alpha=weight)
            del gradients  # so that the next ones find its memory free
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
        """Micro-batches of one process, at most."""
        return -(-self._accumulation // self._ranks.count)

    def _added_up(self, loss: float) -> float:
        """The parts of all processes, put together in one exchange: the gradient in its place, and the loss."""
        parts = [part.reshape(-1) for part in self._mean]
        flat = torch.cat([*parts, parts[0].new_tensor([loss])])
        self._ranks.add(flat)
        *sums, loss_sum = flat.split([part.numel() for part in parts] + [1])
        for mean, total in zip(self._mean, sums, strict=True):
            mean.copy_(total.view_as(mean))
        return float(loss_sum)

    def _joined(self, builder: SpreadBuilder) -> SpreadBuilder:
        """The norms of the micro-batches of all processes."""
        if self._ranks.alone:
            return builder
        places = len(self._objective.parameters)
        rows = torch.zeros(self._each, 1 + places, dtype=torch.float64, device=self._mean[0].device)
        if builder.sizes:
            rows[: len(builder.sizes), 0] = torch.tensor(builder.sizes, dtype=torch.float64)
            rows[: len(builder.sizes), 1:] = torch.cat(builder.squared)
        everyone = self._ranks.gathered(rows)
        everyone = everyone[everyone[:, 0] > 0]
        return SpreadBuilder(self._objective.layer_of, everyone[:, 0].int().tolist(), [everyone[:, 1:]])

    def _draw_anew(self, index: int) -> None:
        seed = zlib.crc32(f"{self._seed}/{self._ranks.rank}/{index}".encode())
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the global one is what models use)
