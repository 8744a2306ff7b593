"""The gradients of training, as `backward` makes them: listened to, read by hooks, or kept from one
step to the next."""

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, wraps
from itertools import repeat
from threading import get_ident
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from gradiometer.errors import Unsupported
from gradiometer.measurement.objective import Gradients
from gradiometer.measurement.parts import preconditioned_norms, squared_norms
from gradiometer.measurement.step import ReadAgain

# Largest relative difference of two gradients, or of a loss from a multiple of another one, that may
# be rounding to bfloat16.
OFF = 0.02


@dataclass(eq=False)
class Listener:
    """Functions that are called around every `backward` of one thread.

    A `backward` of another thread belongs to another training, whose gradients may come and go
    meanwhile. One inside of another one, as reentrant checkpointing makes it, is part of that one.
    `after` is not called if `backward` raises.

    Args:
        before: Called before the gradients are computed, with the loss.
        after: Called when they are in `.grad`, with the loss, detached. Both get None if `backward`
            was not called on a single number.
        thread: The identity of the thread; `start` makes it the one that calls it.
    """

    before: Callable[[Tensor | None], None]
    after: Callable[[Tensor | None], None]
    thread: int = 0

    def start(self) -> "Listener":
        """Listen from now on, to the thread that calls this."""
        self.thread = get_ident()
        if not _listeners:
            torch.autograd.backward = _heard
        if self not in _listeners:
            _listeners.append(self)
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
    if is_inside_backward():
        _plain(tensors, *arguments, **named)
        return
    listeners = [one for one in _listeners if one.thread == get_ident()]
    loss = None
    with suppress(Exception):  # training must not end here
        alone = isinstance(tensors, list | tuple) and len(tensors) == 1
        only = tensors[0] if alone else tensors
        if isinstance(only, Tensor) and only.numel() == 1:
            loss = only
    for listener in listeners:
        listener.before(loss)
    _plain(tensors, *arguments, **named)
    for listener in listeners:
        listener.after(None if loss is None else loss.detach())


# Why nothing is read of an optimizer that a hook on its parameters calls.
UPDATES_INSIDE = (
    "the optimizer makes its updates inside of `backward`, after which the gradients are gone and "
    "the parameters are others"
)


def is_inside_backward() -> bool:
    """True if this thread is inside of a `backward`, as an optimizer that is called by a hook on
    its parameters."""
    return torch._C._current_graph_task_id() >= 0


class Preconditioner(ReadAgain):
    """P of the optimizer at the step at hand, read when it is first used and kept until `forget`.

    Args:
        read: Reads P from the state of the optimizer before its update; None if there is no state
            yet.
    """

    def __init__(self, read: Callable[[], Gradients | None]) -> None:
        self._read = read
        self._known: tuple[Gradients | None] | None = None

    def __call__(self) -> Gradients | None:
        """P, one tensor per parameter; None if there is no state yet."""
        if self._known is None:
            self._known = (self._read(),)
        return self._known[0]

    def handed_over(self) -> Gradients | None:
        """P, for a reader that uses it up; whoever asks later reads it again."""
        handed = self()
        self.forget()
        return handed

    def forget(self) -> None:
        """Forget P: the optimizer is about to change it."""
        self._known = None


# In place of a gradient that was read and is not kept.
NOT_KEPT = torch.empty(0, device="cpu")


class GradientHooks:
    """Reads the gradients of some parameters while it is active. It costs nothing while it is not.

    A hook on a parameter is called once per `backward`, with the whole gradient of that backward,
    before it is added to `.grad`. The gradient of a tied weight is the sum over its uses. Gradients
    are kept by reference: torch then adds a copy to `.grad`, with the same bits. If nothing else is
    added to `.grad`, they need not be kept.

    Args:
        parameters: The trainable parameters of the model.
        caught: Takes every error of what a backward calls, and may keep it from training.
        preconditioner: P, if norms under P are wanted too.
        keeps: False to keep only the norms at the end of a backward, `whole`, if `.grad` was zero
            before it.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        caught: Callable[[Exception], None],
        preconditioner: Preconditioner | None = None,
        *,
        keeps: bool = True,
    ) -> None:
        self._keeps = keeps
        self._parameters = parameters
        self._caught = caught
        self._preconditioner = preconditioner
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._read: list[Tensor | None] = [None] * len(parameters)
        self._ending = False
        # True if hooks are in place.
        self.active = False
        # Seconds that starting and reading took, until they are charged.
        self.seconds = 0.0
        # True if a gradient was read since the last `take`.
        self.has_read = False
        # True if a parameter had several gradients since the last `take`: their sum need not be the
        # gradient of one loss.
        self.in_parts = False
        # True if a gradient was already in `.grad` before the first backward since the last `take`.
        self.stale = False
        self.whole_is_wanted = False
        # The numbers of every parameter's `.grad` (see `numbers_of`), at the end of the last
        # backward for which `whole_is_wanted` was set: after DDP's all-reduce, before clipping. By
        # the first entry `norms_of_all` checks that `.grad` is the mean of the gradients that were
        # read. Only ‖·‖² of each if they are not kept.
        self.whole: Float[Tensor, "1 numbers"] | None = None

    def start(self) -> None:
        """Put hooks in place and start empty."""
        began = time.thread_time()
        if self.active:
            self.stop()
        self._hooks = [
            parameter.register_hook(partial(self._take_in, place))
            for place, parameter in enumerate(self._parameters)
            if parameter.requires_grad
        ]
        self.active = bool(self._hooks)
        self.seconds += time.thread_time() - began

    def stop(self) -> None:
        """Remove the hooks and forget the gradients."""
        for hook in self._hooks:
            hook.remove()
        if self.active:
            for parameter in self._parameters:
                # with an empty list of hooks, every backward calls into Python for every parameter
                if parameter._backward_hooks is not None and not parameter._backward_hooks:
                    parameter._backward_hooks = None
        self._hooks = []
        self.active = False
        self.forget()
        if self._preconditioner is not None:
            self._preconditioner.forget()
        self.whole = None
        self._ending = False

    def take_seconds(self) -> float:
        """Seconds that starting and reading took since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def forget(self) -> None:
        """Forget the gradients that were read."""
        self._read = [None] * len(self._parameters)
        self.has_read = False
        self.in_parts = False

    def take(self) -> Gradients:
        """The gradients since the last `take`, one tensor per parameter: summed over backwards,
        zero if there was none.

        Raises:
            Unsupported: A gradient is sparse.
        """
        read = self._read
        self.forget()
        if any(gradient is not None and gradient.is_sparse for gradient in read):
            raise Unsupported(
                "`model` makes a sparse gradient: build its embeddings with sparse=False."
            )
        return [
            torch.zeros_like(parameter) if gradient is None else gradient.detach()
            for gradient, parameter in zip(read, self._parameters, strict=True)
        ]

    def norms(self) -> Float[Tensor, "1 numbers"]:
        """The numbers of every gradient since the last `take`, see `numbers_of`."""
        return numbers_of(self.take(), self._preconditioner)

    def _take_in(self, place: int, gradient: Tensor) -> None:
        """Called by a backward that has made the gradient of a parameter."""
        try:
            read = self._read[place]
            if not (self._keeps or self.has_read):
                held = self._parameters[place].grad
                self.stale = held is not None and not held.is_sparse and bool(held.count_nonzero())
            if self._keeps or self.stale or gradient.is_sparse:
                # The tensor itself, not a view: torch then sees a second reference and copies it
                # before `.grad` changes.
                self._read[place] = gradient if read is None else read + gradient
            else:
                self._read[place] = NOT_KEPT
            self.has_read = True
            self.in_parts |= read is not None
            if self.whole_is_wanted and not self._ending:
                self._ending = True
                after_backward(self._end, self._caught)
        except Exception as error:
            self._caught(error)

    def _end(self) -> None:
        """`.grad` is complete. Called after DDP's own callback of this backward, which was queued
        earlier."""
        self._ending = False
        began = time.thread_time()
        try:
            with torch.no_grad():
                grads = gradients_of(self._parameters)
                if self._keeps:
                    self.whole = numbers_of(grads, self._preconditioner)
                elif not any(gradient.is_sparse for gradient in grads):
                    self.whole = squared_norms(grads)
        except Exception as error:
            self._caught(error)
        self.seconds += time.thread_time() - began


class GradientsInPlace(GradientHooks):
    """The gradients of a training that reads the spread within a step itself: what is in `.grad`.
    There are no hooks; arguments as in `GradientHooks`."""

    def start(self) -> None:
        """Measure the coming step. Its gradient is then in place."""
        self.stop()
        self.active = True
        self.has_read = True

    def stop(self) -> None:
        """Do not measure the coming step."""
        super().stop()
        self.has_read = False

    def forget(self) -> None:
        """Nothing is kept."""

    def take(self) -> Gradients:
        """`.grad` of every parameter, zero where there is none."""
        return gradients_of(self._parameters)


def numbers_of(
    gradients: Sequence[Tensor], preconditioner: Callable[[], Sequence[Tensor] | None] | None = None
) -> Float[Tensor, "1 numbers"]:
    """‖·‖² of every gradient; the first entry of each, zero for an empty one; and, if P is wanted,
    ‖√P ·‖² of each.

    The last are NaN if P is not known yet.
    """
    squared = squared_norms(gradients)
    first = [g.as_strided((1,), (1,)) if g.numel() else g.new_zeros(1) for g in gradients]
    entries = torch.cat([entry.to(squared.device) for entry in first]).to(squared.dtype)
    numbers = [squared, entries.unsqueeze(0)]
    if preconditioner is not None:
        known = preconditioner()
        under = (
            torch.full_like(squared, math.nan)
            if known is None
            else preconditioned_norms(gradients, known)
        )
        numbers.append(under.to(squared.device))
    return torch.cat(numbers, dim=1)


def after_backward(call: Callable[[], None], caught: Callable[[Exception], None]) -> None:
    """Call this at the end of the current backward, after the calls that it and other programs
    queue by then, such as those of DDP and FSDP. `caught` takes the error if it cannot be queued
    again."""
    queue = torch.autograd.Variable._execution_engine.queue_callback

    def again() -> None:
        try:
            queue(call)
        except Exception as error:
            caught(error)

    queue(again)


Flat = Float[Tensor, " params"]

# A step that is not reached.
NEVER = 2**62


# Entries that are read together if something has to be computed of each: it then stays in the
# cache. On an MLP of 536,000 parameters 2**15 took a quarter more and 2**20 three times as long.
# On an accelerator the work goes in few calls.
STRETCH_ON_CPU, STRETCH = 2**17, 2**22

# From this many entries on, what is kept together with P is rounded from single precision to
# bfloat16. The error of a product is then below 1 % of its noise
# (`tests/watch/test_kept_gradients.py`).
ROUNDED_FROM = 2**16


# Entries of a large model that a kept gradient has, about; a smaller model keeps all. What they add
# to the noise of a product falls as one over their root. On seven networks of 0.6 to 20 million
# parameters about a million widened an interval by at most 2 %, on words with 50,000 rows, which
# are nearly all zero, by 4 and 9 %: hence two million (`benchmarks/products.py --entries`).
ENTRIES = 2**21

# Smaller tensors are kept as a whole, so that no layer is left out.
SMALL_TENSOR = 2**14


class Products(NamedTuple):
    """Products with ĝ of a step, or with P ĝ, on its device.

    Attributes:
        squared: With ĝ itself, ‖ĝ‖² or ‖√P ĝ‖².
        product: With ĝ of the step before; None if that was not kept.
        memory: With what the optimizer remembers; None if it was not given.
    """

    squared: Tensor
    product: Tensor | None
    memory: Tensor | None


class LastGradient:
    """ĝ of one step as a vector, kept until the next one is taken: all entries of a model of up to
    `ENTRIES`, and of a larger one some entries of each tensor.

    These are every n-th entry, from an offset that is drawn anew for each gradient that is kept. A
    product takes the entries of the earlier gradient from both and counts each n times, so it is
    unbiased over the offsets. The errors of successive products have nothing in common.

    Args:
        parameters: The trainable parameters.
        optimizers: Theirs.
        scaler: The GradScaler, if there is one.
    """

    def __init__(
        self, parameters: Sequence[Tensor], optimizers: Sequence[Optimizer], scaler: Any
    ) -> None:
        self.parameters = list(parameters)
        self._optimizers = optimizers
        self._scaler = scaler
        self._apart = distance_of_entries(self.parameters, ENTRIES)
        self._vector: Flat | None = None
        self._step = NEVER
        self._products: Products | None = None
        # The step whose products have to be without P.
        self.plain_at = NEVER
        # True if P is kept too: a large gradient is then rounded, so that both are one copy.
        self.is_beside_weights = False

    def take(
        self, step: int, weights: Flat | None = None, memory: Sequence[Tensor] = ()
    ) -> Products:
        """Keep ĝ of this step in the place of the last one, and multiply both on the way: all
        entries are read once. The same products again if the step was taken already.

        The factor of a GradScaler is taken out. A parameter without a gradient counts as zero.

        Args:
            step: The step.
            weights: P at the entries of the step before, in the `places` of a vector that `empty`
                makes; None for products without it.
            memory: The optimizer's memory of each parameter.
        """
        if self._products is not None and step == self._step:
            return self._products
        follows = self._vector is not None and step == self._step + 1
        if self._vector is None:
            self._vector = self.empty()
        scale = None if self._scaler is None else self.scale()
        gradients = gradients_of(self.parameters)
        # the entries of the earlier gradient: only there both are known
        offset = self._offset(step - 1 if follows else step)
        squared, product, remembered = [], [], []
        first = 0
        whole = weights is None and self._vector.dtype is not torch.bfloat16
        if self.draws_entries and not follows:
            weights = None  # they are at the entries of an earlier gradient
        for apart, places in self._groups():
            chosen = partial(self._entries, places=places, apart=apart, offset=offset)
            buffers = stretches(chosen(memory), whole=whole) if memory else repeat(None)
            pieces = stretches(chosen(gradients), whole=whole)
            for scaled, buffer in zip(pieces, buffers, strict=False):
                piece = scaled if scale is None else scaled / scale
                place = slice(first, first + piece.numel())
                first = place.stop
                kept = self._vector[place]
                weighted = piece if weights is None else weights[place] * piece
                squared.append(apart * (weighted @ piece))
                if follows:
                    product.append(apart * (weighted @ kept.to(weighted.dtype)))
                if buffer is not None:
                    remembered.append(apart * (weighted @ buffer))
                if not self.draws_entries:
                    kept.copy_(piece)
        if self.draws_entries:
            self._keep_entries(gradients, step, scale)
            if weights is None:
                # Exactly: two steps with the same norm show clipping.
                norm = squared_norms(gradients).sum().to(squared[0].dtype)
                squared = [norm if scale is None else norm / scale**2]
        self._step = step
        self._products = Products(
            _sum(squared),
            _sum(product) if product else None,
            _sum(remembered) if remembered else None,
        )
        return self._products

    def empty(self) -> Flat:
        """A vector of the kind that is kept, with a place for every entry that is."""
        first = self.parameters[0]
        dtype = torch.promote_types(first.dtype, torch.float32)
        sizes = [one.numel() for one in self.parameters]
        entries = sum(
            math.ceil(sizes[place] / apart) for apart, places in self._groups() for place in places
        )
        if self.draws_entries:
            return torch.empty(entries, dtype=dtype, device=first.device)
        if self.is_beside_weights and dtype is torch.float32 and entries >= ROUNDED_FROM:
            dtype = torch.bfloat16
        return torch.empty(entries, dtype=dtype, device=first.device)

    @property
    def draws_entries(self) -> bool:
        """True if a gradient is kept at some entries, and P is needed at the same ones."""
        return self._apart > 1

    def places(self, vector: Flat, step: int) -> tuple[list[Tensor], list[slice] | None]:
        """For each parameter its place in a vector that `empty` made, and which of its entries are
        kept of the gradient of this step; None if all are."""
        sizes = [one.numel() for one in self.parameters]
        if not self.draws_entries:
            parts = vector.split(sizes)
            return [
                part.view(one.shape) for part, one in zip(parts, self.parameters, strict=True)
            ], None
        offset = self._offset(step)
        found = [vector] * len(sizes)
        chosen = [slice(None)] * len(sizes)
        first = 0
        for apart, places in self._groups():
            for place in places:
                if apart > 1:
                    chosen[place] = slice(offset, None, apart)
                count = len(range(*chosen[place].indices(sizes[place])))
                found[place] = vector[first : first + count]
                first += count
        return found, chosen

    def _groups(self) -> list[tuple[int, list[int]]]:
        """The places of the parameters of which every n-th entry is taken, after their n."""
        sizes = [one.numel() for one in self.parameters]
        if not self.draws_entries:
            return [(1, list(range(len(sizes))))]
        small = [place for place, size in enumerate(sizes) if size <= SMALL_TENSOR]
        large = [place for place, size in enumerate(sizes) if size > SMALL_TENSOR]
        return [(apart, places) for apart, places in ((1, small), (self._apart, large)) if places]

    def _entries(
        self, tensors: Sequence[Tensor], *, places: list[int], apart: int, offset: int
    ) -> list[Tensor]:
        """Every n-th entry of some tensors, as views."""
        if apart == 1:
            return [tensors[place] for place in places]
        return [tensors[place].reshape(-1)[offset::apart] for place in places]

    def _offset(self, step: int) -> int:
        """The first entry that is kept of a step's gradient: drawn again from the step where it is
        needed, and of no generator that training uses."""
        return zlib.crc32(f"entries of step {step}".encode()) % self._apart

    def _keep_entries(self, gradients: list[Tensor], step: int, scale: Tensor | None) -> None:
        """Keep this gradient at entries of its own."""
        assert self._vector is not None
        offset = self._offset(step)
        whole = self._vector.dtype is not torch.bfloat16
        first = 0
        for apart, places in self._groups():
            chosen = self._entries(gradients, places=places, apart=apart, offset=offset)
            for scaled in stretches(chosen, whole=whole):
                piece = scaled if scale is None else scaled / scale
                self._vector[first : first + piece.numel()].copy_(piece)
                first += piece.numel()

    def free(self) -> None:
        """Keep nothing."""
        self._vector = None
        self._products = None

    def scale(self) -> Tensor:
        """The factor that is in `.grad`: that of the GradScaler, until it is taken out by
        `unscale_`; 1 without one."""
        one = torch.ones((), device=self.parameters[0].device)
        if self._scaler is None:
            return one
        states = getattr(self._scaler, "_per_optimizer_states", {})
        stages = [
            states[id(optimizer)]["stage"].name
            for optimizer in self._optimizers
            if id(optimizer) in states
        ]
        if "UNSCALED" in stages:
            return one
        scaled: Tensor = self._scaler.scale(one)
        return scaled


def distance_of_entries(parameters: Sequence[Tensor], entries: int) -> int:
    """From one entry of a large tensor that is kept to the next one, for about so many entries; 1
    if all are kept.

    It has no factor in common with the length of a row, so that the entries come from all columns.
    """
    total = sum(one.numel() for one in parameters)
    if total <= entries:
        return 1
    columns = {one.shape[-1] for one in parameters if one.dim() > 1}
    apart = max(total // entries, 2)
    while any(math.gcd(apart, one) > 1 for one in columns):
        apart += 1
    return apart


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """`.grad` of every parameter, zeros where there is none."""
    return [torch.zeros_like(one) if one.grad is None else one.grad.detach() for one in parameters]


def stretches(tensors: Sequence[Tensor], *, whole: bool) -> Iterator[Tensor]:
    """All entries in their order, at least in single precision and on the device of the first:
    large tensors, in parts or `whole`, and small ones joined. The same shapes give the same
    lengths."""
    device = tensors[0].device
    longest = STRETCH_ON_CPU if device.type == "cpu" else STRETCH
    small: list[Tensor] = []
    entries = 0
    for tensor in tensors:
        size = tensor.numel()
        if small and entries + size > longest:
            yield _joined(small)
            small, entries = [], 0
        near = tensor if tensor.device == device else tensor.to(device)
        if size >= longest:
            vector = near.reshape(-1)
            yield from map(_at_least_single, [vector] if whole else vector.split(longest))
        else:
            small.append(near)
            entries += size
    if small:
        yield _joined(small)


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def _joined(tensors: list[Tensor]) -> Tensor:
    # one call: to reshape each takes as long as the product
    return _at_least_single(torch._C._nn.flatten_dense_tensors(tensors))


def _at_least_single(vector: Tensor) -> Tensor:
    return vector.float() if vector.dtype in (torch.float16, torch.bfloat16) else vector
