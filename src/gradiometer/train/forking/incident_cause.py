"""`incident_cause`: why a loss went wrong: the steps before are trained again, with less and less
left out."""

import math
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.errors import UserCodeFailed
from gradiometer.interruption import heed
from gradiometer.loop.loop import Loop
from gradiometer.loop.recorded.causes import LEAD
from gradiometer.measurement.batch import Batch, batch_size, mapped
from gradiometer.measurement.estimate import significant
from gradiometer.problems.problem import Problem
from gradiometer.randomness import untouched_randomness
from gradiometer.run.problem import configuration_of
from gradiometer.run.reader import Run
from gradiometer.train.forking.incident import BEFORE, Incident, incident_at
from gradiometer.train.forking.own_loop import RunData
from gradiometer.train.forking.run_loop import loop_at

Cause = Literal["example", "batch", "layer", "rate", "chance", "unknown"]

# Other orders of the data: if most of them have the incident, it is not of these batches.
OTHER, ORDERS = "other data", 3

# The smallest factor on the rate that is tried. An incident at a 64th of the rate is not its fault.
LOWEST = 1 / 64

# A layer is the cause if all others bear this factor on the rate without it.
BORNE = 4.0

# Updates after a rise that show if it stays.
AFTER = 16


@dataclass(frozen=True)
class IncidentCause:
    """Why a loss went wrong.

    Args:
        incident: The incident.
        start: The step that the updates were made again from.
        cause: "example" or "batch" (without it the loss does not rise), "rate" (it does not rise at
            a smaller one), "layer" (it does not rise if this layer alone is left as it is, or the
            layer's output is not finite), "chance", or "unknown".
        step: The update that is the cause; the first high loss if that is none.
        examples: Positions in the data set of the examples that are the cause.
        layer: The layer.
        factor: The largest factor on the rate that was seen to avoid it.
        tried: What was tried, and if the incident came.
        run: The folder of the run.
    """

    incident: Incident
    start: int
    cause: Cause
    step: int
    examples: tuple[int, ...] = ()
    layer: str = ""
    factor: float | None = None
    tried: Mapping[str, bool] = field(default_factory=dict)
    run: Path = Path()

    @property
    def sentence(self) -> str:
        """The incident, its cause, and the state to continue from."""
        return f"{self.incident.sentence} {self.why} {self.go_on}"

    @property
    def why(self) -> str:
        """The cause, and what avoids it."""
        each = ", ".join(f"{one:,}" for one in self.examples)
        many = len(self.examples) > 1
        factor = significant(self.factor or math.nan, 2)
        if self.cause == "layer" and self.factor is None:
            return f"Cause: layer {self.layer}, whose output or gradient is not finite there."
        return {
            "example": (
                f"Cause: example{'s' * many} {each} of the training set, in the batch of step "
                f"{self.step:,}. Without {'them' if many else 'it'} the loss does not rise."
            ),
            "batch": (
                f"Cause: the batch of step {self.step:,} as a whole. Without it the loss does not "
                "rise; without half of it, it does."
            ),
            "layer": (
                f"Cause: layer {self.layer}. If it alone stays as it was at step {self.start:,}, "
                f"the loss does not rise; nor does it at {factor} times the rate."
            ),
            "rate": (
                f"Cause: the learning rate. At {factor} times the rate from step {self.start:,} "
                f"on, the loss does not rise.{self._other_data}"
            ),
            "chance": (
                "Cause: chance. The same updates from the same state did not bring it again."
            ),
        }.get(self.cause, "Cause: not found. It came in all that was tried.")

    @property
    def _other_data(self) -> str:
        orders = [came for name, came in self.tried.items() if name.startswith(OTHER)]
        if not orders:
            return " It had risen before."
        return f" On other orders of the data it came in {sum(orders)} of {len(orders)}."

    @property
    def go_on(self) -> str:
        """The state to go on from, and how."""
        state = f"The state of step {self.start:,}, before it, is loop_at(run, {self.start})"
        if self.cause in ("example", "batch"):
            change = f"skip {self.step}:{self.step + 1}"
        elif self.factor is not None:
            change = f"rate {self.factor:.2g}x"
        else:
            return f"{state}."
        command = f"gradiometer fork {shlex.quote(str(self.run))} '{change}' --at {self.start}"
        return f"{state}; to go on from it: {command}"


def incident_cause(
    run: Run,
    step: int,
    *,
    problem: Problem | None = None,
    tell: Callable[[str, bool], object] = lambda *_: None,
) -> IncidentCause:
    """Why the loss went wrong at a step: updates from before are made again, each time with
    something left out, until what is left is the cause.

    First on other orders of the data: an incident that comes there, too, is not that of a batch.
    Then the largest factor on the rate that avoids it is looked for, and a layer that avoids it if
    it alone stays as it is; or the batch, and the examples in it, by halves.

    Args:
        run: A run of `train`, which is not changed.
        step: A step of the incident, or near it.
        problem: The problem of the run, if it is loaded already.
        tell: Called with each attempt, and if the incident came.

    Raises:
        BadArgument: The loss did not rise there.
    """
    configuration_of(run, "fork")
    incident = incident_at(run, step)
    start = max(incident.first - LEAD, 0)
    loop = loop_at(run, start, problem=problem)
    found = _Bisection(incident, loop, _rise_of_rate(run, incident.first), tell).cause()
    return replace(found, run=run.path)


class _Bisection:
    """Makes the updates of an incident again, with something left out."""

    def __init__(
        self,
        incident: Incident,
        loop: Loop,
        rose: float | None,
        tell: Callable[[str, bool], object],
    ) -> None:
        assert isinstance(loop.data, RunData) and loop.left is not None
        self.incident = incident
        self.loop = loop
        self.rose = rose
        self.data: RunData = loop.data
        stays = AFTER if incident.kind == "rise" else 0
        last = incident.first + stays if stays else incident.last
        # without its batches, an instability needs as many updates more to rise
        wanted = last + 1 - loop.index + LEAD
        self.updates = min(wanted, loop.left // loop.size)
        self.tell = tell
        self.tried: dict[str, bool] = {}

    def cause(self) -> IncidentCause:
        """The cause."""
        if not self.comes("again"):
            return self._named("chance", self.incident.first)
        if self.rose is not None:
            before = 1 / self.rose
            if not self.comes(f"rate {before:.3g}x, as before", factor=before):
                lower = self._lower_rate()
                return self._named("rate", self.incident.first, factor=lower or before)
        orders = [self.comes(f"{OTHER} {number + 1}", seed=number + 1) for number in range(ORDERS)]
        if 2 * sum(orders) > ORDERS:
            return self._of_training()
        return self._of_batch()

    def _of_training(self) -> IncidentCause:
        """The rate, a layer at this rate, or a layer at any rate."""
        factor = self._lower_rate()
        if factor is None:
            layer = self._broken_layer()
            return self._named("layer" if layer else "unknown", self.incident.first, layer=layer)
        layers = [
            name
            for name, module in self.loop.model.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        ]
        if len(layers) > 1:
            kept = [name for name in layers if not self.comes(f"{name} kept", frozen=name)]
            # a plain network bears hardly more than the rate at which its last layer diverges
            alone = len(kept) == 1 and not self.comes(
                f"{kept[0]} kept, rate {BORNE:g}x", frozen=kept[0], factor=BORNE
            )
            if alone:
                first = self.incident.first
                return self._named("layer", first, layer=kept[0], factor=factor)
        return self._named("rate", self.incident.first, factor=factor)

    def _lower_rate(self) -> float | None:
        """The largest power of a half that avoids the incident as a factor on the rate; None if none
        does."""
        factor = 0.5
        while self.comes(f"rate {factor:.3g}x", factor=factor):
            factor /= 2
            if factor < LOWEST:
                return None
        return factor

    def _of_batch(self) -> IncidentCause:
        """The newest batch without which the incident does not come, and the examples in it."""
        for step in range(self.incident.first, self.loop.index - 1, -1):
            if not self.comes(f"skip {step}:{step + 1}", without={step: None}):
                break
        else:
            return self._of_training() if self.loop.index else self._named("unknown", 0)
        positions = self.data.order.batch(step)
        left = list(range(len(positions)))
        while len(left) > 1:
            halves = left[: len(left) // 2], left[len(left) // 2 :]
            for half in halves:
                name = f"step {step} without {len(half)} examples from {half[0]}"
                if not self.comes(name, without={step: half}):
                    left = half
                    break
            else:
                break
        if len(left) > len(positions) // 2:
            return self._named("batch", step)
        return self._named("example", step, examples=tuple(positions[left].tolist()))

    def _named(
        self,
        cause: Cause,
        step: int,
        *,
        examples: tuple[int, ...] = (),
        layer: str = "",
        factor: float | None = None,
    ) -> IncidentCause:
        return IncidentCause(
            self.incident, self.loop.index, cause, step, examples, layer, factor, self.tried
        )

    def comes(
        self,
        name: str,
        *,
        seed: int | None = None,
        factor: float = 1.0,
        frozen: str | None = None,
        without: Mapping[int, Collection[int] | None] | None = None,
    ) -> bool:
        """True if the incident comes again.

        Args:
            name: What is changed.
            seed: Seed of another order of the data.
            factor: Factor on the rate.
            frozen: A layer whose parameters are kept.
            without: Places in a batch that are left out, by its step; None for all of it.
        """
        losses = list(self._losses(seed, factor, frozen, without or {}))
        self.tried[name] = came = self._is_incident(losses)
        self.tell(name, came)
        return came

    def _is_incident(self, losses: Sequence[float]) -> bool:
        values = np.array(losses)
        if not np.isfinite(values).all():
            return True
        if self.incident.kind == "rise":
            place = self.incident.first - self.loop.index
            return bool(np.median(values[place:]) > self.incident.limit)
        return bool(values.max() >= self.incident.limit)

    def _losses(
        self,
        seed: int | None,
        factor: float,
        frozen: str | None,
        without: Mapping[int, Collection[int] | None],
    ) -> Iterator[float]:
        """The losses of the updates, up to the first that is not finite."""
        start = self.loop.index
        self.data.see_own(start + self.updates if seed is None else 0)
        with untouched_randomness(0, self.loop.devices):
            copy = self.loop.copy()
            copy.seed = seed or 0
            copy.factor = factor
            copy.begin(0)
            if frozen is not None:
                copy.model.get_submodule(frozen).requires_grad_(False)
            copy.stream.batches = _with_less(copy.stream.batches, start, without)
            for step, places in without.items():
                if places is None:
                    copy.stream.skip(step - start, step + 1 - start)
            for _ in range(self.updates):
                heed()
                try:
                    update = copy.advance(lambda *_: 1.0, copy.left or copy.size)
                except UserCodeFailed:
                    yield math.nan
                    return
                if update.loss is None:
                    continue
                loss = float(update.loss)
                yield loss
                finite = all(bool(one.isfinite().all()) for one in copy.model.parameters())
                if not (math.isfinite(loss) and finite):
                    yield math.nan
                    return

    def _broken_layer(self) -> str:
        """The first layer whose output, or whose gradient, is not finite at the incident."""
        self.data.see_own(self.loop.index + self.updates)
        with untouched_randomness(0, self.loop.devices):
            copy = self.loop.copy()
            copy.begin(0)
            for _ in range(self.incident.first - self.loop.index):
                copy.advance(lambda *_: 1.0, copy.left or copy.size)
            (batch,) = copy.stream.take().pieces
            return broken_layer(copy, batch)


def _rise_of_rate(run: Run, step: int) -> float | None:
    """How many times the lowest rate of the steps before a step its own is; None if it hardly
    rose."""
    known = run.hyperparameters
    if known is None:
        return None
    places = np.searchsorted(known.steps, [max(step - BEFORE, 0), step], side="right") - 1
    rates = known.rates[max(int(places[0]), 0) : int(places[1]) + 1]
    rates = rates[rates > 0]
    if not len(rates):
        return None
    # 2: a rate that an incident is put down to has at least doubled
    times = float(rates[-1] / rates.min())
    return times if times >= 2 else None


def broken_layer(loop: Loop, batch: Batch) -> str:
    """The first layer whose output is not finite on a batch, else the last one whose gradient is
    not; empty without one."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _: object, output: object) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(name or type(module).__name__)

        return hook

    handles = [
        module.register_forward_hook(look(name)) for name, module in loop.model.named_modules()
    ]
    try:
        loop.backward([batch])
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    bad = [
        name.rpartition(".")[0]
        for name, one in loop.model.named_parameters()
        if one.grad is not None and not one.grad.isfinite().all()
    ]
    # the backward goes from the last layer to the first
    return bad[-1] if bad else ""


def _with_less(
    batches: Iterator[Batch], start: int, without: Mapping[int, Collection[int] | None]
) -> Iterator[Batch]:
    """The batches from a step on, some of them without some examples."""
    for step, batch in enumerate(batches, start):
        places = without.get(step)
        if places is None:
            yield batch
            continue
        left_out = set(places)
        kept = torch.tensor([one for one in range(batch_size(batch)) if one not in left_out])
        yield mapped(batch, partial(_rows, kept))


def _rows(kept: Tensor, tensor: Tensor) -> Tensor:
    return tensor[kept.to(tensor.device)]
