"""Listen to every `backward` of the program.

`Tensor.backward` calls `torch.autograd.backward`, which is wrapped here while there are listeners.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Listener:
    """Functions that are called around every `backward`.

    A `backward` inside of another one, as reentrant checkpointing makes it, is part of that one.
    `after` is not called if `backward` raises.

    Args:
        before: Called before the gradients are computed, with the loss.
        after: Called when they are in `.grad`, with the loss, detached. Both get None if `backward`
            was not called on a single number.
    """

    before: Callable[[Tensor | None], None]
    after: Callable[[Tensor | None], None]

    def start(self) -> "Listener":
        """Listen from now on."""
        _listeners.append(self)
        if len(_listeners) == 1:
            torch.autograd.backward = _heard
        return self

    def remove(self) -> None:
        """Do not listen any longer. After the last listener torch's own function is back in its
        place."""
        if self in _listeners:
            _listeners.remove(self)
        # unless another program has wrapped it since
        if not _listeners and torch.autograd.backward is _heard:
            torch.autograd.backward = _plain


_plain = torch.autograd.backward
_listeners: list[Listener] = []


@wraps(_plain)
def _heard(tensors: Any, *arguments: Any, **named: Any) -> None:
    """`torch.autograd.backward` with listeners."""
    if torch._C._current_graph_task_id() >= 0:  # this thread is inside of a backward
        _plain(tensors, *arguments, **named)
        return
    listeners = list(_listeners)
    loss = None
    with suppress(Exception):  # training must not end here
        loss = _loss(tensors)
    for listener in listeners:
        listener.before(loss)
    _plain(tensors, *arguments, **named)
    for listener in listeners:
        listener.after(None if loss is None else loss.detach())


def _loss(tensors: Any) -> Tensor | None:
    """The only tensor, if it is a single number."""
    if not isinstance(tensors, Tensor):
        tensors = tensors[0] if isinstance(tensors, list | tuple) and len(tensors) == 1 else None
    return tensors if isinstance(tensors, Tensor) and tensors.numel() == 1 else None
