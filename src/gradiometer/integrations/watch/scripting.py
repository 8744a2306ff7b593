"""Keeps the hooks of a watch out of what `torch.jit.script` makes of a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gradiometer.integrations.watch.hook import Hook

# Through this function all of torch goes that scripts a module. It compiles every hook of the
# module too, and refuses one that is not a function written in TorchScript.
_scripting: Any = torch.jit._recursive
_plain: Any = getattr(_scripting, "create_script_module", None)
_watches: list["WithoutHooks"] = []


class WithoutHooks:
    """As long as one of these is there, modules are scripted without the hooks of watches."""

    def __init__(self) -> None:
        _watches.append(self)
        if _plain is not None and len(_watches) == 1:
            _scripting.create_script_module = _script_without_hooks

    def remove(self) -> None:
        """Leave scripting to torch. After the last one torch's own function is back."""
        if self in _watches:
            _watches.remove(self)
        # unless another program has wrapped it since
        if not _watches and getattr(_scripting, "create_script_module", None) is (
            _script_without_hooks
        ):
            _scripting.create_script_module = _plain


def _script_without_hooks(module: nn.Module, *arguments: Any, **named: Any) -> Any:
    with hooks_taken_off(module):
        return _plain(module, *arguments, **named)


@contextmanager
def hooks_taken_off(module: nn.Module) -> Iterator[None]:
    """A region in which the hooks of watches are not on a module and its layers. Those of others
    stay, and all are back in their order at its end."""
    taken: list[tuple[Any, dict[int, Any]]] = []
    for layer in module.modules():
        for hooks in (layer._forward_hooks, layer._forward_pre_hooks):
            before = dict(hooks)
            ours = [key for key, hook in before.items() if isinstance(hook, Hook)]
            if ours:
                taken.append((hooks, before))
            for key in ours:
                del hooks[key]
    try:
        yield
    finally:
        for hooks, before in taken:
            hooks.clear()
            hooks.update(before)
