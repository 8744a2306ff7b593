"""Products of the gradients of successive steps, read from training's own `.grad`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, AdamW, NAdam, Optimizer

from gradiometer.estimation.noise import GradientNoise
from gradiometer.estimation.preconditioned_noise import PreconditionedNoise
from gradiometer.integrations.watch.accelerator.copied import Copied
from gradiometer.integrations.watch.part import first_size, value_of
from gradiometer.integrations.watch.shield import Shield, reason_of
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.preconditioner import preconditioner_of
from gradiometer.measurement.reading import Reading
from gradiometer.run.budget import PRODUCTS, Budget

CHAIN = 8
"""Successive steps that are read together: their products need the gradient of one step before
them."""

PAIRS_A_READING = 2
"""Pairs of steps in a reading at first. Four chains then give the 16 readings that an estimate
needs."""

READINGS_A_RUN = 512
"""A reading has at least this share of the steps so far, so that a long run has about this many in
each doubling."""

PLAIN_EVERY = 3
"""Under Adam's kind, one chain in three is read without P, for the noise scale without it."""

EARLY_STEPS = 300
EARLY_SHARE = 0.05
"""Of the time of the first 300 steps, this share may be spent beyond the budget: runs of 300 steps
pay 7 %."""

EARLY_BUDGETS = 5.0
"""Seconds that may be spent in any case, as a multiple of the budget's share: 0.1 s at 2 %, as for
other readings. The steps of a small model are too short to pay for anything."""

LATEST = 16
"""A chain begins at the latest when training is longer by one in this many, whatever it costs: an
old value is not that of now."""


BESIDE_OTHERS = 0.5
"""Share of the budget that products may use if other gauges are measured too."""

CLIPPED = 1e-5
"""Relative difference of ‖ĝ‖² below which two steps have the same norm: that of
`clip_grad_norm_`."""

FEWEST_CLIPPED = 3
"""Steps of a chain with the same norm that show clipping."""

NEVER = 2**62
"""A step that is not reached."""

Flat = Float[Tensor, " params"]


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


class Successive:
    """Reads chains of successive steps, as many as the budget pays for.

    At a step of a chain: ‖ĝ_t‖², ⟨ĝ_{t−1}, ĝ_t⟩, the product of ĝ_t with the optimizer's own
    momentum buffer, and under SGD the loss. Under Adam's kind all are under P, which is taken
    before the first step of a chain and kept for its length; every third chain is read without.
    Numbers stay on the device, and are fetched when the next chain ends.

    A chain ends early where its products would be wrong: at a batch of another size, a step that
    made no update, a parameter without a gradient, or numbers that are not finite (as with a
    GradScaler that skips a step).

    Args:
        objective: The model.
        optimizers: The optimizers of the loop, as they are now.
        rule: How they move the parameters.
        scaler: The GradScaler, if there is one.
        budget: The account.
        alone: True if no other gauge is measured within the budget.
        gauges: Names of the gauges whose readings are made here.
    """

    def __init__(
        self,
        objective: Objective,
        optimizers: Sequence[Optimizer],
        rule: Rule,
        *,
        scaler: Any,
        budget: Budget,
        alone: bool,
        gauges: Sequence[str],
    ) -> None:
        self._objective = objective
        self._optimizers = optimizers
        self._rule = rule
        self._scaler = scaler
        self._budget = budget
        self._share = budget.share * (1.0 if alone else BESIDE_OTHERS)
        self._gauges = gauges
        self._record: Callable[[Reading], None] | None = None
        self._stopped: Callable[[str], None] = lambda why: None
        self._shield = Shield(self._fail)
        self._shield.before_first_update = False  # what fails here never reaches training
        self._last: Flat | None = None
        self._weights: Flat | None = None
        self._buffers: list[Tensor] | None = None
        self._rows: list[Tensor] = []
        self._facts: list[tuple[float, float, int]] = []
        self._waiting: tuple[str, list[tuple[float, float, int]], int, Copied] | None = None
        self._open: dict[str, list[dict[str, float]]] = {}
        self._chains = 0
        self._step_before = -1
        self._travelled = 0.0
        self._rate_before = 0.0
        self._spent = 0.0
        self._early = 0.0
        self._batch_size = 0
        self._kind = gauges[0]
        rates = {float(group["lr"]) for one in optimizers for group in one.param_groups}
        # With several rates, or along P ĝ, the loss does not fall along ĝ or its mean.
        self._has_slope = len(rates) == 1 and not rule.adaptive
        self.updated = True
        """Set by the optimizer's hook: an update was made since the last call."""
        self.next = NEVER
        """The next step at which `at_step` has something to do."""

    def attach(
        self, record: Callable[[Reading], None], stopped: Callable[[str], None], step: int
    ) -> None:
        """Write readings from now on, from this step.

        Args:
            record: Takes a reading.
            stopped: Called with the reason if nothing more is read.
            step: The next step.
        """
        self._record = record
        self._stopped = stopped
        self.next = step
        self._step_before = step - 1

    def at_step(self, step: int, loss: Tensor | float, batch: Batch) -> None:
        """Read one step of a chain, between `backward` and the update."""
        began = self._budget.clock()
        with self._shield, torch.no_grad():
            self._read(step, loss, batch)
        took = self._budget.clock() - began
        self._spent += took
        self._budget.charge(PRODUCTS, took)

    def close(self) -> None:
        """Write what waits."""
        with self._shield:
            self._end_chain(self._step_before)
            self._fetch()
            for gauge in list(self._open):
                self._write(gauge)
        self._weights = self._buffers = None
        self.next = NEVER

    def _read(self, step: int, loss: Tensor | float, batch: Batch) -> None:
        rate = self._largest_rate()
        self._travelled += (step - self._step_before) * (
            self._rate_before if self._step_before >= 0 else 0.0
        )
        follows, self.updated = self.updated and step == self._step_before + 1, False
        self._step_before = step
        self._rate_before = rate
        size = first_size(batch)
        gradients = [
            parameter.grad for parameter in self._objective.parameters if parameter.grad is not None
        ]
        if len(gradients) < len(self._objective.parameters):
            self._abandon(step)
            return
        gradient = flat(gradients)
        if self._scaler is not None:
            gradient /= self._scale()
        if self._last is None or not follows or size != self._batch_size:
            self._begin_chain(step, gradient, size)
            return
        weighted = gradient if self._weights is None else self._weights * gradient
        numbers = [weighted @ gradient, self._last @ gradient]
        memory = self._memory()
        if memory is not None:
            numbers.append(memory @ weighted)
        if self._has_slope:
            value = value_of(loss)
            numbers.append(
                value.to(gradient) if isinstance(value, Tensor) else gradient.new_tensor(value)
            )
        self._rows.append(torch.stack(numbers))
        self._facts.append((self._travelled, self._momentum(), step))
        self._last = weighted
        if len(self._rows) == CHAIN:
            self._end_chain(step)
            self._plan(step)

    def _begin_chain(self, step: int, gradient: Flat, size: int) -> None:
        """Keep the gradient of the step before a chain; if a buffer or P is not known yet, wait for
        it."""
        was_cut_short = self._last is not None
        self._end_chain(step)
        if was_cut_short:  # it has cost its steps all the same
            self._plan(step)
            if self.next > step + 1:
                return
        self._weights = self._buffers = None
        if self._rule.buffer and self._memory() is None:
            self._abandon(step)
            return
        self._kind = self._next_kind()
        if self._kind == PreconditionedNoise.name:
            found = preconditioner_of(self._optimizers, self._objective.parameters)
            if found is None:
                self._abandon(step)
                return
            self._weights = flat(found)
        self._last = gradient if self._weights is None else self._weights * gradient
        self._batch_size = size
        self.next = step + 1

    def _next_kind(self) -> str:
        """The gauge of the coming chain."""
        if len(self._gauges) == 1:
            return self._gauges[0]
        plain = self._chains % PLAIN_EVERY == PLAIN_EVERY - 1
        return GradientNoise.name if plain else PreconditionedNoise.name

    def _abandon(self, step: int) -> None:
        """Leave this step out."""
        self._end_chain(step)
        self._plan(step)

    def _end_chain(self, step: int) -> None:
        """Begin to fetch the numbers of a chain, and take in those of the one before."""
        rows, facts = self._rows, self._facts
        self._rows = []
        self._facts = []
        self._last = None
        if not rows:
            return
        numbers = torch.stack(rows)
        self._fetch()
        self._waiting = self._kind, facts, self._batch_size, Copied(numbers)
        self._chains += 1
        self._weights = None
        if numbers.is_cpu:
            self._fetch()

    def _fetch(self) -> None:
        """Take in the numbers of the last chain."""
        if self._waiting is None:
            return
        (kind, facts, size, copied), self._waiting = self._waiting, None
        numbers = copied().double()
        finite = numbers.isfinite().all(dim=1)
        squares = numbers[finite, 0]
        if len(squares) and self._is_clipped(squares):
            self._end(
                "`.grad` was clipped before `step` was called, which hides its size: call `step` "
                "right after `backward`"
            )
            return
        rows = numbers[finite].tolist()
        facts = [fact for fact, kept in zip(facts, finite.tolist(), strict=True) if kept]
        for row, (travelled, momentum, step) in zip(rows, facts, strict=True):
            pairs = self._open.setdefault(kind, [])
            pairs.append(self._moments(kind, row, travelled, momentum, step, size))
            if len(pairs) >= max(PAIRS_A_READING, step / READINGS_A_RUN):
                self._write(kind)

    def _moments(
        self, kind: str, row: list[float], travelled: float, momentum: float, step: int, size: int
    ) -> dict[str, float]:
        """The moments of one pair."""
        rule = self._rule
        numbers = iter(row)
        moments = {"squared": next(numbers), "product": next(numbers)}
        if rule.buffer:
            moments["memory"] = next(numbers) * (1.0 if rule.adaptive else 1 - momentum)
        moments["momentum"] = momentum
        moments["nesterov"] = float(rule.nesterov)
        if self._has_slope:
            moments["loss"], moments["travelled"] = next(numbers), travelled
        return moments | {"step": step, "size": size}

    def _write(self, kind: str) -> None:
        """Write one reading: the means over the pairs since the last one."""
        pairs = self._open.pop(kind, [])
        if not pairs or self._record is None:
            return
        last = pairs[-1]
        means = {
            name: sum(pair[name] for pair in pairs) / len(pairs)
            for name in last
            if name not in ("step", "size")
        }
        by_layer = {"squared", "product", "memory"}
        moments = {name: [value] if name in by_layer else value for name, value in means.items()}
        self._record(
            Reading(kind, int(last["step"]), int(last["size"]), self._rate_before, moments)
        )

    @staticmethod
    def _is_clipped(squares: Float[Tensor, " pairs"]) -> bool:
        """True if several steps have the largest norm: it is the one that they were clipped to."""
        return int((squares >= (1 - CLIPPED) * squares.max()).sum()) >= FEWEST_CLIPPED

    def _plan(self, step: int) -> None:
        """Choose the step of the next chain: the coming one, or later if chains have cost more than
        their share."""
        training = self._budget.training
        if step <= EARLY_STEPS:
            self._early = max(EARLY_SHARE * training, EARLY_BUDGETS * self._budget.share)
        cost = self._spent / max(self._chains, 1)
        missing = self._spent + cost - self._share * training - self._early
        pace = training / (step + 1)
        if missing <= 0 or not self._share * pace > 0:
            self.next = step + 1
            return
        self.next = step + 1 + int(min(missing / (self._share * pace), max(step // LATEST, CHAIN)))

    def _largest_rate(self) -> float:
        """η."""
        return max(
            float(group["lr"]) for optimizer in self._optimizers for group in optimizer.param_groups
        )

    def _scale(self) -> Tensor:
        """The factor that is in `.grad`: that of the GradScaler, until it is taken out by
        `unscale_`."""
        one = torch.ones((), device=self._objective.parameters[0].device)
        states = self._scaler._per_optimizer_states
        stages = [
            states[id(optimizer)]["stage"].name
            for optimizer in self._optimizers
            if id(optimizer) in states
        ]
        if "UNSCALED" in stages:
            return one
        scaled: Tensor = self._scaler.scale(one)
        return scaled

    def _momentum(self) -> float:
        """μ, or β₁."""
        group = self._optimizers[0].param_groups[0]
        if not self._rule.buffer:
            return 0.0
        return float(group["betas"][0] if "betas" in group else group["momentum"])

    def _memory(self) -> Flat | None:
        """What the optimizers remember, before the update; None if nothing."""
        if not self._rule.buffer:
            return None
        if self._buffers is None:
            states = {
                id(p): state
                for optimizer in self._optimizers
                for p, state in optimizer.state.items()
            }
            found = [
                states.get(id(parameter), {}).get(self._rule.buffer)
                for parameter in self._objective.parameters
            ]
            self._buffers = None if any(one is None for one in found) else found
        return None if self._buffers is None else flat(self._buffers)

    def _end(self, why: str) -> None:
        """Read nothing more."""
        self.next = NEVER
        self._rows = []
        self._facts = []
        self._last = None
        self._weights = None
        self._open.clear()
        self._stopped(why)

    def _fail(self, error: Exception) -> None:
        """An error of our own."""
        self._end(f"products of successive gradients are no longer read: {reason_of(error)}")


def flat(tensors: Sequence[Tensor]) -> Flat:
    """One new vector of all of them, at least in single precision."""
    joined = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined


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
