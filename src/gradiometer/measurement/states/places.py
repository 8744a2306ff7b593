"""The places of tensors in a model: its trainable parameters found again, and other tensors put in
their places."""

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Places:
    """The places of the trainable parameters and of the buffers of a model.

    The model is looked through at every call, so that modules and parameters may be replaced
    meanwhile. Only the dictionaries of its modules are read, which takes a few microseconds for a
    small model.

    Args:
        model: The model.
        names: Names of the trainable parameters.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model = model
        self._paths = [(tuple(name.split(".")[:-1]), name.rpartition(".")[2]) for name in names]

    @property
    def modules(self) -> list[nn.Module]:
        """All modules, each once."""
        return modules_of(self._model)

    @property
    def trained(self) -> set[int]:
        """`id` of every parameter that requires a gradient now."""
        return {
            id(parameter)
            for module in modules_of(self._model)
            for parameter in module._parameters.values()
            if parameter is not None and parameter.requires_grad
        }

    def parameters(self) -> list[nn.Parameter]:
        """The parameters with these names.

        Raises:
            KeyError: The model has lost one of them.
        """
        found = []
        for path, name in self._paths:
            module: Any = self._model
            for child in path:
                module = module._modules[child]
            found.append(module._parameters[name])
        return found

    @contextmanager
    def replaced(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """A context in which these tensors are in the places of the parameters, and copies in those
        of the buffers.

        A tensor that several modules share has one replacement for all of them.
        """
        replacements = dict(zip(map(id, self.parameters()), parameters, strict=True))
        copies: dict[int, Tensor] = {}
        before: list[tuple[MutableMapping[str, Any], str, Tensor]] = []
        try:
            for module in modules_of(self._model):
                for name, parameter in module._parameters.items():
                    if parameter is not None and id(parameter) in replacements:
                        before.append((module._parameters, name, parameter))
                        module._parameters[name] = replacements[id(parameter)]  # type: ignore[assignment]
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        before.append((module._buffers, name, buffer))
                        if id(buffer) not in copies:
                            copies[id(buffer)] = buffer.clone()
                        module._buffers[name] = copies[id(buffer)]
            yield
        finally:
            for tensors, name, tensor in before:
                tensors[name] = tensor


def modules_of(model: nn.Module) -> list[nn.Module]:
    """All modules of a model, each once. Faster than `model.modules()`, and in another order."""
    found, waiting = {model: None}, [model]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)
