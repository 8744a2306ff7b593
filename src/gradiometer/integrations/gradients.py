"""Gradients as `backward` makes them: read by hooks on the parameters, before clipping and before any all-reduce."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.measurement.objective import Gradients
from gradiometer.measurement.parts import squared_norms
from gradiometer.run.budget import Budget


class Listener:
    """Hears the gradients of some parameters while it listens, and costs nothing while it does not.

    A hook on a parameter is called once a `backward`, with the whole gradient of that backward (a tied weight's is the
    sum over its places), before it is added to `.grad`. What is heard is kept by reference: torch then adds a copy of
    it to `.grad`, with the same bits.

    Args:
        parameters: Of the model, the trainable ones.
        budget: Where what it costs is counted.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], budget: Budget) -> None:
        self._parameters = parameters
        self._budget = budget
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._heard: list[Tensor | None] = []
        self._ending = False
        self.in_parts = False
        """Whether a parameter was heard more than once since the last time: several backwards were made, whose sum
        need not be the gradient of one loss."""
        self.whole_is_wanted = False
        self.whole: Float[Tensor, "1 numbers"] | None = None
        """Two numbers of every parameter's `.grad` at the end of the last backward of which it was wanted, all-reduced
        by DDP and not yet clipped: its squared norm; then its first entry, by which `norms_of_all` sees that it is the
        mean of what was heard."""

    @property
    def listening(self) -> bool:
        """Whether hooks are in place."""
        return bool(self._hooks)

    @property
    def has_heard(self) -> bool:
        """Whether anything was heard since the last time."""
        return any(gradient is not None for gradient in self._heard)

    def listen(self) -> None:
        """Put hooks in place, with nothing heard so far."""
        self.rest()
        self._hooks = [
            parameter.register_hook(partial(self._hear, place))
            for place, parameter in enumerate(self._parameters)
            if parameter.requires_grad
        ]

    def rest(self) -> None:
        """Take the hooks away and forget what was heard."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.forget()
        self.whole, self._ending = None, False

    def forget(self) -> None:
        """Forget what was heard since the last time."""
        self._heard, self.in_parts = [None] * len(self._parameters), False

    def take(self) -> Gradients:
        """What was heard since the last time, one tensor a parameter: the sum, of several backwards; else zero.

        Raises:
            BadArgument: It is sparse.
        """
        heard = self._heard
        self.forget()
        if any(gradient is not None and gradient.is_sparse for gradient in heard):
            raise BadArgument("`model` makes a sparse gradient: look its embeddings up with sparse=False.")
        return [
            torch.zeros_like(parameter) if gradient is None else gradient.detach()
            for gradient, parameter in zip(heard, self._parameters, strict=True)
        ]

    def norms(self) -> Float[Tensor, "1 numbers"]:
        """‖·‖² of what was heard of every parameter since the last time, then first entries."""
        return norms_and_first_entries(self.take())

    def _hear(self, place: int, gradient: Tensor) -> None:
        heard = self._heard[place]
        # The very tensor, not a view of it: torch then sees that it is not alone, and copies it before `.grad` changes.
        self._heard[place] = gradient if heard is None else heard + gradient
        self.in_parts |= heard is not None
        if self.whole_is_wanted and not self._ending:
            self._ending = True
            at_the_end_of_backward(lambda: at_the_end_of_backward(self._end))

    def _end(self) -> None:
        """`.grad` is complete. Called after DDP's own last word in this backward, which was queued before."""
        self._ending = False
        with self._budget.spending(), torch.no_grad():
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
            self.whole = norms_and_first_entries(grads)


def norms_and_first_entries(gradients: Sequence[Tensor]) -> Float[Tensor, "1 numbers"]:
    """‖·‖² of every gradient, then the first entry of each; zero of one without entries."""
    squared = squared_norms(gradients)
    first = [g.as_strided((1,), (1,)) if g.numel() else g.new_zeros(1) for g in gradients]
    entries = torch.cat([entry.to(squared.device) for entry in first]).to(squared.dtype)
    return torch.cat([squared, entries.unsqueeze(0)], dim=1)


def at_the_end_of_backward(call: Callable[[], None]) -> None:
    """Queue a call for when the backward that is going on has done all else; calls may queue calls."""
    torch.autograd.Variable._execution_engine.queue_callback(call)
