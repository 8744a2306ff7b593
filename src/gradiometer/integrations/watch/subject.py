"""What a watch follows: the loop of a person or a training of ours, and the examples it is
given."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradiometer.errors import BadArgument
from gradiometer.integrations.fsdp import is_sharded
from gradiometer.integrations.gradients import Preconditioner
from gradiometer.integrations.watch.shield import Hook, Shield
from gradiometer.loop.stream import Groups, labels_in
from gradiometer.measurement.batch import Batch, batch_size, mapped, tensors_of
from gradiometer.measurement.motion import Origin
from gradiometer.measurement.objective import Loss, Objective
from gradiometer.measurement.optimizer.groups import Group, groups_of, largest_rate
from gradiometer.measurement.optimizer.steps import bare
from gradiometer.measurement.reading import Draw, Sampling, Spread
from gradiometer.measurement.step import TrainingStep
from gradiometer.problems.examples import Examples
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks


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


def outermost_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that a model calls itself: its children, and in place of a list of layers what it
    holds. A wrapper has none, since its model is called through it."""
    if bare(model) is not model:
        return []
    found: list[nn.Module] = []
    for layer in model.children():
        if isinstance(layer, nn.ModuleList | nn.ModuleDict):
            found += outermost_layers(layer)
        elif not takes_no_hooks(layer):
            found.append(layer)
    return found


# Most numbers in the examples that are gathered for a step, 128 MiB in single precision. A loop
# that calls its model without steps, such as an evaluation with gradients, must not fill the
# memory.
MOST_GATHERED = 2**25

# An example counts as at least so many numbers: the object of a tensor takes about 500 bytes.
FEWEST_GATHERED = 2**8


def moved(batch: Batch, source: int, place: int) -> Batch:
    """The batch with an axis moved in every tensor that has so many."""
    least = max(source, place)
    return mapped(
        batch, lambda tensor: tensor.movedim(source, place) if tensor.dim() > least else tensor
    )


class Inputs:
    """Keeps the first tensor of the newest call of the model, until `step` takes it or the batches
    are given. A model that is called with one example at a time, as a policy is with every state,
    has as many examples as such calls. After too many of them without a step, only the newest
    counts.

    A loop may run `model.forward(x)`, or a method of the model, which no hook of the model sees.
    Until the model itself is called, the layer that was first called stands for it.

    The words of a sentence are no examples, and neither are calls with one time of a sequence each:
    before the first step, the first recurrent layer shows whether it runs over one sequence, and
    over how many times of it.

    Args:
        model: The model as the loop calls it: wrapped or compiled, so that compiled code does not
            see the hook.
        shield: Keeps errors from training.
    """

    def __init__(self, model: nn.Module, shield: Shield) -> None:
        self._model = model
        self._newest: Tensor | None = None
        self._examples: list[Tensor] = []
        self._gathered = 0
        self._hook: Any = None
        self._layer: nn.Module | None = None
        self._layer_hooks: list[Any] = []
        # Times of one sequence that a recurrent layer ran over in the newest call; 0 if it ran over
        # several sequences, or more than once. Afterwards what the inputs are for good.
        self._times = self._runs = 0
        self._is_time = self._is_sequence = False
        self._recurrent_hooks: list[Any] = []
        if isinstance(model, torch.jit.ScriptModule):  # it takes no hooks, and its layers none
            return
        self._hook = model.register_forward_pre_hook(
            Hook(shield, self._keep_of_model), with_kwargs=True
        )
        hook = Hook(shield, self._keep_of_layer)
        self._layer_hooks = [
            layer.register_forward_pre_hook(hook, with_kwargs=True)
            for layer in outermost_layers(model)
        ]
        recurrent = [layer for layer in model.modules() if isinstance(layer, nn.RNNBase)]
        look = Hook(shield, self._look_at_times)
        self._recurrent_hooks = [one.register_forward_pre_hook(look) for one in recurrent[:1]]

    def _look_at_times(self, layer: nn.RNNBase, given: tuple[Any, ...]) -> None:
        self._runs += 1
        self._times = 0
        if self._runs > 1 or not given or not isinstance(given[0], Tensor):
            return
        shape = given[0].shape
        if len(shape) == 2:
            self._times = shape[0]
        elif shape[0 if layer.batch_first else 1] == 1:
            self._times = shape[1 if layer.batch_first else 0]

    def _keep_of_model(
        self, model: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]
    ) -> None:
        if self._layer_hooks:
            self._forget_layers()
        self._keep(model, given, named)

    def _keep_of_layer(
        self, layer: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]
    ) -> None:
        if self._layer is None and torch.is_grad_enabled():
            self._layer = layer
        if layer is self._layer and torch.is_grad_enabled():
            self._keep(layer, given, named)

    def _forget_layers(self) -> None:
        while self._layer_hooks:
            self._layer_hooks.pop().remove()
        self._layer = None
        self._newest = None

    def _keep(self, _: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        self._runs = 0
        values = (*given, *named.values())
        tensors = [value for value in values if isinstance(value, Tensor)] or tensors_of(values)
        for value in tensors:
            if value.dim():
                # inputs that another model made hold the graph of that model
                self._newest = value.detach()
                self._gather(self._newest, values)
                return

    def _gather(self, newest: Tensor, values: tuple[Any, ...]) -> None:
        """Add the newest inputs to those of the calls with one example each since the last step.

        A call that is given what an earlier call returned, such as the state of a recurrent
        network that was written by hand, is the next time of the same sequence: the graph that it
        holds shows it.
        """
        if self._is_one_example(newest):
            newest = newest[None]
        if len(newest) != 1 or not torch.is_grad_enabled():
            self._examples = []
            self._gathered = 0
            return
        if self._examples and any(one.grad_fn is not None for one in tensors_of(values)):
            return
        self._gathered += max(newest.numel(), FEWEST_GATHERED)
        if self._gathered > MOST_GATHERED:
            self._examples = []
        else:
            self._examples.append(newest)

    def take(self, *, has_loss: bool) -> Tensor:
        """The inputs of the newest call, which stand for the batch.

        Args:
            has_loss: True if `watch` has a loss, which needs the whole batch.

        Raises:
            BadArgument: The batch is needed, or no call of the model with a tensor was seen.
        """
        newest, self._newest = self._newest, None
        examples, self._examples = self._examples, []
        self._gathered = 0
        if self._recurrent_hooks and newest is not None:
            self._recurrent_hooks.pop().remove()
            self._is_time = self._times == 1
            self._is_sequence = newest.dim() == 1 and self._times == len(newest) > 1
        if self._is_time:
            examples = []
        if has_loss:
            raise BadArgument(
                "`batch` is missing: `watch` was given `loss`, which needs the batch. Call "
                "w.step(loss, batch)."
            )
        if newest is None:
            raise BadArgument(
                "`batch` is missing, and no call of the model with a tensor was seen since the "
                "last step: call w.step(loss, batch)."
            )
        if len({one.shape for one in examples}) == 1:
            return torch.cat(examples)
        return newest[None] if self._is_one_example(newest) else newest

    def _is_one_example(self, inputs: Tensor) -> bool:
        """True for a sequence, and for a vector of as many numbers as a layer takes of one example,
        such as the state that a policy sees: it has no axis of examples. Whole numbers are a batch
        of indices, of users or words, as many as the width of a layer by chance."""
        if inputs.dim() != 1:
            return False
        if self._is_sequence or not inputs.is_floating_point():
            return self._is_sequence
        return any(
            isinstance(layer, nn.Linear) and layer.in_features == len(inputs)
            for layer in self._model.modules()
        )

    def remove(self) -> None:
        """Stop looking: the loop gives its batches, or has ended."""
        if self._hook is not None:
            self._hook.remove()
            self._forget_layers()
            self._hook = None
            while self._recurrent_hooks:
                self._recurrent_hooks.pop().remove()
            self._examples = []


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
        ranks: The processes that call the watch together.
        tell: Takes the text of every warning.
        has_loss: True if the objective can be run.
        accumulation: Number of backwards per update on each process.
        scaler: The GradScaler, if there is one: gradients are then read scaled.
        seed: Seed of the random numbers that measuring draws.
        spread: Returns the spread of the micro-batches that made the gradient of the step at hand,
            None if it has none; None for a training whose spread is read by the watch.
        origin: The earlier parameters that gauges measure from, if they are in the checkpoints of
            the training.
        is_own: True for a training of ours: its loss is the one that is trained, it makes its run
            and ends it, and stops at an error of measuring.
    """

    objective: Objective
    called: nn.Module
    optimizers: list[torch.optim.Optimizer]
    batches: Batches
    budget: Budget
    ranks: Ranks
    tell: Callable[[str], object]
    has_loss: bool = True
    accumulation: int = 1
    scaler: Any = None
    seed: int = 0
    spread: Callable[[], Spread | None] | None = None
    origin: Origin | None = None
    is_own: bool = False

    @cached_property
    def sharded(self) -> bool:
        """True if the model is sharded (FSDP2)."""
        return is_sharded(self.objective.model)

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
