"""Stochastic gradient Hamiltonian Monte Carlo, at the temperature asked for, in a splitting without step bias."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.sampler import Sampler, check_number, squared_norm


class SGHMC(Sampler):
    """SGD with momentum and noise, in the BAOA splitting of Langevin dynamics: one gradient a step.

    With p of unit mass: B: p ← p − √η ĝ; A: Φ ← Φ + √η p/2; O: p ← μp + √((1 − μ²)T'/N) ξ; A again. For small steps
    and μ near 1 it moves as SGD with this `lr` and momentum, whose buffer is −p/√η. On a quadratic without gradient
    noise Var Φ = T'/(Nh) exactly, at any stable step (ηh < 4).

    Its own heat is (1+μ)/(4(1−μ)) N E[‖p_after B‖² − ‖p_before B‖²]/d: stationarity of E‖p‖², E[Φ·p] and E‖Φ‖² gives
    E[(Φ − c)·∇U]/d = T' + own, exactly, for any loss. On a quadratic with noise c of ĝ (over B) it is
    Nηc(1+μ)/(B(1−μ)(4 − ηh)).

    Args:
        params: Parameters, or groups of them with settings of their own.
        lr: η, of the gradient of the mean loss; the step of the dynamics is √η.
        momentum: μ = e^(−friction × step), in [0, 1).
        examples: N, the number of training examples.
        temperature: T in posterior units; 0 for no noise.
        weight_decay: λ of a Gaussian prior of precision Nλ.
        hold: Inject T less the own heat; otherwise T.
        burn_in: Steps before the own heat may refuse.
        memory: Steps the own heat is averaged over.
        batch_size: B, so that a refusal can name a larger one.
        seed: Of the noise.

    Raises:
        BadArgument: A setting is none.

    Source: Chen, Fox & Guestrin (2014), Stochastic Gradient Hamiltonian Monte Carlo, without their correction;
        the splitting: Leimkuhler & Matthews (2013), Rational Construction of Stochastic Numerical Methods for Molecular
        Sampling (BAOAB, whose two half kicks are one here).

    Example:
        >>> sampler = SGHMC(model.parameters(), lr=0.01, momentum=0.9, examples=60_000)  # doctest: +SKIP
    """

    what: ClassVar[str] = "SGHMC"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        momentum: float = 0.9,
        examples: int | None = None,
        temperature: float = 1.0,
        weight_decay: float = 0.0,
        hold: bool = True,
        burn_in: int = 1000,
        memory: int = 1000,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        settings = {"lr": lr, "examples": examples, "temperature": temperature, "weight_decay": weight_decay}
        control = {"hold": hold, "burn_in": burn_in, "memory": memory, "batch_size": batch_size}
        super().__init__(params, {**settings, "momentum": momentum, **control}, seed)

    def _move(self, place: int, params: list[Tensor], gradients: list[Tensor]) -> None:
        group = self.param_groups[place]
        examples, friction = group["examples"], group["momentum"]
        pace = math.sqrt(group["lr"])
        momenta = self._buffers(params, "momentum_buffer")
        cold = self._cold(place)
        before = 0.0 if cold else squared_norm(momenta)
        torch._foreach_add_(momenta, gradients, alpha=-pace)
        injected = 0.0
        if not cold:
            dimension = sum(param.numel() for param in params)
            work = examples * (squared_norm(momenta) - before) / dimension
            injected = self._injected(place, work, (1 + friction) / (4 * (1 - friction)))
        torch._foreach_add_(params, momenta, alpha=pace / 2)
        torch._foreach_mul_(momenta, friction)
        if injected > 0:
            noise = self._noise.draw(params, place)
            torch._foreach_add_(momenta, noise, alpha=math.sqrt((1 - friction**2) * injected / examples))
        torch._foreach_add_(params, momenta, alpha=pace / 2)

    def _minibatch_scale(self, group: dict[str, Any]) -> float:
        rate, friction = group["lr"], group["momentum"]
        scale: float = rate * (1 + friction) / (4 * (1 - friction))
        return scale

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_number("momentum", group["momentum"])
        if not group["momentum"] < 1:
            raise BadArgument(f"`momentum` must lie in [0, 1), got {group['momentum']}.")
