"""Copies of everything that training changes, which keep the user's own hooks and leave out those
of a watch."""

import copy
import functools
import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from types import CellType, FunctionType, MethodType
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from gradiometer.errors import Unsupported, summary
from gradiometer.measurement.batch import leaves
from gradiometer.measurement.optimizer.steps import Clipping, bare_optimizer, optimizers_in

# What training changes: the model, its optimizers, the schedulers, and the scaler or None.
Parts = tuple[nn.Module, list[torch.optim.Optimizer], Sequence[Any], Any]


def copies_of(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    schedulers: Sequence[Any],
    scaler: Any,
) -> Parts:
    """Copies of what training changes, which refer to each other as the originals do.

    Hooks on modules, parameters and the optimizer are kept, except those of a watch. Gradients are
    left out.

    Raises:
        Unsupported: A part cannot be copied.
    """
    memo: dict[int, Any] = {}
    together = [one for one in optimizers if optimizers_in(one) != [one]]
    every = [*(part for one in optimizers for part in optimizers_in(one)), *together]
    hooks = [hook for table in _hook_tables(model, every) for hook in table.values()]
    for one in [*filter(is_ours, hooks), *_activations(model)]:
        memo[id(one)] = one.detach().clone() if isinstance(one, Tensor) else one
    made = [_new(type(optimizer)) for optimizer in every]
    memo |= {id(optimizer): new for optimizer, new in zip(every, made, strict=True)}
    for scheduler in schedulers:
        for part in (scheduler, *getattr(scheduler, "_schedulers", ())):
            # a scheduler may know its optimizer by a wrapper, such as that of Accelerate
            bare = bare_optimizer(part.optimizer)
            memo[id(part.optimizer)] = memo.get(id(bare), bare)
    model_copy = _copy("model", model, memo)
    for module in model_copy.modules():
        _rebind_functions(vars(module), memo)
    for optimizer, new in zip(every, made, strict=True):
        new.__setstate__(_copy("optimizer", _without_wrapper(optimizer), memo))
        _rebind_functions(vars(new), memo)
        _mark_step(new)
    others = _copy("scheduler", tuple(schedulers), memo), _copy("scaler", scaler, memo)
    for table in _hook_tables(model_copy, made):
        for key in [key for key, hook in table.items() if is_ours(hook)]:
            del table[key]
    hooks_of = {place: _copy("model", hooks, memo) for place, hooks in _parameter_hooks(model)}
    _give_hooks(model_copy, {place: _renew(hooks, memo) for place, hooks in hooks_of.items()})
    return model_copy, [memo[id(optimizer)] for optimizer in optimizers], *others


def dump_parts(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    schedulers: Sequence[Any],
    scaler: Any,
) -> bytes:
    """The parts as bytes, for `load_parts`. Unlike pickle they keep all attributes of the
    optimizer, and hooks.

    Raises:
        Unsupported: A part cannot be pickled.
    """
    buffer = io.BytesIO()
    parts = model, list(optimizers), schedulers, scaler
    try:
        _Pickler(buffer).dump((parts, dict(_parameter_hooks(model))))
    except Exception as error:
        raise Unsupported(
            "`model`, `optimizer`, `scheduler` or `scaler` cannot be sent to another process "
            f"({summary(error)}): use pool='here'."
        ) from error
    return buffer.getvalue()


def load_parts(stored: bytes) -> Parts:
    """The parts from the result of `dump_parts`, made by this program."""
    parts: Parts
    parts, hooks = cloudpickle.loads(stored)
    _give_hooks(parts[0], hooks)
    return parts


def is_ours(hook: Any) -> bool:
    """True for a hook that a watch has put in place."""
    if isinstance(hook, Clipping):  # it belongs to the training
        return False
    while isinstance(hook, functools.partial):
        hook = hook.func
    hook = getattr(hook, "__func__", hook)
    module = getattr(hook, "__module__", None) or type(hook).__module__
    # Hooks of this package are those of a watch: on parameters, the optimizer, and layers while a
    # step is measured.
    return str(module).startswith("gradiometer.")


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, one: Any) -> Any:
        if isinstance(one, torch.optim.Optimizer):
            settings = _without_wrapper(one)
            return _new, (type(one),), settings, None, None, type(one).__setstate__
        return super().reducer_override(one)


def _new(kind: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    return kind.__new__(kind)


def _without_wrapper(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All attributes of an optimizer. `Optimizer.__getstate__` leaves out hooks and those of a
    user's own class."""
    # A scheduler replaces this method of its optimizer by a wrapper that counts; the wrapper holds
    # the original.
    return {name: value for name, value in vars(optimizer).items() if name != "step"}


def _mark_step(optimizer: torch.optim.Optimizer) -> None:
    """Mark the step of an optimizer as counted and made: else its schedulers warn, also when
    another optimizer trains.

    A scheduler of torch wraps the method, and the wrapper of the original would step the original.
    """
    step = optimizer.step

    @functools.wraps(step)
    def counted(*given: Any, **named: Any) -> Any:
        return step(*given, **named)

    counted._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer._opt_called = True  # type: ignore[attr-defined]
    optimizer.step = counted  # type: ignore[method-assign]


def _copy(name: str, part: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(part, memo)
    except Exception as error:
        raise Unsupported(
            f"`{name}` cannot be copied ({summary(error)}): keep what cannot be copied outside of "
            "it (files, locks, loggers, tensors with a graph), or give its class a `__deepcopy__`."
        ) from error


def _rebind_functions(attributes: dict[Any, Any], memo: dict[int, Any]) -> None:
    """Let functions that a module keeps use the copies in place of the originals, also in
    collections and hooks.

    `deepcopy` copies no function. A block with `self.mlp_forward = lambda x:
    m.project(m.expand(x))` would run, and train, the layers `m` of the original.
    """
    for name, value in list(attributes.items()):
        if isinstance(value, FunctionType):
            attributes[name] = _rebound(value, memo)
        elif isinstance(value, dict):
            _rebind_functions(value, memo)
        elif isinstance(value, list):
            value[:] = [
                _rebound(one, memo) if isinstance(one, FunctionType) else one for one in value
            ]


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """The function with copies of what its closure and its default arguments refer to, as far as
    the model has it."""
    if id(function) in memo:
        return memo[id(function)]  # type: ignore[no-any-return]
    cells = function.__closure__
    if not cells and not function.__defaults__ and not function.__kwdefaults__:
        return function
    new_cells = None if cells is None else tuple(CellType() for _ in cells)
    made = FunctionType(function.__code__, function.__globals__, function.__name__, None, new_cells)
    memo[id(function)] = made  # before its cells: a function may refer to itself
    functools.update_wrapper(made, function)
    if function.__defaults__ is not None:
        made.__defaults__ = _renew(function.__defaults__, memo)
    if function.__kwdefaults__ is not None:
        made.__kwdefaults__ = {
            name: _renew(one, memo) for name, one in function.__kwdefaults__.items()
        }
    for cell, new in zip(cells or (), new_cells or (), strict=True):
        try:
            new.cell_contents = _renew(cell.cell_contents, memo)
        except ValueError:  # not filled yet
            continue
    return made


def _renew(value: Any, memo: dict[int, Any]) -> Any:
    """The copy of an object of the model; another function with copies; anything else as it is."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, FunctionType):
        return _rebound(value, memo)
    if isinstance(value, MethodType) and id(value.__self__) in memo:
        return MethodType(value.__func__, memo[id(value.__self__)])
    if type(value) in (list, tuple):
        return type(value)(_renew(one, memo) for one in value)
    return value


def _hook_tables(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[dict[int, Any]]:
    """The tables of hooks of the modules and the optimizers."""
    for module in model.modules():
        for way in ("forward", "backward"):
            yield getattr(module, f"_{way}_hooks")
            yield getattr(module, f"_{way}_pre_hooks")
    for optimizer in optimizers:
        for name, table in vars(optimizer).items():
            if name.endswith("_hooks") and isinstance(table, OrderedDict):
                yield table


def _activations(model: nn.Module) -> Iterator[Tensor]:
    """Tensors with a graph that modules keep, such as a last activation or a hidden state: torch
    does not copy them."""
    for module in model.modules():
        for kept in vars(module).values():
            for value in kept if isinstance(kept, tuple | list) else (kept,):
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    yield value


def _parameter_hooks(model: nn.Module) -> Iterator[tuple[int, tuple[list[Any], list[Any]]]]:
    """The user's hooks on the gradients of parameters, by the parameter's place: copies of a tensor
    have none."""
    for place, parameter in enumerate(model.parameters()):
        tables = parameter._backward_hooks, parameter._post_accumulate_grad_hooks
        before, after = (
            [hook for hook in (table or {}).values() if not is_ours(hook)] for table in tables
        )
        if before or after:
            yield place, (before, after)


def _give_hooks(model: nn.Module, hooks: Mapping[int, tuple[list[Any], list[Any]]]) -> None:
    for place, parameter in enumerate(model.parameters()):
        before, after = hooks.get(place, ((), ()))
        for hook in before:
            parameter.register_hook(hook)
        for hook in after:
            parameter.register_post_accumulate_grad_hook(hook)


def digest_of(states: Sequence[Any]) -> str:
    """The first digits of the SHA-256 of states."""
    found = hashlib.sha256()
    for place, leaf in leaves(states, "state"):
        found.update(place.encode())
        if isinstance(leaf, Tensor):
            flat = leaf.detach().cpu().contiguous().reshape(-1)
            found.update(flat.view(torch.uint8).numpy().tobytes())
        else:
            found.update(repr(leaf).encode())
    return found.hexdigest()[:16]
