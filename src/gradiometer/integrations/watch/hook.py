"""A hook whose errors go to a shield, and that no tracer sees."""

from collections.abc import Callable

import torch

from gradiometer.integrations.watch.shield import Shield


class Hook:
    """A hook on a module, an optimizer or a backward whose errors go to a shield.

    It does nothing while the compiler or `torch.jit.trace` follow what it is on, so that none of
    its operations is in their graph. Copies and pickles do nothing in its place.

    Args:
        shield: Takes the errors.
        call: What the hook does. It returns nothing, so that nothing is changed.
    """

    def __init__(
        self, shield: Shield | None = None, call: Callable[..., object] | None = None
    ) -> None:
        self._shield = shield
        self._call = call

    def __call__(self, *arguments: object) -> None:
        """Do it."""
        # first of all: the compiler follows this line, and could not follow the shield
        if torch.compiler.is_compiling():
            return
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        if self._shield is not None and self._call is not None:
            with self._shield:
                self._call(*arguments)

    def __reduce__(self) -> "tuple[type[Hook], tuple[()]]":
        return Hook, ()

    def __deepcopy__(self, _: object) -> "Hook":
        return Hook()
