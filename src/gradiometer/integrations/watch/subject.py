"""What a watch follows: the loop of a person or a training of ours, and the examples it is
given."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import Preconditioner
from gradiometer.integrations.watch.sources.source import GradientSource
from gradiometer.loop.stream import Groups, labels_in
from gradiometer.measurement.batch import Batch, batch_size, mapped
from gradiometer.measurement.motion import Origin
from gradiometer.measurement.objective import Loss, Objective
from gradiometer.measurement.optimizer.groups import Group, groups_of, largest_rate
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.measurement.step import TrainingStep
from gradiometer.problems.examples import Examples
from gradiometer.run.budget import Budget


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

    def draw_for(
        self, purpose: str, count: int, objective: Objective, index: int, seed: int
    ) -> Batch:
        """The batch of a step for a purpose, on the model's device. Another purpose has other
        examples. The random states of training are not touched."""
        device = objective.parameters[0].device
        digits = zlib.crc32(f"{seed}/{index}/{purpose}".encode())
        with objective.untouched_randomness(digits):
            if isinstance(self.source, Examples):
                return OnDevice(self.source, device).batch(
                    torch.randint(len(self.source), (count,))
                )
            batch = mapped(self.source(count), lambda tensor: tensor.to(device))
        size = batch_size(batch, "probe")
        if size != count:
            raise BadArgument(
                f"`probe` returned {size} examples, and {count} were asked for: return as many."
            )
        return batch

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

    def learn(self, sampling: Sampling) -> None:
        """Take the sampling of a loader, unless it was given."""
        if not self.known:
            self.sampling = sampling
            self.known = True

    def loss_of(self, loss: Loss | None) -> Loss | None:
        """The loss for batches with the examples along the first axis."""
        if loss is None or not self.axis:
            return loss
        return lambda model, batch: loss(model, moved(batch, 0, self.axis))

    def example_of(self, batch_of: Callable[[], Batch]) -> Int[Tensor, " rows"] | None:
        """A label for every row of a batch, equal for the copies of one example; None if there are
        no copies.

        Raises:
            BadArgument: `groups` returned something else, or all rows are copies of one example.
        """
        labels = None if self.groups is None else labels_in(batch_of(), self.groups)
        if labels is not None and not labels.any():
            raise BadArgument(
                f"`groups` is {self.groups}, and a batch has {len(labels):,} rows, which would all "
                "be copies of one example: give the number of rows that belong together."
            )
        return labels


def takes_no_hooks(model: nn.Module) -> bool:
    """True if hooks on the model would have it compiled again, or if it is scripted and refuses
    them."""
    return (
        isinstance(model, torch.jit.ScriptModule)
        or getattr(model, "_compiled_call_impl", None) is not None
    )


def moved(batch: Batch, source: int, place: int) -> Batch:
    """The batch with an axis moved in every tensor that has so many."""
    least = max(source, place)
    return mapped(
        batch, lambda tensor: tensor.movedim(source, place) if tensor.dim() > least else tensor
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """The training that is watched, and what was said about it.

    Args:
        objective: The bare model and its loss.
        called: The model as the loop calls it: wrapped or compiled.
        optimizers: The optimizers of the loop. One that trains in place of another replaces it in
            this list.
        batches: How batches are drawn.
        budget: The account of the run.
        source: How its gradients are had: on one process or several, in one backward or several.
        tell: Takes the text of every warning.
        has_loss: True if the objective can be run.
        scaler: The GradScaler, if there is one: gradients are then read scaled.
        seed: Seed of the random numbers that measuring draws.
        origin: The earlier parameters that gauges measure from, if they are in the checkpoints of
            the training.
    """

    objective: Objective
    called: nn.Module
    optimizers: list[torch.optim.Optimizer]
    batches: Batches
    budget: Budget
    source: GradientSource
    tell: Callable[[str], object]
    has_loss: bool = True
    scaler: Any = None
    seed: int = 0
    origin: Origin | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return self.objective.parameters

    @property
    def groups(self) -> tuple[Group, ...]:
        """The settings of all parameter groups of the model now."""
        return groups_of(self.optimizers, self.own)

    @cached_property
    def own(self) -> frozenset[int]:
        """`id` of every parameter that is trained."""
        return frozenset(map(id, self.parameters))

    def scale(self) -> Tensor:
        """The factor of the GradScaler, on the device; 1 without one."""
        one = torch.ones((), device=self.parameters[0].device)
        if self.scaler is None:
            return one
        scaled: Tensor = self.scaler.scale(one)
        return scaled
