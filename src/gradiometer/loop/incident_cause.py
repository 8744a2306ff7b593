"""Why a loss went wrong: the updates before are made again, with less and less left out."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import UserCodeFailed
from gradiometer.loop.branch import Branch
from gradiometer.loop.changes.alternative import Alternative, GoOn, Rate, Skip
from gradiometer.loop.changes.replacements import Custom
from gradiometer.loop.engine import train_branch
from gradiometer.loop.loop import Loop
from gradiometer.loop.recorded.incidents import (
    AFTER,
    LEAD,
    OTHER,
    Cause,
    Incident,
    IncidentCause,
    highest_mean,
)
from gradiometer.measurement.batch import Batch, batch_size, mapped
from gradiometer.randomness import untouched_randomness

# Other orders of the data: if most of them have the incident, it is not of these batches.
ORDERS = 3


# A layer is the cause if all others bear this factor on the rate without it.
BORNE = 4.0


def cause_of(loop: Loop, incident: Incident, rose: float | None = None) -> IncidentCause:
    """Why a loss went wrong: updates from before are made again, each time with something left out,
    until what is left is the cause.

    First on other orders of the data: an incident that comes there, too, is not that of a batch.
    Then the largest factor on the rate that avoids it is looked for, and a layer that avoids it if
    it alone stays as it is; or the batch, and the examples in it, by halves.

    Args:
        loop: The training some updates before the incident. Its data have the batches that it took.
        incident: The incident.
        rose: How many times the rate had risen before it; None if it had not.
    """
    return _Bisection(loop, incident, rose).cause()


class _Bisection:
    """Makes the updates of an incident again, with something left out."""

    def __init__(self, loop: Loop, incident: Incident, rose: float | None) -> None:
        self.incident = incident
        self.loop = loop
        self.rose = rose
        stays = AFTER if incident.kind == "rise" else 0
        last = incident.first + stays if stays else incident.last
        # Without its batches, an instability needs as many updates more to rise. Only batches that
        # are known are taken: others may have the same example.
        self.updates = loop.data.see_own(last + 1 + LEAD) - loop.index
        if loop.left is not None:
            self.updates = min(self.updates, loop.left // loop.size)
        self.tried: dict[str, bool] = {}
        # the losses of the updates are all that counts
        loop.evaluate = None
        loop.readout_examples = 1

    def cause(self) -> IncidentCause:
        """The cause."""
        if not self.comes("again", GoOn()):
            return self._cause("chance", self.incident.first)
        if self.rose is not None:
            before = 1 / self.rose
            if not self.comes(f"rate {before:.3g}x, as before", Rate(before)):
                lower = self._lower_rate()
                return self._cause("rate", self.incident.first, factor=lower or before)
        orders = [
            self.comes(f"{OTHER} {number + 1}", GoOn(), number + 1) for number in range(ORDERS)
        ]
        if 2 * sum(orders) > ORDERS:
            return self._of_training()
        return self._of_batch()

    def _of_training(self) -> IncidentCause:
        """The rate, a layer at this rate, or a layer at any rate."""
        factor = self._lower_rate()
        if factor is None:
            layer = self._broken_layer()
            return self._cause("layer" if layer else "unknown", self.incident.first, layer=layer)
        layers = [
            name
            for name, module in self.loop.model.named_modules()
            if any(True for _ in module.named_parameters(recurse=False))
        ]
        if len(layers) > 1:
            kept = [name for name in layers if not self.comes(f"{name} kept", _frozen(name))]
            # a plain network bears hardly more than the rate at which its last layer diverges
            alone = len(kept) == 1 and not self.comes(
                f"{kept[0]} kept, rate {BORNE:g}x", _frozen(kept[0]) & Rate(BORNE)
            )
            if alone:
                first = self.incident.first
                return self._cause("layer", first, layer=kept[0], factor=factor)
        return self._cause("rate", self.incident.first, factor=factor)

    def _lower_rate(self) -> float | None:
        """The largest power of a half that avoids the incident as a factor on the rate; None if
        none does."""
        factor = 0.5
        while self.comes(f"rate {factor:.3g}x", Rate(factor)):
            factor /= 2
            # The smallest factor on the rate that is tried. An incident at a 64th of the rate is
            # not its fault.
            if factor < (1 / 64):
                return None
        return factor

    def _of_batch(self) -> IncidentCause:
        """The newest batch without which the incident does not come, and the examples in it."""
        for step in range(self.incident.first, self.loop.index - 1, -1):
            skip = Skip(step, step + 1)
            if not self.comes(skip.name, skip):
                break
        else:
            steps = self._stretch()
            if not steps:
                return self._of_training() if self.loop.index else self._cause("unknown", 0)
            step = steps[0]
            if len(steps) > 1:
                return self._cause("batches", step, last=steps[-1])
        count, positions = self.loop.data.examples_of(step)
        left = list(range(count))
        while len(left) > 1:
            halves = left[: len(left) // 2], left[len(left) // 2 :]
            for half in halves:
                name = f"step {step} without {len(half)} examples from {half[0]}"
                if not self.comes(name, _without(step, half, self.loop.index)):
                    left = half
                    break
            else:
                break
        if len(left) > count // 2:
            return self._cause("batch", step)
        if positions is None:
            return self._cause("example", step, rows=tuple(left))
        return self._cause("example", step, examples=tuple(positions[left].tolist()))

    def _stretch(self) -> Sequence[int]:
        """The fewest successive steps of a spike without whose batches it does not come; none if it
        comes without all of them. What is found to be its first high loss may be one of the noise
        before it."""
        steps = range(self.incident.first, self.incident.last + 1)
        if self.incident.kind != "spike" or not self._avoids(steps):
            return ()
        # longer stretches avoid what shorter ones do
        sizes = range(1, len(steps))
        steps = steps[: 1 + bisect_left(sizes, True, key=lambda size: self._avoids(steps[:size]))]
        from_end = range(1, len(steps))
        return steps[
            -1 - bisect_left(from_end, True, key=lambda size: self._avoids(steps[-size:])) :
        ]

    def _avoids(self, steps: Sequence[int]) -> bool:
        """True if the incident does not come without the batches of these steps."""
        skip = Skip(steps[0], steps[-1] + 1)
        if skip.name in self.tried:
            return not self.tried[skip.name]
        return not self.comes(skip.name, skip)

    def _cause(
        self,
        cause: Cause,
        step: int,
        **found: Any,
    ) -> IncidentCause:
        return IncidentCause(self.incident, self.loop.index, cause, step, tried=self.tried, **found)

    def comes(self, name: str, change: Alternative, seed: int = 0) -> bool:
        """True if the incident comes again.

        Args:
            name: What is changed.
            change: The change.
            seed: Seed of another order of the data; 0 for the batches of the run.
        """
        self.loop.data.see_own(0 if seed else self.loop.index + self.updates)
        self.loop.seed = seed
        branch = Branch(change, 0, self.updates * self.loop.size, "none")
        try:
            result = train_branch(self.loop, branch)
        except UserCodeFailed:  # a loss may refuse what is not finite
            came = True
        else:
            came = result.diverged is not None or result.highest >= self.incident.limit
            if result.diverged is None and self.incident.kind == "rise":
                # a branch is so short that each point of its curve is one loss
                losses = [loss for _, loss in result.curve]
                after = losses[self.incident.first - self.loop.index :]
                came = float(np.median(after)) > self.incident.limit
            elif result.diverged is None and self.incident.window > 1:
                # a point of the curve of a long branch is a mean of several losses
                points = np.array([loss for _, loss in result.curve])
                window = round(self.incident.window * len(points) / max(result.updates, 1))
                came = highest_mean(points, window) >= self.incident.limit
        self.tried[name] = came
        return came

    def _broken_layer(self) -> str:
        """The first layer whose output, or whose gradient, is not finite at the incident."""
        self.loop.data.see_own(self.loop.index + self.updates)
        with untouched_randomness(0, self.loop.devices):
            copy = self.loop.copy()
            copy.begin(0)
            for _ in range(self.incident.first - self.loop.index):
                copy.advance(lambda *_: 1.0, copy.left or copy.size)
            return broken_layer(copy, copy.stream.take())


def rise_of_rate(rates: Float[np.ndarray, " steps"]) -> float | None:
    """How many times the lowest of these rates the last one is; None if it hardly rose."""
    rates = rates[rates > 0]
    # 2: a rate that an incident is put down to has at least doubled
    if not len(rates) or rates[-1] < 2 * rates.min():
        return None
    return float(rates[-1] / rates.min())


def broken_layer(loop: Loop, pieces: Sequence[Batch]) -> str:
    """The first layer whose output is not finite on these batches, else the last one whose gradient
    is not; empty without one."""
    with layers_not_finite(loop.model) as found:
        loop.backward(pieces)
    if found:
        name, kind = found[0]
        return name or kind
    bad = [
        name.rpartition(".")[0]
        for name, one in loop.model.named_parameters()
        if one.grad is not None and not one.grad.isfinite().all()
    ]
    # the backward goes from the last layer to the first
    return bad[-1] if bad else ""


@contextmanager
def layers_not_finite(model: nn.Module) -> Iterator[list[tuple[str, str]]]:
    """The layers whose output is not finite inside, in the order of the forward: name and class."""
    found: list[tuple[str, str]] = []

    def look(name: str, module: nn.Module, _: object, output: object) -> None:
        if not are_finite(output):
            found.append((name, type(module).__name__))

    handles = [
        module.register_forward_hook(partial(look, name)) for name, module in model.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def are_finite(value: Any) -> bool:
    """True if all floating-point numbers in a tree of tensors are finite."""
    verdicts: list[bool] = []
    tensors = (Tensor, list, tuple, dict)
    tree = value if isinstance(value, tensors) else getattr(value, "__dict__", None)
    mapped(
        tree,
        lambda tensor: verdicts.append(
            not tensor.is_floating_point() or bool(tensor.isfinite().all())
        ),
    )
    return all(verdicts)


def _frozen(layer: str) -> Custom:
    """The change that leaves the parameters of a layer as they are."""

    def freeze(model: nn.Module, *_: Any) -> None:
        model.get_submodule(layer).requires_grad_(False)

    return Custom(f"{layer} kept", freeze)


def _without(step: int, places: Collection[int], start: int) -> Custom:
    """The change that leaves out some examples of the batch of a step."""

    def leave_out(_: nn.Module, __: object, batches: Iterable[Batch]) -> Iterator[Batch]:
        for at, batch in enumerate(batches, start):
            left_out = places if at == step else ()
            kept = [place for place in range(batch_size(batch)) if place not in left_out]
            yield mapped(batch, itemgetter(kept)) if left_out else batch

    return Custom(f"step {step} without {len(places)} examples", leave_out)
