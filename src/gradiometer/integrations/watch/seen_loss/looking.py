"""The time in which the calls of a loop are recorded."""

import os
import pickle
import random
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._C import _len_torch_function_stack
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils._device import DeviceContext
from torch.utils.data import dataloader

from gradiometer.integrations.watch.seen_loss.recording import Recording
from gradiometer.integrations.watch.seen_loss.slicing import NotSeen
from gradiometer.randomness import GlobalStates

# Batches of loaders that are remembered: some loops draw one ahead.
BATCHES = 3

# Asked by torch before compiled code runs, in all versions since 2.6.
_compiler: Any = None

# All there are, of which a process that begins as a copy of this one needs none.
_every: "weakref.WeakSet[Looking]" = weakref.WeakSet()


class _Mode(TorchFunctionMode):
    """Gives every function of torch that the loop calls to a `Looking`."""

    def __init__(self, looking: "Looking") -> None:
        self._looking = looking

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call the function, and remember it."""
        looking = self._looking
        if not looking.is_on or looking.is_elsewhere:
            return function(*args, **(kwargs or {}))
        named = kwargs or {}
        return looking.recorded(function, args, named, lambda: function(*args, **named))


class Looking:
    """Records what a loop calls, from `start` to `stop`: functions of torch, whole modules, and the
    batches of its DataLoaders.

    Nothing is seen inside of a module, in the loader, or in compiled code, which all run as without
    it. No hook is on a module, and outside of this time nothing is in place.

    Args:
        fail: Takes an error of ours, after which nothing is recorded.
    """

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self._fail = fail
        self._mode = _Mode(self)
        self._process = os.getpid()
        self._thread = 0
        self._plain_call: Any = None
        self._plain_next: Any = None
        self._plain_stance: Any = None
        self._own: list[Any] = []
        self.is_on = False
        # True inside of a call: there the mode is not on the stack of torch.
        self.is_calling = False
        # True from `start` to `stop`, also inside of a module.
        self.is_open = False
        self.recording: Recording | None = None
        self.batches: deque[Any] = deque(maxlen=BATCHES)
        # True if the loop has drawn numbers of Python or NumPy since the newest batch of a loader.
        self.has_drawn = False
        self._drawn_until: Any = None
        # The random states when the newest batch was drawn; None if that was not seen.
        self.random: GlobalStates | None = None
        _every.add(self)

    @property
    def is_elsewhere(self) -> bool:
        """True in another process or thread, in a tracer, in a transform of functions, and if that
        cannot be told."""
        try:
            return (
                threading.get_ident() != self._thread
                or os.getpid() != self._process
                or torch.compiler.is_compiling()
                or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
                or torch._C._functorch.peek_interpreter_stack() is not None
            )
        except Exception:  # training calls this
            return True

    def start(self, model: nn.Module, called: nn.Module) -> None:
        """Begin with an empty recording."""
        self.stop()
        self._thread = threading.get_ident()
        self._process = os.getpid()
        self.recording = Recording(model, called)
        for batch in self.batches:
            self.recording.note_batch(batch)
        self.random = None
        self.has_drawn = False
        self._drawn_until = None
        self.is_open = True
        self._turn_on()

    def stop(self) -> Recording | None:
        """End it, and return the recording; None if there is none."""
        if self.is_on:
            self.note_draws()
        self.is_on = False
        _remove(self._mode)  # also after an error, when torch has put it back
        self._unpatch()
        self.is_open = False
        recording, self.recording = self.recording, None
        return recording

    def recorded(self, function: Any, given: Any, named: Any, call: Callable[[], Any]) -> Any:
        """Call a function of torch, or a module, and remember it."""
        recording = self.recording
        if recording is None:
            return call()
        pending = None
        try:
            pending = recording.begin(function, given, named)
        except Exception as error:
            self._break(error)
        self.is_calling = True
        try:
            output = call()
        finally:
            self.is_calling = False
        # the call may have ended the recording
        if pending is not None and self.recording is recording:
            try:
                recording.end(pending, output)
            except Exception as error:
                self._break(error)
        return output

    def _attempt(self, part: Callable[[], None]) -> None:
        """Call a part of the recording, which is given up at an error."""
        try:
            part()
        except Exception as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        """Record nothing more. The mode, which torch puts back after this call, stays until the
        next `stop`."""
        self.recording = None
        self._fail(error)

    def _turn_on(self) -> None:
        if self.is_on or not self.is_open:
            return
        self.is_on = True
        _insert(self._mode)
        if not self._own:
            self._patch()

    def _turn_off(self) -> None:
        if self.is_on:
            self.is_on = False
            _remove(self._mode)

    def _patch(self) -> None:
        self._plain_call = nn.Module.__call__
        self._plain_next = dataloader._BaseDataLoaderIter.__next__
        self._own = [_of_module(self), _of_loader(self)]
        nn.Module.__call__ = self._own[0]  # type: ignore[method-assign]
        dataloader._BaseDataLoaderIter.__next__ = self._own[1]  # type: ignore[method-assign]
        self._plain_stance = _follow_compiler(self)

    def _unpatch(self) -> None:
        if not self._own:
            return
        own_call, own_next = self._own
        self._own = []
        # unless another program has wrapped them since, which passes through ours
        if nn.Module.__call__ is own_call:
            nn.Module.__call__ = self._plain_call  # type: ignore[method-assign]
        if dataloader._BaseDataLoaderIter.__next__ is own_next:
            dataloader._BaseDataLoaderIter.__next__ = self._plain_next  # type: ignore[method-assign]
        if self._plain_stance is not None:
            _compiler._callback_from_stance = self._plain_stance
            self._plain_stance = None

    def note_batch(self, batch: Any) -> None:
        """Remember a batch of a loader, and the random states after it."""
        self.batches.append(batch)
        if self.recording is not None:
            self.recording.note_batch(batch)
            self.random = GlobalStates(self.recording.devices)
            self.has_drawn = False
            self._drawn_until = _numbers()

    def note_draws(self) -> None:
        """Notice numbers that the loop has drawn itself, not in a module."""
        if self._drawn_until is not None and _numbers() != self._drawn_until:
            self.has_drawn = True

    def outside(self, call: Callable[[], Any]) -> Any:
        """Call something as without the recording."""
        self._attempt(self._pause)
        try:
            return call()
        finally:
            self._attempt(self._resume)

    def _pause(self) -> None:
        self.note_draws()
        self._turn_off()
        # To replace a method of all modules takes a millisecond of every later call, so that it
        # stays, unless compiled code may look at it.
        if _has_compiled():
            self._unpatch()

    def _resume(self) -> None:
        if self._drawn_until is not None:
            self._drawn_until = _numbers()
        self._turn_on()

    def compiled(self) -> None:
        """Compiled code begins, of which nothing can be seen: give up."""
        self.stop()
        self._fail(NotSeen("a part of it besides the model is compiled"))


def _of_module(looking: Looking) -> Callable[..., Any]:
    plain = looking._plain_call

    def __call__(self: nn.Module, *given: Any, **named: Any) -> Any:  # noqa: N807
        if not looking.is_on or looking.is_calling or looking.is_elsewhere:
            return plain(self, *given, **named)
        return looking.outside(
            lambda: looking.recorded(self, given, named, lambda: plain(self, *given, **named))
        )

    return __call__


def _of_loader(looking: Looking) -> Callable[..., Any]:
    plain = looking._plain_next

    def __next__(self: Any) -> Any:  # noqa: N807
        if not looking.is_on or looking.is_calling or looking.is_elsewhere:
            return plain(self)
        batch = looking.outside(lambda: plain(self))
        looking._attempt(lambda: looking.note_batch(batch))
        return batch

    return __next__


def _follow_compiler(looking: Looking) -> Any:
    """Give up before compiled code runs: it must not see the mode. Returns torch's function."""
    global _compiler  # noqa: PLW0603 (imported late, since it takes a second)
    _compiler = sys.modules.get("torch._dynamo.eval_frame")
    plain = getattr(_compiler, "_callback_from_stance", None)
    if plain is None:
        return None

    def without_recording(callback: Any) -> Any:
        # without a callback nothing is compiled: as inside of the step of an optimizer
        if callable(callback) and looking.is_on and not looking.is_calling:
            looking._attempt(looking.compiled)
        return plain(callback)

    _compiler._callback_from_stance = without_recording
    return plain


def _numbers() -> Any:
    """The states of the generators of Python and NumPy."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (loops use the global one)
    # a checker of types draws a number of Python at every call
    python = None if "beartype" in sys.modules else random.getstate()
    return python, pickle.dumps(numpy)


def _has_compiled() -> bool:
    """True if torch has compiled something in this process."""
    utilities = sys.modules.get("torch._dynamo.utils")
    return bool(getattr(utilities, "counters", {}).get("frames"))


def _insert(mode: Any) -> None:
    """Put a mode below those of the loop, whose contexts take away the highest one at their end."""
    above = [_pop_mode() for _ in range(_len_torch_function_stack())]
    # That of `set_default_device` belongs at the bottom. `with torch.device(...)` takes away the
    # highest one at its end, and no `old_device` is known there.
    if above and isinstance(above[-1], DeviceContext) and hasattr(above[-1], "old_device"):
        _push_mode(above.pop())
    _push_mode(mode)
    for one in reversed(above):
        _push_mode(one)


def _remove(mode: Any) -> None:
    """Take a mode away, wherever it is."""
    above = [_pop_mode() for _ in range(_len_torch_function_stack())]
    for one in reversed(above):
        if one is not mode:
            _push_mode(one)


def _stop_all() -> None:
    """Stop in a new process, such as a worker of a DataLoader."""
    for one in list(_every):
        if not one.is_calling:
            one.stop()


os.register_at_fork(after_in_child=_stop_all)
