"""The examples that a person gives to a watch: by position, on the model's device, or as batches of
a probe."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import Preconditioner
from gradiometer.loop.stream import Groups, examples_in
from gradiometer.measurement.batch import Batch, batch_size, mapped
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.optimizer.groups import Group, largest_rate
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.measurement.step import TrainingStep
from gradiometer.problems.examples import Examples


@dataclass(frozen=True)
class OnDevice:
    """Examples whose batches are moved to a device when they are taken.

    Args:
        examples: The examples, wherever they are.
        device: The device of the model.
    """

    examples: Examples
    device: torch.device

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, index: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions. A position may occur twice."""
        return mapped(self.examples.batch(index), lambda tensor: tensor.to(self.device))


def examples_of(data: Any, name: str) -> Examples:
    """The examples in a tree of tensors, a map-style data set, or the data set of a DataLoader with
    its `collate_fn`.

    Args:
        data: The examples.
        name: Name of the argument, for messages.

    Raises:
        BadArgument: They cannot be taken by position.
    """
    if isinstance(data, Examples):
        return data
    if isinstance(data, DataLoader):
        return Examples(data.dataset, name, data.collate_fn)
    return Examples(data, name)


@dataclass(frozen=True)
class Probe:
    """Batches of independent examples, which are measured in place of training's own.

    Args:
        source: The examples that are drawn from, with replacement; or a function of a number of
            examples that returns so many independent ones.
    """

    source: Examples | Callable[[int], Batch]

    @classmethod
    def of(cls, data: Any) -> "Probe":
        """The probe from what a person gives as `probe`.

        Raises:
            BadArgument: No examples can be taken from it.
        """
        return cls(
            data
            if callable(data) and not isinstance(data, Examples)
            else examples_of(data, "probe")
        )

    @property
    def sampling(self) -> Sampling:
        """How the examples of the probe are drawn."""
        if isinstance(self.source, Examples):
            return Sampling(Draw.REPLACEMENT, len(self.source))
        return Sampling(Draw.FRESH)

    def draw(self, count: int, objective: Objective, seed: int) -> Batch:
        """A batch on the model's device. The random states of training are not touched."""
        device = objective.parameters[0].device
        with objective.untouched_randomness(seed):
            if isinstance(self.source, Examples):
                return OnDevice(self.source, device).batch(
                    torch.randint(len(self.source), (count,))
                )
            batch = mapped(self.source(count), lambda tensor: tensor.to(device))
        if (size := batch_size(batch, "probe")) != count:
            raise BadArgument(
                f"`probe` returned {size} examples, and {count} were asked for: return as many."
            )
        return batch

    def draw_for(
        self, purpose: str, count: int, objective: Objective, index: int, seed: int
    ) -> Batch:
        """The batch of a step for a purpose. Another purpose has other examples."""
        return self.draw(count, objective, zlib.crc32(f"{seed}/{index}/{purpose}".encode()))

    def step(
        self,
        objective: Objective,
        count: int,
        index: int,
        groups: tuple[Group, ...],
        preconditioner: Preconditioner | None,
        seed: int,
    ) -> TrainingStep:
        """The step that a batch of the probe would make, judged by another one. Arguments as in
        `TrainingStep`."""

        return TrainingStep(
            objective,
            self.draw_for("probe", count, objective, index, seed),
            index=index,
            learning_rate=largest_rate(groups),
            groups=groups,
            sampling=self.sampling,
            probe=partial(self.draw_for, "judges", count, objective, index, seed),
            preconditioner=preconditioner,
            seed=seed,
        )


@dataclass
class Batches:
    """How batches are drawn. The sampling may become known before the first step.

    Args:
        sampling: Those of training.
        probe: Those that are measured; None for training's own.
        groups: Number of consecutive rows that are copies of one example, or a function of the
            batch that returns a label for every row; None if there are no copies.
        known: False if the sampling is only assumed.
        axis: The axis of the examples in the batches of training.
        judges: Independent examples on which a step is judged; None to judge it on one half of its
            own batch.
    """

    sampling: Sampling
    probe: Probe | None = None
    groups: Groups = None
    known: bool = True
    axis: int = 0
    judges: Probe | None = None

    def examples_first(self, batch: Batch) -> Batch:
        """A batch of training with the examples along the first axis."""
        return moved(batch, self.axis, 0) if self.axis else batch

    def loss_of(self, loss: Loss | None) -> Loss | None:
        """The loss for batches with the examples along the first axis."""
        if loss is None or not self.axis:
            return loss
        return lambda model, batch: loss(model, moved(batch, 0, self.axis))

    def example_of(self, batch_of: Callable[[], Batch]) -> Int[Tensor, " rows"] | None:
        """A label for every row of a batch, equal for the copies of one example; None if there are
        no copies.

        Raises:
            BadArgument: `groups` returned something else.
        """
        return None if self.groups is None else examples_in(batch_of(), self.groups)


def moved(batch: Batch, source: int, place: int) -> Batch:
    """The batch with an axis moved in every tensor that has so many."""
    least = max(source, place)
    return mapped(
        batch, lambda tensor: tensor.movedim(source, place) if tensor.dim() > least else tensor
    )
