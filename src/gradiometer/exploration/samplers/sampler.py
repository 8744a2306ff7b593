"""What all samplers share: an optimizer that holds a temperature in posterior units."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.heat import Heat
from gradiometer.exploration.samplers.noise import Noise
from gradiometer.measurement.estimate import Estimate, significant

HALVES = 50
"""Pairs of half-batch gradients the mini-batch heat is averaged over."""

SCHEDULED = ("initial_lr",)
"""What torch's schedulers add to a group."""


@dataclass(frozen=True)
class Balance:
    """The heat of one group of parameters, in posterior units: asked = injected + own, at stationarity.

    Args:
        asked: The temperature asked for.
        injected: What is injected at present.
        own: What SGD makes by itself, mini-batch noise and finite steps together.
        minibatch: What the mini-batch noise alone makes; unknown where no halves were handed in.
    """

    asked: float
    injected: float
    own: Estimate
    minibatch: Estimate


class Sampler(torch.optim.Optimizer, ABC):
    """An optimizer whose iterates, at a constant learning rate, are draws from exp(−U(Φ)/T).

    U(Φ) = N·(mean loss + (λ/2)‖Φ‖²): what stands in `.grad` is the gradient of the *mean* loss, as for SGD, and the
    learning rate is SGD's. T = 1 is the posterior of a loss that is −log p(y | x, Φ), with a Gaussian prior of
    precision Nλ. Parameters without a gradient are left alone. Noise comes from a generator of the sampler's own,
    whose state travels in `state_dict`, as does the record of the heat.

    **Holding the temperature.** A finite step and the noise of a mini-batch heat by themselves. At stationarity the
    configurational temperature, E[(Φ − c)·∇U]/d for any fixed c, is *exactly* the injected temperature plus `own`,
    a mean of squared norms that is seen at every step (each sampler says which, and the identity behind it). So where
    `hold`, T − own is injected. No half-batches are needed for that, and the running mean of `own` is linear in what
    is seen, so that the identity survives the averaging. It is the mean over a parameter group that is held: where
    noise is not isotropic, some directions are hotter than others (put them in groups of their own, each held apart).

    **Refusing.** Where `own` alone exceeds T for `memory` steps, after `burn_in`, and is not falling, no injection can
    cool it, and a `BadArgument` names the heat and the way out. Two halves of a batch handed to `halves` tell how much
    of it is mini-batch noise, and refuse on that alone.

    A temperature of 0 injects nothing and holds nothing: plain SGD, as in the exploring phase of a cycle.
    """

    what: ClassVar[str]
    """The sampler's name."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], seed: int) -> None:
        self._heats: list[Heat] = []
        self._halves: list[Heat] = []
        self._noise = Noise(seed)
        super().__init__(params, defaults)

    @abstractmethod
    def _move(self, place: int, params: list[Tensor], gradients: list[Tensor]) -> None:
        """One step of one group."""

    @abstractmethod
    def _minibatch_scale(self, group: dict[str, Any]) -> float:
        """The mini-batch heat, in units of N tr Σ/(Bd): its limit for small steps, which bounds it from below."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients in `.grad`.

        Args:
            closure: Puts the gradients into `.grad` and returns the loss, as for torch's optimizers.

        Raises:
            BadArgument: SGD alone is hotter than asked.
            Diverged: The gradients are not finite any more.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for place, group in enumerate(self.param_groups):
                params = [param for param in group["params"] if param.grad is not None]
                if params:
                    self._move(place, params, self._gradients(group, params))
        return loss

    @torch.no_grad()
    def halves(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Take in the gradients of two halves of one batch, in the order of the parameters, as often as you like.

        ‖ĝ₁ − ĝ₂‖²/4 is an unbiased estimate of tr Σ/B; 50 pairs make a judgement.

        Raises:
            BadArgument: The mini-batch noise alone is hotter than asked.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        if not len(first) == len(second) == len(params):
            raise BadArgument(
                f"`first` and `second` must hold a gradient for each of the {len(params)} parameters, "
                f"got {len(first)} and {len(second)}."
            )
        differences = iter(torch._foreach_sub(list(first), list(second)))
        for place, group in enumerate(self.param_groups):
            variance = squared_norm([next(differences) for _ in group["params"]]) / 4
            reading = group["examples"] * variance / sum(param.numel() for param in group["params"])
            if self._halves[place].add(reading, self._minibatch_scale(group)) and group["temperature"] > 0:
                self._judge_minibatch(place)

    @property
    def balance(self) -> list[Balance]:
        """The heat of every group at present."""
        return [
            Balance(group["temperature"], group["injected"], heat.estimate(), halves.estimate())
            for group, heat, halves in zip(self.param_groups, self._heats, self._halves, strict=True)
        ]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; refused by name where one does not fit."""
        if isinstance(param_group, dict):
            self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        kinds = {(param.device, param.dtype) for param in group["params"]}
        if len(kinds) > 1:
            self.param_groups.pop()
            raise BadArgument(
                f"`params` of a group must share a device and a type, got {sorted(map(str, kinds))}: "
                "make a group of each."
            )
        group["injected"] = group["temperature"]
        self._heats.append(Heat(group["memory"]))
        self._halves.append(Heat(HALVES))

    def state_dict(self) -> dict[str, Any]:
        """Torch's state, the generators' and the record of the heat."""
        heats = [[asdict(heat), asdict(halves)] for heat, halves in zip(self._heats, self._halves, strict=True)]
        return {**super().state_dict(), "noise": self._noise.state_dict(), "heat": heats}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another sampler left off, to the same numbers."""
        if missing := [key for key in ("noise", "heat") if key not in state_dict]:
            raise BadArgument(f"`state_dict` has no {missing[0]!r}: it is not that of a {self.what}.")
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in ("noise", "heat")})
        self._noise.load_state_dict(state_dict["noise"])
        pairs = copy.deepcopy(state_dict["heat"])
        self._heats = [Heat(**heat) for heat, _ in pairs]
        self._halves = [Heat(**halves) for _, halves in pairs]

    def _gradients(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
        """∇ of the mean loss with its share of the prior; and no step at a rate or temperature that is none."""
        for name in ("lr", "temperature"):
            if not 0 <= group[name] < math.inf:
                raise BadArgument(f"`{name}` must be finite and not negative, got {group[name]}.")
        gradients = [param.grad for param in params if param.grad is not None]
        if group["weight_decay"]:
            return list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
        return gradients

    def _buffers(self, params: list[Tensor], name: str) -> list[Tensor]:
        """A tensor beside every parameter, zero at the start."""
        for param in params:
            if param not in self.state:
                self.state[param][name] = torch.zeros_like(param)
        return [self.state[param][name] for param in params]

    def _injected(self, place: int, reading: float, scale: float) -> float:
        """What is to be injected, given the step's reading of the own heat.

        Raises:
            BadArgument: The own heat alone is above the temperature.
        """
        group, heat = self.param_groups[place], self._heats[place]
        judge = heat.add(reading, scale)
        temperature: float = group["temperature"]
        group["injected"] = max(temperature - heat.temperature, 0.0) if group["hold"] else temperature
        if judge and group["hold"] and heat.readings > group["burn_in"] and heat.above(temperature):
            self._refuse(group, heat.estimate(), "SGD by itself (mini-batch noise and finite steps)")
        injected: float = group["injected"]
        return injected

    def _cold(self, place: int) -> bool:
        """Whether nothing is asked for; then what is known of the heat is forgotten."""
        group = self.param_groups[place]
        if group["temperature"] > 0:
            return False
        group["injected"] = 0.0
        self._heats[place].clear()
        return True

    def _judge_minibatch(self, place: int) -> None:
        group, heat = self.param_groups[place], self._halves[place]
        if group["hold"] and heat.above(group["temperature"]):
            self._refuse(group, heat.estimate(), "the noise of the mini-batch alone")

    def _refuse(self, group: dict[str, Any], heat: Estimate, source: str) -> None:
        share = group["temperature"] / heat.value
        batch = "a batch at least " + significant(1 / share) + " times as large"
        if group["batch_size"] is not None:
            batch = f"a batch of at least {math.ceil(group['batch_size'] / share):,}"
        raise BadArgument(
            f"`temperature` {group['temperature']:g} cannot be held at `lr` {group['lr']:g}: {source} heats to {heat}, "
            f"and noise can only be added. Take `lr` below {significant(group['lr'] * share)} or {batch}, or ask for "
            "more; with hold=False it runs as it is, at that heat and what is injected."
        )

    def _check(self, group: dict[str, Any]) -> None:
        """Refuse settings that are none."""
        known = {*self.defaults, *SCHEDULED, "params", "injected"}
        if unknown := [name for name in group if name not in known]:
            raise BadArgument(
                f"`{unknown[0]}` is no setting of {self.what}: it has {', '.join(sorted(self.defaults))}."
            )
        if group["examples"] is None:
            raise BadArgument(
                "`examples` is missing: a temperature in posterior units needs N, the number of training examples, "
                "since U = N × the mean loss."
            )
        check_whole("examples", group["examples"], 1)
        check_whole("burn_in", group["burn_in"], 0)
        check_whole("memory", group["memory"], 10)
        if group["batch_size"] is not None:
            check_whole("batch_size", group["batch_size"], 1)
        check_number("lr", group["lr"], positive=True)
        check_number("temperature", group["temperature"])
        check_number("weight_decay", group["weight_decay"])


def squared_norm(tensors: Sequence[Tensor]) -> float:
    """‖·‖² over all of them."""
    norms = torch.stack(torch._foreach_norm(list(tensors)))
    return float(norms @ norms)


def check_number(name: str, value: Any, *, positive: bool = False) -> None:
    """Refuse what is not a finite number of the right sign."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < math.inf and (value > 0 or not positive)):
        must = "positive" if positive else "not negative"
        raise BadArgument(f"`{name}` must be a finite number and {must}, got {value!r}.")


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is not a whole number, large enough."""
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        raise BadArgument(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
