"""The inputs of a model, as its calls show them: they stand for batches that are not given."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.watch.hook import Hook
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.subject import takes_no_hooks
from gradiometer.measurement.batch import tensors_of
from gradiometer.measurement.optimizer.steps import bare


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


def rectangular(inputs: Tensor) -> Tensor:
    """The inputs, padded with zeros if they are a nested tensor of the strided layout, which has
    neither a shape nor a length."""
    if inputs.is_nested and inputs.layout is torch.strided:
        padded: Tensor = torch.nested.to_padded_tensor(inputs, 0.0)
        return padded
    return inputs


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
                self._newest = rectangular(value.detach())
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

    def take(self, _: Any) -> Tensor:
        """The inputs of the newest call, which stand for the batch.

        Raises:
            BadArgument: No call of the model with a tensor was seen.
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
        if newest is None:
            raise BadArgument(
                "`batch` is missing, and no call of the model with a tensor was seen since the "
                "last step: call w.step(loss) once after each backward, or give the batch, "
                "w.step(loss, batch)."
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
