"""The spread of parts of a batch that are run again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, batch_size, dealt, take
from gradiometer.measurement.objective import Gradients, Objective
from gradiometer.measurement.parts import SpreadBuilder
from gradiometer.measurement.reading import Spread

PER_EXAMPLE_NUMBERS = 2**25
"""Largest number of values in memory when gradients are computed per example: 128 MiB in single
precision."""


@dataclass(frozen=True)
class Apart:
    """A batch whose parts are run again.

    Args:
        objective: The model and its loss.
        batch: The examples.
        gradient: ĝ of training, or a function that returns it; None if it is not known.
        preconditioner: P, if norms under P are wanted too.
        example_of: A label for every row, if rows with one label have to stay in one part.
        seed_of: The seed of the random numbers for a purpose.
    """

    objective: Objective
    batch: Batch
    gradient: Callable[[], Gradients] | None
    preconditioner: Sequence[Tensor] | None
    example_of: Int[Tensor, " rows"] | None
    seed_of: Callable[[str], int]

    def spread(self, count: int) -> Spread:
        """The spread of `count` parts, or of as many as the loss and the labels allow.

        Raises:
            BadArgument: `count` is below 2 or above the number of examples.
        """
        size = batch_size(self.batch)
        if not 2 <= count <= size:
            raise BadArgument(
                f"`parts` must be at least 2, and at most the batch size {size}, got {count}: "
                "the spread within a step needs two parts of at least one example each."
            )
        traits = self.objective.traits(self.batch, seed=self.seed_of("probe"))
        if self.example_of is not None:
            count = min(count, len(self.example_of.unique()))
        if traits.coupled:  # there are no batch statistics of one example
            count = max(min(count, size // 2), 2)
        elif count == size > 2 and self.example_of is None:
            return self._per_example()
        parts = self.dealt(count)
        if not (traits.fixed and self.gradient is not None):
            return self.all_run(parts)
        return self._with_last_by_subtraction(parts, self.gradient())

    def dealt(self, count: int) -> list[Tensor]:
        """The rows of every part."""
        generator = torch.Generator().manual_seed(self.seed_of("deal"))
        return dealt(batch_size(self.batch), count, generator, self.example_of)

    def all_run(self, parts: Sequence[Tensor]) -> Spread:
        """Compute every gradient, each with its own random numbers and batch statistics; ĝ is their
        mean."""
        builder, mean, size = self._builder, list[Tensor](), batch_size(self.batch)
        for position, part in enumerate(parts):
            gradients = self._part_gradient(part, position)
            builder.add(len(part), gradients)
            share = len(part) / size
            if mean:
                torch._foreach_add_(mean, gradients, alpha=share)
            else:  # a gradient may share its memory with another tensor, so it is not changed in place
                mean = list(torch._foreach_mul(gradients, share))
            del gradients
        return builder.finish(mean)

    def _with_last_by_subtraction(self, parts: Sequence[Tensor], whole: Gradients) -> Spread:
        """Compute k − 1 gradients; Σ b_j ĝ_j = B ĝ gives the last, of which only the norms are
        kept."""
        builder, rest, left = self._builder, whole, batch_size(self.batch)
        for position, part in enumerate(parts[:-1]):
            gradients = self._part_gradient(part, position)
            builder.add(len(part), gradients)
            left -= len(part)
            # The mean over the remaining examples: ((left + b) rest − b ĝ_j) / left.
            weight = -len(part) / left
            if position == len(parts) - 2:
                builder.add_between(left, rest, gradients, weight)
            elif position:
                torch._foreach_lerp_(rest, gradients, weight)
            else:
                rest = list(torch._foreach_lerp(rest, gradients, weight))
            del gradients
        return builder.finish(whole)

    def _per_example(self) -> Spread:
        """Compute the gradient of every example by vmap, a few at a time; ĝ is their mean."""
        builder, size = self._builder, batch_size(self.batch)
        mean = [torch.zeros_like(parameter) for parameter in self.objective.parameters]
        at_once = max(PER_EXAMPLE_NUMBERS // self.objective.dimension, 1)
        for position, part in enumerate(torch.split(torch.arange(size, device="cpu"), at_once)):
            seed = self.seed_of(f"examples {position}")
            gradients = self.objective.per_example_gradients(take(self.batch, part), seed=seed)
            builder.add_each(gradients)
            torch._foreach_add_(mean, [g.sum(0) for g in gradients], alpha=1 / size)
        return builder.finish(mean)

    @property
    def _builder(self) -> SpreadBuilder:
        """A new builder of a spread."""
        return SpreadBuilder(self.objective.layer_of, preconditioner=self.preconditioner)

    def _part_gradient(self, part: Tensor, position: int) -> Gradients:
        return self.objective.gradient(
            take(self.batch, part), seed=self.seed_of(f"part {position}")
        )
