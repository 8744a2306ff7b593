"""What the model was called with, for a loop that does not give its batches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.watch.shield import Hook, Shield


class Inputs:
    """Keeps the first tensor of the newest call of the model, until `step` takes it or the batches
    are given. A model that is called with one example at a time, as a policy is with every state,
    has as many examples as such calls.

    Args:
        model: The model as the loop calls it: wrapped or compiled, so that compiled code does not
            see the hook.
        shield: Keeps errors from training.
    """

    def __init__(self, model: nn.Module, shield: Shield) -> None:
        self._model = model
        self._newest: Tensor | None = None
        self._examples: list[Tensor] = []
        self._hook: Any = None
        if not isinstance(model, torch.jit.ScriptModule):  # it takes no hooks
            self._hook = model.register_forward_pre_hook(Hook(shield, self._keep), with_kwargs=True)

    def _keep(self, _: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        for value in (*given, *named.values()):
            if isinstance(value, Tensor) and value.dim():
                # inputs that another model made hold the graph of that model
                self._newest = value.detach()
                self._gather()
                return

    def _gather(self) -> None:
        """Add the newest inputs to those of the calls with one example each since the last step."""
        newest = self._newest
        assert newest is not None
        if self._is_one_example(newest):
            newest = newest[None]
        if len(newest) != 1 or not torch.is_grad_enabled():
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
        if has_loss:
            raise BadArgument(
                "`batch` is missing: `watch` was given `loss`, which needs the batch. Call "
                "w.step(loss, batch)."
            )
        newest, self._newest = self._newest, None
        examples, self._examples = self._examples, []
        if newest is None:
            raise BadArgument(
                "`batch` is missing, and no call of the model with a tensor was seen since the "
                "last step: call w.step(loss, batch)."
            )
        if len({one.shape for one in examples}) == 1:
            return torch.cat(examples)
        return newest[None] if self._is_one_example(newest) else newest

    def _is_one_example(self, inputs: Tensor) -> bool:
        """True for a vector of as many numbers as a layer takes of one example, such as the state
        that a policy sees: it has no axis of examples."""
        return inputs.dim() == 1 and any(
            isinstance(layer, nn.Linear) and layer.in_features == len(inputs)
            for layer in self._model.modules()
        )

    def remove(self) -> None:
        """Stop looking: the loop gives its batches, or has ended."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = self._newest = None
            self._examples = []
