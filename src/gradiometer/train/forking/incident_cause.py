"""Where a loss went wrong (`incident_at`), and why (`incident_cause`): the steps before are trained
again, with less and less left out."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.loop.branch import Branch, BranchResult
from gradiometer.loop.changes.alternative import Alternative, GoOn, Rate, Skip
from gradiometer.loop.changes.replacements import Custom
from gradiometer.loop.engine import train_branch
from gradiometer.loop.loop import Loop
from gradiometer.loop.recorded.causes import LEAD
from gradiometer.measurement.batch import Batch, batch_size, mapped
from gradiometer.measurement.estimate import counted
from gradiometer.problems.problem import Problem
from gradiometer.randomness import untouched_randomness
from gradiometer.run.problem import configuration_of
from gradiometer.run.reader import Run
from gradiometer.run.spikes import spikes_of
from gradiometer.train.forking.own_loop import RunData
from gradiometer.train.restoring import loop_at

Kind = Literal["not finite", "diverged", "spike", "rise"]

# Losses that show the level before a rise, and how far noise reaches.
BEFORE = 64

# A rise that stays is looked for in this many steps on each side of the step that is asked for.
NEAR = 64

# Fewest losses on each side of a rise: fewer have medians that noise moves.
FEWEST = 8

# A loss that is this many times the usual deviation above its level is not of the noise. With heavy
# tails (Student's t with 3 degrees of freedom) one in 70 is.
BEYOND = 4.0


@dataclass(frozen=True)
class Incident:
    """Where a loss went wrong.

    Args:
        kind: "not finite", "diverged" (it grew until training was stopped), "spike", or "rise" (it
            stayed high).
        first: Index of the first high loss, or of the one that is not finite.
        last: Index of the last high loss that counts.
        level: The usual loss before it.
        height: The highest loss, or the level that it rose to; inf if it is not finite.
    """

    kind: Kind
    first: int
    last: int
    level: float
    height: float

    @property
    def limit(self) -> float:
        """The loss from which on it is the incident again: half of the way up; of a divergence,
        whose height is that of the step where it was stopped, ten times the level."""
        if self.kind == "diverged" and self.level > 0:
            return 10 * self.level
        return self.level + (self.height - self.level) / 2


def incident_at(run: Run, step: int) -> Incident:
    """The incident at a step, or near it.

    Args:
        run: The run.
        step: The step.

    Raises:
        BadArgument: The loss did not rise there.
    """
    steps, losses = run.losses
    end = next((event for event in run.events if event["event"] == "diverged"), None)
    if end is not None and (step >= end["step"] - NEAR or not len(losses)):
        return _divergence(int(end["step"]), str(end["reason"]), losses)
    spikes = spikes_of(run)
    for spike in spikes:
        if spike.first <= step <= spike.last:
            return Incident("spike", spike.first, spike.last, spike.level, spike.height)
    place = int(np.searchsorted(steps, step))
    found = _rise(losses, place) or _single(losses, place)
    if found is not None:
        return found
    if not spikes:
        raise BadArgument(f"`spike` is {step:,}, where the loss of `{run.path}` did not rise.")
    places = ", ".join(f"{spike.peak:,}" for spike in spikes[:8])
    raise BadArgument(
        f"`spike` is {step:,}, where the loss did not rise: {counted(len(spikes), 'spike')} found, "
        f"at {places}."
    )


def _divergence(at: int, reason: str, losses: Float[np.ndarray, " steps"]) -> Incident:
    """The incident at the step where a training was stopped."""
    losses = losses[:at]
    level, spread = _usual(losses[max(at - 4 * BEFORE, 0) : max(at - FEWEST, 0)])
    if math.isnan(level):
        level, spread = (float(losses[0]) if len(losses) else math.nan), 0.0
    high = losses > level + BEYOND * spread
    first = at
    # single losses come back on the way up
    while first > 0 and (high[first - 1] or high[max(first - FEWEST, 0) : first].mean() >= 0.5):
        first -= 1
    first += int(high[first:].argmax()) if first < at else 0
    # a loss that was usual until the last step did not grow
    if first == at and ("nan" in reason or "finite" in reason or "inf" in reason):
        return Incident("not finite", at, at, level, math.inf)
    height = float(losses[first:].max()) if first < at else math.inf
    return Incident("diverged", first, at, level, height)


def _rise(losses: Float[np.ndarray, " steps"], place: int) -> Incident | None:
    """The largest rise that stays, near a place; None if none is above the noise."""
    best: tuple[float, int] = (0.0, 0)
    for first in range(max(place - NEAR, FEWEST), min(place + FEWEST, len(losses) - FEWEST) + 1):
        level, spread = _usual(losses[max(first - BEFORE, 0) : first])
        later = float(np.median(losses[first : first + BEFORE]))
        # the first high loss itself, and not one before it, begins the rise
        if losses[first] > level + (later - level) / 2 and spread > 0:
            best = max(best, ((later - level) / spread, first))
    ratio, first = best
    if ratio < BEYOND:
        return None
    level, _ = _usual(losses[max(first - BEFORE, 0) : first])
    after = losses[first : first + BEFORE]
    return Incident("rise", first, first + len(after) - 1, level, float(np.median(after)))


def _single(losses: Float[np.ndarray, " steps"], place: int) -> Incident | None:
    """A high loss beside a place: too low for a spike that nobody has pointed at."""
    near = np.arange(max(place - FEWEST, FEWEST), min(place + FEWEST, len(losses)))
    if not len(near):
        return None
    peak = int(near[losses[near].argmax()])
    level, spread = _usual(losses[max(peak - BEFORE, 0) : peak])
    if not losses[peak] > level + BEYOND * spread:
        return None
    return Incident("spike", peak, peak, level, float(losses[peak]))


def _usual(losses: Float[np.ndarray, " steps"]) -> tuple[float, float]:
    """The median of losses, and their usual deviation from it; NaN without losses."""
    if len(losses) < FEWEST:
        return math.nan, math.nan
    level = float(np.median(losses))
    # 1.4826: the standard deviation of normal noise over its median deviation
    return level, 1.4826 * float(np.median(np.abs(losses - level)))


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
    def orders(self) -> tuple[bool, ...]:
        """If it came, for each other order of the data that was tried."""
        return tuple(came for name, came in self.tried.items() if name.startswith(OTHER))

    @property
    def change(self) -> str | None:
        """The change that avoids it, as the text of an alternative; None if none is known."""
        if self.cause in ("example", "batch"):
            return f"skip {self.step}:{self.step + 1}"
        return None if self.factor is None else f"rate {self.factor:.2g}x"


def incident_cause(
    run: Run,
    step: int,
    *,
    problem: Problem | None = None,
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

    Raises:
        BadArgument: The loss did not rise there.
    """
    configuration_of(run, "fork")
    incident = incident_at(run, step)
    start = max(incident.first - LEAD, 0)
    loop = loop_at(run, start, problem=problem)
    found = _Bisection(incident, loop, _rise_of_rate(run, incident.first)).cause()
    return replace(found, run=run.path)


class _Bisection:
    """Makes the updates of an incident again, with something left out."""

    def __init__(
        self,
        incident: Incident,
        loop: Loop,
        rose: float | None,
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
            if any(True for _ in module.parameters(recurse=False))
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
        """The largest power of a half that avoids the incident as a factor on the rate; None if none
        does."""
        factor = 0.5
        while self.comes(f"rate {factor:.3g}x", Rate(factor)):
            factor /= 2
            if factor < LOWEST:
                return None
        return factor

    def _of_batch(self) -> IncidentCause:
        """The newest batch without which the incident does not come, and the examples in it."""
        for step in range(self.incident.first, self.loop.index - 1, -1):
            skip = Skip(step, step + 1)
            if not self.comes(skip.name, skip):
                break
        else:
            return self._of_training() if self.loop.index else self._cause("unknown", 0)
        positions = self.data.order.batch(step)
        left = list(range(len(positions)))
        while len(left) > 1:
            halves = left[: len(left) // 2], left[len(left) // 2 :]
            for half in halves:
                name = f"step {step} without {len(half)} examples from {half[0]}"
                if not self.comes(name, _without(step, half, self.loop.index)):
                    left = half
                    break
            else:
                break
        if len(left) > len(positions) // 2:
            return self._cause("batch", step)
        return self._cause("example", step, examples=tuple(positions[left].tolist()))

    def _cause(
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

    def comes(self, name: str, change: Alternative, seed: int = 0) -> bool:
        """True if the incident comes again.

        Args:
            name: What is changed.
            change: The change.
            seed: Seed of another order of the data; 0 for the batches of the run.
        """
        self.data.see_own(0 if seed else self.loop.index + self.updates)
        self.loop.seed = seed
        branch = Branch(change, 0, self.updates * self.loop.size, "none")
        try:
            result = train_branch(self.loop, branch)
        except UserCodeFailed:  # a loss may refuse what is not finite
            came = True
        else:
            came = result.diverged is not None or self._is_high(result)
        self.tried[name] = came
        return came

    def _is_high(self, result: BranchResult) -> bool:
        """True if the losses of a branch are those of the incident again."""
        if self.incident.kind != "rise":
            return result.highest >= self.incident.limit
        # a branch is so short that each point of its curve is one loss
        losses = [loss for _, loss in result.curve]
        after = losses[self.incident.first - self.loop.index :]
        return float(np.median(after)) > self.incident.limit

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
            yield mapped(batch, partial(_rows, kept)) if left_out else batch

    return Custom(f"step {step} without {len(places)} examples", leave_out)


def _rows(places: Sequence[int], tensor: Tensor) -> Tensor:
    return tensor[places]
