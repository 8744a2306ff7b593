"""The stochastic gradient Nosé–Hoover thermostat: friction that adapts until the temperature is the one asked for."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.sampler import Sampler, check_number, check_whole, squared_norm

HOT = 10.0
"""Times the temperature a reading counts for at most before `burn_in`: the way down is no reason for much friction."""

FULL = 3.0
"""Friction in a step, from which on more of it changes nothing: e^−3 of the momentum is left."""


class SGNHT(Sampler):
    """SGHMC whose friction is a variable: it grows while the temperature is above the one asked for, and falls below.

    B: p ← p − √η ĝ; A: Φ ← Φ + √η p/2; thermostat: ζ ← ζ + (T̂/T − 1)/(2·relaxation²); O: p ← e^−ζ p and noise of the
    diffusion that `momentum` sets at the start; A again. The noise of a mini-batch, as any heat, is met by friction: it
    need not be known, and it may exceed T where SGHMC would refuse.

    Where `hold`, T̂ is this step's reading of the *configurational* temperature,
    N‖p_after B‖²(1+μ)²/(4d) + s²(3+μ)/(4(1+μ)) with μ = e^−ζ and s² the variance of the noise: the exact balance of the
    splitting for a friction that changes slowly, so that E[(Φ − c)·∇U]/d = T at finite steps. Otherwise T̂ is the
    kinetic temperature N‖p‖²/d, as published, and the position is hotter or colder by the step's bias.

    Args:
        params: Parameters, or groups of them with settings of their own.
        lr: η, of the gradient of the mean loss; the step of the dynamics is √η.
        momentum: μ at the start, in (0, 1); sets the diffusion T(−2 ln μ) a step.
        examples: N, the number of training examples.
        temperature: T in posterior units, positive; 0 only for phases without noise, where the friction rests.
        weight_decay: λ of a Gaussian prior of precision Nλ.
        relaxation: Steps in which the temperature returns where the friction ζ is at most its inverse; where it is
            more, that takes about 2ζ·relaxation² steps. Longer is steadier.
        hold: Hold the configurational temperature; otherwise the kinetic, as published.
        burn_in: Steps before it may refuse.
        memory: Steps the heat is averaged over where the friction is at its limit.
        batch_size: B, so that a refusal can name a larger one.
        seed: Of the noise.

    Raises:
        BadArgument: A setting is none.

    Source: Ding et al. (2014), Bayesian Sampling Using Stochastic Gradient Thermostats, algorithm 2; the splitting:
        Leimkuhler & Shang (2016), Adaptive Thermostats for Noisy Gradient Systems.

    Example:
        >>> sampler = SGNHT(model.parameters(), lr=0.01, examples=60_000)  # doctest: +SKIP
    """

    what: ClassVar[str] = "SGNHT"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        momentum: float = 0.9,
        examples: int | None = None,
        temperature: float = 1.0,
        weight_decay: float = 0.0,
        relaxation: int = 20,
        hold: bool = True,
        burn_in: int = 1000,
        memory: int = 1000,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        settings = {"lr": lr, "examples": examples, "temperature": temperature, "weight_decay": weight_decay}
        control = {"hold": hold, "burn_in": burn_in, "memory": memory, "batch_size": batch_size}
        super().__init__(params, {**settings, "momentum": momentum, "relaxation": relaxation, **control}, seed)

    def _move(self, place: int, params: list[Tensor], gradients: list[Tensor]) -> None:
        group = self.param_groups[place]
        pace, cold = math.sqrt(group["lr"]), self._cold(place)
        momenta = self._buffers(params, "momentum_buffer")
        dimension = sum(param.numel() for param in params)
        torch._foreach_add_(momenta, gradients, alpha=-pace)
        torch._foreach_add_(params, momenta, alpha=pace / 2)
        if group["hold"] and not cold:
            self._adapt(place, group["examples"] * squared_norm(momenta) / dimension)
        torch._foreach_mul_(momenta, math.exp(-group["friction"]))
        if not cold:
            noise = self._noise.draw(params, place)
            torch._foreach_add_(momenta, noise, alpha=math.sqrt(_variance(group) / group["examples"]))
        torch._foreach_add_(params, momenta, alpha=pace / 2)
        if not (group["hold"] or cold):
            self._relax(group, group["examples"] * squared_norm(momenta) / dimension)

    def _adapt(self, place: int, kinetic: float) -> None:
        """Move the friction by this step's configurational temperature, and look whether it is at its limit."""
        group, heat = self.param_groups[place], self._heats[place]
        left = math.exp(-group["friction"])
        seen = kinetic * (1 + left) ** 2 / 4 + _variance(group) * (3 + left) / (4 * (1 + left))
        judge, full = heat.add(seen), group["friction"] > FULL
        self._relax(group, min(seen, HOT * group["temperature"]) if heat.readings <= group["burn_in"] else seen)
        hot = judge and full and heat.readings > group["burn_in"] and heat.above(group["temperature"])
        if hot:
            self._refuse(group, heat.estimate(), "at full friction SGD by itself")

    def _relax(self, group: dict[str, Any], seen: float) -> None:
        group["friction"] += (seen / group["temperature"] - 1) / (2 * group["relaxation"] ** 2)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings, and a friction, of their own."""
        super().add_param_group(param_group)
        self.param_groups[-1]["friction"] = -math.log(self.param_groups[-1]["momentum"])

    def _minibatch_scale(self, group: dict[str, Any]) -> float:
        rate: float = group["lr"]
        return rate / 4  # at full friction, the coolest it can be

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_number("momentum", group["momentum"], positive=True)
        check_whole("relaxation", group["relaxation"], 1)
        if not group["momentum"] < 1:
            raise BadArgument(f"`momentum` must lie in (0, 1), got {group['momentum']}.")


def _variance(group: dict[str, Any]) -> float:
    """s² = T·A(1 − e^−2ζ)/ζ, the variance of the noise of a step with diffusion A = −ln `momentum`, times N."""
    diffusion, friction = -math.log(group["momentum"]), group["friction"]
    kept = -math.expm1(-2 * friction) / friction if abs(friction) > 1e-12 else 2.0
    variance: float = group["temperature"] * diffusion * kept
    return variance
