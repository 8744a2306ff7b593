"""Products of the gradients of successive steps, read from training's own `.grad`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, AdamW, NAdam, Optimizer

from gradiometer.estimation.noise import GradientNoise
from gradiometer.estimation.preconditioned_noise import PreconditionedNoise
from gradiometer.estimation.products import left_by_scaler
from gradiometer.integrations.gradients import (
    NEVER,
    UPDATES_INSIDE,
    Flat,
    LastGradient,
    Products,
    is_inside_backward,
)
from gradiometer.integrations.watch.accelerator import Copied
from gradiometer.integrations.watch.observers.losses import first_size, value_of
from gradiometer.integrations.watch.observers.observer import Observer, Start, Step, Update
from gradiometer.integrations.watch.observers.triage.recorder import TriageRecorder
from gradiometer.integrations.watch.shield import Shield, reason_of
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.preconditioner import preconditioner_of
from gradiometer.measurement.reading import Reading
from gradiometer.run.budget import PRODUCTS
from gradiometer.run.cadence.early import START_UP, START_UP_STEPS

# Successive steps that are read together: their products need the gradient of one step before them.
CHAIN = 8

# Pairs of steps in a reading at first. Four chains then give the 16 readings that an estimate
# needs.
PAIRS_A_READING = 2

# A reading has at least this share of the steps so far, so that a long run has about this many in
# each doubling.
READINGS_A_RUN = 512


EARLY_STEPS = 300

# Of the time of the first 300 steps, all that a watch does may use this share beyond the budget,
# before products wait: runs of 300 steps pay 10 %.
EARLY_SHARE = 0.08

# Part of the steps so far after which a chain begins at the latest, whatever it costs: an old value
# is not that of now.
LATEST = 8

# P serves for this share of the steps so far, and for at most this many steps. The second moment of
# Adam's kind changes by a 16th meanwhile, and P by half of that; 64 steps are a 16th of what
# β₂ = 0.999 remembers.
WEIGHTS_LAST, MOST_WEIGHTS_LAST = 1 / 16, 64

# Share of the budget that products may use whatever else is measured: triage uses as much.
OWN = 0.5


@dataclass(frozen=True)
class Rule:
    """How the optimizers move the parameters.

    Attributes:
        buffer: Name of the state that remembers gradients; empty without momentum.
        adaptive: True if the step is along P ĝ.
        nesterov: True for Nesterov's step.
    """

    buffer: str
    adaptive: bool
    nesterov: bool


def rule_of(optimizers: Sequence[Optimizer]) -> Rule | str:
    """The rule that all parameters share, or why products of successive gradients cannot be
    corrected for it."""
    rules = {
        _rule(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups
    }
    if len(rules) != 1:
        return "the parameters are trained by different rules"
    return rules.pop()


def _rule(optimizer: Optimizer, group: dict[str, Any]) -> Rule | str:
    kind = type(optimizer)
    name = kind.__name__
    if kind is SGD:
        if group["maximize"] or group["dampening"]:
            return f"{name} has maximize or dampening"
        return Rule("momentum_buffer" if group["momentum"] else "", False, bool(group["nesterov"]))
    if kind in (Adam, AdamW, NAdam, Adamax):
        if group["maximize"] or not group["betas"][0] > 0:
            return f"{name} has maximize, or no momentum"
        return Rule("exp_avg", True, kind is NAdam)
    return f"the update of {name} is not known here"


class Pair(NamedTuple):
    """Two successive steps: what is known of them, and the numbers of their gradients, which may
    be on the device."""

    gauge: str
    step: int
    size: int
    known: dict[str, float]
    numbers: list[float | Tensor]


class GradientProducts(Observer):
    """Reads chains of successive steps, as many as the budget pays for, or all steps.

    At a step of a chain: ‖ĝ_t‖², ⟨ĝ_{t−1}, ĝ_t⟩, the product of ĝ_t with the optimizer's own
    momentum buffer, and under SGD the loss. Under Adam's kind they are under P from before the step
    of the first gradient, or some steps older; every third chain is read without, and a pair whose
    product triage takes, too. Numbers stay on the device, and are fetched when the next chain ends.

    Batches of any size make a pair. A pair is left out if its first step made no update, or if its
    numbers are not finite (as with a GradScaler that skips a step).

    Args:
        subject: The training.
        last: The gradient of the step before.
        triage: Knows what clipping leaves of a gradient before its update.
        rule: How the optimizers move the parameters.
        gauges: Names of the gauges whose readings are made here.
        all_steps: True to read every step, whatever it costs.
        made: Returns the number of updates so far.
        ended: Called with the reason if nothing more is read.
    """

    def __init__(
        self,
        subject: Subject,
        last: LastGradient,
        triage: TriageRecorder,
        rule: Rule,
        gauges: Sequence[str],
        *,
        all_steps: bool,
        made: Callable[[], int],
        ended: Callable[[str], None],
    ) -> None:
        last.is_beside_weights = rule.adaptive and PreconditionedNoise.name in gauges
        self._last = last
        self._triage = triage
        self._optimizers = subject.optimizers
        self._rule = rule
        self._budget = subject.budget
        self._gauges = gauges
        self._all_steps = all_steps
        self._record: Callable[[Reading], None] | None = None
        self._made = made
        self._ended = ended
        what = "products of successive gradients are no longer read"
        self._shield = Shield(
            lambda error: self._end(f"{what}: {reason_of(error)}"), before_first_update=False
        )
        self._pairs: list[Pair] = []
        self._waiting: tuple[list[Pair], Copied | None] | None = None
        self._open: dict[str, list[tuple[Pair, dict[str, float]]]] = {}
        # P of the pairs that are read with it, and the step from before which it is.
        self._weights: Flat | None = None
        self._weights_of = 0
        self._chains = 0
        self._under_way = False
        self._step_before = -1
        self._travelled = 0.0
        self._rate_before = 0.0
        self._spent = 0.0
        self._early = 0.0
        rates = {float(group["lr"]) for one in self._optimizers for group in one.param_groups}
        # With several rates, or along P ĝ, the loss does not fall along ĝ or its mean.
        self._has_slope = len(rates) == 1 and not rule.adaptive
        self._names = ["squared", "product"]
        if rule.buffer:
            self._names.append("memory")
        if self._has_slope:
            self._names.append("loss")
        if rule.buffer or self._has_slope:
            self._names.append("applied")
        # Updates at the newest step that was read; -1 before it.
        self._updates_before = -1

    def begin(self, start: Start) -> None:
        """Write readings from now on. The first step of all is not read: the run of a person's loop
        begins with it."""
        self._record = start.recorder.add
        self.awaits_update = True
        self.next = max(start.following, 1)
        self._step_before = self.next - 1

    def at_step(self, event: Step) -> None:
        """Read one step of a chain, between `backward` and the update."""
        began = self._budget.clock()
        with self._shield, torch.no_grad():
            self._read(event.index, event.loss, event.batch)
        took = self._budget.clock() - began
        self._spent += took
        self._budget.charge(PRODUCTS, took)

    def updated(self, update: Update) -> None:
        """Read nothing if the first update is made inside of `backward`: there is no gradient in
        `.grad` after it."""
        self.awaits_update = False
        if is_inside_backward():
            with self._shield:
                self._end(UPDATES_INSIDE)

    def close(self, error: BaseException | None) -> None:
        """Write what waits."""
        with self._shield:
            self._end_chain()
            self._fetch()
            for gauge in list(self._open):
                self._write(gauge)
        self._last.free()
        self._weights = None
        self.next = NEVER

    def _read(self, step: int, loss: Tensor | float, batch: Batch) -> None:
        size = first_size(batch)
        if not size:
            return  # without examples there is no pair
        rate = max(float(group["lr"]) for one in self._optimizers for group in one.param_groups)
        self._travelled += (step - self._step_before) * self._rate_before
        made = self._made()
        follows = made > self._updates_before and step == self._step_before + 1
        self._updates_before = made
        self._step_before = step
        self._rate_before = rate
        is_plain = self._is_plain(step)
        weights = None if is_plain else self._weights
        if self._last.draws_entries and self._weights_of != step - 1:
            weights = None  # P is known at other entries than those of the gradient that is kept
        buffers = self._buffers()
        products = self._last.take(step, weights, buffers or ())
        follows = follows and products.product is not None
        # without buffers nothing is remembered yet; and a chain that was cut short has cost its
        # steps
        if buffers is None or (self._under_way and not follows):
            self._pause(step)
            if buffers is None or self.next > step + 1:
                return
        self._under_way = True
        if follows and (is_plain or weights is not None):
            gauge = GradientNoise.name if is_plain else PreconditionedNoise.name
            self._pairs.append(
                Pair(gauge, step, size, self._facts(size), self._numbers(products, loss))
            )
        self.next = step + 1
        if len(self._pairs) == CHAIN:
            self._pause(step)
        is_plain_next = self.next > step + 1 or self._is_plain(step + 1)
        if not is_plain_next and not self._renew_weights(step):
            self._pause(step)

    def _is_plain(self, step: int) -> bool:
        """True if the pair that ends with this step is read without P."""
        if not self._rule.adaptive or PreconditionedNoise.name not in self._gauges:
            return True
        wants_both = GradientNoise.name in self._gauges
        # Under Adam's kind, one chain in three is read without P, for the noise scale without it.
        is_plain_chain = wants_both and self._chains % 3 == 0
        return is_plain_chain or self._last.plain_at == step

    def _renew_weights(self, step: int) -> bool:
        """Take P from before this step for the pairs after it, if the last one is too old. False if
        P is not known yet."""
        lasts = 0 if self._last.draws_entries else min(step * WEIGHTS_LAST, MOST_WEIGHTS_LAST)
        if self._weights is not None and step - self._weights_of < lasts:
            return True
        weights = self._last.empty() if self._weights is None else self._weights
        parameters = self._last.parameters
        places, entries = self._last.places(weights, step)
        if preconditioner_of(self._optimizers, parameters, into=places, entries=entries) is None:
            return False
        self._weights = weights
        self._weights_of = step
        return True

    def _numbers(self, products: Products, loss: Tensor | float) -> list[float | Tensor]:
        """The numbers of one pair, in the order of `_names`: tensors only on an accelerator."""
        numbers: list[float | Tensor] = [one for one in products if one is not None]
        if self._has_slope:
            numbers.append(value_of(loss))
        if "applied" in self._names:
            numbers.append(self._triage.applied)
        return [one.item() if isinstance(one, Tensor) and one.is_cpu else one for one in numbers]

    def _facts(self, size: int) -> dict[str, float]:
        """The numbers of one pair that need no gradient."""
        momentum = 0.0
        if self._rule.buffer:
            group = self._optimizers[0].param_groups[0]
            momentum = float(group["betas"][0] if "betas" in group else group["momentum"])
        known = {
            "momentum": momentum,  # μ, or β₁
            "nesterov": float(self._rule.nesterov),
            "inverse_size": 1 / size,
        }
        if self._has_slope:
            known["travelled"] = self._travelled
        return known

    def _pause(self, step: int) -> None:
        """End the chain, and choose the step of the next one."""
        self._end_chain()
        self._plan(step)

    def _end_chain(self) -> None:
        """Begin to fetch the numbers of a chain, and take in those of the one before."""
        pairs = self._pairs
        self._pairs = []
        self._under_way = False
        if not pairs:
            return
        self._fetch()
        far = [one for pair in pairs for one in pair.numbers if isinstance(one, Tensor)]
        self._waiting = pairs, Copied.of(far) if far else None
        self._chains += 1
        if not far:
            self._fetch()

    def _fetch(self) -> None:
        """Take in the numbers of the last chain."""
        if self._waiting is None:
            return
        pairs, copied = self._waiting
        self._waiting = None
        fetched = iter(() if copied is None else copied().tolist())
        known = []
        for pair in pairs:
            row = [next(fetched) if isinstance(one, Tensor) else one for one in pair.numbers]
            if "applied" in self._names and math.isnan(row[-1]):
                row[-1] = float(self._triage.applied)  # not known before the first look
            if all(map(math.isfinite, row)):
                known.append((pair, row))
        # Several steps with the largest norm were clipped to it.
        squares = [row[0] for pair, row in known if pair.gauge == GradientNoise.name]
        largest = max(squares, default=0.0)
        # Relative difference of ‖ĝ‖² below which two steps have the same norm: that of
        # `clip_grad_norm_`.
        same = sum(one >= (1 - 1e-5) * largest for one in squares)
        # Steps of a chain with the same norm that show clipping.
        if largest > 0 and same >= 3:
            self._end(
                "`.grad` was clipped before `step` was called, which hides its size: call `step` "
                "right after `backward`"
            )
            return
        for pair, row in known:
            if pair.gauge in self._gauges:
                pairs_read = self._open.setdefault(pair.gauge, [])
                moments = dict(zip(self._names, row, strict=True)) | pair.known
                if "memory" in moments and not self._rule.adaptive:
                    # SGD's buffer is a sum, Adam's a mean
                    moments["memory"] *= 1 - pair.known["momentum"]
                if moments.get("applied", 1.0) < 1:
                    _take_scale_out(moments)
                pairs_read.append((pair, moments))
                if len(pairs_read) >= max(PAIRS_A_READING, pair.step / READINGS_A_RUN):
                    self._write(pair.gauge)

    def _write(self, gauge: str) -> None:
        """Write one reading: the means over the pairs since the last one."""
        pairs = self._open.pop(gauge, [])
        if not pairs or self._record is None:
            return
        last, names = pairs[-1]
        moments: dict[str, float | list[float]] = {}
        for name in names:
            mean = sum(numbers[name] for _, numbers in pairs) / len(pairs)
            is_by_layer = name in ("squared", "product", "memory")
            moments[name] = [mean] if is_by_layer else mean
        self._record(Reading(gauge, last.step, last.size, self._rate_before, moments))

    def _plan(self, step: int) -> None:
        """Choose the step of the next chain: the coming one, or later if chains have cost more than
        their share."""
        if self._all_steps:
            self.next = step + 1
            return
        budget = self._budget
        training = budget.training
        if step <= EARLY_STEPS:
            self._early = EARLY_SHARE * training
        income = budget.share * training
        cost = self._spent / max(self._chains, 1)
        missing = cost + min(self._spent - OWN * income, budget.budgeted - income - self._early)
        a_step = OWN * income / (step + 1)
        if missing <= 0 or not a_step > 0:
            self.next = step + 1
            return
        self.next = step + 1 + int(min(missing / a_step, longest_pause(step)))

    def _buffers(self) -> list[Tensor] | None:
        """What the optimizers remember, before the update; empty if they do not, None if there is
        nothing yet.

        A parameter that had no gradient so far counts as zero.
        """
        name = self._rule.buffer
        if not name:
            return []
        states = {
            id(p): state for optimizer in self._optimizers for p, state in optimizer.state.items()
        }
        found = [states.get(id(one), {}).get(name) for one in self._last.parameters]
        if all(one is None for one in found):
            return None
        return [
            torch.zeros_like(parameter) if one is None else one
            for one, parameter in zip(found, self._last.parameters, strict=True)
        ]

    def _end(self, why: str) -> None:
        """Read nothing more."""
        self.next = NEVER
        self._pairs = []
        self._last.free()
        self._weights = None
        self._open.clear()
        self._ended(why)


def _take_scale_out(moments: dict[str, float]) -> None:
    """Divide by the factor of a scaler that was not given: neither the loss nor what an optimizer
    remembers has it."""
    left = float(left_by_scaler(np.array([moments["applied"]]))[0])
    for name, factors in (("squared", 2), ("product", 2), ("memory", 1), ("applied", -1)):
        if name in moments:
            moments[name] *= left**factors


def longest_pause(step: int) -> int:
    """Most steps from the end of a chain to the beginning of the next one.

    In the first 300 steps training may get twice as long, but the pause ends with them: with an
    eighth a small transformer paid 9 % for products in 300 steps, and without the end a run of 500
    steps had nothing newer than step 263.
    """
    early = min(step, EARLY_STEPS - step)
    return max(early, step // LATEST, CHAIN)


def early_cost(share: float, *, products: bool) -> tuple[float, int]:
    """The share of the training time that the first steps pay, and their number, at this budget."""
    if products:
        return EARLY_SHARE + share, EARLY_STEPS
    return START_UP * share, START_UP_STEPS


def reads_products(
    optimizers: Sequence[Optimizer], gauges: Sequence[str], *, supported: bool
) -> tuple[Rule, list[str]] | None:
    """The rule, and the gauges that are read from products; None if none is.

    Args:
        optimizers: The optimizers of the loop.
        gauges: Names of the gauges of the run.
        supported: True if each update is one backward on one process, within a budget.
    """
    rule = rule_of(optimizers)
    names = [name for name in (GradientNoise.name, PreconditionedNoise.name) if name in gauges]
    if not supported or isinstance(rule, str) or not names:
        return None
    rates = {float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups}
    has_no_way = not rule.buffer and len(rates) > 1
    return None if has_no_way else (rule, names)
